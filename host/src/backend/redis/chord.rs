//! Chords in Redis, with the keys that Celery's workers use (contract section 4.6).

use std::collections::BTreeMap;
use std::sync::LazyLock;
use std::time::Duration;

use futures_util::future::join_all;
use redis::aio::MultiplexedConnection;
use redis::{FromRedisValue, RedisResult, Script, Value};

use super::{Answer, Ask, Job, LARGEST, Options, RedisBackend, is_lasting, prefixed, seconds};
use crate::backend::BackendError;
use crate::backend::chord::{Arrival, Claim, Part};

static PARTS: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("parts.lua")));
static EXTEND: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("extend.lua")));
static FINISH: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("finish.lua")));
static GROW: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("grow.lua")));

/// How many parts are read in one round trip.
const READ: isize = 1000;

/// How the parts of chords are counted.
pub(super) struct Counting {
    prefix: String,
    ordered: bool,
    /// Seconds that a chord is kept; 0: for ever.
    expires: u64,
    /// Seconds that a saved group is kept: results are read by people, too, and stay at least as long as they.
    group_expires: u64,
}

impl Counting {
    pub(super) fn new(options: &Options) -> Self {
        let expires = options.result_chord_expires.or(options.result_expires);
        let expires = expires.map_or(0, seconds);
        Self {
            prefix: prefixed(options, "celery-taskset-meta-"),
            ordered: options.result_chord_ordered,
            expires,
            group_expires: match (expires, options.result_expires.map_or(0, seconds)) {
                (0, _) | (_, 0) => 0,
                (chord, result) => chord.max(result),
            },
        }
    }

    fn key(&self, group: &str, suffix: &str) -> String {
        format!("{}{group}{suffix}", self.prefix)
    }
}

/// A part on its way.
pub(super) struct Counted {
    group: String,
    /// Seconds of a claim.
    claimed_for: u64,
    /// Task id, the part, its position, the token of a claim, and whether it may have come before.
    arguments: [Vec<u8>; 5],
}

impl Counted {
    pub(super) fn bytes(&self) -> usize {
        self.arguments.iter().map(Vec::len).sum()
    }
}

/// Parts with their places in a batch.
type Parts<'a> = Vec<(usize, &'a Counted)>;

/// Counts the parts of a batch, those of one chord in one step; an answer for each, with its place in the batch.
pub(super) async fn count(
    connection: &MultiplexedConnection,
    batch: &[Job],
    counting: &Counting,
) -> RedisResult<Vec<(usize, Answer)>> {
    let mut chords: BTreeMap<(&str, u64), Parts<'_>> = BTreeMap::new();
    for (place, job) in batch.iter().enumerate() {
        if let Ask::Part(part) = &job.ask {
            let chord = chords.entry((&part.group, part.claimed_for)).or_default();
            chord.push((place, part));
        }
    }
    let counted = chords
        .into_iter()
        .map(|((group, claimed_for), parts)| async move {
            let mut script = PARTS.prepare_invoke();
            for suffix in [".j", ".t", ".s", ".d", "", ".c"] {
                script.key(counting.key(group, suffix));
            }
            script.arg(u8::from(counting.ordered)).arg(counting.expires);
            script.arg(counting.group_expires).arg(claimed_for);
            for argument in parts.iter().flat_map(|(_, part)| &part.arguments) {
                script.arg(argument.as_slice());
            }
            let answers: Result<Vec<Value>, _> = script.invoke_async(&mut connection.clone()).await;
            let places = parts.into_iter().map(|(place, _)| place);
            match answers {
                Ok(answers) => Ok(places.zip(answers.into_iter().map(Ok)).collect()),
                Err(error) if is_lasting(&error) => {
                    let refused = || Err(BackendError::Unsupported(error.to_string()));
                    Ok(places.map(|place| (place, refused())).collect::<Vec<_>>())
                }
                Err(error) => Err(error),
            }
        });
    let counted: RedisResult<Vec<_>> = join_all(counted).await.into_iter().collect();
    Ok(counted?.into_iter().flatten().collect())
}

impl RedisBackend {
    /// The key of a group; with a suffix one of those of its chord.
    pub(super) fn group_key(&self, group: &str, suffix: &str) -> String {
        self.counting.key(group, suffix)
    }

    /// One command on one key.
    pub(super) async fn run<const N: usize>(
        &self,
        name: &str,
        args: [String; N],
    ) -> Result<Value, BackendError> {
        let mut command = redis::cmd(name);
        command.arg(&args);
        self.ask(Ask::Command(command)).await
    }

    async fn script<const K: usize, const A: usize>(
        &self,
        script: &'static Script,
        keys: [String; K],
        args: [&[u8]; A],
    ) -> Result<Value, BackendError> {
        let mut invocation = script.prepare_invoke();
        for key in keys {
            invocation.key(key);
        }
        for arg in args {
            invocation.arg(arg);
        }
        let bytes = args.iter().map(|arg| arg.len()).sum();
        self.ask(Ask::Script {
            script: invocation,
            bytes,
        })
        .await
    }

    /// What is stored under a key, as JSON.
    pub(super) async fn read(&self, key: String) -> Result<Option<String>, BackendError> {
        let stored: Option<Vec<u8>> = answer(self.ask(Ask::Fetch(key)).await?)?;
        stored.map(|stored| self.documents.read(&stored)).transpose()
    }

    async fn set(&self, key: String, value: Vec<u8>, expires: u64) -> Result<(), BackendError> {
        let mut command = redis::cmd("SET");
        command.arg(key).arg(value);
        if expires > 0 {
            command.arg("EX").arg(expires);
        }
        self.ask(Ask::Command(command)).await.map(|_| ())
    }

    pub(super) async fn keep_group(&self, group: &str, tuple: &str) -> Result<(), BackendError> {
        let document = self.documents.write(&format!(r#"{{"result": {tuple}}}"#))?;
        self.set(self.group_key(group, ""), document, self.counting.group_expires)
            .await
    }

    pub(super) async fn begin(&self, group: &str, size: u64) -> Result<(), BackendError> {
        // A chord that is applied once more has the id of the first time.
        self.run("DEL", [self.group_key(group, ".c")]).await?;
        let size = size.to_string().into_bytes();
        self.set(self.group_key(group, ".s"), size, self.counting.expires)
            .await
    }

    pub(super) async fn grow(&self, group: &str) -> Result<(), BackendError> {
        let once = format!(".t:{}", uuid::Uuid::new_v4().simple());
        let keys = [self.group_key(group, ".t"), self.group_key(group, &once)];
        let expires = self.counting.expires.to_string();
        self.script(&GROW, keys, [expires.as_bytes()]).await.map(|_| ())
    }

    pub(super) async fn count(
        &self,
        part: &Part,
        token: &str,
        claimed_for: Duration,
    ) -> Result<Arrival, BackendError> {
        let document = self.documents.write(&part.to_json())?;
        if document.len() > LARGEST {
            let reason = format!("the result of task {} is too large for a chord", part.task_id);
            return Err(BackendError::Unsupported(reason));
        }
        let position = part.index.map_or("+inf".to_owned(), |index| index.to_string());
        let counted = Counted {
            group: part.group.clone(),
            claimed_for: seconds(claimed_for),
            arguments: [
                part.task_id.clone().into_bytes(),
                document,
                position.into_bytes(),
                token.as_bytes().to_vec(),
                vec![if part.redelivered { b'1' } else { b'0' }],
            ],
        };
        let arrived = self.ask(Ask::Part(counted)).await?;
        let (what, left, again): (String, i64, i64) = answer(arrived)?;
        Ok(match what.as_str() {
            "complete" => Arrival::Complete { again: again != 0 },
            "taken" => Arrival::Taken(Duration::from_millis(u64::try_from(left).unwrap_or_default())),
            "done" => Arrival::Done,
            _ => Arrival::Waiting,
        })
    }

    pub(super) async fn counted(&self, group: &str) -> Result<Vec<String>, BackendError> {
        let name = match self.counting.ordered {
            true => "ZRANGE",
            false => "LRANGE",
        };
        let (mut parts, mut bytes) = (Vec::new(), 0);
        loop {
            let first = isize::try_from(parts.len()).unwrap_or(isize::MAX);
            let mut command = redis::cmd(name);
            command.arg(self.group_key(group, ".j"));
            command.arg(first).arg(first.saturating_add(READ - 1));
            let read: Vec<Vec<u8>> = answer(self.ask(Ask::Command(command)).await?)?;
            let none_left = read.len() < READ as usize;
            for part in read {
                bytes += part.len();
                if bytes > LARGEST {
                    let reason = format!("the results of chord {group} are more than 512 MB together");
                    return Err(BackendError::Unsupported(reason));
                }
                parts.push(self.documents.read(&part)?);
            }
            if none_left {
                return Ok(parts);
            }
        }
    }

    pub(super) async fn extend(&self, claim: &Claim, by: Duration) -> Result<bool, BackendError> {
        let keys = [".c", ".s"].map(|suffix| self.group_key(&claim.group, suffix));
        let by = seconds(by).to_string();
        let args = [claim.token.as_bytes(), by.as_bytes()];
        answer(self.script(&EXTEND, keys, args).await?)
    }

    pub(super) async fn finish(&self, claim: &Claim, remembered: Duration) -> Result<bool, BackendError> {
        let keys = [".c", ".j", ".t", ".s", ".d"].map(|suffix| self.group_key(&claim.group, suffix));
        let remembered = seconds(remembered).to_string();
        let args = [claim.token.as_bytes(), remembered.as_bytes()];
        answer(self.script(&FINISH, keys, args).await?)
    }
}

fn answer<T: FromRedisValue>(value: Value) -> Result<T, BackendError> {
    redis::from_redis_value(value).map_err(|error| BackendError::Unsupported(error.to_string()))
}
