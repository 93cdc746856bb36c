//! Remote control: commands that clients send to workers (contract section 6).
//!
//! A worker has a mailbox: a queue of its own behind a fanout exchange, consumed beside the tasks over a connection of its
//! own, so that neither full slots nor a paused consumer keep it from answering. [`request`] says what a message asks for,
//! [`commands`] what is done; a message that makes no sense is dropped, and the next one is read.

mod about;
pub mod client;
pub mod commands;
mod info;
mod queues;
mod registered;
pub mod request;
mod resources;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use serde_json::json;
use serde_json::value::RawValue;
use tokio::sync::{mpsc, oneshot};
use tracing::{debug, warn};

pub use self::about::About;
use self::commands::Answer;
pub use self::commands::Group;
use self::request::{Asked, Reply};
use self::resources::Samples;
use crate::broker::{Backoff, Broker, BrokerError, Delivery};
use crate::execution::Execution;
use crate::message::content::BoundedReader;
use crate::message::{Message, Outgoing, Properties};
use crate::queue::{Exchange, ExchangeKind, Queue};

/// How many messages of the mailbox may be here, handled one after the other.
const PREFETCH: u32 = 64;
/// The largest request that is read, bytes: a `hello` brings up to 50,000 revoked ids.
const LARGEST: usize = 8 << 20;
/// How long to wait after the mailbox could not be opened.
const PAUSE: Duration = Duration::from_secs(30);
/// How long an answer may take to leave.
const PATIENCE: Duration = Duration::from_secs(30);

/// `control_exchange` and the settings of the mailbox's queue.
#[derive(Debug, Clone, PartialEq)]
pub struct Options {
    /// What the exchange is called before `.pidbox`.
    pub exchange: String,
    /// `control_queue_ttl`: seconds after which a request goes.
    pub ttl: Option<f64>,
    /// `control_queue_expires`: seconds after which an unused mailbox goes.
    pub expires: Option<f64>,
    /// `control_queue_exclusive`: the mailbox goes with its connection.
    pub exclusive: bool,
    /// `control_queue_durable`: it survives a restart of the broker.
    pub durable: bool,
    /// The kinds of commands that are obeyed; others are refused.
    pub obeyed: Vec<Group>,
}

impl Default for Options {
    /// Celery's.
    fn default() -> Self {
        Self {
            exchange: "celery".into(),
            ttl: Some(300.0),
            expires: Some(10.0),
            exclusive: true,
            durable: false,
            obeyed: Group::ALL.to_vec(),
        }
    }
}

impl Options {
    /// The mailbox of a node (contract section 2.1.1).
    pub fn queue(&self, hostname: &str) -> Queue {
        let name = format!("{}.pidbox", self.exchange);
        let exchange = Exchange {
            durable: false,
            ..Exchange::new(&name, ExchangeKind::Fanout)
        };
        Queue {
            durable: self.durable,
            exclusive: self.exclusive,
            auto_delete: !self.durable,
            expires: self.expires,
            message_ttl: self.ttl,
            ..Queue::bound(format!("{hostname}.{name}"), exchange, "")
        }
    }
}

/// The mailbox of a worker.
pub struct Mailbox {
    broker: Arc<dyn Broker>,
    execution: Arc<Execution>,
    options: Options,
    about: About,
    samples: Samples,
    reader: BoundedReader,
}

impl Mailbox {
    /// A mailbox over a broker of its own.
    pub fn new(broker: Arc<dyn Broker>, execution: Arc<Execution>, options: Options, about: About) -> Self {
        let reader = execution.options.defaults.reader.clone();
        Self {
            reader: reader.bounded(LARGEST),
            broker,
            execution,
            options,
            about,
            samples: Samples::default(),
        }
    }

    /// Answers until the future is dropped. `opened` learns of the first attempt to open the mailbox.
    pub async fn run(&self, opened: oneshot::Sender<()>) {
        let mut opened = Some(opened);
        let queue = self.options.queue(&self.execution.options.hostname);
        self.forget(&queue).await;
        loop {
            let consumed = self.broker.consume(std::slice::from_ref(&queue), PREFETCH).await;
            if let Some(opened) = opened.take() {
                // Whoever waited may have stopped.
                let _ = opened.send(());
            }
            match consumed {
                Ok(deliveries) => self.serve(deliveries).await,
                Err(error) => warn!("Remote control is not available: {error}"),
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// Where a queue outlives its worker, what was asked of a predecessor of this name is not asked of this one: an old
    /// `shutdown` would end it.
    async fn forget(&self, queue: &Queue) {
        let mut backoff = Backoff::default();
        while let Err(error) = self.broker.forget(queue).await {
            debug!("what the mailbox has from before is still there: {error}");
            if !matches!(error, BrokerError::Connection(_)) {
                return;
            }
            tokio::time::sleep(backoff.next_pause()).await;
        }
    }

    async fn serve(&self, mut deliveries: mpsc::Receiver<Delivery>) {
        while let Some(Delivery { message, receipt, .. }) = deliveries.recv().await {
            // A request is not worth a second try.
            receipt.ack();
            let Some((reply, value)) = self.handle(&message) else {
                continue;
            };
            let sent =
                tokio::time::timeout(PATIENCE, self.broker.publish(self.outgoing(reply, &value))).await;
            match sent {
                Ok(Ok(())) => {}
                Ok(Err(error)) => warn!("The answer to a remote command was not sent: {error}"),
                Err(_) => warn!("The answer to a remote command was not sent in time"),
            }
        }
    }

    /// Obeys one message; the answer, when one is wanted.
    fn handle(&self, message: &Message) -> Option<(Reply, Box<RawValue>)> {
        let headers = message.headers.as_ref();
        let theirs = headers.and_then(|headers| headers.get("clock")?.as_u64());
        self.execution.clock.hear(theirs.unwrap_or(0));
        let body = self.reader.body(message, Timestamp::now());
        let asked = body
            .as_ref()
            .map_err(ToString::to_string)
            .and_then(|body| Asked::read(body));
        let asked = match asked {
            Ok(asked) => asked,
            Err(problem) => {
                warn!("A remote command makes no sense: {problem:.200}");
                return None;
            }
        };
        if !asked.is_for(&self.execution.options.hostname) {
            return None;
        }
        debug!("remote command {:.100?}", asked.method);
        let state = commands::State {
            execution: &self.execution,
            about: &self.about,
            samples: &self.samples,
            obeyed: &self.options.obeyed,
        };
        match commands::obey(&state, &asked.method, asked.arguments) {
            Answer::Value(value) => Some((asked.reply?, value)),
            Answer::Silence => None,
        }
    }

    fn outgoing(&self, reply: Reply, value: &RawValue) -> Outgoing {
        let clock = self.execution.clock.forward();
        let headers = json!({"ticket": reply.ticket, "clock": clock});
        let body = BTreeMap::from([(&*self.execution.options.hostname, value)]);
        Outgoing {
            route: reply.route,
            message: Message {
                headers: headers.as_object().cloned(),
                properties: Properties {
                    content_type: Some("application/json".into()),
                    content_encoding: Some("utf-8".into()),
                    delivery_mode: Some(1),
                    ..Properties::default()
                },
                // A map of a text to JSON always serializes.
                body: serde_json::to_vec(&body).unwrap_or_default(),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mailbox_is_declared_as_celery_does() {
        let queue = Options::default().queue("w1@h");
        assert_eq!(queue.name, "w1@h.celery.pidbox");
        assert_eq!(
            (queue.exchange.name.as_str(), queue.exchange.kind),
            ("celery.pidbox", ExchangeKind::Fanout)
        );
        assert!(!queue.exchange.durable && queue.exclusive && !queue.durable && queue.auto_delete);
        assert_eq!(queue.routing_key, "");
        let arguments = json!({"x-expires": 10_000, "x-message-ttl": 300_000});
        assert_eq!(serde_json::Value::Object(queue.arguments()), arguments);
        let own = Options {
            exchange: "mine".into(),
            ttl: None,
            expires: None,
            exclusive: false,
            durable: true,
            ..Options::default()
        };
        let queue = own.queue("w1@h");
        assert_eq!(queue.name, "w1@h.mine.pidbox");
        assert!(queue.durable && !queue.exclusive && !queue.auto_delete && queue.arguments().is_empty());
    }
}
