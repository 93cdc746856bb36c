//! How often a message that could not be sent is tried again.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// `task_publish_retry_policy`: how often a message that cannot be sent is tried again, and after which pauses.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RetryPolicy {
    /// Attempts after the first; `None`: for ever.
    pub max_retries: Option<u32>,
    /// Seconds before the first of them.
    pub interval_start: f64,
    /// Seconds that each pause is longer than the one before.
    pub interval_step: f64,
    /// Seconds that no pause is longer than.
    pub interval_max: f64,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self {
            max_retries: Some(3),
            interval_start: 0.0,
            interval_step: 0.2,
            interval_max: 1.0,
        }
    }
}

impl RetryPolicy {
    /// The pause before attempt `n` after the first (counted from 0); `None` when there are no more.
    pub fn pause(&self, n: u32) -> Option<Duration> {
        if self.max_retries.is_some_and(|most| n >= most) {
            return None;
        }
        let seconds = (self.interval_start + self.interval_step * f64::from(n)).min(self.interval_max);
        Some(Duration::try_from_secs_f64(seconds).unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn celerys_default_is_three_more_attempts_with_growing_pauses() {
        let policy = RetryPolicy::default();
        let pauses: Vec<u128> = (0..)
            .map_while(|n| policy.pause(n))
            .map(|p| p.as_millis())
            .collect();
        assert_eq!(pauses, [0, 200, 400]);
        let endless = RetryPolicy {
            max_retries: None,
            ..policy
        };
        assert_eq!(endless.pause(1_000_000), Some(Duration::from_secs(1)));
    }
}
