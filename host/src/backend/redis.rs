//! Results in Redis (contract section 5.2).

use std::collections::HashSet;
use std::sync::{LazyLock, OnceLock};
use std::time::Duration;

use async_trait::async_trait;
use redis::{RedisResult, Script, Value};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep};

use super::{BackendError, Documents, ResultBackend, StoredResult};
use crate::outcome::State;
use crate::redis_link::{Link, RESPONSE_TIMEOUT};
use crate::redis_url::{Connecting, RedisUrl};

static STORE: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("store.lua")));

/// At most so many results in one round trip.
const BATCH: usize = 128;

/// At most so many bytes in one round trip, unless one result is larger.
const BATCH_BYTES: usize = 4 << 20;

/// The largest value Redis can hold.
const LARGEST: usize = 512 << 20;

/// The longest pause between attempts, as a task waits.
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// How results are kept.
#[derive(Debug, Clone, PartialEq)]
pub struct Options {
    /// How long; `None` or zero: for ever.
    pub result_expires: Option<Duration>,
    /// How long a FAILURE is kept, when that differs; zero: for ever.
    pub result_failure_expires: Option<Duration>,
    /// In front of every key; `_` is added unless it ends in one of `:_-.`.
    pub global_keyprefix: String,
    /// How long to try while the server is away.
    pub patience: Duration,
    /// How to connect.
    pub connecting: Connecting,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            result_expires: Some(Duration::from_secs(24 * 3600)),
            result_failure_expires: None,
            global_keyprefix: String::new(),
            patience: Duration::from_secs(30),
            connecting: Connecting::default(),
        }
    }
}

impl Options {
    /// Whole seconds, rounded up; 0: no expiry.
    fn expiry(&self, state: &State) -> u64 {
        let expires = match state {
            State::Failure => self.result_failure_expires.or(self.result_expires),
            _ => self.result_expires,
        };
        expires.map_or(0, |time| {
            time.as_secs().saturating_add(u64::from(time.subsec_nanos() > 0))
        })
    }

    fn prefix(&self) -> String {
        match self.global_keyprefix.as_str() {
            "" => String::new(),
            prefix if prefix.ends_with([':', '_', '-', '.']) => prefix.to_owned(),
            prefix => format!("{prefix}_"),
        }
    }
}

/// A Redis server as a result backend.
pub struct RedisBackend {
    url: RedisUrl,
    options: Options,
    key_prefix: String,
    documents: Documents,
    jobs: OnceLock<mpsc::Sender<Job>>,
}

impl RedisBackend {
    /// A backend that is not connected yet.
    pub fn new(url: &str, options: Options) -> Result<Self, BackendError> {
        let url = RedisUrl::with(url, options.connecting.clone());
        let url = url.map_err(|error| BackendError::Config(error.to_string()))?;
        Ok(Self {
            key_prefix: format!("{}celery-task-meta-", options.prefix()),
            url,
            options,
            documents: Documents::default(),
            jobs: OnceLock::new(),
        })
    }

    /// `result_serializer` and `result_compression`.
    #[must_use]
    pub fn documents(self, documents: Documents) -> Self {
        Self { documents, ..self }
    }

    async fn ask(&self, key: String, ask: Ask) -> Answer {
        let jobs = self.jobs.get_or_init(|| {
            let (sender, jobs) = mpsc::channel(1024);
            let link = Link::new(self.url.clone(), RESPONSE_TIMEOUT);
            tokio::spawn(run(jobs, link, self.documents.clone()));
            sender
        });
        let (answer, answered) = oneshot::channel();
        let job = Job {
            key,
            ask,
            deadline: Instant::now() + self.options.patience,
            answer,
        };
        let closed = || BackendError::Connection(format!("the connection to {} is closed", self.url));
        jobs.send(job).await.map_err(|_| closed())?;
        answered.await.map_err(|_| closed())?
    }
}

#[async_trait]
impl ResultBackend for RedisBackend {
    async fn store(&self, result: StoredResult) -> Result<(), BackendError> {
        let document = self.documents.write(&result.meta)?;
        if document.len() > LARGEST {
            return Err(BackendError::Unsupported(format!(
                "the result of task {} has {} bytes; Redis holds at most 512 MB",
                result.task_id,
                document.len()
            )));
        }
        let store = Ask::Store {
            expires: self.options.expiry(&result.state),
            document,
            is_success: result.state == State::Success,
        };
        let key = format!("{}{}", self.key_prefix, result.task_id);
        self.ask(key, store).await.map(|_| ())
    }

    async fn fetch(&self, task_id: &str) -> Result<Option<String>, BackendError> {
        let stored = self
            .ask(format!("{}{task_id}", self.key_prefix), Ask::Fetch)
            .await?;
        stored.map(|stored| self.documents.read(&stored)).transpose()
    }
}

/// One result to store or to read, and who waits for it.
struct Job {
    key: String,
    ask: Ask,
    deadline: Instant,
    answer: oneshot::Sender<Answer>,
}

enum Ask {
    Store {
        document: Vec<u8>,
        is_success: bool,
        expires: u64,
    },
    Fetch,
}

type Answer = Result<Option<Vec<u8>>, BackendError>;

/// Does jobs until nobody has any, those of many callers in one round trip.
async fn run(mut jobs: mpsc::Receiver<Job>, mut link: Link, documents: Documents) {
    let mut batch: Vec<Job> = Vec::with_capacity(BATCH);
    while gather(&mut jobs, &mut batch).await {
        while !batch.is_empty() {
            match attempt(&mut link, &batch, &documents).await {
                Ok(answers) => {
                    link.worked();
                    // Whoever stopped waiting does not want the answer.
                    for (job, answer) in batch.drain(..).zip(answers) {
                        let _ = job.answer.send(answer);
                    }
                }
                Err(error) => {
                    let pause = link.failed().min(LONGEST_PAUSE);
                    let next = Instant::now() + pause;
                    for job in batch.extract_if(.., |job| job.deadline <= next) {
                        let reason = format!("{}: {error}", link.url());
                        let _ = job.answer.send(Err(BackendError::Connection(reason)));
                    }
                    if !batch.is_empty() {
                        tracing::warn!(
                            "Result backend {} does not answer: {error}. Trying again in {:.2} seconds...",
                            link.url(),
                            pause.as_secs_f64()
                        );
                        sleep(pause).await;
                    }
                }
            }
        }
    }
}

/// Waits for a job and takes what is there with it. False: nobody has any more.
async fn gather(jobs: &mut mpsc::Receiver<Job>, batch: &mut Vec<Job>) -> bool {
    let Some(first) = jobs.recv().await else {
        return false;
    };
    let mut bytes = first.bytes();
    batch.push(first);
    while batch.len() < BATCH
        && bytes < BATCH_BYTES
        && let Ok(job) = jobs.try_recv()
    {
        bytes += job.bytes();
        batch.push(job);
    }
    true
}

impl Job {
    fn bytes(&self) -> usize {
        match &self.ask {
            Ask::Store { document, .. } => document.len(),
            Ask::Fetch => 0,
        }
    }
}

/// One attempt; an answer for each job, in order. Doing a job twice is harmless.
async fn attempt(link: &mut Link, batch: &[Job], documents: &Documents) -> RedisResult<Vec<Answer>> {
    let connection = link.up().await?;
    let mut done = succeeded(connection, batch, documents).await?;
    // Whether each job has nothing to write, because a SUCCESS is there or came before it.
    let skipped: Vec<bool> = batch
        .iter()
        .map(|job| match &job.ask {
            Ask::Store { .. } if done.contains(job.key.as_str()) => true,
            Ask::Store { is_success: true, .. } if !documents.are_plain() => {
                done.insert(&job.key);
                false
            }
            _ => false,
        })
        .collect();
    let (mut script, mut keys) = (STORE.prepare_invoke(), Vec::new());
    let mut stores = false;
    for (job, skipped) in batch.iter().zip(&skipped) {
        match &job.ask {
            Ask::Store { .. } if *skipped => {}
            Ask::Store {
                document, expires, ..
            } => {
                script.key(&job.key).arg(document.as_slice()).arg(*expires);
                stores = true;
            }
            Ask::Fetch => keys.push(&job.key),
        }
    }
    let stored: Vec<Value> = match stores {
        true => script.invoke_async(connection).await?,
        false => Vec::new(),
    };
    let fetched: Vec<Option<Vec<u8>>> = match keys.is_empty() {
        true => Vec::new(),
        false => redis::cmd("MGET").arg(&keys).query_async(connection).await?,
    };
    let (mut stored, mut fetched) = (stored.into_iter(), fetched.into_iter());
    let answer = |(job, skipped): (&Job, &bool)| match job.ask {
        Ask::Store { .. } if *skipped => Ok(None),
        Ask::Store { .. } => match stored.next() {
            Some(Value::Int(_)) => Ok(None),
            Some(Value::BulkString(text)) => Err(BackendError::Connection(
                String::from_utf8_lossy(&text).into_owned(),
            )),
            other => Err(BackendError::Connection(format!("unexpected answer {other:?}"))),
        },
        Ask::Fetch => Ok(fetched.next().flatten()),
    };
    Ok(batch.iter().zip(&skipped).map(answer).collect())
}

/// The keys where a SUCCESS is stored, in a form that the script cannot read; like Celery, this reads before it
/// writes, and a SUCCESS that another worker stores in between is written over.
async fn succeeded<'a>(
    connection: &mut redis::aio::MultiplexedConnection,
    batch: &'a [Job],
    documents: &Documents,
) -> RedisResult<HashSet<&'a str>> {
    let is_store = |job: &&Job| matches!(job.ask, Ask::Store { .. });
    let keys: Vec<&str> = batch
        .iter()
        .filter(is_store)
        .map(|job| job.key.as_str())
        .collect();
    if documents.are_plain() || keys.is_empty() {
        return Ok(HashSet::new());
    }
    let stored: Vec<Option<Vec<u8>>> = redis::cmd("MGET").arg(&keys).query_async(connection).await?;
    let is_success = |stored: Option<Vec<u8>>| stored.is_some_and(|stored| documents.is_success(&stored));
    let found = keys.into_iter().zip(stored);
    Ok(found
        .filter_map(|(key, stored)| is_success(stored).then_some(key))
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_ends_in_a_separator() {
        let prefix = |text: &str| {
            Options {
                global_keyprefix: text.into(),
                ..Options::default()
            }
            .prefix()
        };
        assert_eq!(prefix(""), "");
        assert_eq!(prefix("app"), "app_");
        for prefixed in ["app:", "app_", "app-", "app."] {
            assert_eq!(prefix(prefixed), prefixed);
        }
    }

    #[test]
    fn expiry_is_in_whole_seconds_and_failures_have_their_own() {
        let mut options = Options::default();
        assert_eq!(options.expiry(&State::Success), 86_400);
        assert_eq!(options.expiry(&State::Failure), 86_400);
        options.result_failure_expires = Some(Duration::ZERO);
        assert_eq!(options.expiry(&State::Failure), 0);
        options.result_expires = Some(Duration::from_millis(1500));
        assert_eq!(options.expiry(&State::Retry), 2);
        options.result_expires = None;
        assert_eq!(options.expiry(&State::Success), 0);
    }
}
