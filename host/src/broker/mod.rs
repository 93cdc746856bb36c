//! Brokers: where task messages come from and go to (contract section 2).
//!
//! [`Broker`] is the seam. Every implementation passes the conformance suite in `tests/`.

pub mod amqp;
pub mod filesystem;
pub mod redis;

mod backoff;
mod consumed;
mod exchanges;
mod failover;
pub mod options;
mod presence;

use std::fmt;

use async_trait::async_trait;
use tokio::sync::{mpsc, oneshot, watch};

use crate::message::{Message, Outgoing, Route};
use crate::policy::publish::RetryPolicy;
use crate::queue::{Exchange, Queue};

pub use backoff::Backoff;
pub use failover::{Reconnect, Strategy};
pub use presence::Presence;

/// A message that this worker has and has not settled yet.
#[derive(Debug)]
pub struct Delivery {
    /// The message.
    pub message: Message,
    /// The queue it was taken from.
    pub queue: String,
    /// Where its sender says that it was published to.
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
    /// It was never begun; it goes back to its place in the queue, as when the broker closes.
    GiveBack,
}

/// A queue behind an exchange.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Bound {
    /// Its name.
    pub queue: String,
    /// What it is bound with.
    pub routing_key: String,
}

/// For who waits until a verdict is carried out. Dropping it says that it never will be: the broker delivers the message
/// again.
pub type Told = Option<oneshot::Sender<()>>;

/// Tells who waits that a verdict is carried out.
pub(crate) fn tell(told: Told) {
    if let Some(told) = told {
        // Whoever waited may have stopped.
        let _ = told.send(());
    }
}

/// The right to settle one delivery. Settling consumes it, so that nothing is settled twice.
///
/// Dropping it settles nothing: the message stays unacknowledged and goes back when the broker closes.
pub struct Receipt {
    settle: Box<dyn FnOnce(Verdict, Told) + Send>,
    lost: Option<watch::Receiver<bool>>,
}

impl Receipt {
    /// A receipt that hands its verdict to `settle`, which must not block.
    pub fn new(settle: impl FnOnce(Verdict, Told) + Send + 'static) -> Self {
        Self {
            settle: Box::new(settle),
            lost: None,
        }
    }

    /// Ties the receipt to the connection the message came over: `lost` turns true when that is gone and the broker
    /// delivers the message again, here or elsewhere (contract section 3.13). That its sender goes means nothing.
    #[must_use]
    pub fn over(self, lost: watch::Receiver<bool>) -> Self {
        Self {
            lost: Some(lost),
            ..self
        }
    }

    /// Acknowledges the message.
    pub fn ack(self) {
        (self.settle)(Verdict::Ack, None);
    }

    /// Acknowledges the message. The answer comes when the broker has the acknowledgement; it is an error when it will
    /// never have it, and delivers the message again.
    pub fn ack_told(self) -> oneshot::Receiver<()> {
        let (told, answer) = oneshot::channel();
        (self.settle)(Verdict::Ack, Some(told));
        answer
    }

    /// Refuses the message.
    pub fn reject(self, requeue: bool) {
        (self.settle)(Verdict::Reject { requeue }, None);
    }

    /// Gives the message back unbegun. Only once [`Broker::cancel`] is done, or it comes again at once.
    pub fn give_back(self) {
        (self.settle)(Verdict::GiveBack, None);
    }

    /// Whether the message belongs to this worker no more: its connection is gone.
    pub fn is_lost(&self) -> bool {
        self.lost.as_ref().is_some_and(|lost| *lost.borrow())
    }

    /// Waits until the message belongs to this worker no more, also after it was settled; for ever where that cannot
    /// happen.
    pub fn lost(&self) -> impl Future<Output = ()> + Send + 'static {
        let lost = self.lost.clone();
        async move {
            if let Some(mut lost) = lost
                && lost.wait_for(|lost| *lost).await.is_ok()
            {
                return;
            }
            std::future::pending().await
        }
    }
}

/// Tells the receipts of a connection when it goes.
#[derive(Debug)]
struct Gone(watch::Sender<bool>);

impl Default for Gone {
    fn default() -> Self {
        Self(watch::Sender::new(false))
    }
}

impl Drop for Gone {
    fn drop(&mut self) {
        self.0.send_replace(true);
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
/// Connecting and reconnecting happen inside, with growing pauses, from the first connection on, as long as
/// [`Reconnect`] allows; callers see at most a [`BrokerError::Connection`] from `publish`.
#[async_trait]
pub trait Broker: Send + Sync {
    /// Starts taking messages from `queues`, at most `prefetch` unsettled ones at a time (0: no limit), declaring what
    /// has to be declared. Returns once the first connection stands. The channel ends after [`Broker::cancel`], or
    /// when the broker gave up for good.
    async fn consume(&self, queues: &[Queue], prefetch: u32)
    -> Result<mpsc::Receiver<Delivery>, BrokerError>;

    /// Takes messages from these queues from now on and from no others, declaring those that are new, and does so after a
    /// reconnect as well. What was delivered from a queue that is none of them any more stays delivered. When a new
    /// queue is refused, everything stays as it was.
    async fn set_queues(&self, queues: &[Queue]) -> Result<(), BrokerError>;

    /// Changes how many unsettled messages this worker may hold (0: no limit).
    fn set_prefetch(&self, prefetch: u32);

    /// Takes no message until [`Broker::set_prefetch`] is called again (`worker_disable_prefetch`). False, and nothing
    /// else, where that cannot be done.
    fn pause(&self) -> bool {
        false
    }

    /// The connection that messages are taken over; always down where there is none to speak of.
    fn presence(&self) -> Presence {
        Presence::default()
    }

    /// Makes sure that `queue` exists and is bound, as a client does before it sends there (contract section 1.8).
    async fn declare(&self, queue: &Queue) -> Result<(), BrokerError>;

    /// Makes sure that an exchange is there, as a client does before it publishes to one that no queue of its own is bound
    /// to.
    async fn declare_exchange(&self, exchange: &Exchange) -> Result<(), BrokerError>;

    /// Removes a queue that was this client's alone, with its messages and bindings, where the broker does not do that
    /// itself when the client goes.
    async fn forget(&self, _queue: &Queue) -> Result<(), BrokerError> {
        Ok(())
    }

    /// Which queues an exchange leads to, and with which routing keys; `None` where only the server's operator can see that.
    async fn bindings(&self, _exchange: &str) -> Result<Option<Vec<Bound>>, BrokerError> {
        Ok(None)
    }

    /// Throws away the messages of a queue that nobody has taken; how many (`--purge`). A queue that is not there
    /// has none.
    async fn purge(&self, queue: &Queue) -> Result<usize, BrokerError>;

    /// Sends a message and waits until the broker has it: one attempt. [`send`] makes more.
    async fn publish(&self, outgoing: Outgoing) -> Result<(), BrokerError>;

    /// Stops taking messages. What was delivered can still be settled.
    async fn cancel(&self);

    /// Carries out all verdicts given so far, gives back every unsettled message, and disconnects.
    async fn close(&self) -> Result<(), BrokerError>;
}

/// Sends a message, as often as `task_publish_retry_policy` says while the broker is away.
pub async fn send(broker: &dyn Broker, outgoing: Outgoing, policy: &RetryPolicy) -> Result<(), BrokerError> {
    for attempt in 0.. {
        let error = match broker.publish(outgoing.clone()).await {
            Err(BrokerError::Connection(error)) => error,
            done => return done,
        };
        let Some(pause) = policy.pause(attempt) else {
            return Err(BrokerError::Connection(error));
        };
        tracing::warn!("{error}. Trying again in {:.2} seconds...", pause.as_secs_f64());
        tokio::time::sleep(pause).await;
    }
    Ok(())
}
