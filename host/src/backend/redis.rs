//! Results and chords in Redis (contract sections 4.6 and 5.2).

mod chord;

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, LazyLock, OnceLock};
use std::time::Duration;

use async_trait::async_trait;
use futures_util::future::join_all;
use redis::aio::MultiplexedConnection;
use redis::{RedisResult, Script, ScriptInvocation, Value};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep};

use super::chord::{Arrival, Chords, Claim, Part};
use super::{BackendError, Documents, ResultBackend, StoredResult};
use crate::outcome::State;
use crate::redis_link::{Link, RESPONSE_TIMEOUT, is_passing, is_passing_text, is_refusal};
use crate::redis_url::{Connecting, RedisUrl};

static STORE: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("redis/store.lua")));

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
    /// How long a chord is kept; `None`: as long as results; zero: for ever.
    pub result_chord_expires: Option<Duration>,
    /// Whether the parts of a chord are kept in the order of its header, or in the order they come.
    pub result_chord_ordered: bool,
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
            result_chord_expires: None,
            result_chord_ordered: true,
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
        expires.map_or(0, seconds)
    }
}

/// The beginning of a key, with `global_keyprefix` before it.
fn prefixed(options: &Options, key: &str) -> String {
    match options.global_keyprefix.as_str() {
        "" => key.to_owned(),
        prefix if prefix.ends_with([':', '_', '-', '.']) => format!("{prefix}{key}"),
        prefix => format!("{prefix}_{key}"),
    }
}

/// Whole seconds, rounded up.
fn seconds(time: Duration) -> u64 {
    time.as_secs().saturating_add(u64::from(time.subsec_nanos() > 0))
}

/// A Redis server as a result backend.
pub struct RedisBackend {
    url: RedisUrl,
    options: Options,
    key_prefix: String,
    counting: Arc<chord::Counting>,
    documents: Documents,
    jobs: OnceLock<mpsc::Sender<Job>>,
}

impl RedisBackend {
    /// A backend that is not connected yet.
    pub fn new(url: &str, options: Options) -> Result<Self, BackendError> {
        let url = RedisUrl::with(url, options.connecting.clone());
        let url = url.map_err(|error| BackendError::Config(error.to_string()))?;
        Ok(Self {
            key_prefix: prefixed(&options, "celery-task-meta-"),
            counting: Arc::new(chord::Counting::new(&options)),
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

    async fn ask(&self, ask: Ask) -> Answer {
        let jobs = self.jobs.get_or_init(|| {
            let (sender, jobs) = mpsc::channel(1024);
            let link = Link::new(self.url.clone(), RESPONSE_TIMEOUT);
            let counting = Arc::clone(&self.counting);
            tokio::spawn(run(jobs, link, self.documents.clone(), counting));
            sender
        });
        let (answer, answered) = oneshot::channel();
        let job = Job {
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
            key: format!("{}{}", self.key_prefix, result.task_id),
            expires: self.options.expiry(&result.state),
            document,
            is_success: result.state == State::Success,
        };
        self.ask(store).await.map(|_| ())
    }

    async fn fetch(&self, task_id: &str) -> Result<Option<String>, BackendError> {
        self.read(format!("{}{task_id}", self.key_prefix)).await
    }

    async fn forget(&self, task_id: &str) -> Result<(), BackendError> {
        let key = format!("{}{task_id}", self.key_prefix);
        self.run("DEL", [key]).await.map(|_| ())
    }

    async fn save_group(&self, group: &str, tuple: &str) -> Result<(), BackendError> {
        self.keep_group(group, tuple).await
    }

    async fn fetch_group(&self, group: &str) -> Result<Option<String>, BackendError> {
        self.read(self.group_key(group, "")).await
    }

    fn chords(&self) -> Chords {
        Chords::Native
    }

    async fn set_chord_size(&self, group: &str, size: u64) -> Result<(), BackendError> {
        self.begin(group, size).await
    }

    async fn grow_chord(&self, group: &str) -> Result<(), BackendError> {
        self.grow(group).await
    }

    async fn add_part(
        &self,
        part: &Part,
        token: &str,
        claimed_for: Duration,
    ) -> Result<Arrival, BackendError> {
        self.count(part, token, claimed_for).await
    }

    async fn parts(&self, group: &str) -> Result<Vec<String>, BackendError> {
        self.counted(group).await
    }

    async fn extend_claim(&self, claim: &Claim, by: Duration) -> Result<bool, BackendError> {
        self.extend(claim, by).await
    }

    async fn finish_chord(&self, claim: &Claim, remembered: Duration) -> Result<bool, BackendError> {
        self.finish(claim, remembered).await
    }

    async fn lose_chord(&self, group: &str) -> Result<(), BackendError> {
        self.run("DEL", [self.group_key(group, ".s")]).await.map(|_| ())
    }
}

/// One thing to do, and who waits for it.
struct Job {
    ask: Ask,
    deadline: Instant,
    answer: oneshot::Sender<Answer>,
}

enum Ask {
    Store {
        key: String,
        document: Vec<u8>,
        is_success: bool,
        expires: u64,
    },
    Fetch(String),
    Command(redis::Cmd),
    Part(chord::Counted),
    Script {
        script: ScriptInvocation<'static>,
        bytes: usize,
    },
}

type Answer = Result<Value, BackendError>;

/// Does jobs until nobody has any, those of many callers in one round trip.
async fn run(
    mut jobs: mpsc::Receiver<Job>,
    mut link: Link,
    documents: Documents,
    counting: Arc<chord::Counting>,
) {
    let mut batch: Vec<Job> = Vec::with_capacity(BATCH);
    while gather(&mut jobs, &mut batch).await {
        while !batch.is_empty() {
            match attempt(&mut link, &batch, &documents, &counting).await {
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
            Ask::Part(part) => part.bytes(),
            Ask::Script { bytes, .. } => *bytes,
            Ask::Command(_) | Ask::Fetch(_) => 0,
        }
    }
}

/// One attempt; an answer for each job, in order. Doing a job twice is harmless.
async fn attempt(
    link: &mut Link,
    batch: &[Job],
    documents: &Documents,
    counting: &chord::Counting,
) -> RedisResult<Vec<Answer>> {
    let connection = link.up().await?;
    let done = succeeded(connection, batch, documents).await?;
    // A result before the part that it is in a chord.
    let (stored, counted, fetched, others) = tokio::join!(
        biased;
        store(connection.clone(), batch, documents, done),
        chord::count(connection, batch, counting),
        fetch(connection.clone(), batch),
        join_all(batch.iter().map(|job| other(connection.clone(), &job.ask))),
    );
    let (mut stored, mut fetched) = (stored?.into_iter(), fetched?.into_iter());
    let mut counted: HashMap<usize, Answer> = counted?.into_iter().collect();
    let answers = batch.iter().zip(others).enumerate();
    let answers = answers.map(|(place, (job, other))| match job.ask {
        Ask::Store { .. } => Ok(stored.next().unwrap_or(Ok(Value::Nil))),
        Ask::Part(_) => Ok(counted.remove(&place).unwrap_or(Ok(Value::Nil))),
        Ask::Fetch(_) => Ok(Ok(fetched.next().unwrap_or(Value::Nil))),
        Ask::Command(_) | Ask::Script { .. } => match other {
            // What the server says about this one thing; trying again would not change it.
            Err(error) if is_lasting(&error) => Ok(Err(BackendError::Unsupported(error.to_string()))),
            other => other.map(Ok),
        },
    });
    answers.collect()
}

/// Stores what there is to store in one step, except where a SUCCESS is `done`, or came earlier in the batch.
async fn store<'a>(
    mut connection: MultiplexedConnection,
    batch: &'a [Job],
    documents: &Documents,
    mut done: HashSet<&'a str>,
) -> RedisResult<Vec<Answer>> {
    let mut script = STORE.prepare_invoke();
    let mut skipped = Vec::new();
    for job in batch {
        let Ask::Store {
            key,
            document,
            is_success,
            expires,
        } = &job.ask
        else {
            continue;
        };
        let skip = done.contains(key.as_str());
        if !skip {
            script.key(key).arg(document.as_slice()).arg(*expires);
            if *is_success && !documents.are_plain() {
                done.insert(key);
            }
        }
        skipped.push(skip);
    }
    let stored: Vec<Value> = match skipped.contains(&false) {
        true => script.invoke_async(&mut connection).await?,
        false => Vec::new(),
    };
    // Then all of it is tried again; what is stored already is stored once more.
    let text = |answer: &Value| match answer {
        Value::BulkString(text) => Some(String::from_utf8_lossy(text).into_owned()),
        _ => None,
    };
    if let Some(refused) = stored.iter().filter_map(text).find(|text| is_passing_text(text)) {
        return Err(std::io::Error::other(refused).into());
    }
    let mut stored = stored.into_iter();
    let answer = |skipped| match skipped {
        true => Ok(Value::Nil),
        false => match stored.next() {
            Some(Value::Int(_)) => Ok(Value::Nil),
            Some(Value::BulkString(text)) => Err(BackendError::Connection(
                String::from_utf8_lossy(&text).into_owned(),
            )),
            other => Err(BackendError::Connection(format!("unexpected answer {other:?}"))),
        },
    };
    Ok(skipped.into_iter().map(answer).collect())
}

/// What is stored under the keys that are asked for.
async fn fetch(mut connection: MultiplexedConnection, batch: &[Job]) -> RedisResult<Vec<Value>> {
    let keys = batch.iter().filter_map(|job| match &job.ask {
        Ask::Fetch(key) => Some(key),
        _ => None,
    });
    let keys: Vec<&String> = keys.collect();
    match keys.is_empty() {
        true => Ok(Vec::new()),
        false => redis::cmd("MGET").arg(&keys).query_async(&mut connection).await,
    }
}

/// Commands and scripts, each for itself; those of one batch travel together.
async fn other(mut connection: MultiplexedConnection, ask: &Ask) -> RedisResult<Value> {
    match ask {
        Ask::Command(command) => command.query_async(&mut connection).await,
        Ask::Script { script, .. } => script.invoke_async(&mut connection).await,
        Ask::Store { .. } | Ask::Part(_) | Ask::Fetch(_) => Ok(Value::Nil),
    }
}

/// Whether the server refuses this very thing: a key that holds something else, a script that fails.
fn is_lasting(error: &redis::RedisError) -> bool {
    use redis::ErrorKind::{Extension, Server};
    matches!(error.kind(), Server(_) | Extension) && !is_passing(error) && !is_refusal(error)
}

/// The keys where a SUCCESS is stored, in a form that the script cannot read; like Celery, this reads before it
/// writes, and a SUCCESS that another worker stores in between is written over.
async fn succeeded<'a>(
    connection: &mut MultiplexedConnection,
    batch: &'a [Job],
    documents: &Documents,
) -> RedisResult<HashSet<&'a str>> {
    let stores = batch.iter().filter_map(|job| match &job.ask {
        Ask::Store { key, .. } => Some(key.as_str()),
        _ => None,
    });
    let keys: Vec<&str> = stores.collect();
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
            let options = Options {
                global_keyprefix: text.into(),
                ..Options::default()
            };
            prefixed(&options, "key")
        };
        assert_eq!(prefix(""), "key");
        assert_eq!(prefix("app"), "app_key");
        for with in ["app:", "app_", "app-", "app."] {
            assert_eq!(prefix(with), format!("{with}key"));
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
