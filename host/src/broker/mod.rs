//! Brokers: where task messages come from and go to (contract section 2).
//!
//! [`Broker`] is the seam. Every implementation passes the conformance suite in `tests/`.

pub mod amqp;
pub mod filesystem;
pub mod redis;

mod backoff;

use std::fmt;

use async_trait::async_trait;
use tokio::sync::mpsc;

use crate::message::{Message, Outgoing, Route};

pub use backoff::Backoff;

/// A message that this worker has and has not settled yet.
#[derive(Debug)]
pub struct Delivery {
    /// The message.
    pub message: Message,
    /// Where it was published to.
    pub route: Route,
    /// True when it had been delivered before.
    pub redelivered: bool,
    /// The right to settle it, once.
    pub receipt: Receipt,
}

/// What happens to a message that was delivered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It is done.
    Ack,
    /// It is refused; with `requeue` it goes back to be delivered again.
    Reject {
        /// Put it back on its queue.
        requeue: bool,
    },
}

/// The right to settle one delivery. Settling consumes it, so that nothing is settled twice.
///
/// Dropping it settles nothing: the message stays unacknowledged and goes back when the broker closes.
pub struct Receipt(Box<dyn FnOnce(Verdict) + Send>);

impl Receipt {
    /// A receipt that hands its verdict to `settle`, which must not block.
    pub fn new(settle: impl FnOnce(Verdict) + Send + 'static) -> Self {
        Self(Box::new(settle))
    }

    /// Acknowledges the message.
    pub fn ack(self) {
        (self.0)(Verdict::Ack);
    }

    /// Refuses the message.
    pub fn reject(self, requeue: bool) {
        (self.0)(Verdict::Reject { requeue });
    }
}

impl fmt::Debug for Receipt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Receipt")
    }
}

/// Why a broker could not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum BrokerError {
    /// The URL or an option makes no sense; trying again does not help.
    #[error("{0}")]
    Config(String),
    /// The broker refused for good (access, a queue declared with other arguments); trying again does not help.
    #[error("{0}")]
    Refused(String),
    /// The connection is not there or broke; the broker is trying to get it back.
    #[error("{0}")]
    Connection(String),
}

/// A broker that tasks come from and go to.
///
/// Connecting and reconnecting happen inside, with growing pauses, from the first connection on; callers see at most
/// a [`BrokerError::Connection`] from `publish`.
#[async_trait]
pub trait Broker: Send + Sync {
    /// Starts taking messages from `queues`, at most `prefetch` unsettled ones at a time (0: no limit), declaring what
    /// has to be declared. Returns once the first connection stands. The channel ends after [`Broker::cancel`], or
    /// when the broker gave up for good.
    async fn consume(
        &self,
        queues: &[String],
        prefetch: u32,
    ) -> Result<mpsc::Receiver<Delivery>, BrokerError>;

    /// Changes how many unsettled messages this worker may hold (0: no limit).
    fn set_prefetch(&self, prefetch: u32);

    /// Makes sure that `queue` exists, as a client does before it sends there (contract section 1.8). Brokers whose
    /// queues need no declaration do nothing.
    async fn declare(&self, _queue: &str) -> Result<(), BrokerError> {
        Ok(())
    }

    /// Sends a message and waits until the broker has it.
    async fn publish(&self, outgoing: Outgoing) -> Result<(), BrokerError>;

    /// Stops taking messages. What was delivered can still be settled.
    async fn cancel(&self);

    /// Carries out all verdicts given so far, gives back every unsettled message, and disconnects.
    async fn close(&self) -> Result<(), BrokerError>;
}
