//! Redis as kombu uses it (contract section 2.2), with two differences that Python workers do not notice: taking a
//! message and recording it as unacknowledged is one atomic step, so that no crash can lose it; and the record's
//! time is renewed while this worker has the message, so that a long task is not delivered twice.
//!
//! Needs Redis 6.2 or later. The times in the database are those of the server's clock.

mod claims;
mod expiry;
mod fanout;
mod fetch;
mod keys;
mod options;
mod publish;
mod record;
mod restore;
mod settle;
mod sweep;
mod transport;

use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use redis::RedisResult;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::{AbortHandle, JoinHandle};
use tokio::time::{sleep, timeout};

use self::claims::Claims;
use self::fetch::Fetcher;
use self::keys::Keys;
use self::publish::Letter;
use self::settle::Order;
use super::consumed::{Consumed, consumed};
use super::exchanges::Exchanges;
use super::{Bound, Broker, BrokerError, Delivery, Presence};
use crate::message::{Outgoing, envelope};
use crate::queue::{Exchange, Queue};
use crate::redis_link::{Link, RESPONSE_TIMEOUT, is_refusal};
use crate::redis_url::RedisUrl;

pub use options::{Options, QueueOrder};
pub use transport::{NAMES, sentinel_login};

/// How long closing waits for the server.
const CLOSE_PATIENCE: Duration = Duration::from_secs(10);

/// A Redis server as a broker.
pub struct RedisBroker {
    url: RedisUrl,
    /// Where messages are sent to.
    write: RedisUrl,
    exchanges: Arc<Exchanges>,
    options: Options,
    keys: Arc<Keys>,
    claims: Arc<Claims>,
    settling: Mutex<Option<(mpsc::UnboundedReceiver<Order>, Link)>>,
    letters: OnceLock<mpsc::Sender<Letter>>,
    consumption: Mutex<Option<Consumption>>,
    sweeper: Mutex<Option<(watch::Sender<bool>, JoinHandle<()>)>>,
    tasks: Mutex<Vec<AbortHandle>>,
    presence: Presence,
}

struct Consumption {
    stop: watch::Sender<bool>,
    queues: Consumed,
    fetcher: JoinHandle<()>,
    subscriber: JoinHandle<()>,
}

impl RedisBroker {
    /// A broker that is not connected yet.
    pub fn new(url: &str, options: &Options) -> Result<Self, BrokerError> {
        Self::between(url, None, options)
    }

    /// The same with another server to send to (`broker_read_url` and `broker_write_url`).
    pub fn between(read: &str, write: Option<&str>, options: &Options) -> Result<Self, BrokerError> {
        let parse = |url: &str| {
            let parsed = RedisUrl::with(url, options.connecting.clone());
            parsed.map_err(|error| BrokerError::Config(error.to_string()))
        };
        let url = parse(read)?;
        let write = write.map_or_else(|| Ok(url.clone()), parse)?;
        if let Some(problem) = options.problem() {
            return Err(BrokerError::Config(problem));
        }
        let (orders, receiver) = mpsc::unbounded_channel();
        let settling = (receiver, Link::new(url.clone(), RESPONSE_TIMEOUT));
        let exchanges = Exchanges::new(options.queues.as_ref());
        Ok(Self {
            keys: Arc::new(Keys::new(options, url.db())),
            write,
            exchanges: Arc::new(exchanges),
            claims: Arc::new(Claims::new(orders)),
            options: options.clone(),
            url,
            settling: Mutex::new(Some(settling)),
            letters: OnceLock::new(),
            consumption: Mutex::new(None),
            sweeper: Mutex::new(None),
            tasks: Mutex::default(),
            presence: Presence::default(),
        })
    }

    fn link(&self) -> Link {
        Link::new(self.url.clone(), RESPONSE_TIMEOUT)
    }

    fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) -> JoinHandle<()> {
        let task = tokio::spawn(task);
        lock(&self.tasks).push(task.abort_handle());
        task
    }

    fn letters(&self) -> &mpsc::Sender<Letter> {
        self.letters.get_or_init(|| {
            let (sender, letters) = mpsc::channel(1024);
            let link = Link::new(self.write.clone(), RESPONSE_TIMEOUT);
            let exchanges = Arc::clone(&self.exchanges);
            self.spawn(publish::run(letters, link, Arc::clone(&self.keys), exchanges));
            sender
        })
    }

    /// Connects and binds the queues, as long as the settings allow.
    async fn connect(&self, queues: &[Queue]) -> Result<Link, BrokerError> {
        let mut link = self.link();
        let mut failed = 0;
        loop {
            match self.bind(&mut link, queues).await {
                Ok(()) => {
                    tracing::info!("Connected to {}", self.url);
                    self.presence.came();
                    link.worked();
                    return Ok(link);
                }
                Err(error) if is_refusal(&error) => {
                    return Err(BrokerError::Refused(format!("{}: {error}", self.url)));
                }
                Err(error) => {
                    failed += 1;
                    if !self.options.reconnect.allows(true, failed) {
                        let reason = format!("cannot connect to {}: {error}", self.url);
                        return Err(BrokerError::Connection(reason));
                    }
                    let pause = link.failed();
                    fetch::report(&link, &error, pause);
                    sleep(pause).await;
                }
            }
        }
    }

    /// Makes the queues known to those who publish to their exchanges.
    async fn bind(&self, link: &mut Link, queues: &[Queue]) -> RedisResult<()> {
        // Alone, because in a pipeline a refusal is hard to tell from other errors.
        redis::cmd("PING").exec_async(link.up().await?).await?;
        let mut pipeline = redis::pipe();
        for queue in queues.iter().filter(|queue| !queue.no_declare) {
            expiry::bind(&mut pipeline, &self.keys, queue);
        }
        match pipeline.is_empty() {
            true => Ok(()),
            false => pipeline.query_async(link.up().await?).await,
        }
    }
}

#[async_trait]
impl Broker for RedisBroker {
    async fn consume(
        &self,
        queues: &[Queue],
        prefetch: u32,
    ) -> Result<mpsc::Receiver<Delivery>, BrokerError> {
        if queues.is_empty() {
            return Err(BrokerError::Config("no queues to consume from".into()));
        }
        self.exchanges.learn("Redis", queues)?;
        self.keys.expiring.learn(queues);
        self.claims.set_prefetch(prefetch);
        let link = self.connect(queues).await?;
        let mut consumption = lock(&self.consumption);
        if consumption.is_some() {
            return Err(BrokerError::Config("already consuming".into()));
        }
        if let Some((orders, link)) = lock(&self.settling).take() {
            let prefix = self.claims.prefix().to_owned();
            let claims = Arc::downgrade(&self.claims);
            self.spawn(settle::run(orders, link, Arc::clone(&self.keys), prefix, claims));
            let (stop, stopped) = watch::channel(false);
            let sweeper = self.spawn(sweep::run(
                Arc::clone(&self.claims),
                self.link(),
                Arc::clone(&self.keys),
                self.options.clone(),
                stopped,
            ));
            *lock(&self.sweeper) = Some((stop, sweeper));
        }
        let (queues, follower) = consumed(queues);
        let (deliveries, receiver) = mpsc::channel(claims::BATCH);
        let (stop, stopped) = watch::channel(false);
        let subscriber = fanout::Subscriber {
            url: self.url.clone(),
            keys: Arc::clone(&self.keys),
            consumed: queues.subscribe(),
            channels: Vec::new(),
            claims: Arc::clone(&self.claims),
            deliveries: deliveries.downgrade(),
            stop: stopped.clone(),
        };
        let subscriber = self.spawn(subscriber.run());
        let fetcher = self.spawn(
            Fetcher {
                consumed: follower,
                queues: Vec::new(),
                reconnect: self.options.reconnect,
                order: self.options.queue_order_strategy,
                link,
                keys: Arc::clone(&self.keys),
                claims: Arc::clone(&self.claims),
                deliveries,
                stop: stopped,
                presence: self.presence.clone(),
            }
            .run(),
        );
        self.spawn(expiry::keep(
            queues.subscribe(),
            Arc::clone(&self.keys),
            self.url.clone(),
            stop.subscribe(),
        ));
        *consumption = Some(Consumption {
            stop,
            queues,
            fetcher,
            subscriber,
        });
        Ok(receiver)
    }

    async fn set_queues(&self, queues: &[Queue]) -> Result<(), BrokerError> {
        self.exchanges.learn("Redis", queues)?;
        self.keys.expiring.learn(queues);
        self.bind(&mut self.link(), queues)
            .await
            .map_err(|error| failed(&self.url, &error))?;
        let changed = lock(&self.consumption)
            .as_ref()
            .map(|consumption| consumption.queues.change(queues));
        match changed {
            Some(changed) => {
                changed.await;
                Ok(())
            }
            None => Err(BrokerError::Config("not consuming".into())),
        }
    }

    fn set_prefetch(&self, prefetch: u32) {
        self.claims.set_prefetch(prefetch);
    }

    fn presence(&self) -> Presence {
        self.presence.clone()
    }

    fn pause(&self) -> bool {
        self.claims.set_prefetch(claims::PAUSED);
        true
    }

    async fn declare(&self, queue: &Queue) -> Result<(), BrokerError> {
        let queue = std::slice::from_ref(queue);
        self.exchanges.learn("Redis", queue)?;
        self.keys.expiring.learn(queue);
        let mut link = Link::new(self.write.clone(), RESPONSE_TIMEOUT);
        let bound = self.bind(&mut link, queue).await;
        bound.map_err(|error| failed(&self.write, &error))
    }

    async fn declare_exchange(&self, exchange: &Exchange) -> Result<(), BrokerError> {
        self.exchanges.learn_exchange("Redis", exchange)
    }

    async fn forget(&self, queue: &Queue) -> Result<(), BrokerError> {
        let mut pipeline = redis::pipe();
        expiry::unbind(&mut pipeline, &self.keys, queue);
        for list in self.keys.lists(std::slice::from_ref(&queue.name)) {
            pipeline.cmd("DEL").arg(&list.key).ignore();
        }
        let mut link = self.link();
        let forgotten: RedisResult<()> = match link.up().await {
            Ok(connection) => pipeline.query_async(connection).await,
            Err(error) => Err(error),
        };
        forgotten.map_err(|error| failed(&self.url, &error))
    }

    async fn bindings(&self, exchange: &str) -> Result<Option<Vec<Bound>>, BrokerError> {
        let mut link = self.link();
        let members = match link.up().await {
            Ok(connection) => restore::bindings(connection, &self.keys, std::iter::once(exchange)).await,
            Err(error) => Err(error),
        };
        let members = members.map_err(|error| failed(&self.url, &error))?;
        let bound = members
            .values()
            .flatten()
            .filter_map(|member| self.keys.bound(member));
        Ok(Some(bound.collect()))
    }

    async fn purge(&self, queue: &Queue) -> Result<usize, BrokerError> {
        let lists = self.keys.lists(std::slice::from_ref(&queue.name));
        let mut pipeline = redis::pipe();
        pipeline.atomic();
        for list in &lists {
            pipeline
                .cmd("LLEN")
                .arg(&list.key)
                .cmd("DEL")
                .arg(&list.key)
                .ignore();
        }
        let mut link = self.link();
        let purged: RedisResult<Vec<usize>> = match link.up().await {
            Ok(connection) => pipeline.query_async(connection).await,
            Err(error) => Err(error),
        };
        let lengths = purged.map_err(|error| failed(&self.url, &error))?;
        Ok(lengths.into_iter().sum())
    }

    async fn publish(&self, outgoing: Outgoing) -> Result<(), BrokerError> {
        let text = envelope::seal(&outgoing);
        let (answer, answered) = oneshot::channel();
        let letter = Letter {
            text,
            priority: outgoing.message.properties.priority.unwrap_or(0),
            route: outgoing.route,
            answer,
        };
        let closed = || BrokerError::Connection(format!("the connection to {} is closed", self.write));
        self.letters().send(letter).await.map_err(|_| closed())?;
        answered.await.map_err(|_| closed())?
    }

    async fn cancel(&self) {
        let consumption = lock(&self.consumption).take();
        if let Some(Consumption {
            stop,
            fetcher,
            subscriber,
            queues: _,
        }) = consumption
        {
            stop.send_replace(true);
            // The fetcher waits for an answer that is under way; with a server that is silent it ends later.
            let _ = timeout(CLOSE_PATIENCE, fetcher).await;
            subscriber.abort();
        }
    }

    async fn close(&self) -> Result<(), BrokerError> {
        self.cancel().await;
        let settling = lock(&self.settling).take().is_none();
        let mut outcome = Ok(());
        if settling {
            let given_back = self.claims.give_back(self.claims.numbers());
            if !matches!(timeout(CLOSE_PATIENCE, given_back).await, Ok(Ok(()))) {
                outcome = Err(BrokerError::Connection(format!(
                    "{} does not answer: unacknowledged messages go back after the visibility timeout",
                    self.url
                )));
            }
        }
        let sweeper = lock(&self.sweeper).take();
        if let Some((stop, sweeper)) = sweeper {
            stop.send_replace(true);
            // With a server that is silent it does not end; then it is aborted.
            let _ = timeout(CLOSE_PATIENCE, sweeper).await;
        }
        for task in lock(&self.tasks).drain(..) {
            task.abort();
        }
        outcome
    }
}

impl Drop for RedisBroker {
    /// Without [`Broker::close`] nothing is given back, as if the process had been killed.
    fn drop(&mut self) {
        for task in lock(&self.tasks).drain(..) {
            task.abort();
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn failed(url: &RedisUrl, error: &redis::RedisError) -> BrokerError {
    let reason = format!("{url}: {error}");
    match is_refusal(error) {
        true => BrokerError::Refused(reason),
        false => BrokerError::Connection(reason),
    }
}
