//! The rules for every broker, for this one.

use std::collections::BTreeSet;

use async_trait::async_trait;
use celerybox::broker::amqp::AmqpBroker;
use celerybox::broker::{Broker, BrokerError, Delivery};
use celerybox::message::Outgoing;
use celerybox::queue::{Exchange, Queue};
use celerybox_tests::{RabbitMq, Vhost};
use tokio::sync::Mutex;
use tokio::sync::mpsc::Receiver;

use super::broker;
use super::raw::{RawClient, table};
use crate::conformance::{Fixture, conformance};

/// A broker as a client uses it, which declares a queue before it publishes to it.
struct Client {
    broker: AmqpBroker,
    declared: Mutex<BTreeSet<String>>,
}

#[async_trait]
impl Broker for Client {
    async fn consume(&self, queues: &[Queue], prefetch: u32) -> Result<Receiver<Delivery>, BrokerError> {
        self.broker.consume(queues, prefetch).await
    }

    async fn set_queues(&self, queues: &[Queue]) -> Result<(), BrokerError> {
        self.broker.set_queues(queues).await
    }

    fn set_prefetch(&self, prefetch: u32) {
        self.broker.set_prefetch(prefetch);
    }

    async fn declare(&self, queue: &Queue) -> Result<(), BrokerError> {
        self.broker.declare(queue).await
    }

    async fn declare_exchange(&self, exchange: &Exchange) -> Result<(), BrokerError> {
        self.broker.declare_exchange(exchange).await
    }

    async fn purge(&self, queue: &Queue) -> Result<usize, BrokerError> {
        self.broker.purge(queue).await
    }

    async fn publish(&self, outgoing: Outgoing) -> Result<(), BrokerError> {
        let mut declared = self.declared.lock().await;
        let default = outgoing.route.exchange.is_empty();
        if default && declared.insert(outgoing.route.routing_key.clone()) {
            self.broker
                .declare(&outgoing.route.routing_key.as_str().into())
                .await?;
        }
        drop(declared);
        self.broker.publish(outgoing).await
    }

    async fn cancel(&self) {
        self.broker.cancel().await;
    }

    async fn close(&self) -> Result<(), BrokerError> {
        self.broker.close().await
    }
}

#[async_trait]
impl Fixture for Vhost {
    async fn broker(&self) -> Box<dyn Broker> {
        Box::new(Client {
            broker: broker(&self.url()),
            declared: Mutex::default(),
        })
    }

    async fn queued(&self, queue: &str) -> usize {
        RawClient::connect(self).counts(queue).ready as usize
    }

    async fn put_garbage(&self, queue: &str) {
        let with_headers = |headers: &[u8]| [b"\x20\0", headers].concat();
        // Tables in tables, and lists in lists, as deep as a frame of headers goes, far deeper than a stack is.
        const ROOM: usize = 131_072 - 8 - 14;
        let (mut tables, mut lists) = (vec![0; 4], b"A\0\0\0\0".to_vec());
        while tables.len() + 6 <= ROOM {
            tables = table(b"", &[b"F", &tables[..]].concat());
        }
        while lists.len() + 5 + 5 <= ROOM {
            lists = [&b"A"[..], &(lists.len() as u32).to_be_bytes(), &lists].concat();
        }
        // RabbitMQ passes these on.
        for properties in [
            b"\0\0".to_vec(),
            // Text that is not UTF-8: a name, a value, the content type.
            with_headers(&table(b"\xff\xfe", b"V")),
            with_headers(&table(b"id", b"S\0\0\0\x01\xff")),
            b"\x80\0\x02\xc3\x28".to_vec(),
            with_headers(&tables),
            with_headers(&table(b"", &lists)),
        ] {
            let mut client = RawClient::connect(self);
            client.publish(queue, &properties, b"\xff\0\xfe");
            assert!(client.is_alive(queue), "RabbitMQ took no offence before");
        }
        // So it does with a routing key that is not UTF-8, which it repeats to who takes the message.
        let mut client = RawClient::connect(self);
        client.publish_to(queue, b"\xff\xfe", b"x");
        assert!(client.is_alive(queue), "RabbitMQ took no offence before");
        // RabbitMQ itself may hang up over a type that nobody knows, a list cut off, a table longer than the headers.
        for value in [&b"?"[..], b"A\0\0\0\x02I\0", b"F\0\0\0\x05\x01aV\0\0"] {
            let mut client = RawClient::connect(self);
            client.publish(queue, &with_headers(&table(b"id", value)), b"x");
            client.is_alive(queue);
        }
    }
}

conformance!(RabbitMq::vhost());
