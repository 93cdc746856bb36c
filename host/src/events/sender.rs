//! Sends what waits, over a connection of its own.

use std::sync::Arc;

use tokio::sync::watch;
use tracing::{debug, info, warn};

use super::{Batch, Event, Events};
use crate::broker::{Backoff, Broker, BrokerError};
use crate::message::content::Writer;
use crate::message::{JsonMap, Message, Outgoing, Properties, Route};
use crate::queue::Exchange;

/// Where events go, and in what form.
pub struct Sender {
    /// What is to be sent.
    pub events: Arc<Events>,
    /// Over which connection.
    pub broker: Arc<dyn Broker>,
    /// `event_exchange`.
    pub exchange: Exchange,
    /// `event_serializer`.
    pub writer: Writer,
}

/// Whether the exchange is there. That it is refused is said once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Declared {
    Not,
    Yes,
    Refused,
}

impl Sender {
    /// Sends until `stop`, and then what still waits, while the broker takes it. Events of tasks wait while it is away.
    pub async fn run(self, mut stop: watch::Receiver<bool>) {
        let (mut declared, mut away) = (Declared::Not, false);
        let mut backoff = Backoff::default();
        loop {
            let batch = tokio::select! {
                biased;
                batch = self.events.buffer.take() => batch,
                _ = stop.wait_for(|stop| *stop) => return,
            };
            match self.send(&batch, &mut declared).await {
                Ok(()) => {
                    backoff.reset();
                    if std::mem::take(&mut away) {
                        info!("Events are sent again");
                        self.events.back.notify_one();
                    }
                }
                Err(BrokerError::Connection(error)) => {
                    if !std::mem::replace(&mut away, true) {
                        warn!("Events of tasks wait until the broker is back: {error}");
                    }
                    declared = Declared::Not;
                    self.events.buffer.put_back(batch);
                    if *stop.borrow() {
                        return;
                    }
                    tokio::select! {
                        () = tokio::time::sleep(backoff.next_pause()) => {}
                        _ = stop.wait_for(|stop| *stop) => {}
                    }
                }
                // The broker takes none of it, or, in a folder, nobody listens.
                Err(error) => {
                    if declared == Declared::Yes {
                        declared = Declared::Not;
                    }
                    debug!("Events were not sent: {error}");
                }
            }
            match self.events.buffer.dropped() {
                0 => {}
                lost => warn!("{lost} events of tasks were dropped: too many wait to be sent"),
            }
        }
    }

    async fn send(&self, batch: &Batch, declared: &mut Declared) -> Result<(), BrokerError> {
        if *declared != Declared::Yes {
            let done = self.broker.declare_exchange(&self.exchange).await;
            if let Err(BrokerError::Refused(error) | BrokerError::Config(error)) = &done
                && *declared != Declared::Refused
            {
                let exchange = &self.exchange.name;
                warn!("No event is sent, as the exchange {exchange:?} (event_exchange) is refused: {error}");
                *declared = Declared::Refused;
            }
            done?;
            *declared = Declared::Yes;
        }
        self.broker.publish(self.outgoing(batch)?).await
    }

    fn outgoing(&self, batch: &Batch) -> Result<Outgoing, BrokerError> {
        let (routing_key, hostname, text) = match batch {
            Batch::One(event) => {
                let key = event.kind.replace('-', ".");
                (key, Some(&event.hostname), event.json.clone())
            }
            Batch::Tasks(events) => {
                let texts: Vec<&str> = events.iter().map(|event| event.json.as_str()).collect();
                let hostname = events.first().map(|event: &Event| &event.hostname);
                (
                    "task.multi".to_owned(),
                    hostname,
                    format!("[{}]", texts.join(", ")),
                )
            }
        };
        let hostname = hostname.map_or("", |hostname| hostname);
        let mut message = Message {
            headers: Some(JsonMap::from_iter([("hostname".to_owned(), hostname.into())])),
            properties: Properties {
                delivery_mode: Some(1),
                ..Properties::default()
            },
            body: Vec::new(),
        };
        let filled = self.writer.fill(&mut message, &text);
        filled.map_err(|error| BrokerError::Refused(error.to_string()))?;
        Ok(Outgoing {
            route: Route {
                exchange: self.exchange.name.clone(),
                routing_key,
            },
            message,
        })
    }
}
