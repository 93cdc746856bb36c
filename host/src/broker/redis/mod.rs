//! Redis as kombu uses it (contract section 2.2), with two differences that Python workers do not notice: taking a
//! message and recording it as unacknowledged is one atomic step, so that no crash can lose it; and the record's
//! time is renewed while this worker has the message, so that a long task is not delivered twice.
//!
//! Needs Redis 6.2 or later. The times in the database are those of the server's clock.

mod claims;
mod fetch;
mod keys;
mod options;
mod publish;
mod restore;
mod settle;
mod sweep;

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
use super::{Broker, BrokerError, Delivery};
use crate::message::{Outgoing, envelope};
use crate::redis_link::{Link, RESPONSE_TIMEOUT, is_refusal};
use crate::redis_url::RedisUrl;

pub use options::{Options, QueueOrder};

/// How long closing waits for the server.
const CLOSE_PATIENCE: Duration = Duration::from_secs(10);

/// A Redis server as a broker.
pub struct RedisBroker {
    url: RedisUrl,
    options: Options,
    keys: Arc<Keys>,
    claims: Arc<Claims>,
    settling: Mutex<Option<(mpsc::UnboundedReceiver<Order>, Link)>>,
    letters: OnceLock<mpsc::Sender<Letter>>,
    consumption: Mutex<Option<Consumption>>,
    sweeper: Mutex<Option<(watch::Sender<bool>, JoinHandle<()>)>>,
    tasks: Mutex<Vec<AbortHandle>>,
}

struct Consumption {
    stop: watch::Sender<bool>,
    fetcher: JoinHandle<()>,
}

impl RedisBroker {
    /// A broker that is not connected yet.
    pub fn new(url: &str, options: &Options) -> Result<Self, BrokerError> {
        let url = RedisUrl::parse(url).map_err(|error| BrokerError::Config(error.to_string()))?;
        if let Some(problem) = options.problem() {
            return Err(BrokerError::Config(problem));
        }
        let (orders, receiver) = mpsc::unbounded_channel();
        let settling = (receiver, Link::new(url.clone(), RESPONSE_TIMEOUT));
        Ok(Self {
            keys: Arc::new(Keys::new(options)),
            claims: Arc::new(Claims::new(orders)),
            options: options.clone(),
            url,
            settling: Mutex::new(Some(settling)),
            letters: OnceLock::new(),
            consumption: Mutex::new(None),
            sweeper: Mutex::new(None),
            tasks: Mutex::default(),
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
            self.spawn(publish::run(letters, self.link(), Arc::clone(&self.keys)));
            sender
        })
    }

    /// Connects and binds the queues, however long that takes.
    async fn connect(&self, queues: &[String]) -> Result<Link, BrokerError> {
        let mut link = self.link();
        loop {
            match self.bind(&mut link, queues).await {
                Ok(()) => {
                    tracing::info!("Connected to {}", self.url);
                    link.worked();
                    return Ok(link);
                }
                Err(error) if is_refusal(&error) => {
                    return Err(BrokerError::Refused(format!("{}: {error}", self.url)));
                }
                Err(error) => {
                    let pause = link.failed();
                    fetch::report(&link, &error, pause);
                    sleep(pause).await;
                }
            }
        }
    }

    /// Makes the queues known to those who publish to an exchange of the queue's name, as Celery declares it.
    async fn bind(&self, link: &mut Link, queues: &[String]) -> RedisResult<()> {
        // Alone, because in a pipeline a refusal is hard to tell from other errors.
        redis::cmd("PING").exec_async(link.up().await?).await?;
        let mut pipeline = redis::pipe();
        for queue in queues {
            let binding = self.keys.binding(queue, queue);
            for set in [self.keys.bindings(queue), self.keys.permanent_bindings(queue)] {
                pipeline.cmd("SADD").arg(set).arg(&binding).ignore();
            }
        }
        pipeline.query_async(link.up().await?).await
    }
}

#[async_trait]
impl Broker for RedisBroker {
    async fn consume(
        &self,
        queues: &[String],
        prefetch: u32,
    ) -> Result<mpsc::Receiver<Delivery>, BrokerError> {
        if queues.is_empty() {
            return Err(BrokerError::Config("no queues to consume from".into()));
        }
        self.claims.set_prefetch(prefetch);
        let link = self.connect(queues).await?;
        let mut consumption = lock(&self.consumption);
        if consumption.is_some() {
            return Err(BrokerError::Config("already consuming".into()));
        }
        if let Some((orders, link)) = lock(&self.settling).take() {
            let prefix = self.claims.prefix().to_owned();
            self.spawn(settle::run(orders, link, Arc::clone(&self.keys), prefix));
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
        let mut queues = queues.to_vec();
        if self.options.queue_order_strategy == QueueOrder::Sorted {
            queues.sort_unstable();
        }
        let (deliveries, receiver) = mpsc::channel(claims::BATCH);
        let (stop, stopped) = watch::channel(false);
        let fetcher = self.spawn(
            Fetcher {
                queues,
                rotate: self.options.queue_order_strategy == QueueOrder::RoundRobin,
                link,
                keys: Arc::clone(&self.keys),
                claims: Arc::clone(&self.claims),
                deliveries,
                stop: stopped,
            }
            .run(),
        );
        *consumption = Some(Consumption { stop, fetcher });
        Ok(receiver)
    }

    fn set_prefetch(&self, prefetch: u32) {
        self.claims.set_prefetch(prefetch);
    }

    fn pause(&self) -> bool {
        self.claims.set_prefetch(claims::PAUSED);
        true
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
        let closed = || BrokerError::Connection(format!("the connection to {} is closed", self.url));
        self.letters().send(letter).await.map_err(|_| closed())?;
        answered.await.map_err(|_| closed())?
    }

    async fn cancel(&self) {
        let consumption = lock(&self.consumption).take();
        if let Some(Consumption { stop, fetcher }) = consumption {
            stop.send_replace(true);
            // The fetcher waits for an answer that is under way; with a server that is silent it ends later.
            let _ = timeout(CLOSE_PATIENCE, fetcher).await;
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
