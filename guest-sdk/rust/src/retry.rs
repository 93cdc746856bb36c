//! Asking for another try of the running task.

use serde::Serialize;
use serde_json::{Map, Value};

use crate::bindings::celerybox::task::context::{RetryError, RetryOptions};
use crate::bindings::celerybox::task::types::RetryLimit;
use crate::context::Context;
use crate::error::{AcceptedRetry, TaskError};
use crate::failure::Failure;

/// Asks for another try of the running task: Celery's `raise self.retry(…)`. Whatever is not set stays as it was.
///
/// ```
/// use celerybox_guest::{Context, TaskError, task};
///
/// # fn fetch(_: &str) -> Result<String, std::fmt::Error> { Err(std::fmt::Error) }
/// #[task(name = "proj.download", max_retries = 5)]
/// fn download(ctx: &Context, url: String) -> Result<String, TaskError> {
///     match fetch(&url) {
///         Ok(page) => Ok(page),
///         Err(error) => Err(ctx.retry().countdown(2.0).exc(error).raise()),
///     }
/// }
///
/// let ctx = celerybox_guest::testing::TestContext::new().with_retries(1);
/// assert!(matches!(download(&ctx, "u".into()), Err(TaskError::Retry(_))));
/// assert_eq!(ctx.retry_asked().unwrap().countdown, Some(2.0));
/// ```
#[derive(Debug)]
#[must_use = "nothing is asked before `raise` is called"]
pub struct Retry<'a> {
    context: &'a Context,
    asked: RetryOptions,
    exc: Option<Failure>,
    options: Map<String, Value>,
    /// The first value that could not become JSON.
    problem: Option<TaskError>,
}

impl<'a> Retry<'a> {
    pub(crate) fn new(context: &'a Context) -> Self {
        Self {
            context,
            asked: RetryOptions {
                args: None,
                kwargs: None,
                countdown: None,
                eta: None,
                expires: None,
                max_retries: None,
                exc: None,
                options: None,
            },
            exc: None,
            options: Map::new(),
            problem: None,
        }
    }

    /// Seconds to wait before the next try; 0 is at once. Without it the task's `default_retry_delay` counts.
    pub fn countdown(mut self, seconds: f64) -> Self {
        self.asked.countdown = Some(seconds);
        self
    }

    /// The time of the next try, ISO 8601. A countdown is then ignored.
    pub fn eta(mut self, time: impl Into<String>) -> Self {
        self.asked.eta = Some(time.into());
        self
    }

    /// The time after which the next try is not made, ISO 8601.
    pub fn expires(mut self, time: impl Into<String>) -> Self {
        self.asked.expires = Some(time.into());
        self
    }

    /// At most so many retries, instead of the task's `max_retries`.
    pub fn max_retries(mut self, retries: u32) -> Self {
        self.asked.max_retries = Some(RetryLimit::AtMost(retries));
        self
    }

    /// Any number of retries, instead of the task's `max_retries`.
    pub fn unlimited(mut self) -> Self {
        self.asked.max_retries = Some(RetryLimit::Unlimited);
        self
    }

    /// The error that made the retry necessary. It is stored with RETRY, and it is the task's failure once there were
    /// too many retries. A `Retry`, `Reject` or `Ignore` is no error and changes nothing.
    #[track_caller]
    pub fn exc(mut self, error: impl Into<TaskError>) -> Self {
        if let TaskError::Failure(failure) = error.into() {
            self.exc = Some(failure);
        }
        self
    }

    /// Other positional arguments: a list, tuple or slice.
    pub fn args(mut self, args: &(impl Serialize + ?Sized)) -> Self {
        self.asked.args = self.json("args", '[', "list", args);
        self
    }

    /// Other keyword arguments: a map or struct.
    pub fn kwargs(mut self, kwargs: &(impl Serialize + ?Sized)) -> Self {
        self.asked.kwargs = self.json("kwargs", '{', "map", kwargs);
        self
    }

    /// Another option of `apply_async`, for example `priority` or `time_limit`; what the worker does not grant is refused.
    pub fn option(mut self, name: impl Into<String>, value: impl Serialize) -> Self {
        match serde_json::to_value(value) {
            Ok(value) => drop(self.options.insert(name.into(), value)),
            Err(error) => drop(self.problem.get_or_insert(error.into())),
        }
        self
    }

    /// Asks the worker, and answers how the task has to end: `return Err(ctx.retry().raise())`.
    ///
    /// That is [`TaskError::Retry`] when the worker accepted. When there were too many retries it is the failure given
    /// to [`Retry::exc`], or else `MaxRetriesExceededError`.
    #[must_use = "the task has to end with this error"]
    #[track_caller]
    pub fn raise(mut self) -> TaskError {
        if let Some(problem) = self.problem {
            return problem;
        }
        if !self.options.is_empty() {
            self.asked.options = Some(Value::Object(self.options).to_string());
        }
        self.asked.exc = self.exc.map(|failure| failure.into_wit(self.context.function()));
        match self.context.host().retry(&self.asked) {
            Ok(()) => TaskError::Retry(AcceptedRetry(())),
            Err(RetryError::MaxRetriesExceeded(failure)) => Failure::from_wit(failure).into(),
            Err(RetryError::Other(error)) => self.context.refused(error),
        }
    }

    fn json(
        &mut self,
        what: &str,
        open: char,
        kind: &str,
        value: &(impl Serialize + ?Sized),
    ) -> Option<String> {
        let problem = match serde_json::to_string(value) {
            Ok(text) if text.starts_with(open) => return Some(text),
            Ok(_) => TaskError::new("ValueError", format!("the retry's {what} are no {kind}")),
            Err(error) => error.into(),
        };
        self.problem.get_or_insert(problem);
        None
    }
}
