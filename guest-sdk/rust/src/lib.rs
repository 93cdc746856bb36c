//! Write Celery tasks in Rust: each run of a task gets a sandbox of its own in celerybox, and every Celery client can
//! call it.
//!
//! ```
//! use celerybox_guest::{TaskError, task, tasks};
//!
//! /// Adds two numbers.
//! #[task(name = "arithmetic.add")]
//! fn add(x: i64, y: i64) -> i64 {
//!     x + y
//! }
//!
//! /// Divides; by zero it fails as Python does.
//! #[task(name = "arithmetic.div", max_retries = 5)]
//! fn div(x: f64, #[default(1.0)] y: f64) -> Result<f64, TaskError> {
//!     if y == 0.0 {
//!         return Err(TaskError::new("ZeroDivisionError", "division by zero"));
//!     }
//!     Ok(x / y)
//! }
//!
//! tasks![add, div];
//!
//! # fn main() {
//! // In unit tests a task is an ordinary function.
//! assert_eq!(add(2, 3), 5);
//! # }
//! ```
//!
//! * [`task`] marks a function as a task, [`tasks!`] exports them.
//! * [`Context`] is Celery's `self`: the request, states, retries, time limits.
//! * [`canvas`] sends tasks: `add::s((2, 2))`, chains, groups, chords.
//! * [`TaskError`] is every ending but a value.
//! * [`log`] writes to the worker's log.
//! * `testing` plays the worker in unit tests.
//!
//! The crate's README leads from an empty folder to a task that ran.

// So that what the macros write also compiles in this crate's own tests.
#[cfg(test)]
extern crate self as celerybox_guest;

mod bind;
#[doc(hidden)]
pub mod bindings;
pub mod canvas;
mod context;
mod error;
mod export;
mod failure;
mod host;
pub mod log;
mod retry;
mod signature;
mod task;
#[cfg(not(target_family = "wasm"))]
pub mod testing;

pub use bindings::celerybox::task::context::{DeliveryInfo, Request};
pub use context::{Context, TimeLeft};
pub use error::{AcceptedReplacement, AcceptedRetry, TaskError};
pub use failure::Failure;
pub use retry::Retry;
pub use task::Task;

/// Marks a function as a task.
///
/// ```
/// use celerybox_guest::task;
///
/// /// Adds numbers.
/// #[task(name = "proj.add")]
/// fn add(x: i64, y: i64, #[default(10)] base: i64) -> i64 {
///     base * (x + y)
/// }
/// ```
///
/// The function stays as it is and can be called and tested as any other. The task's value `add::TASK` stands beside
/// it, for [`tasks!`] and for tests.
///
/// # Parameters
///
/// Callers pass them by position or by name, as in Python. Their types implement serde's `Deserialize`.
///
/// | Rust | Python |
/// |---|---|
/// | `x: i64` | `x` |
/// | `#[default(3)] x: i64` | `x=3` |
/// | `x: Option<i64>` | `x=None` |
/// | `#[keyword_only] x: i64` | `*, x` |
/// | `#[args] rest: Vec<i64>` | `*rest` |
/// | `#[kwargs] extra: BTreeMap<String, i64>` | `**extra` |
///
/// A bound task (Celery's `bind=True`) takes `ctx: &Context` or `ctx: Context` first.
///
/// It returns any type that implements serde's `Serialize`, or a `Result` of one whose error is a `TaskError` or any
/// `std::error::Error`.
///
/// # Options
///
/// They have Celery's names and meaning. An option that is not given follows the worker's setting. An option that is
/// true or false may stand alone: `acks_late` is `acks_late = true`.
///
/// | option | value |
/// |---|---|
/// | `name` | text; without it the module and the function, `proj.math.add` |
/// | `bind` | true or false; what the first parameter says anyway |
/// | `max_retries` | number, or `None` for no limit; Celery's default is 3 |
/// | `default_retry_delay` | seconds; Celery's default is 180 |
/// | `time_limit`, `soft_time_limit` | seconds |
/// | `rate_limit` | `"10/s"`, `"100/m"`, `"5/h"`, or a number per second |
/// | `acks_late`, `acks_on_failure`, `acks_on_timeout` | true or false |
/// | `reject_on_worker_lost`, `retry_on_worker_lost` | true or false |
/// | `ignore_result`, `store_errors_even_if_ignored`, `track_started`, `trail`, `send_events` | true or false |
/// | `serializer`, `compression` | text, for example `"json"`, `"gzip"` |
/// | `priority` | 0 to 9 |
/// | `errback` | true for an error callback that takes `(request, exc, traceback)` |
/// | `autoretry_for` | the worker retries when the function ends with one of these: `autoretry_for(ConnectionError, TimeoutError)`; `Exception` is every error |
/// | `dont_autoretry_for` | but not with these: `dont_autoretry_for(KeyError)` |
/// | `retry_backoff` | true, or the first wait in seconds; it doubles with every retry |
/// | `retry_backoff_max` | the longest wait in seconds, 600 |
/// | `retry_jitter` | true (the default with `retry_backoff`): a random wait up to that time |
/// | `retry_kwargs` | `retry_kwargs(max_retries = 5, countdown = 2)`: the wait without a backoff, and the limit |
#[doc(inline)]
pub use celerybox_guest_macros::task;

/// What the macros' expansions call. Not for use by hand, and without promises.
#[doc(hidden)]
pub mod __private {
    pub use crate::bind::Bound;
    pub use crate::bindings;
    pub use crate::bindings::celerybox::task::types::{Definition, RetryLimit};
    pub use crate::bindings::exports::celerybox::task::handler::{Ending, Guest};
    pub use crate::export::{check, name_bytes, name_length};
    pub use crate::signature::{Kind, Parameter, Signature};
    pub use crate::task::{Autoretry, Options, ReturnsResult, ReturnsValue, definitions, run, to_json};
}

// So that the README's examples are tested.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
