//! Tasks that take long, and what time limits do to them.

use std::hint::black_box;
use std::time::Duration;

use celerybox_guest::{Context, TaskError, task, tasks};

/// Computes for ever. Only the hard time limit ends it; its neighbours do not notice.
#[task]
fn forever() {
    let mut round = 0_u64;
    loop {
        round = black_box(round.wrapping_add(1));
    }
}

/// Computes until the soft time limit and returns a value: how often it looked at the limit.
#[task]
fn until_soft_limit(ctx: &Context) -> u64 {
    let mut looks = 0;
    while !ctx.soft_time_limit_exceeded() {
        compute();
        looks += 1;
    }
    looks
}

/// Computes until the soft time limit and lets that be its failure.
#[task]
fn until_raised(ctx: &Context) -> Result<(), TaskError> {
    loop {
        compute();
        ctx.check_soft_time_limit()?;
    }
}

/// Sleeps so many seconds, but not past the soft time limit. A sleeping task holds no thread of the worker.
#[task]
fn sleep(ctx: &Context, seconds: f64) -> Result<f64, TaskError> {
    ctx.sleep(Duration::try_from_secs_f64(seconds)?)?;
    Ok(seconds)
}

/// Work for a moment, so that looking at the limit is a small part of it.
fn compute() {
    for round in 0..100_000_u32 {
        black_box(round);
    }
}

tasks![forever, until_soft_limit, until_raised, sleep];

#[cfg(test)]
mod tests {
    use super::*;
    use celerybox_guest::testing::TestContext;

    fn limited(milliseconds: u64) -> TestContext {
        TestContext::new().with_soft_time_limit(Duration::from_millis(milliseconds))
    }

    #[test]
    fn the_soft_time_limit_is_seen() {
        assert!(until_soft_limit(&limited(5)) > 0);
        let error = until_raised(&limited(5)).unwrap_err();
        assert_eq!(error.to_string(), "billiard.exceptions.SoftTimeLimitExceeded");
    }

    #[test]
    fn a_sleep_ends_at_the_soft_time_limit() {
        assert_eq!(sleep(&limited(60_000), 30.0).unwrap(), 30.0);
        let ctx = limited(60_000);
        let error = sleep(&ctx, 90.0).unwrap_err();
        assert!(error.is_soft_time_limit_exceeded());
        assert!(ctx.slept() <= Duration::from_secs(60));
        // It is raised once, as in Celery.
        assert_eq!(sleep(&ctx, 90.0).unwrap(), 90.0);
    }
}
