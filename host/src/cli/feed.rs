//! The events of a fleet, as a monitor receives them (contract section 7.1).

use std::sync::Arc;

use jiff::Timestamp;
use serde_json::Value;
use tokio::sync::mpsc;

use crate::broker::{Broker, BrokerError, Delivery};
use crate::config::{Settings, connect};
use crate::message::content::BoundedReader;
use crate::message::{JsonMap, Message};
use crate::queue::Queue;

/// The largest message that is read, bytes.
const LARGEST: usize = 4 << 20;

/// Events as they come, from a queue of this monitor's own.
pub(super) struct Feed {
    broker: Arc<dyn Broker>,
    queue: Queue,
    deliveries: mpsc::Receiver<Delivery>,
    reader: BoundedReader,
}

impl Feed {
    /// Connects; the queue goes with [`Feed::close`].
    pub(super) async fn open(settings: &Settings) -> Result<Self, BrokerError> {
        let (broker, _) = connect::mailbox_client(settings)?;
        let queue = connect::monitor_queue(settings)?;
        let defaults = settings.task_defaults();
        let reader = defaults
            .map_err(|error| BrokerError::Config(error.to_string()))?
            .reader;
        let deliveries = broker.consume(std::slice::from_ref(&queue), 0).await?;
        Ok(Self {
            broker,
            queue,
            deliveries,
            reader: reader.bounded(LARGEST),
        })
    }

    /// The events of the next message; none when it made no sense. `None` when the connection is gone for good.
    pub(super) async fn next(&mut self) -> Option<Vec<JsonMap>> {
        let Delivery { message, receipt, .. } = self.deliveries.recv().await?;
        receipt.ack();
        Some(self.read(&message).unwrap_or_else(|problem| {
            tracing::warn!("An event makes no sense: {problem:.200}");
            Vec::new()
        }))
    }

    fn read(&self, message: &Message) -> Result<Vec<JsonMap>, String> {
        let body = self.reader.body(message, Timestamp::now());
        events(&body.map_err(|error| error.to_string())?)
    }

    /// Removes the queue and disconnects.
    pub(super) async fn close(self) -> Result<(), BrokerError> {
        self.broker.cancel().await;
        self.broker.forget(&self.queue).await?;
        self.broker.close().await
    }
}

/// One event, or a list of them.
fn events(body: &str) -> Result<Vec<JsonMap>, String> {
    let map = |value| match value {
        Value::Object(map) => Ok(map),
        _ => Err("it is not a map".to_owned()),
    };
    match serde_json::from_str(body).map_err(|error| error.to_string())? {
        Value::Array(list) => list.into_iter().map(map).collect(),
        one => Ok(vec![map(one)?]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_has_one_event_or_many() {
        for (body, number) in [
            (r#"{"type": "worker-online"}"#, Some(1)),
            (r#"[{"type": "task-started"}, {}]"#, Some(2)),
            ("[]", Some(0)),
            ("[1]", None),
            ("3", None),
            ("{", None),
        ] {
            assert_eq!(events(body).ok().map(|events| events.len()), number, "{body}");
        }
        assert!(events(&"[".repeat(1 << 20)).is_err());
    }
}
