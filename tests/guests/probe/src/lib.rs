//! What the black-box tests call: one task for each thing a client can observe. `tests/interop/proj.py` holds the same
//! tasks in Python, with the same names, arguments and endings.

use std::time::Duration;

use celerybox_guest::{Context, Failure, TaskError, task, tasks};
use serde_json::value::RawValue;
use serde_json::{Value, json};

/// Returns what it was given, digit for digit.
#[task]
fn echo(value: Box<RawValue>) -> Box<RawValue> {
    value
}

/// Sleeps so many seconds.
#[task]
fn sleep(seconds: f64) -> Result<f64, TaskError> {
    std::thread::sleep(Duration::try_from_secs_f64(seconds)?);
    Ok(seconds)
}

/// Sleeps so many seconds; its message is acknowledged after that.
#[task(acks_late)]
fn late(seconds: f64) -> Result<f64, TaskError> {
    sleep(seconds)
}

/// Fails with an exception of two arguments.
#[task]
fn fail(message: String) -> Result<(), TaskError> {
    let text = message.clone();
    Err(Failure::new("ValueError", message)
        .with_args(&json!([text, 7]))
        .into())
}

/// Waits, so that the client has subscribed before there is something to hear; then reports each step.
#[task]
fn progress(ctx: &Context, steps: u32, delay: f64) -> Result<u32, TaskError> {
    ctx.sleep(Duration::try_from_secs_f64(delay)?)?;
    for step in 0..steps {
        ctx.update_state("PROGRESS", &json!({"done": step, "of": steps}))?;
    }
    Ok(steps)
}

/// Its own request.
#[task]
fn request(ctx: &Context) -> Result<Value, TaskError> {
    let request = ctx.request();
    let args: Value = serde_json::from_str(&request.args)?;
    let kwargs: Value = serde_json::from_str(&request.kwargs)?;
    Ok(json!({
        "id": request.id,
        "task": request.task,
        "args": args,
        "kwargs": kwargs,
        "retries": request.retries,
        "root_id": request.root_id,
        "parent_id": request.parent_id,
        "correlation_id": request.correlation_id,
        "hostname": request.hostname,
    }))
}

/// Asks for a retry until it has been retried `until` times; at most 3.
#[task]
fn retry(ctx: &Context, until: u32, countdown: f64) -> Result<Value, TaskError> {
    let request = ctx.request();
    if request.retries < until {
        let error = TaskError::new("KeyError", format!("attempt {}", request.retries));
        return Err(ctx.retry().exc(error).countdown(countdown).max_retries(3).raise());
    }
    Ok(json!({"retries": request.retries, "id": request.id}))
}

/// Works until it is told that its soft limit has passed, then ends in good order.
#[task]
fn soft(ctx: &Context) -> &'static str {
    while !ctx.soft_time_limit_exceeded() {
        std::thread::sleep(Duration::from_millis(10));
    }
    "ended in good order"
}

/// Works until its soft limit, which is its failure.
#[task]
fn soft_uncaught(ctx: &Context) -> Result<(), TaskError> {
    loop {
        ctx.sleep(Duration::from_millis(10))?;
    }
}

/// Refuses its message for good.
#[task]
fn reject(reason: String) -> Result<(), TaskError> {
    Err(TaskError::reject(reason, false))
}

/// Stores a state by hand and keeps it.
#[task]
fn ignore(ctx: &Context) -> Result<(), TaskError> {
    ctx.update_state("BY_HAND", &json!({"kept": true}))?;
    Err(TaskError::Ignore)
}

tasks![
    echo,
    sleep,
    late,
    fail,
    progress,
    request,
    retry,
    soft,
    soft_uncaught,
    reject,
    ignore
];
