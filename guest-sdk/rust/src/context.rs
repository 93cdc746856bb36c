//! What a bound task may ask of the worker that runs it.

use std::cell::{Cell, OnceCell};
use std::time::Duration;

use serde::Serialize;
use serde_json::Value;

use crate::bindings::celerybox::task::context::Request;
use crate::bindings::celerybox::task::types as wit;
use crate::canvas::{AsyncResult, Signature};
use crate::error::{AcceptedReplacement, TaskError};
use crate::failure::Failure;
use crate::host::Host;
use crate::retry::Retry;
use crate::task::to_json;

/// What a bound task may ask of the worker that runs it: Celery's `self`.
///
/// A task whose first parameter is `ctx: &Context` gets one:
///
/// ```
/// use celerybox_guest::{Context, TaskError, task};
///
/// #[task(name = "proj.copy")]
/// fn copy(ctx: &Context, files: Vec<String>) -> Result<usize, TaskError> {
///     for (done, file) in files.iter().enumerate() {
///         ctx.check_soft_time_limit()?;
///         ctx.update_state("PROGRESS", &serde_json::json!({"done": done, "file": file}))?;
///     }
///     Ok(files.len())
/// }
///
/// // In a unit test it is still a function.
/// let ctx = celerybox_guest::testing::TestContext::new();
/// assert_eq!(copy(&ctx, vec!["a".into(), "b".into()]).unwrap(), 2);
/// assert_eq!(ctx.states()[1], ("PROGRESS".into(), r#"{"done":1,"file":"b"}"#.into()));
/// ```
#[derive(Debug, Clone)]
pub struct Context {
    host: Host,
    /// The name of the task's function, for tracebacks.
    function: &'static str,
    request: OnceCell<Request>,
    /// Whether the soft time limit was raised already: Celery raises it once.
    raised: Cell<bool>,
}

/// How long this run may still take; `None` where there is no such limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TimeLeft {
    /// Until the soft time limit; zero once it has passed.
    pub soft: Option<Duration>,
    /// Until the hard time limit, at which the worker ends the task.
    pub hard: Option<Duration>,
}

impl Context {
    pub(crate) fn new(host: Host, function: &'static str) -> Self {
        Self {
            host,
            function,
            request: OnceCell::new(),
            raised: Cell::new(false),
        }
    }

    /// The message that asked for this run: Celery's `self.request`. The worker is asked for it once.
    #[must_use]
    pub fn request(&self) -> &Request {
        self.request.get_or_init(|| self.host.request())
    }

    /// Stores a state of the task's own, such as `PROGRESS`, with any value: Celery's `self.update_state`. Clients read
    /// it with `AsyncResult.state` and `AsyncResult.info`.
    ///
    /// # Errors
    ///
    /// `ValueError` for a state that only a worker may write (SUCCESS, FAILURE, RETRY, REVOKED …),
    /// `SoftTimeLimitExceeded` once that limit has passed, and what the worker says when it cannot store it.
    #[track_caller]
    pub fn update_state(&self, state: &str, meta: &(impl Serialize + ?Sized)) -> Result<(), TaskError> {
        let meta = to_json(meta)?;
        match self.host.update_state(state, &meta) {
            Ok(()) => Ok(()),
            Err(error) => Err(self.refused(error)),
        }
    }

    /// Asks for another try of this task: Celery's `self.retry`. See [`Retry`].
    pub fn retry(&self) -> Retry<'_> {
        Retry::new(self)
    }

    /// How long this run may still take.
    #[must_use]
    pub fn time_left(&self) -> TimeLeft {
        let left = self.host.time_left();
        TimeLeft {
            soft: left.soft.map(Duration::from_millis),
            hard: left.hard.map(Duration::from_millis),
        }
    }

    /// Whether the soft time limit has passed. Costs little, so that a computing task can ask it in its loop.
    #[must_use]
    pub fn soft_time_limit_exceeded(&self) -> bool {
        self.host.soft_time_limit_exceeded()
    }

    /// Raises `SoftTimeLimitExceeded` from the soft time limit on. As in Celery that happens once in a run: a task that
    /// catches it may go on and return a value, until the hard limit ends it.
    ///
    /// # Errors
    ///
    /// `SoftTimeLimitExceeded`.
    pub fn check_soft_time_limit(&self) -> Result<(), TaskError> {
        if !self.raised.get() && self.soft_time_limit_exceeded() {
            self.raised.set(true);
            return Err(TaskError::soft_time_limit_exceeded());
        }
        Ok(())
    }

    /// Sleeps so long, or until the soft time limit when that comes first and was not raised before. A sleeping task
    /// costs the worker nothing but its memory.
    ///
    /// # Errors
    ///
    /// `SoftTimeLimitExceeded` when the soft time limit ended the sleep.
    pub fn sleep(&self, time: Duration) -> Result<(), TaskError> {
        let limit = if self.raised.get() {
            None
        } else {
            self.time_left().soft.filter(|left| *left <= time)
        };
        let Some(left) = limit else {
            self.host.sleep(time);
            return Ok(());
        };
        self.host.sleep(left);
        self.raised.set(true);
        Err(TaskError::soft_time_limit_exceeded())
    }

    /// Lets another signature take over the identity of this task: Celery's `self.replace`. Its result, callbacks and chain
    /// become those of this one, which ends here: `return Err(ctx.replace(…))`. Of a refusal the error says why;
    /// `ImproperlyConfigured` is for an empty chain.
    #[track_caller]
    pub fn replace(&self, signature: Signature) -> TaskError {
        if signature.is_empty_chain() {
            return Failure::new("ImproperlyConfigured", "Cannot replace with an empty chain")
                .with_module("celery.exceptions")
                .into();
        }
        let accepted = match signature.json() {
            Ok(json) => self.host.replace(&json),
            Err(error) => return error,
        };
        match accepted {
            Ok(()) => TaskError::Replaced(AcceptedReplacement(())),
            Err(error) => self.refused(error),
        }
    }

    /// Adds a signature to the chord that this task is a part of; the body waits for it, too: Celery's
    /// `self.add_to_chord`.
    ///
    /// # Errors
    ///
    /// `ValueError` where this task is no part of a chord, and as [`Signature::apply_async`].
    #[track_caller]
    pub fn add_to_chord(&self, signature: Signature) -> Result<AsyncResult, TaskError> {
        match self.host.add_to_chord(&signature.json()?) {
            Ok(tuple) => sent(&tuple),
            Err(error) => Err(self.refused(error)),
        }
    }

    #[track_caller]
    pub(crate) fn apply(&self, signature: &Signature, args: &[Value]) -> Result<AsyncResult, TaskError> {
        match self.host.apply(&signature.json()?, &to_json(args)?) {
            Ok(tuple) => sent(&tuple),
            Err(error) => Err(self.refused(error)),
        }
    }

    #[track_caller]
    pub(crate) fn result(&self, id: &str) -> Result<Option<Value>, TaskError> {
        match self.host.result(id) {
            Ok(Some(document)) => match serde_json::from_str(&document) {
                Ok(document) => Ok(Some(document)),
                Err(error) => Err(TaskError::new("ValueError", format!("result of {id}: {error}"))),
            },
            Ok(None) => Ok(None),
            Err(error) => Err(self.refused(error)),
        }
    }

    #[track_caller]
    pub(crate) fn forget(&self, id: &str) -> Result<(), TaskError> {
        match self.host.forget(id) {
            Ok(()) => Ok(()),
            Err(error) => Err(self.refused(error)),
        }
    }

    pub(crate) fn host(&self) -> &Host {
        &self.host
    }

    pub(crate) fn function(&self) -> &'static str {
        self.function
    }

    /// What the worker answered to a call it did not do.
    #[track_caller]
    pub(crate) fn refused(&self, error: wit::Error) -> TaskError {
        if matches!(error, wit::Error::SoftTimeLimitExceeded) {
            self.raised.set(true);
        }
        TaskError::from_worker(error)
    }
}

/// The result of what was sent; of an empty chain, which sends nothing, it has no id.
#[track_caller]
fn sent(tuple: &str) -> Result<AsyncResult, TaskError> {
    let value = serde_json::from_str(tuple).unwrap_or_default();
    match value {
        Value::Null => Ok(AsyncResult::new("")),
        tuple => AsyncResult::from_tuple(&tuple)
            .ok_or_else(|| TaskError::new("RuntimeError", "the worker's answer is no result tuple")),
    }
}
