//! Task messages: what a broker hands over and takes, and what it means (contract section 1).
//!
//! No I/O and no clock: everything here is a value or a pure function.

mod body;
pub mod content;
pub mod envelope;
mod iso8601;
mod raw;
pub mod repr;
pub mod request;
pub mod retry;
pub mod saferepr;

use serde_json::{Map, Value};

pub use request::{Request, Unusable};

/// A JSON map: headers, properties, keyword arguments.
pub type JsonMap = Map<String, Value>;

/// A message as brokers carry it: headers, properties and a body that nobody decoded yet.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Message {
    /// The headers; `None` when the sender put something there that is not a map.
    pub headers: Option<JsonMap>,
    /// The basic properties.
    pub properties: Properties,
    /// The serialized (perhaps compressed) body.
    pub body: Vec<u8>,
}

/// The properties of a message that mean something to a worker; the rest travels in `other`.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Properties {
    /// How the body is serialized, for example `application/json`.
    pub content_type: Option<String>,
    /// The body's text encoding, for example `utf-8`.
    pub content_encoding: Option<String>,
    /// The task id, as a rule.
    pub correlation_id: Option<String>,
    /// Where an RPC result goes.
    pub reply_to: Option<String>,
    /// 0 to 9. On Redis 0 is served first, on RabbitMQ last.
    pub priority: Option<u8>,
    /// 2 is persistent, 1 is not.
    pub delivery_mode: Option<u8>,
    /// Milliseconds as text, after which the broker may drop the message.
    pub expiration: Option<String>,
    /// Everything else the sender set (`app_id`, `message_id` …).
    pub other: JsonMap,
}

/// Where a message came from, or where it goes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Route {
    /// The exchange; empty for the default exchange.
    pub exchange: String,
    /// The routing key; with the default exchange this is the queue.
    pub routing_key: String,
}

impl Route {
    /// The way to a queue through the default exchange.
    pub fn to_queue(queue: impl Into<String>) -> Self {
        Self {
            exchange: String::new(),
            routing_key: queue.into(),
        }
    }
}

/// A message on its way out.
#[derive(Debug, Clone, PartialEq)]
pub struct Outgoing {
    /// Where it goes.
    pub route: Route,
    /// What is sent.
    pub message: Message,
}
