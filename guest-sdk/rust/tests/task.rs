//! What `#[task]` makes of a function: name, options, endings, retries.

use std::io;
use std::time::Duration;

use celerybox_guest::testing::{Error, RetryLimit, TestContext};
use celerybox_guest::{Context, Failure, TaskError, task, tasks};
use serde::{Deserialize, Serialize};

/// The first paragraph
/// in two lines.
///
/// Not shown.
#[task(
    name = "proj.everything",
    max_retries = 5,
    default_retry_delay = 0.5,
    time_limit = 30,
    soft_time_limit = 20.0,
    rate_limit = "10/s",
    acks_late,
    acks_on_failure = false,
    acks_on_timeout = true,
    reject_on_worker_lost,
    retry_on_worker_lost = false,
    ignore_result = false,
    store_errors_even_if_ignored,
    track_started,
    trail = false,
    send_events = false,
    serializer = "json",
    compression = "gzip",
    priority = 9,
    errback
)]
fn everything() {}

#[task(max_retries = None, rate_limit = 3)]
fn plain() {}

mod inner {
    use celerybox_guest::task;

    #[task]
    pub(crate) fn r#type() -> u8 {
        1
    }
}

// Names that the macro's expansion uses itself.
#[derive(Debug, Serialize, Deserialize)]
struct Options {
    kind: Kind,
}

#[derive(Debug, Serialize, Deserialize)]
enum Kind {
    Small,
}

#[task]
fn output(options: Options, arguments: u8, context: Option<u8>) -> Options {
    let _ = (context, arguments);
    options
}

#[task]
fn context(value: u8, #[default(VALUE)] error: u8) -> u8 {
    value + error
}

const VALUE: u8 = 3;

#[task]
fn arguments(#[default("en")] language: String) -> String {
    language
}

#[task]
fn alias(fails: bool) -> io::Result<Vec<u8>> {
    if fails {
        return Err(io::Error::other("disk on fire"));
    }
    Ok(vec![1, 2])
}

#[task]
fn unrenderable() -> std::collections::BTreeMap<(u8, u8), u8> {
    [((1, 2), 3)].into()
}

#[task(
    max_retries = 1,
    autoretry_for(ConnectionError, TimeoutError),
    dont_autoretry_for(KeyError),
    retry_backoff = 4,
    retry_backoff_max = 20,
    retry_jitter = false,
    retry_kwargs(max_retries = None, countdown = 2.5)
)]
fn retried() -> Result<(), Failure> {
    Err(Failure::new("TimeoutError", "x"))
}

#[task(autoretry_for(Exception), retry_backoff)]
fn patient() -> Result<(), TaskError> {
    Err(TaskError::new("OSError", "x"))
}

tasks![everything, plain, inner::r#type, output, context, arguments];

#[test]
fn options_reach_the_definition() {
    let definition = everything::TASK.definition();
    assert_eq!(definition.name, "proj.everything");
    assert_eq!(
        definition.doc.as_deref(),
        Some("The first paragraph in two lines.")
    );
    assert_eq!(definition.signature.as_deref(), Some("()"));
    assert!(matches!(definition.max_retries, Some(RetryLimit::AtMost(5))));
    assert_eq!(definition.default_retry_delay, Some(0.5));
    assert_eq!(definition.rate_limit.as_deref(), Some("10/s"));
    assert_eq!(definition.soft_time_limit, Some(20.0));
    assert_eq!(definition.time_limit, Some(30.0));
    assert_eq!(definition.acks_late, Some(true));
    assert_eq!(definition.acks_on_failure, Some(false));
    assert_eq!(definition.acks_on_timeout, Some(true));
    assert_eq!(definition.reject_on_worker_lost, Some(true));
    assert_eq!(definition.retry_on_worker_lost, Some(false));
    assert_eq!(definition.ignore_result, Some(false));
    assert_eq!(definition.store_errors_even_if_ignored, Some(true));
    assert_eq!(definition.track_started, Some(true));
    assert_eq!(definition.trail, Some(false));
    assert_eq!(definition.send_events, Some(false));
    assert_eq!(definition.serializer.as_deref(), Some("json"));
    assert_eq!(definition.compression.as_deref(), Some("gzip"));
    assert_eq!(definition.priority, Some(9));
    assert!(definition.errback);
}

#[test]
fn what_is_not_given_is_not_set() {
    let definition = plain::TASK.definition();
    assert!(matches!(definition.max_retries, Some(RetryLimit::Unlimited)));
    assert_eq!(definition.rate_limit.as_deref(), Some("3"));
    assert_eq!(definition.doc, None);
    assert_eq!(definition.acks_late, None);
    assert_eq!(definition.time_limit, None);
    assert_eq!(definition.priority, None);
    assert!(!definition.errback);
}

#[test]
fn a_task_is_named_after_its_module() {
    assert_eq!(plain::TASK.name, "task.plain");
    assert_eq!(inner::r#type::TASK.name, "task.inner.type");
}

#[test]
fn any_name_and_type_can_be_used() {
    let ctx = TestContext::new();
    let json = ctx.run(
        output::TASK,
        r#"[{"kind": "Small"}]"#,
        r#"{"arguments": 1, "context": null}"#,
    );
    assert_eq!(json.unwrap(), r#"{"kind":"Small"}"#);
    assert_eq!(ctx.run(context::TASK, "[2]", "{}").unwrap(), "5");
    assert_eq!(ctx.run(arguments::TASK, "[]", "{}").unwrap(), r#""en""#);
    assert_eq!(ctx.run(inner::r#type::TASK, "[]", "{}").unwrap(), "1");
    assert_eq!(ctx.run(plain::TASK, "[]", "{}").unwrap(), "null");
}

#[test]
fn a_result_behind_an_alias_can_fail() {
    let ctx = TestContext::new();
    assert_eq!(ctx.run(alias::TASK, "[false]", "{}").unwrap(), "[1,2]");
    let error = ctx.run(alias::TASK, "[true]", "{}").unwrap_err();
    assert_eq!(error.to_string(), "OSError: disk on fire");
}

#[test]
fn a_value_that_is_no_json_is_an_encode_error() {
    let error = TestContext::new()
        .run(unrenderable::TASK, "[]", "{}")
        .unwrap_err();
    let failure = error.failure().unwrap();
    assert_eq!(failure.exc_type(), "EncodeError");
    assert_eq!(failure.module(), Some("kombu.exceptions"));
}

/// The worker retries: what it needs is in the definition, and the function's own error comes out.
#[test]
fn automatic_retries_are_declared() {
    let declared = retried::TASK.definition().autoretry.unwrap();
    assert_eq!(declared.retry_for, ["ConnectionError", "TimeoutError"]);
    assert_eq!(declared.except_for, ["KeyError"]);
    assert_eq!((declared.backoff, declared.backoff_max), (Some(4), 20));
    assert_eq!((declared.jitter, declared.countdown), (false, Some(2.5)));
    assert!(matches!(declared.max_retries, Some(RetryLimit::Unlimited)));
    let declared = patient::TASK.definition().autoretry.unwrap();
    assert_eq!((declared.backoff, declared.backoff_max), (Some(1), 600));
    assert!(declared.jitter && declared.except_for.is_empty());
    assert!(plain::TASK.definition().autoretry.is_none());
    let ctx = TestContext::new();
    let error = ctx.run(retried::TASK, "[]", "{}").unwrap_err();
    assert_eq!(error.to_string(), "TimeoutError: x");
}

#[test]
fn a_retry_carries_what_was_set() {
    let ctx = TestContext::new();
    let ending = ctx
        .retry()
        .args(&(1, "a"))
        .kwargs(&serde_json::json!({"k": 2}))
        .eta("2026-01-02T03:04:05+00:00")
        .expires("2026-01-03T03:04:05+00:00")
        .max_retries(7)
        .option("queue", "slow")
        .option("priority", 3)
        .raise();
    assert!(matches!(ending, TaskError::Retry(_)));
    let asked = ctx.retry_asked().unwrap();
    assert_eq!(asked.args.as_deref(), Some(r#"[1,"a"]"#));
    assert_eq!(asked.kwargs.as_deref(), Some(r#"{"k":2}"#));
    assert_eq!(asked.eta.as_deref(), Some("2026-01-02T03:04:05+00:00"));
    assert_eq!(asked.expires.as_deref(), Some("2026-01-03T03:04:05+00:00"));
    assert!(matches!(asked.max_retries, Some(RetryLimit::AtMost(7))));
    assert_eq!(asked.options.as_deref(), Some(r#"{"priority":3,"queue":"slow"}"#));
    assert!(asked.exc.is_none());
}

#[test]
fn a_retry_with_wrong_arguments_is_an_error() {
    let ctx = TestContext::new();
    let error = ctx.retry().args(&1).raise();
    assert_eq!(error.to_string(), "ValueError: the retry's args are no list");
    let error = ctx.retry().kwargs(&[1]).args(&1).raise();
    assert_eq!(error.to_string(), "ValueError: the retry's kwargs are no map");
    assert!(ctx.retry_asked().is_none());
}

#[test]
fn retries_have_a_limit() {
    let last = || TestContext::new().with_retries(3);
    let error = last().retry().exc(TaskError::new("OSError", "x")).raise();
    assert_eq!(error.to_string(), "OSError: x");
    let error = last().retry().raise();
    let failure = error.failure().unwrap();
    assert_eq!(failure.exc_type(), "MaxRetriesExceededError");
    assert_eq!(failure.module(), Some("celery.exceptions"));
    let more = last().retry().max_retries(4).raise();
    assert!(matches!(more, TaskError::Retry(_)));
    let more = last().retry().unlimited().raise();
    assert!(matches!(more, TaskError::Retry(_)));
    let more = last().with_max_retries(None).retry().raise();
    assert!(matches!(more, TaskError::Retry(_)));
}

#[test]
fn the_soft_time_limit_is_raised_once() {
    let ctx = TestContext::new().with_soft_time_limit(Duration::ZERO);
    assert!(ctx.soft_time_limit_exceeded());
    let error = ctx.update_state("PROGRESS", &1).unwrap_err();
    assert!(error.is_soft_time_limit_exceeded());
    assert!(ctx.states().is_empty());
    assert!(ctx.check_soft_time_limit().is_ok());
    ctx.update_state("PROGRESS", &1).unwrap();
    assert!(ctx.soft_time_limit_exceeded());
    assert_eq!(ctx.time_left().soft, Some(Duration::ZERO));
    assert_eq!(ctx.time_left().hard, None);
}

#[test]
fn a_check_raises_the_soft_time_limit_once() {
    let ctx = TestContext::new().with_soft_time_limit(Duration::ZERO);
    let error = ctx.check_soft_time_limit().unwrap_err();
    let failure = error.failure().unwrap();
    assert_eq!(failure.exc_type(), "SoftTimeLimitExceeded");
    assert_eq!(failure.module(), Some("billiard.exceptions"));
    assert_eq!(failure.args(), "[]");
    assert!(ctx.check_soft_time_limit().is_ok());
}

#[test]
fn a_sleep_ends_at_the_soft_time_limit() {
    let minute = Duration::from_secs(60);
    let ctx = TestContext::new()
        .with_soft_time_limit(minute)
        .with_time_limit(2 * minute);
    ctx.sleep(minute / 2).unwrap();
    assert!(ctx.time_left().soft.unwrap() <= minute / 2);
    assert!(ctx.time_left().hard.unwrap() > minute);
    let error = ctx.sleep(minute).unwrap_err();
    assert!(error.is_soft_time_limit_exceeded());
    assert!(ctx.slept() <= minute);
    // It was raised: the next sleep is a whole one.
    ctx.sleep(minute).unwrap();
    assert!(ctx.slept() > minute);
}

#[test]
fn what_the_worker_refuses_is_an_error_of_python() {
    let text = || "why".to_owned();
    for (error, exc_type) in [
        (Error::NotSupported(text()), "NotImplementedError"),
        (Error::Denied(text()), "PermissionError"),
        (Error::Invalid(text()), "ValueError"),
        (Error::LimitExceeded(text()), "RuntimeError"),
        (Error::Unavailable(text()), "ConnectionError"),
    ] {
        let ctx = TestContext::new().with_refusal(error);
        let error = ctx.update_state("PROGRESS", &1).unwrap_err();
        assert_eq!(error.to_string(), format!("{exc_type}: why"));
        assert_eq!(error.failure().unwrap().module(), Some("builtins"));
    }
}

#[test]
fn boxed_errors_and_the_place_of_an_error() {
    let boxed: Box<dyn std::error::Error + Send + Sync> = "text".into();
    let error = TaskError::from_boxed(boxed);
    assert_eq!(error.to_string(), "Exception: text");
    let line = line!() + 1;
    let error = TaskError::new("ValueError", "x");
    let traceback = error.failure().unwrap().traceback("f");
    assert!(
        traceback.contains(&format!("tests/task.rs\", line {line}, in f")),
        "{traceback}"
    );
}

#[test]
fn the_request_can_be_set() {
    #[task]
    fn whose(ctx: Context) -> String {
        ctx.request().id.clone()
    }
    let ctx = TestContext::new().with_request(|request| request.id = "seven".to_owned());
    assert_eq!(ctx.run(whose::TASK, "[]", "{}").unwrap(), r#""seven""#);
    assert_eq!(whose((*ctx).clone()), "seven");
}

#[test]
fn the_crates_contract_is_the_repositorys() {
    let whole = concat!(env!("CARGO_MANIFEST_DIR"), "/../../wit/task.wit");
    // In a published crate there is only the copy.
    if let Ok(text) = std::fs::read_to_string(whole) {
        assert_eq!(text, include_str!("../wit/task.wit"));
    }
}
