//! The other side of the mailbox: commands for workers, and their answers (contract sections 6.1 and 6.2).

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use serde_json::{Map, Value, json};
use tokio::sync::mpsc;
use tokio::time::timeout;
use uuid::Uuid;

use super::Options;
use crate::broker::{Broker, BrokerError, Delivery};
use crate::clock::Clock;
use crate::message::content::{BoundedReader, Reader};
use crate::message::{JsonMap, Message, Outgoing, Properties, Route};
use crate::queue::{Exchange, ExchangeKind, Queue, reply_exchange};

/// Answers to one command end here, in their number and in bytes: whoever may send to a reply queue may send anything.
const MOST: (usize, usize) = (10_000, 64 << 20);
/// The largest answer that is read, bytes.
const LARGEST: usize = 8 << 20;
/// After how many seconds an unused reply queue goes.
const REPLY_QUEUE_EXPIRES: f64 = 10.0;

/// What workers are asked to do.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Command {
    /// Its name.
    pub method: String,
    /// Its arguments, by name.
    pub arguments: JsonMap,
    /// The nodes that are asked; all of them when there is none.
    pub destination: Vec<String>,
}

impl Command {
    /// A command without arguments, for all.
    pub fn named(method: &str) -> Self {
        Self {
            method: method.to_owned(),
            ..Self::default()
        }
    }

    /// The message that asks; answers, if any are wanted, come with the ticket to that route. `expires` is a Unix time in
    /// seconds, 0 for never.
    fn message(&self, answer: Option<(&str, &Route)>, clock: u64, expires: f64) -> Message {
        let destination = (!self.destination.is_empty()).then_some(&self.destination);
        let mut body = json!({
            "method": self.method, "arguments": self.arguments, "destination": destination,
            "pattern": null, "matcher": null,
        });
        if let (Some((ticket, to)), Some(body)) = (answer, body.as_object_mut()) {
            body.insert("ticket".into(), ticket.into());
            let to = json!({"exchange": to.exchange, "routing_key": to.routing_key});
            body.insert("reply_to".into(), to);
        }
        Message {
            headers: json!({"clock": clock, "expires": expires}).as_object().cloned(),
            properties: Properties {
                content_type: Some("application/json".into()),
                content_encoding: Some("utf-8".into()),
                delivery_mode: Some(2),
                priority: Some(0),
                ..Properties::default()
            },
            body: body.to_string().into_bytes(),
        }
    }
}

/// What one node said.
#[derive(Debug, Clone, PartialEq)]
pub struct Answer {
    /// Its name, as it says itself.
    pub node: String,
    /// Its answer.
    pub value: Value,
}

/// A client that workers answer.
pub struct Client {
    broker: Arc<dyn Broker>,
    requests: Exchange,
    reply_queue: Queue,
    reader: BoundedReader,
    replies: mpsc::Receiver<Delivery>,
    clock: Clock,
}

impl Client {
    /// Connects, and makes a queue for the answers, which goes with [`Client::close`].
    pub async fn open(
        broker: Arc<dyn Broker>,
        options: &Options,
        reader: Reader,
    ) -> Result<Self, BrokerError> {
        let reply_queue = reply_queue(options, &Uuid::new_v4().to_string());
        let replies = broker.consume(std::slice::from_ref(&reply_queue), 0).await?;
        let requests = options.queue("").exchange;
        broker.declare_exchange(&requests).await?;
        Ok(Self {
            broker,
            requests,
            reply_queue,
            reader: reader.bounded(LARGEST),
            replies,
            clock: Clock::default(),
        })
    }

    /// Sends a command that nobody is to answer.
    pub async fn tell(&self, command: &Command) -> Result<(), BrokerError> {
        self.send(command, None, 0.0).await
    }

    /// Sends a command and collects answers, until there are as many as nodes were asked, or nothing came for so long.
    /// `heard` learns of each as it comes.
    pub async fn ask(
        &mut self,
        command: &Command,
        patience: Duration,
        mut heard: impl FnMut(&Answer),
    ) -> Result<Vec<Answer>, BrokerError> {
        let ticket = Uuid::new_v4().to_string();
        let now = Timestamp::now().as_microsecond() as f64 / 1e6;
        self.send(command, Some(&ticket), now + patience.as_secs_f64())
            .await?;
        let wanted = match command.destination.len() {
            0 => MOST.0,
            nodes => nodes,
        };
        let (mut answers, mut bytes) = (Vec::new(), 0);
        while answers.len() < wanted && bytes < MOST.1 {
            let Ok(delivery) = timeout(patience, self.replies.recv()).await else {
                break;
            };
            let lost = || BrokerError::Connection("the connection was lost".into());
            let Delivery { message, receipt, .. } = delivery.ok_or_else(lost)?;
            receipt.ack();
            bytes += message.body.len();
            let said = self.read(&message, &ticket);
            said.iter().for_each(&mut heard);
            answers.extend(said);
        }
        Ok(answers)
    }

    /// Removes the queue of the answers and disconnects.
    pub async fn close(self) -> Result<(), BrokerError> {
        self.broker.cancel().await;
        self.broker.forget(&self.reply_queue).await?;
        self.broker.close().await
    }

    async fn send(&self, command: &Command, ticket: Option<&str>, expires: f64) -> Result<(), BrokerError> {
        let to = Route {
            exchange: self.reply_queue.exchange.name.clone(),
            routing_key: self.reply_queue.routing_key.clone(),
        };
        let route = Route {
            exchange: self.requests.name.clone(),
            routing_key: String::new(),
        };
        let answer = ticket.map(|ticket| (ticket, &to));
        let message = command.message(answer, self.clock.forward(), expires);
        self.broker.publish(Outgoing { route, message }).await
    }

    /// What a message says in answer to the question with this ticket; nothing when it answers another one or makes no
    /// sense.
    fn read(&self, message: &Message, ticket: &str) -> Vec<Answer> {
        let header = |name: &str| message.headers.as_ref().and_then(|headers| headers.get(name));
        self.clock
            .hear(header("clock").and_then(Value::as_u64).unwrap_or(0));
        if header("ticket").is_some_and(|theirs| theirs != ticket) {
            return Vec::new();
        }
        let body = match self.reader.body(message, Timestamp::now()) {
            Ok(body) => body,
            Err(error) => {
                tracing::warn!("An answer cannot be read: {error}");
                return Vec::new();
            }
        };
        match serde_json::from_str::<Map<String, Value>>(&body) {
            Ok(nodes) => nodes
                .into_iter()
                .map(|(node, value)| Answer { node, value })
                .collect(),
            Err(error) => {
                tracing::warn!("An answer makes no sense: {error}");
                Vec::new()
            }
        }
    }
}

/// The queue of a client's answers.
fn reply_queue(options: &Options, id: &str) -> Queue {
    let exchange = Exchange {
        durable: false,
        ..Exchange::new(reply_exchange(&options.exchange), ExchangeKind::Direct)
    };
    Queue {
        durable: options.durable,
        exclusive: options.exclusive,
        auto_delete: !options.durable,
        expires: Some(REPLY_QUEUE_EXPIRES),
        ..Queue::bound(format!("{id}.{}", exchange.name), exchange, id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the real client sent, with the ids of that recording.
    #[test]
    fn a_request_is_that_of_the_real_client() {
        let sample = include_str!("../../../tests/cases/wire/pidbox-ping.json");
        let sample: Value = serde_json::from_str(sample).unwrap();
        let theirs = &sample["request"][0];
        let route = Route {
            exchange: "reply.celery.pidbox".into(),
            routing_key: "22222222-2222-3222-8222-222222222222".into(),
        };
        let answer = Some(("33333333-0000-4000-8000-000000000001", &route));
        let ours = Command::named("ping").message(answer, 1, 0.0);
        let body: Value = serde_json::from_slice(&ours.body).unwrap();
        assert_eq!(body, theirs["body_json"]);
        let names = |headers: &JsonMap| headers.keys().cloned().collect::<Vec<_>>();
        let envelope: Value = serde_json::from_str(theirs["redis_value"].as_str().unwrap()).unwrap();
        let headers = envelope["headers"].as_object().unwrap();
        assert_eq!(names(&ours.headers.unwrap()), names(headers));
    }

    #[test]
    fn a_request_names_its_nodes_and_may_want_no_answer() {
        let command = Command {
            destination: vec!["w1@h".into()],
            arguments: json!({"n": 2}).as_object().cloned().unwrap(),
            ..Command::named("pool_grow")
        };
        let message = command.message(None, 7, 0.0);
        let body: Value = serde_json::from_slice(&message.body).unwrap();
        let expected = json!({
            "method": "pool_grow", "arguments": {"n": 2}, "destination": ["w1@h"], "pattern": null, "matcher": null,
        });
        assert_eq!(body, expected);
        assert_eq!(message.headers.unwrap()["clock"], 7);
    }

    #[test]
    fn the_reply_queue_is_the_clients_own() {
        let queue = reply_queue(&Options::default(), "id");
        assert_eq!(queue.name, "id.reply.celery.pidbox");
        assert_eq!(
            (queue.exchange.name.as_str(), queue.exchange.kind),
            ("reply.celery.pidbox", ExchangeKind::Direct)
        );
        assert!(queue.exclusive && queue.auto_delete && !queue.durable && !queue.exchange.durable);
        assert_eq!(Value::Object(queue.arguments()), json!({"x-expires": 10_000}));
        assert_eq!(queue.routing_key, "id");
    }
}
