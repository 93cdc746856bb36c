//! How a run ended, and what is stored of it (contract section 3.10).

use std::collections::BTreeMap;
use std::fmt;

use serde_json::Value;
use serde_json::value::RawValue;

use crate::message::JsonMap;

/// A task state (contract section 5.1).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum State {
    /// It runs.
    Started,
    /// It ended with a value.
    Success,
    /// It ended with an error.
    Failure,
    /// It will be tried again.
    Retry,
    /// It was called off, or came too late.
    Revoked,
    /// A state of the task's own, for example `PROGRESS`.
    Custom(String),
}

impl State {
    /// Celery's name of the state.
    pub fn as_str(&self) -> &str {
        match self {
            State::Started => "STARTED",
            State::Success => "SUCCESS",
            State::Failure => "FAILURE",
            State::Retry => "RETRY",
            State::Revoked => "REVOKED",
            State::Custom(name) => name,
        }
    }

    /// Whether nothing follows: only such states have a `date_done`.
    pub fn is_ready(&self) -> bool {
        matches!(self, State::Success | State::Failure | State::Revoked)
    }

    /// The state a task asked for with `update_state`; `None` for a name that is empty, longer than 64 bytes, or
    /// one of those that only a worker may write.
    pub fn custom(name: &str) -> Option<Self> {
        const RESERVED: [&str; 9] = [
            "PENDING", "RECEIVED", "STARTED", "SUCCESS", "FAILURE", "REVOKED", "REJECTED", "RETRY", "IGNORED",
        ];
        let fine = !name.is_empty()
            && name.len() <= 64
            && !name.chars().any(char::is_control)
            && !RESERVED.contains(&name.to_ascii_uppercase().as_str());
        fine.then(|| State::Custom(name.to_owned()))
    }
}

/// An error as Celery stores it.
#[derive(Debug, Clone, PartialEq)]
pub struct Failure {
    /// The class name.
    pub exc_type: String,
    /// The module of the class; without one the client makes up a class of that name.
    pub exc_module: Option<String>,
    /// The arguments of the exception.
    pub exc_args: Vec<serde_json::Value>,
    /// Text for people.
    pub traceback: Option<String>,
    /// The limit of the sandbox that was hit, by the name of its setting.
    pub limit: Option<&'static str>,
}

/// Which exceptions tasks may name: well-known ones, and those of the setting `allowed_exceptions`, by module.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Nameable(BTreeMap<String, Vec<String>>);

impl Nameable {
    /// The well-known ones and these.
    pub fn with(allowed: BTreeMap<String, Vec<String>>) -> Self {
        Self(allowed)
    }

    fn allows(&self, module: &str, class: &str) -> bool {
        let known = NAMEABLE
            .iter()
            .any(|(known, classes)| *known == module && classes.contains(&class));
        let added = self.0.get(module);
        known || added.is_some_and(|classes| classes.iter().any(|allowed| allowed == class))
    }
}

/// Modules whose exceptions every task may name. A client resolves a name only in modules it has imported, and calls
/// what it finds, so a task chooses among well-known exception classes and nothing else.
const NAMEABLE: [(&str, &[&str]); 4] = [
    (
        "builtins",
        &[
            "ArithmeticError",
            "AssertionError",
            "AttributeError",
            "BaseException",
            "BlockingIOError",
            "BrokenPipeError",
            "BufferError",
            "ChildProcessError",
            "ConnectionAbortedError",
            "ConnectionError",
            "ConnectionRefusedError",
            "ConnectionResetError",
            "EOFError",
            "EnvironmentError",
            "Exception",
            "FileExistsError",
            "FileNotFoundError",
            "FloatingPointError",
            "IOError",
            "ImportError",
            "IndentationError",
            "IndexError",
            "InterruptedError",
            "IsADirectoryError",
            "KeyError",
            "LookupError",
            "MemoryError",
            "ModuleNotFoundError",
            "NameError",
            "NotADirectoryError",
            "NotImplementedError",
            "OSError",
            "OverflowError",
            "PermissionError",
            "ProcessLookupError",
            "RecursionError",
            "ReferenceError",
            "RuntimeError",
            "StopIteration",
            "SyntaxError",
            "SystemError",
            "TabError",
            "TimeoutError",
            "TypeError",
            "UnboundLocalError",
            "UnicodeDecodeError",
            "UnicodeEncodeError",
            "UnicodeError",
            "UnicodeTranslateError",
            "ValueError",
            "ZeroDivisionError",
        ],
    ),
    (
        "celery.exceptions",
        &[
            "Ignore",
            "ImproperlyConfigured",
            "MaxRetriesExceededError",
            "Reject",
            "SoftTimeLimitExceeded",
            "TimeLimitExceeded",
        ],
    ),
    ("billiard.exceptions", &["SoftTimeLimitExceeded"]),
    ("kombu.exceptions", &["EncodeError"]),
];

impl Failure {
    /// An error of the worker's own with a text as its only argument.
    pub fn new(exc_module: &str, exc_type: &str, message: impl Into<String>) -> Self {
        Self {
            exc_type: exc_type.to_owned(),
            exc_module: Some(exc_module.to_owned()),
            exc_args: vec![serde_json::Value::String(message.into())],
            traceback: None,
            limit: None,
        }
    }

    /// The error that an error map says (contract section 5.1); anything else is the argument of an `Exception`.
    pub fn read(map: &Value) -> Self {
        let text = |key: &str| map.get(key).and_then(Value::as_str).map(str::to_owned);
        let (exc_type, exc_args) = match (text("exc_type"), map.get("exc_message")) {
            (Some(exc_type), Some(Value::Array(args))) => (exc_type, args.clone()),
            (Some(exc_type), arg) => (exc_type, arg.cloned().into_iter().collect()),
            (None, _) => ("Exception".to_owned(), vec![map.clone()]),
        };
        Self {
            exc_type,
            exc_module: text("exc_module"),
            exc_args,
            traceback: None,
            limit: None,
        }
    }

    /// The hard time limit ended the run (contract section 3.7). Celery's argument is the limit in seconds.
    pub fn time_limit_exceeded(limit: f64) -> Self {
        Self {
            exc_type: "TimeLimitExceeded".into(),
            exc_module: Some("billiard.exceptions".into()),
            exc_args: vec![number(limit)],
            traceback: None,
            limit: None,
        }
    }

    /// A limit of the sandbox ended the run; `limit` is the setting's name.
    pub fn limit(exc_type: &str, limit: &'static str, detail: impl std::fmt::Display) -> Self {
        Self {
            limit: Some(limit),
            ..Self::new("builtins", exc_type, format!("{limit}: {detail}"))
        }
    }

    /// The error without a class name the task must not choose: the module goes, the name stays, so that the client
    /// makes up a class of that name (contract section 5.1).
    #[must_use]
    pub fn with_nameable_class(mut self, nameable: &Nameable) -> Self {
        self.exc_module = self
            .exc_module
            .filter(|module| nameable.allows(module, &self.exc_type));
        if !is_class_name(&self.exc_type) {
            self.exc_type = "Exception".into();
        }
        self
    }

    /// The error as Python prints it, for logs and events: `ValueError('boom', 42)`.
    pub fn repr(&self) -> String {
        let args: Vec<String> = self.exc_args.iter().map(crate::message::repr::value).collect();
        format!("{}({})", self.exc_type, args.join(", "))
    }
}

/// Whether a text can be the name of an exception class.
pub(crate) fn is_class_name(text: &str) -> bool {
    !text.is_empty()
        && text.len() <= 128
        && text.chars().all(|c| c.is_alphanumeric() || c == '_' || c == '.')
        && !text.starts_with(|c: char| c.is_numeric())
}

/// A number of seconds as Python would write it: `1` stays an integer, `1.5` a float.
fn number(seconds: f64) -> serde_json::Value {
    if seconds.fract() == 0.0 && seconds.abs() < 1e15 {
        serde_json::Value::from(seconds as i64)
    } else {
        serde_json::Value::from(seconds)
    }
}

/// A retry that the host accepted; its message is sent when the task ends with it (contract section 3.6).
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Retry {
    /// New positional arguments, a JSON list.
    pub args: Option<Box<str>>,
    /// New keyword arguments, a JSON map.
    pub kwargs: Option<Box<str>>,
    /// When: seconds from the end of the run, or a time.
    pub when: RetryWhen,
    /// A new expiry, ISO 8601.
    pub expires: Option<String>,
    /// The error that made the retry necessary.
    pub exc: Option<Failure>,
    /// Other options of `apply_async`.
    pub options: JsonMap,
}

/// When a retry is due.
#[derive(Debug, Clone, PartialEq)]
pub enum RetryWhen {
    /// So many seconds from now; 0 means at once, without an ETA.
    Countdown(f64),
    /// At this time, ISO 8601.
    Eta(String),
}

impl Default for RetryWhen {
    fn default() -> Self {
        RetryWhen::Countdown(0.0)
    }
}

/// In Celery's words: `Retry in 2s: ConnectionError('busy')`.
impl fmt::Display for Retry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.when {
            RetryWhen::Countdown(seconds) => write!(f, "Retry in {seconds}s")?,
            RetryWhen::Eta(eta) => write!(f, "Retry at {eta}")?,
        }
        match &self.exc {
            Some(exc) => write!(f, ": {}", exc.repr()),
            None => Ok(()),
        }
    }
}

/// Why a task was called off (contract section 3.8).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Revocation {
    /// It came after its `expires`.
    Expired,
    /// Its id or one of its stamps was revoked.
    Revoked,
    /// It was ended while it ran, in the name of this signal.
    Terminated(i32),
}

impl Revocation {
    /// The argument of the stored `TaskRevokedError`.
    pub fn as_str(self) -> &'static str {
        match self {
            Revocation::Expired => "expired",
            Revocation::Revoked => "revoked",
            Revocation::Terminated(_) => "terminated",
        }
    }
}

/// How a run ended.
#[derive(Debug, Clone, PartialEq)]
pub enum Outcome {
    /// With a value, as JSON text.
    Success(Box<str>),
    /// With an error of the task, or of a limit it ran into.
    Failure(Failure),
    /// Its hard time limit (seconds) ended it.
    TimeLimit(f64),
    /// It is to be tried again.
    Retry(Box<Retry>),
    /// Celery's `Reject`.
    Reject {
        /// Why, in the task's words.
        reason: Option<String>,
        /// Whether the message goes back.
        requeue: bool,
    },
    /// Celery's `Ignore`.
    Ignore,
    /// Another task takes its place (contract section 4.10).
    Replaced,
    /// It was called off.
    Revoked(Revocation),
    /// It cannot be run: its ETA is no time.
    Refused(Failure),
    /// It was done before, and its message came again.
    Duplicate,
    /// The same, but what follows it may not have been done (contract section 3.9).
    Unfollowed {
        /// The stored result as JSON.
        result: Box<str>,
        /// Whether its callbacks and the rest of its chain are still to be sent: the stored result names no children.
        unsent: bool,
    },
    /// A cold shutdown ended it (contract section 3.14).
    Cancelled,
    /// The sandbox itself failed; not the task's doing.
    WorkerLost(String),
}

/// One state of one task, ready to be stored.
#[derive(Debug, Clone, PartialEq)]
pub struct StoredResult {
    /// Task id.
    pub task_id: String,
    /// The state; decides about expiry and about what may be overwritten.
    pub state: State,
    /// The whole result document as JSON text (contract section 5.1).
    pub meta: String,
    /// Where an RPC result goes.
    pub reply_to: Option<String>,
    /// The request's correlation id.
    pub correlation_id: Option<String>,
}

/// One task of a chord's header that ended.
#[derive(Debug, Clone)]
pub struct Part {
    /// The header's group id.
    pub group: String,
    /// The task's id.
    pub task_id: String,
    /// Its position in the header; a part without one comes last.
    pub index: Option<u32>,
    /// How it ended.
    pub state: State,
    /// Its value, or the error map.
    pub result: Box<RawValue>,
    /// Whether its message had been delivered before, so that it may have been counted.
    pub redelivered: bool,
}

/// Two parts are equal when they are the same text.
impl PartialEq for Part {
    fn eq(&self, other: &Self) -> bool {
        (&self.group, self.index, self.to_json()) == (&other.group, other.index, other.to_json())
    }
}

impl Part {
    /// As it is kept, before it is serialized: a list of four.
    pub(crate) fn to_json(&self) -> String {
        let text = |text: &str| serde_json::Value::from(text).to_string();
        format!(
            "[1, {}, {}, {}]",
            text(&self.task_id),
            text(self.state.as_str()),
            self.result.get()
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_task_may_not_write_the_workers_states() {
        for name in [
            "SUCCESS", "success", "FAILURE", "RETRY", "REVOKED", "STARTED", "", "A\nB",
        ] {
            assert_eq!(State::custom(name), None, "{name:?}");
        }
        assert_eq!(State::custom("PROGRESS").unwrap().as_str(), "PROGRESS");
    }

    #[test]
    fn a_task_chooses_only_well_known_and_allowed_classes() {
        let allowed = BTreeMap::from([("shop.errors".to_owned(), vec!["NoFunds".to_owned()])]);
        let nameable = Nameable::with(allowed);
        let named = |module: &str, class: &str| {
            let failure = Failure::new(module, class, "x").with_nameable_class(&nameable);
            (failure.exc_module, failure.exc_type)
        };
        assert_eq!(
            named("builtins", "ValueError"),
            (Some("builtins".into()), "ValueError".into())
        );
        assert_eq!(named("builtins", "SystemExit"), (None, "SystemExit".into()));
        assert_eq!(named("os", "system"), (None, "system".into()));
        assert_eq!(
            named("shop.errors", "NoFunds"),
            (Some("shop.errors".into()), "NoFunds".into())
        );
        assert_eq!(named("shop.errors", "Popen"), (None, "Popen".into()));
        assert_eq!(named("builtins", "eval('1')"), (None, "Exception".into()));
    }
}
