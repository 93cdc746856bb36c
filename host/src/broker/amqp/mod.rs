//! RabbitMQ and other AMQP 0-9-1 brokers (contract section 2.1).
//!
//! Two connections: one takes messages and settles them ([`consumer`]), one publishes ([`publisher`]), because RabbitMQ
//! stops reading from a connection that publishes when it runs short of memory, and acknowledgements must not wait
//! for that. Each is one task that owns its connection; the others talk to it over channels.
//!
//! lapin speaks the protocol. What a message holds is its sender's choice, so what lapin cannot bear, headers nested
//! deeper than its stack and text that is not UTF-8, is taken out of the bytes before it sees them ([`screen`]): the
//! message arrives, repaired or without its headers, and is refused like any other that makes no sense.

mod address;
mod connection;
mod consumer;
mod message;
mod publisher;
mod screen;
mod settle;
mod stream;
mod table;

use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use serde::Deserialize;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

use self::address::Address;
use self::connection::{Connection, Lost};
use self::consumer::{Consumer, HANDED_OUT, Phase, StartError};
use self::publisher::{Job, PublishError};
use super::{Broker, BrokerError, Delivery};
use crate::message::Outgoing;

/// Pauses before a message is published again after a lost connection: Celery's `task_publish_retry_policy`.
const RETRY_PAUSES: [Duration; 3] = [
    Duration::ZERO,
    Duration::from_millis(200),
    Duration::from_millis(400),
];
/// How long [`Broker::close`] may take.
const CLOSE_LIMIT: Duration = Duration::from_secs(10);

/// What can be set besides the URL, with Celery's names.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Options {
    /// `broker_heartbeat`: seconds between signs of life; the lower of ours and the server's counts. 0 leaves it to
    /// the server.
    pub heartbeat: u16,
    /// `broker_connection_timeout`: seconds that connecting may take.
    pub connection_timeout: f64,
    /// `broker_transport_options.confirm_publish`: a message counts as published when the broker says that it has it,
    /// and not when it is written. On unless switched off, unlike in Celery.
    pub confirm_publish: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            heartbeat: 120,
            connection_timeout: 4.0,
            confirm_publish: true,
        }
    }
}

/// Where to connect, and how.
#[derive(Debug)]
struct Target {
    address: Address,
    options: Options,
}

impl Target {
    /// The error for a failure that another attempt would only repeat; `None` for the others.
    fn refusal(&self, error: &StartError) -> Option<BrokerError> {
        let address = &self.address;
        let reply = match &error.lost {
            Lost::Closed(reply) => reply,
            Lost::Io(io) if io.kind() == std::io::ErrorKind::InvalidData => {
                return Some(BrokerError::Refused(format!(
                    "{address} cannot be trusted: {io}\nhint: name the certificate of its authority in the broker URL \
                     (?cacertfile=FILE); the host in the URL has to be one that its certificate names"
                )));
            }
            Lost::Io(io) if io.kind() == std::io::ErrorKind::NotFound => {
                return Some(BrokerError::Config(io.to_string()));
            }
            _ => return None,
        };
        let said = &reply.text;
        let text = match (reply.code, &error.queue) {
            (403, None) => format!(
                "{address} refused the login: {said}\nhint: check user and password in the broker URL; RabbitMQ lets \
                 the user guest in from its own machine only"
            ),
            (530, None) => format!(
                "{address} refused the virtual host {:?}: {said}\nhint: check the path of the broker URL (// is the \
                 virtual host /) and the user's permissions (rabbitmqctl list_permissions -p {0})",
                address.vhost
            ),
            (403, Some(queue)) => format!(
                "{address} does not let this user use queue {queue:?}: {said}\nhint: it needs the permissions to \
                 configure, write and read it (rabbitmqctl set_permissions)"
            ),
            (406, Some(queue)) => format!(
                "queue {queue:?} exists on {address} with other properties: {said}\nhint: it is declared as Celery \
                 does, durable and without arguments. Consume another queue (-Q), or delete this one when it is \
                 empty (rabbitmqctl delete_queue {queue})"
            ),
            (405, Some(queue)) => format!(
                "queue {queue:?} on {address} belongs to another connection alone: {said}\nhint: consume another \
                 queue (-Q)"
            ),
            _ => return None,
        };
        Some(BrokerError::Refused(text))
    }
}

/// A broker that speaks AMQP 0-9-1, such as RabbitMQ.
pub struct AmqpBroker {
    target: Arc<Target>,
    prefetch: watch::Sender<u32>,
    consumers: Mutex<Vec<Running>>,
    publisher: OnceLock<(mpsc::Sender<Job>, Running)>,
}

/// A task and how to end it.
struct Running {
    phase: watch::Sender<Phase>,
    task: Mutex<Option<JoinHandle<()>>>,
}

impl Running {
    /// Advances to a later phase; never goes back.
    fn advance(&self, to: Phase) {
        self.phase.send_if_modified(|phase| {
            let later = to > *phase;
            *phase = to.max(*phase);
            later
        });
    }

    async fn end(&self) {
        self.advance(Phase::Close);
        let task = self.task.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(mut task) = task
            && timeout(CLOSE_LIMIT, &mut task).await.is_err()
        {
            task.abort();
        }
    }
}

impl AmqpBroker {
    /// Reads the URL (`amqp://`, `amqps://`, `pyamqp://`); connects when there is something to do.
    pub fn new(url: &str, options: &Options) -> Result<Self, BrokerError> {
        let mut options = options.clone();
        let address = Address::parse(url, &mut options)?;
        Ok(Self {
            target: Arc::new(Target { address, options }),
            prefetch: watch::Sender::new(0),
            consumers: Mutex::default(),
            publisher: OnceLock::new(),
        })
    }

    fn publisher(&self) -> &mpsc::Sender<Job> {
        let (jobs, _) = self.publisher.get_or_init(|| {
            let (jobs, waiting) = mpsc::channel(256);
            let (phase, phases) = watch::channel(Phase::Consume);
            let task = tokio::spawn(publisher::run(Arc::clone(&self.target), waiting, phases));
            let task = Mutex::new(Some(task));
            (jobs, Running { phase, task })
        });
        jobs
    }

    async fn try_publish(&self, outgoing: Outgoing) -> Result<(), PublishError> {
        let gone = || PublishError::Connection("the broker was closed".into());
        let (done, published) = oneshot::channel();
        self.publisher()
            .send(Job { outgoing, done })
            .await
            .map_err(|_| gone())?;
        published.await.unwrap_or_else(|_| Err(gone()))
    }

    /// The verdict on a failed attempt to publish.
    fn publish_error(&self, error: &PublishError) -> BrokerError {
        let address = &self.target.address;
        match error {
            PublishError::Connection(_) => {
                BrokerError::Connection(format!("cannot publish to {address}: {error}"))
            }
            _ => BrokerError::Refused(format!("cannot publish to {address}: {error}")),
        }
    }
}

#[async_trait]
impl Broker for AmqpBroker {
    async fn consume(
        &self,
        queues: &[String],
        prefetch: u32,
    ) -> Result<mpsc::Receiver<Delivery>, BrokerError> {
        self.prefetch.send_replace(prefetch);
        let (phase, phases) = watch::channel(Phase::Consume);
        let consumer = Consumer {
            target: Arc::clone(&self.target),
            queues: queues.to_vec(),
            prefetch: self.prefetch.subscribe(),
            phase: phases,
        };
        let (handed_out, deliveries) = mpsc::channel(HANDED_OUT);
        let (ready, started) = oneshot::channel();
        let task = tokio::spawn(consumer.run(handed_out, ready));
        let task = Mutex::new(Some(task));
        self.consumers
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(Running { phase, task });
        let gone = || Err(BrokerError::Connection("the broker was closed".into()));
        started.await.unwrap_or_else(|_| gone()).map(|()| deliveries)
    }

    fn set_prefetch(&self, prefetch: u32) {
        self.prefetch
            .send_if_modified(|current| std::mem::replace(current, prefetch) != prefetch);
    }

    /// A message counts as published when the broker has confirmed it. When the connection is lost before that, the
    /// message is sent again, and may then be there twice.
    async fn declare(&self, queue: &str) -> Result<(), BrokerError> {
        let target = &self.target;
        let declared = async {
            let opened = Connection::open(&target.address, &target.options).await;
            let connection = opened.map_err(|lost| StartError { lost, queue: None })?;
            let declared = consumer::declare(&connection, queue).await;
            declared.map_err(|lost| StartError {
                lost,
                queue: Some(queue.to_owned()),
            })?;
            if let Err(lost) = connection.close().await {
                tracing::debug!("the server did not say goodbye: {lost}");
            }
            Ok(())
        };
        declared.await.map_err(|error: StartError| {
            let connection =
                || BrokerError::Connection(format!("cannot connect to {}: {}", target.address, error.lost));
            target.refusal(&error).unwrap_or_else(connection)
        })
    }

    async fn publish(&self, outgoing: Outgoing) -> Result<(), BrokerError> {
        let mut result = self.try_publish(outgoing.clone()).await;
        for pause in RETRY_PAUSES {
            match result {
                Err(PublishError::Connection(_)) => {
                    sleep(pause).await;
                    result = self.try_publish(outgoing.clone()).await;
                }
                // The broker closes the channel for a message that it does not like, with all others on it.
                Err(PublishError::Closed(_)) => {
                    result = publisher::publish_alone(&self.target, outgoing.clone()).await;
                    break;
                }
                _ => break,
            }
        }
        result.map_err(|error| self.publish_error(&error))
    }

    async fn cancel(&self) {
        for consumer in &*self.consumers.lock().unwrap_or_else(PoisonError::into_inner) {
            consumer.advance(Phase::Settle);
        }
    }

    async fn close(&self) -> Result<(), BrokerError> {
        let consumers = std::mem::take(&mut *self.consumers.lock().unwrap_or_else(PoisonError::into_inner));
        for consumer in &consumers {
            consumer.end().await;
        }
        if let Some((_, publisher)) = self.publisher.get() {
            publisher.end().await;
        }
        Ok(())
    }
}
