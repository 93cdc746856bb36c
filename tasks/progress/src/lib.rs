//! A task that tells how far it is. In Python: `result.state == "PROGRESS"`, and `result.info` is the map.

use std::time::Duration;

use celerybox_guest::{Context, TaskError, log, task, tasks};
use serde::Serialize;

/// What clients see in `AsyncResult.info` while the task runs.
#[derive(Serialize)]
struct Progress {
    current: u32,
    total: u32,
}

/// Counts to `steps`, waits `seconds` in each and reports it as PROGRESS. At the soft time limit it fails.
#[task]
fn count(ctx: &Context, steps: u32, #[default(0.1)] seconds: f64) -> Result<u32, TaskError> {
    let step = Duration::try_from_secs_f64(seconds)?;
    for current in 1..=steps {
        ctx.sleep(step)?;
        let total = steps;
        ctx.update_state("PROGRESS", &Progress { current, total })?;
    }
    log::info(format!("counted to {steps}"));
    Ok(steps)
}

/// As `count`, but at the soft time limit it returns how far it came.
#[task]
fn count_some(ctx: &Context, steps: u32, #[default(0.1)] seconds: f64) -> Result<u32, TaskError> {
    let step = Duration::try_from_secs_f64(seconds)?;
    for done in 0..steps {
        match ctx.sleep(step) {
            Err(error) if error.is_soft_time_limit_exceeded() => return Ok(done),
            slept => slept?,
        }
    }
    Ok(steps)
}

tasks![count, count_some];

#[cfg(test)]
mod tests {
    use super::*;
    use celerybox_guest::testing::TestContext;

    #[test]
    fn reports_every_step() {
        let ctx = TestContext::new();
        assert_eq!(count(&ctx, 3, 0.5).unwrap(), 3);
        let states = ctx.states();
        assert_eq!(states.len(), 3);
        assert_eq!(states[1].0, "PROGRESS");
        assert_eq!(states[1].1, r#"{"current":2,"total":3}"#);
        assert_eq!(ctx.slept(), Duration::from_millis(1500));
    }

    #[test]
    fn the_soft_time_limit_ends_it() {
        let limited = || TestContext::new().with_soft_time_limit(Duration::from_secs(25));
        let error = count(&limited(), 100, 10.0).unwrap_err();
        assert!(error.is_soft_time_limit_exceeded());
        assert_eq!(count_some(&limited(), 100, 10.0).unwrap(), 2);
    }

    #[test]
    fn a_negative_time_is_an_error() {
        let error = count(&TestContext::new(), 1, -1.0).unwrap_err();
        assert_eq!(error.failure().unwrap().exc_type(), "TryFromFloatSecsError");
    }
}
