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

/// Asks for one retry with new positional (`args`) or keyword (`kwargs`) arguments; what is not replaced is inherited.
#[task]
fn switch(
    ctx: &Context,
    #[default(0)] x: i64,
    #[default(0)] y: i64,
    #[default(Value::Null)] args: Value,
    #[default(Value::Null)] kwargs: Value,
) -> Result<Value, TaskError> {
    if ctx.request().retries > 0 {
        return Ok(json!([x, y]));
    }
    let mut retry = ctx.retry().countdown(0.0);
    if !args.is_null() {
        retry = retry.args(&args);
    }
    if !kwargs.is_null() {
        retry = retry.kwargs(&kwargs);
    }
    Err(retry.raise())
}

/// Asks for retries without an error; there is one.
#[task(max_retries = 1, default_retry_delay = 0)]
fn exhausted(ctx: &Context) -> Result<(), TaskError> {
    Err(ctx.retry().raise())
}

/// Fails with this exception until it was retried twice; the worker retries some of them.
#[task(
    max_retries = 2,
    autoretry_for(ConnectionError, LookupError),
    dont_autoretry_for(KeyError),
    retry_kwargs(countdown = 0)
)]
fn auto(ctx: &Context, exc_type: String) -> Result<u32, TaskError> {
    match ctx.request().retries {
        2 => Ok(2),
        n => Err(TaskError::new(exc_type, format!("try {n}"))),
    }
}

/// May start twice a second.
#[task(rate_limit = "2/s")]
fn limited(value: i64) -> i64 {
    value
}

/// Fails, and its message is then refused for good.
#[task(acks_late, acks_on_failure = false)]
fn late_fail() -> Result<(), TaskError> {
    Err(TaskError::new("ValueError", "refused"))
}

/// Runs into its hard limit once; its message then goes back, and the second run returns at once.
#[task(acks_late, acks_on_timeout = false, time_limit = 1)]
fn late_timeout(ctx: &Context) -> Result<&'static str, TaskError> {
    if !ctx.request().delivery_info.redelivered {
        sleep(600.0)?;
    }
    Ok("again")
}

/// Puts its message back once.
#[task(acks_late)]
fn requeue(ctx: &Context) -> Result<&'static str, TaskError> {
    if !ctx.request().delivery_info.redelivered {
        return Err(TaskError::reject("once more", true));
    }
    Ok("again")
}

/// Goes on for so many seconds, whatever its soft limit says.
#[task]
fn soft_ignored(ctx: &Context, seconds: f64) -> Result<bool, TaskError> {
    let _ = ctx.sleep(Duration::try_from_secs_f64(seconds)?);
    std::thread::sleep(Duration::from_millis(50));
    Ok(ctx.soft_time_limit_exceeded())
}

/// Fails with an exception of a module of its own choice.
#[task]
fn raise_from(module: String, exc_type: String, message: String) -> Result<(), TaskError> {
    Err(Failure::new(exc_type, message).with_module(module).into())
}

/// Returns so many letters.
#[task]
fn letters(number: usize) -> String {
    "x".repeat(number)
}

/// Prints a line that does not end.
#[task]
fn print(text: String) {
    print!("{text}");
}

/// An error callback of three arguments: says what it was told.
#[task(errback)]
fn told(request: Value, exc: Value, traceback: Option<String>, #[keyword_only] note: String) {
    let traceback = traceback.is_some();
    println!("told of {} {} {traceback} {note}", request["id"], exc["exc_type"]);
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
    ignore,
    switch,
    exhausted,
    auto,
    limited,
    late_fail,
    late_timeout,
    requeue,
    soft_ignored,
    raise_from,
    letters,
    print,
    told
];
