//! The AMQP broker against a real RabbitMQ.

mod conformance;
mod connections;
mod declarations;
mod failover;
mod heartbeat;
mod policies;
mod queues;
mod quorum;
mod raw;
mod samples;

use celerybox::broker::amqp::{AmqpBroker, Options};

/// A broker with the options that are in force when nothing is said.
fn broker(url: &str) -> AmqpBroker {
    AmqpBroker::new(url, &Options::default()).unwrap()
}
