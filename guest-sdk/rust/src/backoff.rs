//! Automatic retries: which errors, and how long to wait.

use std::hash::{BuildHasher, RandomState};

use crate::context::Context;
use crate::error::TaskError;

/// Celery's `autoretry_for` and `retry_backoff`, as `#[task]` writes them down.
#[derive(Debug, Clone, Copy)]
pub struct Autoretry {
    /// The errors that are tried again, by their type's name; none means all of them.
    pub retry_for: Option<&'static [&'static str]>,
    /// The errors that are not, by their type's name.
    pub except_for: &'static [&'static str],
    /// Exponential waiting; without it the task's `default_retry_delay` counts.
    pub backoff: Option<Backoff>,
}

/// Celery's `retry_backoff`: the wait doubles with every retry.
#[derive(Debug, Clone, Copy)]
pub struct Backoff {
    /// `retry_backoff`: the first wait in seconds, at least 1.
    pub factor: u32,
    /// `retry_backoff_max`: the longest wait in seconds.
    pub maximum: u32,
    /// `retry_jitter`: wait a random whole number of seconds up to that time instead.
    pub jitter: bool,
}

impl Autoretry {
    /// Whether an error of this type is tried again.
    pub(crate) fn covers(&self, exc_type: &str) -> bool {
        !self.except_for.contains(&exc_type) && self.retry_for.is_none_or(|types| types.contains(&exc_type))
    }
}

impl Backoff {
    /// Seconds to wait before the next try, after so many retries: `min(maximum, factor × 2^retries)`, and with jitter
    /// a random whole number from 0 to that, both included (contract 3.6).
    pub(crate) fn countdown(&self, retries: u32, random: impl FnOnce() -> u64) -> u32 {
        let doubled = 2_u32.saturating_pow(retries);
        let longest = self.factor.max(1).saturating_mul(doubled).min(self.maximum);
        if !self.jitter {
            return longest;
        }
        // The remainder is below 2^32, so it is a u32.
        (random() % (u64::from(longest) + 1)) as u32
    }
}

/// How a task with `autoretry` ends when its function returned this error: an error that is covered asks for another
/// try, everything else stays as it is. Tasks without that option do not link this, nor the random numbers it needs.
pub fn autoretry(context: &Context, autoretry: &Autoretry, error: TaskError) -> TaskError {
    let failure = match error {
        TaskError::Failure(failure) if autoretry.covers(failure.exc_type()) => failure,
        other => return other,
    };
    let retry = context.retry().exc(failure);
    match autoretry.backoff {
        Some(backoff) => {
            let wait = backoff.countdown(context.request().retries, random);
            retry.countdown(f64::from(wait)).raise()
        }
        None => retry.raise(),
    }
}

/// A random number. Good enough to spread retries, not for secrets.
pub(crate) fn random() -> u64 {
    RandomState::new().hash_one(0_u8)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAIN: Backoff = Backoff {
        factor: 3,
        maximum: 600,
        jitter: false,
    };

    #[test]
    fn doubles_up_to_the_maximum() {
        let waits: Vec<u32> = (0..10)
            .map(|retries| PLAIN.countdown(retries, || unreachable!()))
            .collect();
        assert_eq!(waits, [3, 6, 12, 24, 48, 96, 192, 384, 600, 600]);
        assert_eq!(PLAIN.countdown(u32::MAX, || unreachable!()), 600);
    }

    #[test]
    fn a_factor_below_one_counts_as_one() {
        let backoff = Backoff { factor: 0, ..PLAIN };
        assert_eq!(backoff.countdown(2, || unreachable!()), 4);
    }

    #[test]
    fn jitter_stays_between_zero_and_the_wait() {
        let backoff = Backoff {
            jitter: true,
            ..PLAIN
        };
        assert_eq!(backoff.countdown(1, || 6), 6);
        assert_eq!(backoff.countdown(1, || 7), 0);
        assert_eq!(backoff.countdown(1, || 13), 6);
        let longest = Backoff {
            factor: u32::MAX,
            maximum: u32::MAX,
            jitter: true,
        };
        assert_eq!(longest.countdown(0, || u64::from(u32::MAX)), u32::MAX);
    }

    #[test]
    fn random_numbers_differ() {
        let first = random();
        assert!((0..8).any(|_| random() != first));
    }

    #[test]
    fn covers_the_named_types_without_the_excepted() {
        let all = Autoretry {
            retry_for: None,
            except_for: &["KeyError"],
            backoff: None,
        };
        assert!(all.covers("OSError"));
        assert!(!all.covers("KeyError"));
        let some = Autoretry {
            retry_for: Some(&["OSError", "KeyError"]),
            ..all
        };
        assert!(some.covers("OSError"));
        assert!(!some.covers("KeyError"));
        assert!(!some.covers("ValueError"));
    }
}
