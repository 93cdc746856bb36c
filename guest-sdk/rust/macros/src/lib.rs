//! The `#[task]` attribute of `celerybox-guest`, which documents and re-exports it.

mod expand;
mod options;
mod parameter;

use proc_macro::TokenStream;
use syn::{ItemFn, parse_macro_input};

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
/// it, for [`tasks!`](https://docs.rs/celerybox-guest) and for tests.
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
/// | `ignore_result`, `store_errors_even_if_ignored`, `track_started`, `trail`, `send_events` | true or false |
/// | `serializer`, `compression` | text, for example `"json"`, `"gzip"` |
/// | `priority` | 0 to 9 |
/// | `errback` | true for an error callback that takes `(request, exc, traceback)` |
/// | `autoretry` | true: every error of the function asks for a retry |
/// | `autoretry_for` | only these: `["ConnectionError", "TimeoutError"]` (the exceptions' type names) |
/// | `dont_autoretry_for` | all but these |
/// | `retry_backoff` | true, or the first wait in seconds; it doubles with every retry |
/// | `retry_backoff_max` | the longest wait in seconds, 600 |
/// | `retry_jitter` | true (the default with `retry_backoff`): a random wait up to that time |
#[proc_macro_attribute]
pub fn task(attribute: TokenStream, item: TokenStream) -> TokenStream {
    let options = parse_macro_input!(attribute as options::Given);
    let function = parse_macro_input!(item as ItemFn);
    expand::task(&options, function).into()
}
