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
mod channel;
mod connection;
mod consumer;
mod declare;
mod delayed;
mod message;
mod publisher;
mod screen;
mod settle;
mod stream;
mod table;
mod target;
mod trust;

use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use jiff::Timestamp;
use serde::Deserialize;
use tokio::sync::{Semaphore, mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use self::connection::{Connection, Lost};
use self::consumer::{Consumer, HANDED_OUT, Phase};
use self::publisher::{Job, PublishError};
use self::target::{StartError, Target};
use super::consumed::{Consumed, consumed};
use super::options::Names;
use super::{Broker, BrokerError, Delivery, Presence, Reconnect, Strategy};
use crate::message::Outgoing;
use crate::queue::{Exchange, Queue, Queues};
use crate::tls::Tls;

/// How many connections at a time are made for one message each.
const ALONE: usize = 8;
/// How long [`Broker::close`] may take.
const CLOSE_LIMIT: Duration = Duration::from_secs(10);

const SOCKET: &str = "a connection that died is noticed by its heartbeat (broker_heartbeat)";

/// `broker_transport_options` of this transport.
pub const NAMES: Names = Names {
    setting: "broker_transport_options",
    works: &["confirm_publish", "connect_timeout", "heartbeat", "login_method"],
    ignored: &[
        ("read_timeout", SOCKET),
        ("write_timeout", SOCKET),
        ("socket_settings", SOCKET),
        ("client_properties", "the worker says who it is itself"),
        (
            "confirm_timeout",
            "a confirmation is waited for as long as the connection stands",
        ),
        ("on_blocked", "it names a Python function"),
        ("on_unblocked", "it names a Python function"),
        ("locale", "the server's texts are in English"),
        ("frame_max", "frames are as large as RabbitMQ allows"),
        ("channel_max", "each connection has one channel"),
        (
            "native_delayed_delivery_prefix",
            "Celery names these queues without a prefix",
        ),
        ("polling_interval", "the server sends messages when they come"),
    ],
};

/// `broker_login_method`: how the worker says who it is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
pub enum Login {
    /// User and password of the URL.
    #[default]
    #[serde(rename = "PLAIN")]
    Plain,
    /// The same in an older form.
    #[serde(rename = "AMQPLAIN")]
    AmqPlain,
    /// The certificate of the TLS connection.
    #[serde(rename = "EXTERNAL")]
    External,
}

/// What can be set besides the URL.
#[derive(Debug, Clone, PartialEq)]
pub struct Options {
    /// `broker_heartbeat`: seconds between signs of life; the lower of ours and the server's counts. 0 leaves it to
    /// the server.
    pub heartbeat: u16,
    /// `broker_connection_timeout`: seconds that connecting may take.
    pub connection_timeout: f64,
    /// `broker_transport_options.confirm_publish`: a message counts as published when the broker says that it has it,
    /// and not when it is written. On unless switched off, unlike in Celery.
    pub confirm_publish: bool,
    /// `broker_login_method`.
    pub login: Login,
    /// `broker_use_ssl`.
    pub tls: Option<Tls>,
    /// `broker_failover_strategy`.
    pub failover: Strategy,
    /// `broker_connection_retry` and its relatives.
    pub reconnect: Reconnect,
    /// Every queue of the settings: their exchanges' types are known, and one quorum queue changes how prefetch and
    /// delays work for all (contract section 2.1.3).
    pub queues: Option<Queues>,
    /// `worker_detect_quorum_queues`.
    pub detect_quorum_queues: bool,
    /// `broker_native_delayed_delivery_queue_type` is `quorum`.
    pub delayed_quorum: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            heartbeat: 120,
            connection_timeout: 4.0,
            confirm_publish: true,
            login: Login::Plain,
            tls: None,
            failover: Strategy::RoundRobin,
            reconnect: Reconnect::default(),
            queues: None,
            detect_quorum_queues: true,
            delayed_quorum: true,
        }
    }
}

impl Options {
    /// Takes over what `broker_transport_options` say.
    pub fn transport(self, table: &toml::Table) -> Result<Self, BrokerError> {
        #[derive(Deserialize)]
        struct Read {
            confirm_publish: Option<bool>,
            connect_timeout: Option<f64>,
            heartbeat: Option<u16>,
            login_method: Option<Login>,
        }
        let read: Read = NAMES.read(table)?;
        Ok(Self {
            confirm_publish: read.confirm_publish.unwrap_or(self.confirm_publish),
            connection_timeout: read.connect_timeout.unwrap_or(self.connection_timeout),
            heartbeat: read.heartbeat.unwrap_or(self.heartbeat),
            login: read.login_method.unwrap_or(self.login),
            ..self
        })
    }
}

/// A broker that speaks AMQP 0-9-1, such as RabbitMQ.
pub struct AmqpBroker {
    target: Arc<Target>,
    prefetch: watch::Sender<u32>,
    /// What is consumed or declared.
    queues: Mutex<Vec<Queue>>,
    consumers: Mutex<Vec<Running>>,
    /// The queues of the latest consumer.
    consumed: Mutex<Option<Consumed>>,
    publisher: OnceLock<(mpsc::Sender<Job>, Running)>,
    /// Who may open a connection for one message.
    alone: Semaphore,
    presence: Presence,
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
        let task = lock(&self.task).take();
        if let Some(mut task) = task
            && timeout(CLOSE_LIMIT, &mut task).await.is_err()
        {
            task.abort();
        }
    }
}

impl AmqpBroker {
    /// Reads the URL (`amqp://`, `amqps://`, `pyamqp://`), or several separated by `;`; connects when there is
    /// something to do.
    pub fn new(url: &str, options: &Options) -> Result<Self, BrokerError> {
        Self::between(url, url, options)
    }

    /// The same with other servers to send to (`broker_read_url` and `broker_write_url`).
    pub fn between(read: &str, write: &str, options: &Options) -> Result<Self, BrokerError> {
        Ok(Self {
            target: Arc::new(Target::new(read, write, options)?),
            prefetch: watch::Sender::new(0),
            queues: Mutex::default(),
            consumers: Mutex::default(),
            consumed: Mutex::default(),
            publisher: OnceLock::new(),
            alone: Semaphore::new(ALONE),
            presence: Presence::default(),
        })
    }

    /// Remembers queues, for what is known of their exchanges.
    fn remember(&self, queues: &[Queue]) {
        let mut known = lock(&self.queues);
        for queue in queues {
            known.retain(|known| known.name != queue.name);
            known.push(queue.clone());
        }
    }

    /// Sends a message with an ETA through RabbitMQ's own delay where there are quorum queues, as Celery does.
    fn delayed(&self, mut outgoing: Outgoing) -> Outgoing {
        let known = lock(&self.queues);
        let mut all = self.target.known.iter().chain(known.iter());
        if !outgoing.route.exchange.is_empty()
            && all.any(Queue::is_quorum)
            && let Some(kind) = self.target.exchange_kind(&known, &outgoing.route.exchange)
            && let Some(route) = delayed::route(&outgoing.route, &outgoing.message, kind, Timestamp::now())
        {
            outgoing.route = route;
        }
        outgoing
    }

    /// Declares a queue where messages are taken from.
    async fn declared(&self, queue: &Queue) -> Result<(), BrokerError> {
        let connection = self.target.read.connect().await.map_err(StartError::into_error)?;
        let declared = declare::declare(&connection.channel, queue).await;
        leave(connection, Some(queue), declared).await
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
        let address = &self.target.write;
        match error {
            PublishError::Connection(_) | PublishError::NotOpen(_) => {
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
        queues: &[Queue],
        prefetch: u32,
    ) -> Result<mpsc::Receiver<Delivery>, BrokerError> {
        self.prefetch.send_replace(prefetch);
        self.remember(queues);
        let (phase, phases) = watch::channel(Phase::Consume);
        let (consumed, follower) = consumed(queues);
        *lock(&self.consumed) = Some(consumed);
        let consumer = Consumer {
            target: Arc::clone(&self.target),
            consumed: follower,
            queues: queues.to_vec(),
            prefetch: self.prefetch.subscribe(),
            phase: phases,
            quorum_seen: false,
            delays_ready: false,
            presence: self.presence.clone(),
        };
        let (handed_out, deliveries) = mpsc::channel(HANDED_OUT);
        let (ready, started) = oneshot::channel();
        let task = tokio::spawn(consumer.run(handed_out, ready));
        let task = Mutex::new(Some(task));
        lock(&self.consumers).push(Running { phase, task });
        let gone = || Err(BrokerError::Connection("the broker was closed".into()));
        started.await.unwrap_or_else(|_| gone()).map(|()| deliveries)
    }

    /// New queues are declared over a connection of their own: a refusal would end the one that consumes.
    async fn set_queues(&self, queues: &[Queue]) -> Result<(), BrokerError> {
        let new: Vec<Queue> = {
            let known = lock(&self.queues);
            let new = queues.iter().filter(|queue| !known.contains(queue));
            new.cloned().collect()
        };
        for queue in &new {
            match self.declared(queue).await {
                // The consumer declares them when it has a connection.
                Ok(()) | Err(BrokerError::Connection(_)) => {}
                Err(refused) => return Err(refused),
            }
        }
        self.remember(queues);
        let changed = lock(&self.consumed)
            .as_ref()
            .map(|consumed| consumed.change(queues));
        match changed {
            Some(changed) => {
                changed.await;
                Ok(())
            }
            None => Err(BrokerError::Config("not consuming".into())),
        }
    }

    fn presence(&self) -> Presence {
        self.presence.clone()
    }

    fn set_prefetch(&self, prefetch: u32) {
        self.prefetch
            .send_if_modified(|current| std::mem::replace(current, prefetch) != prefetch);
    }

    async fn declare(&self, queue: &Queue) -> Result<(), BrokerError> {
        self.remember(std::slice::from_ref(queue));
        let connection = self
            .target
            .write
            .connect()
            .await
            .map_err(StartError::into_error)?;
        let declared = declare::declare(&connection.channel, queue).await;
        leave(connection, Some(queue), declared).await
    }

    async fn declare_exchange(&self, exchange: &Exchange) -> Result<(), BrokerError> {
        let connection = self
            .target
            .write
            .connect()
            .await
            .map_err(StartError::into_error)?;
        let declared = declare::exchange(&connection.channel, exchange).await;
        leave(connection, None, declared).await
    }

    async fn purge(&self, queue: &Queue) -> Result<usize, BrokerError> {
        let connection = self.target.read.connect().await.map_err(StartError::into_error)?;
        let purged = declare::purge(&connection.channel, queue).await;
        leave(connection, Some(queue), purged).await
    }

    /// A message counts as published when the broker has confirmed it. When the connection is lost before that, the
    /// message is sent again, and may then be there twice.
    async fn publish(&self, outgoing: Outgoing) -> Result<(), BrokerError> {
        let outgoing = self.delayed(outgoing);
        let mut result = self.try_publish(outgoing.clone()).await;
        if let Err(PublishError::NotOpen(_)) = result {
            result = self.try_publish(outgoing.clone()).await;
        }
        // The broker closes the channel for a message that it does not like, with all others on it.
        if let Err(PublishError::Closed(_)) = result {
            // It is never closed; without a permit there would only be one connection more.
            let _permit = self.alone.acquire().await;
            result = publisher::publish_alone(&self.target, outgoing).await;
        }
        result.map_err(|error| self.publish_error(&error))
    }

    async fn cancel(&self) {
        for consumer in &*lock(&self.consumers) {
            consumer.advance(Phase::Settle);
        }
    }

    async fn close(&self) -> Result<(), BrokerError> {
        let consumers = std::mem::take(&mut *lock(&self.consumers));
        for consumer in &consumers {
            consumer.end().await;
        }
        if let Some((_, publisher)) = self.publisher.get() {
            publisher.end().await;
        }
        Ok(())
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Ends a connection that was made for one thing.
async fn leave<T>(
    connection: Connection,
    queue: Option<&Queue>,
    done: Result<T, Lost>,
) -> Result<T, BrokerError> {
    let done = done.map_err(|lost| {
        let error = StartError {
            address: connection.address.clone(),
            lost,
            queue: queue.cloned(),
        };
        error.into_error()
    })?;
    if let Err(lost) = connection.close().await {
        tracing::debug!("the server did not say goodbye: {lost}");
    }
    Ok(done)
}
