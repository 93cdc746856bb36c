//! Unit tests of tasks, on your own machine and without a worker.
//!
//! A task stays an ordinary function, so most tests just call it: `assert_eq!(add(2, 3), 5)`. A bound task takes a
//! [`TestContext`], which plays the worker and remembers what was asked of it. [`TestContext::run`] calls a task as a
//! worker does, with JSON.

use std::ops::Deref;
use std::time::Duration;

pub use crate::bindings::celerybox::task::context::RetryOptions;
pub use crate::bindings::celerybox::task::types::{Error, RetryLimit};

use crate::bindings::celerybox::task::context::Request;
use crate::context::Context;
use crate::error::TaskError;
use crate::host::Host;
use crate::task::Task;

/// A context whose worker is played in memory.
///
/// Sleeping takes no time: the run's clock is put forward instead.
///
/// ```
/// use std::time::Duration;
/// use celerybox_guest::testing::TestContext;
/// use celerybox_guest::{Context, TaskError, task};
///
/// #[task(name = "proj.nap")]
/// fn nap(ctx: &Context, seconds: u64) -> Result<&'static str, TaskError> {
///     match ctx.sleep(Duration::from_secs(seconds)) {
///         Err(error) if error.is_soft_time_limit_exceeded() => Ok("woken"),
///         slept => slept.map(|()| "rested"),
///     }
/// }
///
/// let ctx = TestContext::new().with_soft_time_limit(Duration::from_secs(60));
/// assert_eq!(nap(&ctx, 50).unwrap(), "rested");
/// assert_eq!(nap(&ctx, 50).unwrap(), "woken");
/// assert_eq!(ctx.run(nap::TASK, "[]", "{}").unwrap_err().to_string(),
///     "TypeError: nap() missing 1 required positional argument: 'seconds'");
/// ```
#[derive(Debug)]
pub struct TestContext {
    host: Host,
    context: Context,
}

impl TestContext {
    /// The first try of a task without time limits that may be retried three times.
    #[must_use]
    pub fn new() -> Self {
        let host = Host::default();
        Self {
            context: Context::new(host.clone(), "test"),
            host,
        }
    }

    /// Says how often the task was retried before.
    #[must_use]
    pub fn with_retries(self, retries: u32) -> Self {
        self.with_request(|request| request.retries = retries)
    }

    /// Changes the request.
    #[must_use]
    pub fn with_request(self, change: impl FnOnce(&mut Request)) -> Self {
        change(&mut self.host.played().request);
        self
    }

    /// Sets the task's `max_retries`; `None` is without limit.
    #[must_use]
    pub fn with_max_retries(self, most: Option<u32>) -> Self {
        self.host.played().max_retries = most.map_or(RetryLimit::Unlimited, RetryLimit::AtMost);
        self
    }

    /// Sets the soft time limit, from now on.
    #[must_use]
    pub fn with_soft_time_limit(self, limit: Duration) -> Self {
        self.host.played().soft = Some(limit);
        self
    }

    /// Sets the hard time limit, from now on. The task sees it, but nothing ends the task.
    #[must_use]
    pub fn with_time_limit(self, limit: Duration) -> Self {
        self.host.played().hard = Some(limit);
        self
    }

    /// Lets every `update_state` and retry fail with this.
    #[must_use]
    pub fn with_refusal(self, error: Error) -> Self {
        self.host.played().refusal = Some(error);
        self
    }

    /// The states the task stored, with their values as JSON.
    #[must_use]
    pub fn states(&self) -> Vec<(String, String)> {
        self.host.played().states.clone()
    }

    /// The last retry that was accepted.
    #[must_use]
    pub fn retry_asked(&self) -> Option<RetryOptions> {
        self.host.played().retry.clone()
    }

    /// Lets a task with this id have this result: SUCCESS with a value.
    #[must_use]
    pub fn with_result(self, id: &str, value: &(impl serde::Serialize + ?Sized)) -> Self {
        let value = serde_json::to_value(value).unwrap_or_default();
        let document =
            serde_json::json!({"task_id": id, "status": "SUCCESS", "result": value, "children": []});
        self.host.played().results.insert(id.to_owned(), document);
        self
    }

    /// The signatures that the task sent, as the JSON that Celery's clients write.
    #[must_use]
    pub fn sent(&self) -> Vec<serde_json::Value> {
        self.host.played().sent.clone()
    }

    /// The signature that takes the place of the task.
    #[must_use]
    pub fn replacement(&self) -> Option<serde_json::Value> {
        self.host.played().replacement.clone()
    }

    /// How long the task slept in all.
    #[must_use]
    pub fn slept(&self) -> Duration {
        self.host.played().slept
    }

    /// Runs a task as a worker does: with a JSON list, a JSON map and the task's own `max_retries`.
    ///
    /// # Errors
    ///
    /// Every ending but a value.
    pub fn run(&self, task: Task, args: &str, kwargs: &str) -> Result<String, TaskError> {
        if let Some(limit) = task.options.max_retries {
            self.host.played().max_retries = limit;
        }
        let context = Context::new(self.host.clone(), task.signature.function);
        task.run(&context, args, kwargs)
    }
}

impl Default for TestContext {
    fn default() -> Self {
        Self::new()
    }
}

impl Deref for TestContext {
    type Target = Context;

    fn deref(&self) -> &Context {
        &self.context
    }
}
