//! Queues and exchanges as values, with kombu's meaning (contract sections 1.8 and 2.1.1).
//!
//! No I/O: [`Queues`] is what the settings say, [`Queues::select`] what a worker consumes, [`Router`] where a task is
//! sent to. What a broker does with these values is its own affair.

mod glob;
mod read;
mod router;
mod table;
pub mod topic;

use serde_json::Value;

use crate::message::JsonMap;

pub use glob::glob;
pub use read::{exchange_type, queues};
pub use router::{Destination, Router, Sending};
pub use table::{Queues, Rules};

/// The exchange of the queues that belong to one worker (`worker_direct`).
const DIRECT_EXCHANGE: &str = "C.dq2";

/// How an exchange chooses queues.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum ExchangeKind {
    /// Those bound with the message's routing key.
    #[default]
    Direct,
    /// Those whose binding, with its wildcards, matches the routing key.
    Topic,
    /// All that are bound.
    Fanout,
    /// Those whose binding arguments match the message's headers (AMQP only).
    Headers,
}

impl ExchangeKind {
    /// AMQP's word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::Topic => "topic",
            Self::Fanout => "fanout",
            Self::Headers => "headers",
        }
    }
}

/// An exchange.
#[derive(Debug, Clone, PartialEq)]
pub struct Exchange {
    /// Its name; empty is AMQP's default exchange, which leads to the queue that the routing key names.
    pub name: String,
    /// How it chooses queues.
    pub kind: ExchangeKind,
    /// It survives a restart of the broker.
    pub durable: bool,
    /// It goes with its last binding.
    pub auto_delete: bool,
    /// Arguments of its declaration.
    pub arguments: JsonMap,
    /// Delivery mode of messages sent to it: 1 transient, 2 persistent; `None`: as `task_default_delivery_mode`.
    pub delivery_mode: Option<u8>,
}

impl Exchange {
    /// A durable exchange without arguments.
    pub fn new(name: impl Into<String>, kind: ExchangeKind) -> Self {
        Self {
            name: name.into(),
            kind,
            durable: true,
            auto_delete: false,
            arguments: JsonMap::new(),
            delivery_mode: None,
        }
    }

    /// Whether somebody declares it: the default exchange and the server's own are there already.
    pub fn is_declared(&self) -> bool {
        !self.name.is_empty() && !self.name.starts_with("amq.")
    }
}

/// A further way from an exchange to a queue.
#[derive(Debug, Clone, PartialEq)]
pub struct Binding {
    /// From where.
    pub exchange: Exchange,
    /// For which messages.
    pub routing_key: String,
    /// Arguments of the binding.
    pub arguments: JsonMap,
}

/// A queue and how it is reached.
#[derive(Debug, Clone, PartialEq)]
pub struct Queue {
    /// Its name.
    pub name: String,
    /// The exchange it is bound to.
    pub exchange: Exchange,
    /// The key it is bound with.
    pub routing_key: String,
    /// Further bindings.
    pub bindings: Vec<Binding>,
    /// Another name for `-Q` and `task_routes`.
    pub alias: Option<String>,
    /// It survives a restart of the broker.
    pub durable: bool,
    /// It belongs to one connection.
    pub exclusive: bool,
    /// It goes with its last consumer.
    pub auto_delete: bool,
    /// It is there already: nobody declares it.
    pub no_declare: bool,
    /// Arguments of its declaration.
    pub queue_arguments: JsonMap,
    /// Arguments of the binding to `exchange`.
    pub binding_arguments: JsonMap,
    /// Arguments of its consumers, for example `x-priority`.
    pub consumer_arguments: JsonMap,
    /// Seconds without a consumer after which it goes.
    pub expires: Option<f64>,
    /// Seconds after which its messages go.
    pub message_ttl: Option<f64>,
    /// The most messages it holds.
    pub max_length: Option<u64>,
    /// The most bytes of bodies it holds.
    pub max_length_bytes: Option<u64>,
    /// The highest priority of its messages that counts (AMQP).
    pub max_priority: Option<u64>,
}

impl Queue {
    /// A durable queue behind a binding.
    pub fn bound(name: impl Into<String>, exchange: Exchange, routing_key: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            exchange,
            routing_key: routing_key.into(),
            bindings: Vec::new(),
            alias: None,
            durable: true,
            exclusive: false,
            auto_delete: false,
            no_declare: false,
            queue_arguments: JsonMap::new(),
            binding_arguments: JsonMap::new(),
            consumer_arguments: JsonMap::new(),
            expires: None,
            message_ttl: None,
            max_length: None,
            max_length_bytes: None,
            max_priority: None,
        }
    }

    /// A queue as Celery makes it on demand: bound to a direct exchange of its own name, with its name as the key.
    pub fn named(name: impl Into<String>) -> Self {
        let name = name.into();
        Self::bound(
            name.clone(),
            Exchange::new(name.clone(), ExchangeKind::Direct),
            name,
        )
    }

    /// The queue of one worker alone (`worker_direct`); `hostname` is its node name.
    pub fn direct_to(hostname: &str) -> Self {
        let exchange = Exchange::new(DIRECT_EXCHANGE, ExchangeKind::Direct);
        Self::bound(format!("{hostname}.dq2"), exchange, hostname)
    }

    /// All arguments of the declaration, as RabbitMQ names them (times in milliseconds).
    pub fn arguments(&self) -> JsonMap {
        let mut arguments = self.queue_arguments.clone();
        let milliseconds = |seconds: f64| Value::from((seconds * 1000.0) as i64);
        for (name, value) in [
            ("x-expires", self.expires.map(milliseconds)),
            ("x-message-ttl", self.message_ttl.map(milliseconds)),
            ("x-max-length", self.max_length.map(Value::from)),
            ("x-max-length-bytes", self.max_length_bytes.map(Value::from)),
            ("x-max-priority", self.max_priority.map(Value::from)),
        ] {
            if let Some(value) = value {
                arguments.insert(name.into(), value);
            }
        }
        arguments
    }

    /// Whether it asks for RabbitMQ's replicated kind of queue (contract section 2.1.3).
    pub fn is_quorum(&self) -> bool {
        self.queue_arguments.get("x-queue-type") == Some(&Value::from("quorum"))
    }

    /// Every binding: the main one first.
    pub fn all_bindings(&self) -> impl Iterator<Item = (&Exchange, &str, &JsonMap)> {
        let main = (&self.exchange, self.routing_key.as_str(), &self.binding_arguments);
        let more = self.bindings.iter();
        std::iter::once(main).chain(more.map(|b| (&b.exchange, b.routing_key.as_str(), &b.arguments)))
    }
}

/// The queue that Celery makes on demand for a name.
impl From<&str> for Queue {
    fn from(name: &str) -> Self {
        Self::named(name)
    }
}

/// The exchange of answers to remote control, by `control_exchange` (contract section 6.1). The queues of those who ask are
/// named after it.
pub fn reply_exchange(control_exchange: &str) -> String {
    format!("reply.{control_exchange}.pidbox")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_have_rabbitmqs_names_and_units() {
        let mut queue = Queue::named("q");
        assert!(queue.arguments().is_empty());
        queue
            .queue_arguments
            .insert("x-queue-type".into(), "quorum".into());
        queue.expires = Some(60.5);
        queue.message_ttl = Some(5.0);
        (queue.max_length, queue.max_length_bytes) = (Some(3), Some(4));
        queue.max_priority = Some(9);
        let expected = serde_json::json!({
            "x-queue-type": "quorum", "x-expires": 60500, "x-message-ttl": 5000, "x-max-length": 3,
            "x-max-length-bytes": 4, "x-max-priority": 9,
        });
        assert_eq!(Value::Object(queue.arguments()), expected);
        assert!(queue.is_quorum());
    }
}
