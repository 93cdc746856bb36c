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
//! * [`TaskError`] is every ending but a value.
//! * [`log`] writes to the worker's log.
//! * `testing` plays the worker in unit tests.
//!
//! The crate's README leads from an empty folder to a task that ran.

// So that what the macros write also compiles in this crate's own tests.
#[cfg(test)]
extern crate self as celerybox_guest;

mod backoff;
mod bind;
#[doc(hidden)]
pub mod bindings;
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
pub use celerybox_guest_macros::task;
pub use context::{Context, TimeLeft};
pub use error::{AcceptedRetry, TaskError};
pub use failure::Failure;
pub use retry::Retry;
pub use task::Task;

/// What the macros' expansions call. Not for use by hand, and without promises.
#[doc(hidden)]
pub mod __private {
    pub use crate::backoff::{Autoretry, Backoff, autoretry};
    pub use crate::bind::Bound;
    pub use crate::bindings;
    pub use crate::bindings::celerybox::task::types::{Definition, RetryLimit};
    pub use crate::bindings::exports::celerybox::task::handler::{Ending, Guest};
    pub use crate::export::{check, name_bytes, name_length};
    pub use crate::signature::{Kind, Parameter, Signature};
    pub use crate::task::{Options, ReturnsResult, ReturnsValue, definitions, run, to_json};
}
