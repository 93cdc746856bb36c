//! Every way to end but a value: errors, retries, `Reject` and `Ignore`.

use celerybox_guest::{Context, TaskError, task, tasks};

/// Fails until it was retried `failures` times, and then returns the number of retries.
#[task(max_retries = 10)]
fn until(ctx: &Context, failures: u32, #[default(0.0)] countdown: f64) -> Result<u32, TaskError> {
    match unreliable(ctx, failures) {
        Ok(retries) => Ok(retries),
        Err(error) => Err(ctx.retry().countdown(countdown).exc(error).raise()),
    }
}

/// The same without a word about retries: the worker makes them by these options, 1, 2, 4 and then 5 seconds apart.
#[task(
    max_retries = 10,
    autoretry_for(ConnectionError),
    retry_backoff = 1,
    retry_backoff_max = 5,
    retry_jitter = false
)]
fn backoff(ctx: &Context, failures: u32) -> Result<u32, TaskError> {
    unreliable(ctx, failures)
}

/// Fails always; after two retries its own error is the result.
#[task(max_retries = 2)]
fn always(ctx: &Context) -> Result<(), TaskError> {
    let error = TaskError::new("ConnectionError", "nobody answers");
    Err(ctx.retry().countdown(0.0).exc(error).raise())
}

/// Asks for retries without an error; after two of them the result is `MaxRetriesExceededError`.
#[task(max_retries = 2)]
fn exhausted(ctx: &Context) -> Result<(), TaskError> {
    Err(ctx.retry().countdown(0.0).raise())
}

/// Fails at once with an exception of this type.
#[task]
fn fail(
    #[default("ValueError")] exc_type: String,
    #[default("no")] message: String,
) -> Result<(), TaskError> {
    Err(TaskError::new(exc_type, message))
}

/// Panics, which is a `RuntimeError`; its message is in the worker's log and in the traceback.
#[task]
fn panic(message: String) {
    panic!("{message}");
}

/// Refuses its message.
#[task(acks_late)]
fn reject(reason: String, #[default(false)] requeue: bool) -> Result<(), TaskError> {
    Err(TaskError::reject(reason, requeue))
}

/// Ends without any result.
#[task]
fn ignore() -> Result<(), TaskError> {
    Err(TaskError::Ignore)
}

fn unreliable(ctx: &Context, failures: u32) -> Result<u32, TaskError> {
    let retries = ctx.request().retries;
    if retries < failures {
        return Err(TaskError::new(
            "ConnectionError",
            format!("no answer at try {}", retries + 1),
        ));
    }
    Ok(retries)
}

tasks![until, backoff, always, exhausted, fail, panic, reject, ignore];

#[cfg(test)]
mod tests {
    use super::*;
    use celerybox_guest::testing::TestContext;

    #[test]
    fn asks_for_a_retry_until_it_works() {
        let ctx = TestContext::new().with_retries(1);
        assert!(matches!(until(&ctx, 2, 0.5), Err(TaskError::Retry(_))));
        let asked = ctx.retry_asked().unwrap();
        assert_eq!(asked.countdown, Some(0.5));
        assert_eq!(asked.exc.unwrap().exc_args, r#"["no answer at try 2"]"#);
        let ctx = TestContext::new().with_retries(2);
        assert_eq!(until(&ctx, 2, 0.5).unwrap(), 2);
    }

    #[test]
    fn backs_off() {
        let declared = backoff::TASK.definition().autoretry.unwrap();
        assert_eq!(declared.retry_for, ["ConnectionError"]);
        assert_eq!(
            (declared.backoff, declared.backoff_max, declared.jitter),
            (Some(1), 5, false)
        );
        let ctx = TestContext::new().with_retries(19);
        let error = ctx.run(backoff::TASK, "[20]", "{}").unwrap_err();
        assert_eq!(error.to_string(), "ConnectionError: no answer at try 20");
        assert_eq!(ctx.run(backoff::TASK, "[19]", "{}").unwrap(), "19");
    }

    #[test]
    fn too_many_retries_end_it() {
        let last = || TestContext::new().with_retries(2);
        let error = last().run(always::TASK, "[]", "{}").unwrap_err();
        assert_eq!(error.to_string(), "ConnectionError: nobody answers");
        let error = last().run(exhausted::TASK, "[]", "{}").unwrap_err();
        let failure = error.failure().unwrap();
        assert_eq!(failure.exc_type(), "MaxRetriesExceededError");
    }

    #[test]
    fn the_other_endings() {
        let error = fail("KeyError".into(), "k".into()).unwrap_err();
        assert_eq!(error.failure().unwrap().module(), Some("builtins"));
        let refused = reject("not mine".into(), true).unwrap_err();
        assert!(matches!(refused, TaskError::Reject { requeue: true, .. }));
        assert!(matches!(ignore(), Err(TaskError::Ignore)));
    }
}
