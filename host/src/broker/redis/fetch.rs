//! Takes messages off the queues: in batches while there are any, and waiting without taking when there are none.

use std::sync::{Arc, LazyLock};
use std::time::Duration;

use redis::{RedisResult, Script, Value};
use tokio::sync::{Notify, mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until};

use super::claims::Claims;
use super::fanout;
use super::keys::Keys;
use super::options::QueueOrder;
use super::restore::cut;
use crate::broker::consumed::Follower;
use crate::broker::{Delivery, Presence, Reconnect, Verdict};
use crate::message::envelope;
use crate::redis_link::Link;
use crate::redis_url::RedisUrl;

static TAKE: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("take.lua")));

/// How long one blocking wait lasts. It ends by itself so that a connection that died in silence is noticed; the
/// fetcher looks as often without being told.
const WAIT: Duration = Duration::from_secs(5);

/// The longest pause where the connection of the fetcher itself is not the trouble.
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// How long to let settled messages add up to a better batch.
const GATHER: Duration = Duration::from_millis(1);

/// A message's envelope and the queue it was in.
type Taken = (Vec<u8>, String);

/// Takes messages from queues until it is told to stop, or nobody receives them any more.
pub(super) struct Fetcher {
    pub(super) consumed: Follower,
    /// Those with lists, in the order in which they are served.
    pub(super) queues: Vec<String>,
    pub(super) order: QueueOrder,
    pub(super) link: Link,
    pub(super) reconnect: Reconnect,
    pub(super) keys: Arc<Keys>,
    pub(super) claims: Arc<Claims>,
    pub(super) deliveries: mpsc::Sender<Delivery>,
    pub(super) stop: watch::Receiver<bool>,
    pub(super) presence: Presence,
}

impl Fetcher {
    /// Runs until stopped; what was taken and not delivered by then goes back.
    pub(super) async fn run(mut self) {
        let mut waits = self.follow();
        let mut server = self.link.url().current();
        let mut failed = 0;
        while let Some(count) = self.room().await {
            if self.consumed.has_changed() {
                waits = self.follow();
            }
            if self.queues.is_empty() {
                tokio::select! {
                    () = self.consumed.changed() => waits = self.follow(),
                    () = stopped(&mut self.stop) => break,
                }
                continue;
            }
            let first = self.claims.new_numbers(count);
            let taken = self.take(first, count).await;
            if taken.is_ok() {
                failed = 0;
                let current = self.link.url().current();
                if std::mem::replace(&mut server, current) != current {
                    // The server that has the records of what we hold is gone; its messages go to others later.
                    self.claims.lose(self.claims.numbers());
                }
            }
            match taken {
                Ok(texts) if texts.is_empty() => {
                    tokio::select! {
                        () = waits.message() => {}
                        () = sleep(WAIT) => {}
                        () = self.consumed.changed() => waits = self.follow(),
                        () = stopped(&mut self.stop) => break,
                    }
                }
                Ok(texts) => {
                    if !self.deliver(first, texts).await {
                        break;
                    }
                }
                Err(error) => {
                    failed += 1;
                    self.presence.went();
                    if !self.reconnect.allows(false, failed) {
                        tracing::error!(
                            "consumer: Cannot take messages from {}: {error}. No more attempts are made",
                            self.link.url()
                        );
                        break;
                    }
                    let mut pause = self.link.failed();
                    if error.is_unrecoverable_error() {
                        report(&self.link, &error, pause);
                    } else {
                        // The server is there. It may be loading its data, or one list is no list: others go on.
                        pause = pause.min(LONGEST_PAUSE);
                        tracing::error!(
                            "consumer: Cannot take messages from {}: {error}. Trying again in {:.2} seconds...",
                            self.link.url(),
                            pause.as_secs_f64()
                        );
                    }
                    tokio::select! {
                        () = sleep(pause) => {}
                        () = stopped(&mut self.stop) => break,
                    }
                }
            }
        }
    }

    /// Takes over the queues as they are wanted now.
    fn follow(&mut self) -> Waits {
        let (version, queues) = self.consumed.queues();
        // Nothing is ever in a list of a queue that only pub/sub leads to.
        let listed = queues.iter().filter(|queue| !fanout::is_alone(queue));
        self.queues = listed.map(|queue| queue.name.clone()).collect();
        if self.order == QueueOrder::Sorted {
            self.queues.sort_unstable();
        }
        self.consumed.followed(version);
        Waits::start(self.link.url(), &self.keys, &self.queues)
    }

    /// Waits until messages may be taken; how many. `None`: stop.
    async fn room(&mut self) -> Option<usize> {
        let mut gathered = None;
        loop {
            if *self.stop.borrow() || self.deliveries.is_closed() {
                return None;
            }
            let (count, enough) = self.claims.room();
            let now = Instant::now();
            if count > 0 && (enough || gathered.is_some_and(|gathered| gathered <= now)) {
                return Some(count);
            }
            if count > 0 && gathered.is_none() {
                gathered = Some(now + GATHER);
            }
            tokio::select! {
                () = self.claims.room_changed() => {}
                () = sleep_until(gathered.unwrap_or(now)), if gathered.is_some() => {}
                () = self.deliveries.closed() => {}
                () = stopped(&mut self.stop) => {}
            }
        }
    }

    /// Asks for messages once. This is never given up half way, because the server may have recorded the messages.
    async fn take(&mut self, first: u64, count: usize) -> RedisResult<Vec<Taken>> {
        let was_up = self.link.is_up();
        let connection = self.link.up().await?;
        let lists = self.keys.lists(&self.queues);
        let mut script = TAKE.prepare_invoke();
        script.key(&self.keys.unacked).key(&self.keys.unacked_index);
        script.arg(count).arg(self.claims.prefix()).arg(first);
        for list in &lists {
            script.key(&list.key).arg(&list.entry_end);
        }
        let answer: (Vec<Vec<u8>>, Vec<usize>) = match script.invoke_async(connection).await {
            Ok(answer) => answer,
            Err(error) => {
                // Perhaps the server took messages and only its answer was lost.
                drop(self.claims.give_back((first..first + count as u64).collect()));
                return Err(error);
            }
        };
        self.link.worked();
        self.presence.came();
        if !was_up {
            tracing::info!("Connected to {}", self.link.url());
        }
        if self.order == QueueOrder::RoundRobin && self.queues.len() > 1 {
            self.queues.rotate_left(1);
        }
        let (texts, from) = answer;
        let queue = |place: usize| {
            lists
                .get(place)
                .map_or_else(String::new, |list| list.queue.clone())
        };
        let taken = texts.into_iter().zip(from);
        Ok(taken.map(|(text, place)| (text, queue(place))).collect())
    }

    /// Hands messages over. False: stop; what was not handed over goes back.
    async fn deliver(&mut self, first: u64, texts: Vec<Taken>) -> bool {
        let end = first + texts.len() as u64;
        self.claims.hold(first..end);
        for (number, (text, queue)) in (first..end).zip(texts) {
            let opened = match envelope::open(&text) {
                Ok(opened) => opened,
                Err(error) => {
                    let text = String::from_utf8_lossy(&text);
                    tracing::error!("Removed a message that cannot be read: {error}: {}", cut(&text));
                    self.claims
                        .settle(number, Verdict::Reject { requeue: false }, None);
                    continue;
                }
            };
            let delivery = Delivery {
                message: opened.message,
                queue,
                route: opened.route,
                redelivered: opened.redelivered,
                receipt: self.claims.receipt(number),
            };
            let handed_over = tokio::select! {
                biased;
                sent = self.deliveries.send(delivery) => sent.is_ok(),
                () = stopped(&mut self.stop) => false,
            };
            if !handed_over {
                // Whether they are back yet makes no difference here.
                drop(self.claims.give_back((number..end).collect()));
                return false;
            }
        }
        true
    }
}

/// Logs a failure of the consumer's connection in Celery's words.
pub(super) fn report(link: &Link, error: &redis::RedisError, pause: Duration) {
    tracing::error!(
        "consumer: Cannot connect to {}: {error}. Trying again in {:.2} seconds...",
        link.url(),
        pause.as_secs_f64()
    );
}

/// Resolves once consuming was cancelled, or nobody can cancel it any more.
pub(super) async fn stopped(stop: &mut watch::Receiver<bool>) {
    // An error means that the other side is gone, which is a reason to stop, too.
    let _ = stop.wait_for(|stop| *stop).await;
}

/// One blocked connection per list, woken by its first message, which stays where it is.
struct Waits {
    armed: Vec<Arc<Notify>>,
    found: Arc<Notify>,
    _tasks: JoinSet<()>,
}

impl Waits {
    fn start(url: &RedisUrl, keys: &Keys, queues: &[String]) -> Self {
        let found = Arc::new(Notify::new());
        let mut tasks = JoinSet::new();
        let lists = keys.lists(queues);
        let wait_on = |key: String| {
            let armed = Arc::new(Notify::new());
            let link = Link::new(url.clone(), 2 * WAIT);
            tasks.spawn(wait(link, key, Arc::clone(&armed), Arc::clone(&found)));
            armed
        };
        Self {
            armed: lists.into_iter().map(|list| list.key).map(wait_on).collect(),
            found,
            _tasks: tasks,
        }
    }

    /// Resolves when one of the lists has a message, or a connection broke; sometimes for nothing.
    async fn message(&mut self) {
        for armed in &self.armed {
            armed.notify_one();
        }
        self.found.notified().await;
    }
}

async fn wait(mut link: Link, key: String, armed: Arc<Notify>, found: Arc<Notify>) {
    loop {
        armed.notified().await;
        loop {
            match block(&mut link, &key).await {
                Ok(there) => {
                    link.worked();
                    if there {
                        found.notify_one();
                        break;
                    }
                }
                Err(error) => {
                    let pause = link.failed().min(LONGEST_PAUSE);
                    tracing::debug!("waiting for messages on {}: {error}", link.url());
                    found.notify_one();
                    sleep(pause).await;
                }
            }
        }
    }
}

/// Whether there is a message in the list, after at most [`WAIT`]: moving the oldest one to where it is leaves the
/// list as it was.
async fn block(link: &mut Link, key: &str) -> RedisResult<bool> {
    let answer: Value = redis::cmd("BLMOVE")
        .arg(key)
        .arg(key)
        .arg("RIGHT")
        .arg("RIGHT")
        .arg(WAIT.as_secs())
        .query_async(link.up().await?)
        .await?;
    Ok(answer != Value::Nil)
}
