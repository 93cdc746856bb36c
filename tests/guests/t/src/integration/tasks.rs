//! Tasks that compute, fail, retry, and tell what they see.

use std::io::Write;
use std::time::Duration;

use celerybox_guest::canvas::{Signature, chord};
use celerybox_guest::{Context, Failure, TaskError, task};
use serde_json::{Value, json};

use super::world::{redis, text};

type Done = Result<Value, TaskError>;

/// The module that the client knows the exceptions by.
const MODULE: &str = "t.integration.tasks";

/// Python's `+`.
pub(crate) fn plus(x: &Value, y: &Value) -> Done {
    match (x, y) {
        (Value::Number(a), Value::Number(b)) => match (a.as_i64(), b.as_i64()) {
            (Some(a), Some(b)) => Ok(json!(a + b)),
            _ => Ok(json!(
                a.as_f64().unwrap_or_default() + b.as_f64().unwrap_or_default()
            )),
        },
        (Value::String(a), Value::String(b)) => Ok(json!(format!("{a}{b}"))),
        (Value::Array(a), Value::Array(b)) => Ok(Value::Array(a.iter().chain(b).cloned().collect())),
        _ => Err(TaskError::new(
            "TypeError",
            format!("unsupported operand type(s) for +: {x} and {y}"),
        )),
    }
}

/// Python's `sum`.
pub(crate) fn sum(numbers: &[Value]) -> Done {
    numbers
        .iter()
        .try_fold(json!(0), |sum, number| plus(&sum, number))
}

fn seconds(number: f64) -> Duration {
    Duration::try_from_secs_f64(number).unwrap_or_default()
}

fn expected(args: &[Value]) -> Failure {
    let message = args.first().map(text).unwrap_or_default();
    Failure::new("ExpectedException", message)
        .with_module(MODULE)
        .with_args(args)
}

#[task]
pub(crate) fn identity(x: Value) -> Value {
    x
}

#[task]
pub(crate) fn add(x: Value, y: Value, z: Option<Value>) -> Done {
    let sum = plus(&x, &y)?;
    match z {
        Some(z) if z != json!(0) => plus(&sum, &z),
        _ => Ok(sum),
    }
}

#[task]
pub(crate) fn mul(x: i64, y: i64) -> i64 {
    x * y
}

#[task]
pub(crate) fn write_to_file_and_return_int(file_name: String, i: Value) -> Done {
    let mut file = std::fs::OpenOptions::new()
        .append(true)
        .create(true)
        .open(file_name)?;
    writeln!(file, "{i}")?;
    Ok(i)
}

#[task]
pub(crate) fn add_not_typed(x: Value, y: Value) -> Done {
    plus(&x, &y)
}

#[task(ignore_result)]
pub(crate) fn add_ignore_result(x: Value, y: Value) -> Done {
    plus(&x, &y)
}

#[task(ignore_result = false)]
pub(crate) fn add_with_result(x: Value, y: Value) -> Done {
    plus(&x, &y)
}

#[task]
pub(crate) fn raise_error(#[args] _args: Vec<Value>) -> Done {
    Err(TaskError::new("ValueError", "deliberate error"))
}

#[task]
pub(crate) fn chain_add(ctx: &Context, x: Value, y: Value) -> Result<(), TaskError> {
    (add::s((&x, &x)) | add::s((y,))).apply_async(ctx)?;
    Ok(())
}

#[task]
pub(crate) fn chord_add(ctx: &Context, x: Value, y: Value) -> Result<(), TaskError> {
    chord([add::s((&x, &x))], add::s((y,))).apply_async(ctx)?;
    Ok(())
}

#[task]
pub(crate) fn delayed_sum(ctx: &Context, numbers: Vec<Value>, #[default(1.0)] pause_time: f64) -> Done {
    ctx.sleep(seconds(pause_time))?;
    sum(&numbers)
}

#[task]
pub(crate) fn delayed_sum_with_soft_guard(
    ctx: &Context,
    numbers: Vec<Value>,
    #[default(1.0)] pause_time: f64,
) -> Done {
    match ctx.sleep(seconds(pause_time)) {
        Ok(()) => sum(&numbers),
        Err(_) => Ok(json!(0)),
    }
}

#[task]
pub(crate) fn tsum(nums: Vec<Value>) -> Done {
    sum(&nums)
}

/// Numbers, and lists of numbers.
#[task]
pub(crate) fn xsum(nums: Vec<Value>) -> Done {
    let sums: Result<Vec<Value>, TaskError> = nums
        .into_iter()
        .map(|number| match number {
            Value::Array(inner) => sum(&inner),
            number => Ok(number),
        })
        .collect();
    sum(&sums?)
}

#[task]
pub(crate) fn sum_and_record(ctx: &Context, values: Vec<Value>, redis_key: String) -> Done {
    redis(&["RPUSH", &redis_key, &ctx.request().id])?;
    sum(&values)
}

#[task]
pub(crate) fn print_unicode(
    #[default("håå®ƒ valmuefrø".to_owned())] log_message: String,
    #[default("hiöäüß".to_owned())] print_message: String,
) {
    celerybox_guest::log::warning(log_message);
    println!("{print_message}");
}

#[task]
pub(crate) fn return_exception(e: Value) -> (Value, bool) {
    (e, true)
}

#[task]
pub(crate) fn sleeping(
    ctx: &Context,
    i: f64,
    #[kwargs] _rest: std::collections::BTreeMap<String, Value>,
) -> Result<(), TaskError> {
    ctx.sleep(seconds(i))
}

#[task]
pub(crate) fn ids(ctx: &Context, i: Value) -> Value {
    let request = ctx.request();
    json!([request.root_id, request.parent_id, i])
}

#[task]
pub(crate) fn collect_ids(ctx: &Context, res: Value, i: Value) -> Value {
    let request = ctx.request();
    json!([res, [request.root_id, request.parent_id, i]])
}

/// Python counts in an attribute of the task; here the request knows.
#[task(default_retry_delay = 1)]
pub(crate) fn retry(ctx: &Context, return_value: Option<Value>) -> Done {
    match return_value {
        Some(value) if ctx.request().retries >= 3 => Ok(value),
        _ => Err(ctx.retry().exc(expected(&[])).countdown(5.0).raise()),
    }
}

#[task(default_retry_delay = 1)]
pub(crate) fn retry_unpickleable(
    ctx: &Context,
    foo: Value,
    bar: Value,
    #[keyword_only] retry_kwargs: std::collections::BTreeMap<String, Value>,
) -> Result<(), TaskError> {
    let mut retry = ctx.retry().exc(unpickleable(&foo, &bar));
    for (name, value) in retry_kwargs {
        retry = match (name.as_str(), value.as_f64()) {
            ("countdown", Some(seconds)) => retry.countdown(seconds),
            ("max_retries", Some(most)) => retry.max_retries(most as u32),
            (name, _) => retry.option(name.to_owned(), value),
        };
    }
    Err(retry.raise())
}

fn unpickleable(foo: &Value, _bar: &Value) -> Failure {
    Failure::new("UnpickleableException", text(foo))
        .with_module(MODULE)
        .with_args(&[foo])
}

#[task(max_retries = 1)]
pub(crate) fn retry_with_args_after_kwargs(ctx: &Context, foo: i64, bar: i64, label: Option<Value>) -> Done {
    match ctx.request().retries {
        0 => Err(ctx.retry().args(&[foo + 1, bar + 1]).countdown(0.0).raise()),
        retries => Ok(json!({"foo": foo, "bar": bar, "label": label, "retries": retries, "is_eager": false})),
    }
}

#[task(max_retries = 1)]
pub(crate) fn retry_with_kwargs_after_args(ctx: &Context, foo: i64, bar: i64) -> Done {
    match ctx.request().retries {
        0 => Err(ctx
            .retry()
            .kwargs(&json!({"foo": foo + 1}))
            .countdown(0.0)
            .raise()),
        retries => Ok(json!({"foo": foo, "bar": bar, "retries": retries, "is_eager": false})),
    }
}

#[task(max_retries = 1)]
pub(crate) fn retry_once(
    ctx: &Context,
    #[args] _args: Vec<Value>,
    #[keyword_only]
    #[default(None)]
    expires: Option<Value>,
    #[keyword_only]
    #[default(1)]
    max_retries: u32,
    #[keyword_only]
    #[default(Some(0.1))]
    countdown: Option<f64>,
) -> Result<u32, TaskError> {
    match ctx.request().retries {
        0 => {
            let mut retry = ctx.retry().max_retries(max_retries);
            if let Some(seconds) = countdown {
                retry = retry.countdown(seconds);
            }
            if let Some(expires) = expires {
                retry = retry.option("expires", expires);
            }
            Err(retry.raise())
        }
        retries => Ok(retries),
    }
}

fn once(ctx: &Context) -> Result<u32, TaskError> {
    match ctx.request().retries {
        0 => Err(ctx.retry().countdown(0.0).raise()),
        retries => Ok(retries),
    }
}

#[task(ignore_result)]
pub(crate) fn retry_once_ignore_result(ctx: &Context) -> Result<u32, TaskError> {
    once(ctx)
}

#[task(ignore_result = false)]
pub(crate) fn retry_once_with_result(ctx: &Context) -> Result<u32, TaskError> {
    once(ctx)
}

#[task(max_retries = 1)]
pub(crate) fn retry_once_priority(
    ctx: &Context,
    #[args] _args: Vec<Value>,
    #[keyword_only]
    #[default(60.0)]
    expires: f64,
    #[keyword_only]
    #[default(1)]
    max_retries: u32,
    #[keyword_only]
    #[default(0.1)]
    countdown: f64,
) -> Done {
    let _ = expires;
    match ctx.request().retries {
        0 => Err(ctx.retry().countdown(countdown).max_retries(max_retries).raise()),
        _ => Ok(json!(ctx.request().delivery_info.priority)),
    }
}

#[task(max_retries = 1)]
pub(crate) fn retry_once_headers(
    ctx: &Context,
    #[args] _args: Vec<Value>,
    #[keyword_only]
    #[default(1)]
    max_retries: u32,
    #[keyword_only]
    #[default(0.1)]
    countdown: f64,
) -> Done {
    match ctx.request().retries {
        0 => Err(ctx.retry().countdown(countdown).max_retries(max_retries).raise()),
        _ => Ok(serde_json::from_str(&ctx.request().headers)?),
    }
}

#[task]
pub(crate) fn redis_echo(
    message: Value,
    #[default("redis-echo".to_owned())] redis_key: String,
) -> Result<(), TaskError> {
    redis(&["RPUSH", &redis_key, &text(&message)])
}

#[task]
pub(crate) fn redis_echo_group_id(
    ctx: &Context,
    _ignored: Value,
    #[default("redis-group-ids".to_owned())] redis_key: String,
) -> Result<(), TaskError> {
    redis(&[
        "RPUSH",
        &redis_key,
        ctx.request().group.as_deref().unwrap_or("None"),
    ])
}

#[task]
pub(crate) fn redis_count(#[default("redis-count".to_owned())] redis_key: String) -> Result<(), TaskError> {
    redis(&["INCR", &redis_key])
}

#[task]
pub(crate) fn fail(#[args] args: Vec<Value>) -> Done {
    let mut all = vec![json!("Task expected to fail")];
    all.extend(args);
    Err(expected(&all).into())
}

#[task]
pub(crate) fn fail_unpickleable(foo: Value, bar: Value) -> Done {
    Err(unpickleable(&foo, &bar).into())
}

#[task]
pub(crate) fn return_priority(ctx: &Context, #[args] _args: Vec<Value>) -> String {
    let priority = ctx.request().delivery_info.priority;
    format!(
        "Priority: {}",
        priority.map_or("None".to_owned(), |priority| priority.to_string())
    )
}

#[task]
pub(crate) fn return_request_eta(ctx: &Context) -> Option<String> {
    ctx.request().eta.clone()
}

#[task]
pub(crate) fn return_properties(ctx: &Context) -> Done {
    Ok(serde_json::from_str(&ctx.request().properties)?)
}

#[task(
    name = "auto_retry_class_task",
    autoretry_for(ValueError),
    retry_kwargs(max_retries = 1),
    retry_backoff
)]
pub(crate) fn auto_retry_class_task(ctx: &Context) -> Result<u32, TaskError> {
    match ctx.request().retries {
        0 => Err(TaskError::new("ValueError", "")),
        retries => Ok(retries),
    }
}

#[task]
pub(crate) fn errback_old_style(request_id: String) -> Result<String, TaskError> {
    redis(&["INCR", &request_id])?;
    Ok(request_id)
}

fn id_of(request: &Value) -> String {
    text(&request["id"])
}

#[task(errback)]
pub(crate) fn errback_new_style(request: Value, exc: Value, tb: Value) -> Result<String, TaskError> {
    let _ = (exc, tb);
    redis(&["INCR", &id_of(&request)])?;
    Ok(id_of(&request))
}

#[task]
pub(crate) fn errback_old_style_with_args(request_id: String, label: Value) -> Result<(), TaskError> {
    redis(&["RPUSH", &request_id, &text(&label)])
}

#[task(errback)]
pub(crate) fn errback_new_style_with_args(
    request: Value,
    exc: Value,
    tb: Value,
    label: Value,
) -> Result<(), TaskError> {
    let _ = (exc, tb);
    redis(&["RPUSH", &id_of(&request), &text(&label)])
}

fn add_model(data: &Value) -> Done {
    Ok(json!({"result": plus(&data["x"], &data["y"])?}))
}

#[task]
pub(crate) fn add_pydantic(data: Value) -> Done {
    add_model(&data)
}

#[task]
pub(crate) fn add_pydantic_string_annotations(data: Value) -> Done {
    add_model(&data)
}

#[task(acks_late)]
pub(crate) fn reject_then_succeed(ctx: &Context) -> Result<&'static str, TaskError> {
    match ctx.request().delivery_info.redelivered {
        true => Ok("second-pass"),
        false => Err(TaskError::Reject {
            reason: None,
            requeue: true,
        }),
    }
}

#[task]
pub(crate) fn reject_without_requeue() -> Done {
    Err(TaskError::reject("rejected", false))
}

fn time_limits(ctx: &Context) -> Value {
    let request = ctx.request();
    json!({"time_limit": request.time_limit, "soft_time_limit": request.soft_time_limit})
}

#[task]
pub(crate) fn return_request_time_limits(ctx: &Context) -> Value {
    time_limits(ctx)
}

#[task(time_limit = 60, soft_time_limit = 45)]
pub(crate) fn task_with_declared_time_limits(ctx: &Context) -> Value {
    time_limits(ctx)
}

/// `identity`, for the signatures of the other module.
pub(crate) fn identity_of(args: &[Value]) -> Signature {
    identity::s(args)
}
