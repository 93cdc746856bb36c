//! A task as `#[task]` writes it down, and running one.

use std::io::Write as _;

use serde::Serialize;

use crate::bind::{Bound, bind};
use crate::bindings::celerybox::task::types::{self, Definition, RetryLimit};
use crate::bindings::exports::celerybox::task::handler::Ending;
use crate::context::Context;
use crate::error::TaskError;
use crate::failure::Failure;
use crate::host::Host;
use crate::signature::Signature;

/// One task of a component. `#[task]` makes it: `add::TASK` for a function `add`.
#[derive(Debug, Clone, Copy)]
pub struct Task {
    /// The name clients call.
    pub name: &'static str,
    /// Its parameters.
    pub signature: &'static Signature,
    /// Celery's options for it.
    pub options: Options,
    /// Parses the arguments, calls the function and renders its value as JSON.
    pub call: fn(&Context, &Bound<'_>) -> Result<String, TaskError>,
}

/// Celery's options of a task; what is `None` follows the worker's setting. The WIT contract describes each.
#[derive(Debug, Clone, Copy)]
#[expect(missing_docs, reason = "named and described in the WIT contract")]
pub struct Options {
    pub doc: Option<&'static str>,
    pub max_retries: Option<RetryLimit>,
    pub default_retry_delay: Option<f64>,
    pub rate_limit: Option<&'static str>,
    pub soft_time_limit: Option<f64>,
    pub time_limit: Option<f64>,
    pub acks_late: Option<bool>,
    pub acks_on_failure: Option<bool>,
    pub acks_on_timeout: Option<bool>,
    pub reject_on_worker_lost: Option<bool>,
    pub retry_on_worker_lost: Option<bool>,
    pub ignore_result: Option<bool>,
    pub store_errors_even_if_ignored: Option<bool>,
    pub track_started: Option<bool>,
    pub trail: Option<bool>,
    pub send_events: Option<bool>,
    pub serializer: Option<&'static str>,
    pub compression: Option<&'static str>,
    pub priority: Option<u8>,
    pub errback: bool,
    pub autoretry: Option<Autoretry>,
}

/// Celery's `autoretry_for` and what belongs to it; the worker retries by it. The WIT contract describes each.
#[derive(Debug, Clone, Copy)]
#[expect(missing_docs, reason = "named and described in the WIT contract")]
pub struct Autoretry {
    pub retry_for: &'static [&'static str],
    pub except_for: &'static [&'static str],
    pub backoff: Option<u32>,
    pub backoff_max: u32,
    pub jitter: bool,
    pub countdown: Option<f64>,
    pub max_retries: Option<RetryLimit>,
}

impl Autoretry {
    fn definition(&self) -> types::Autoretry {
        let owned = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        types::Autoretry {
            retry_for: owned(self.retry_for),
            except_for: owned(self.except_for),
            backoff: self.backoff,
            backoff_max: self.backoff_max,
            jitter: self.jitter,
            countdown: self.countdown,
            max_retries: self.max_retries,
        }
    }
}

impl Options {
    /// No option is set.
    pub const NONE: Self = Self {
        doc: None,
        max_retries: None,
        default_retry_delay: None,
        rate_limit: None,
        soft_time_limit: None,
        time_limit: None,
        acks_late: None,
        acks_on_failure: None,
        acks_on_timeout: None,
        reject_on_worker_lost: None,
        retry_on_worker_lost: None,
        ignore_result: None,
        store_errors_even_if_ignored: None,
        track_started: None,
        trail: None,
        send_events: None,
        serializer: None,
        compression: None,
        priority: None,
        errback: false,
        autoretry: None,
    };
}

impl Task {
    /// Runs the task with a JSON list and a JSON map.
    pub(crate) fn run(&self, context: &Context, args: &str, kwargs: &str) -> Result<String, TaskError> {
        let bound = bind(self.signature, args, kwargs)?;
        (self.call)(context, &bound)
    }

    /// The task as the worker learns of it.
    #[must_use]
    pub fn definition(&self) -> Definition {
        let options = &self.options;
        Definition {
            name: self.name.to_owned(),
            doc: options.doc.map(str::to_owned),
            signature: Some(self.signature.text.to_owned()),
            max_retries: options.max_retries,
            default_retry_delay: options.default_retry_delay,
            rate_limit: options.rate_limit.map(str::to_owned),
            soft_time_limit: options.soft_time_limit,
            time_limit: options.time_limit,
            acks_late: options.acks_late,
            acks_on_failure: options.acks_on_failure,
            acks_on_timeout: options.acks_on_timeout,
            reject_on_worker_lost: options.reject_on_worker_lost,
            retry_on_worker_lost: options.retry_on_worker_lost,
            ignore_result: options.ignore_result,
            store_errors_even_if_ignored: options.store_errors_even_if_ignored,
            track_started: options.track_started,
            trail: options.trail,
            send_events: options.send_events,
            serializer: options.serializer.map(str::to_owned),
            compression: options.compression.map(str::to_owned),
            priority: options.priority,
            errback: options.errback,
            autoretry: options.autoretry.as_ref().map(Autoretry::definition),
        }
    }
}

/// What the component exports as `handler.tasks`.
#[must_use]
pub fn definitions(tasks: &[Task]) -> Vec<Definition> {
    tasks.iter().map(Task::definition).collect()
}

/// What the component exports as `handler.run`.
///
/// # Errors
///
/// Every ending but a value.
pub fn run(tasks: &[Task], name: &str, args: &str, kwargs: &str) -> Result<String, Ending> {
    let Some(task) = tasks.iter().find(|task| task.name == name) else {
        let failure =
            Failure::without_location("NotRegistered", name.to_owned()).with_module("celery.exceptions");
        return Err(TaskError::from(failure).into_ending("run"));
    };
    let function = task.signature.function;
    let context = Context::new(Host::default(), function);
    let ended = task
        .run(&context, args, kwargs)
        .map_err(|error| error.into_ending(function));
    // A last line without an end would stay in the buffer. A failed write has nobody to tell.
    let _ = std::io::stdout().flush();
    ended
}

/// Tells a function that can fail from one that cannot by the type it returns, also behind an alias such as
/// `io::Result`: `(&output).kind()` finds this method first, and [`ReturnsValue`]'s for everything else.
pub trait ReturnsResult {
    /// The way to take the value apart.
    fn kind(&self) -> FromResult {
        FromResult
    }
}

impl<T, E> ReturnsResult for Result<T, E> {}

/// See [`ReturnsResult`].
pub trait ReturnsValue {
    /// The way to take the value.
    fn kind(&self) -> FromValue {
        FromValue
    }
}

impl<T> ReturnsValue for &T {}

/// The function returned a `Result`.
#[derive(Debug)]
pub struct FromResult;

impl FromResult {
    /// The value or the task's error.
    #[track_caller]
    pub fn outcome<T, E: Into<TaskError>>(self, output: Result<T, E>) -> Result<T, TaskError> {
        // Not `map_err(Into::into)`: the error's place is here, not in the standard library.
        match output {
            Ok(value) => Ok(value),
            Err(error) => Err(error.into()),
        }
    }
}

/// The function returned any other type.
#[derive(Debug)]
pub struct FromValue;

impl FromValue {
    /// The value.
    pub fn outcome<T>(self, output: T) -> Result<T, TaskError> {
        Ok(output)
    }
}

/// Renders a value as JSON.
///
/// # Errors
///
/// Kombu's `EncodeError` for what JSON cannot hold, such as a map whose keys are lists.
pub fn to_json(value: &(impl Serialize + ?Sized)) -> Result<String, TaskError> {
    serde_json::to_string(value).map_err(|error| {
        let failure = Failure::without_location("EncodeError", error.to_string());
        failure.with_module("kombu.exceptions").into()
    })
}
