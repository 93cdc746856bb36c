//! How long to wait before the next attempt to connect.

use std::time::Duration;

/// Celery's pauses between connection attempts: 2, 4, 6 … 32 seconds (contract section 3.13), but starting with two
/// quick ones, so that a broker that restarts is not missed for long.
#[derive(Debug, Default)]
pub struct Backoff {
    attempt: u32,
}

impl Backoff {
    /// The next pause.
    pub fn next_pause(&mut self) -> Duration {
        let pause = match self.attempt {
            0 => Duration::from_millis(100),
            1 => Duration::from_millis(500),
            n => Duration::from_secs(u64::from(2 * (n - 1)).min(32)),
        };
        self.attempt = self.attempt.saturating_add(1).min(64);
        pause
    }

    /// Starts again from the shortest pause: a connection stands.
    pub fn reset(&mut self) {
        self.attempt = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_32_seconds_and_start_again_after_a_connection() {
        let mut backoff = Backoff::default();
        let pauses: Vec<u64> = (0..40).map(|_| backoff.next_pause().as_millis() as u64).collect();
        assert_eq!(pauses[..5], [100, 500, 2000, 4000, 6000]);
        assert_eq!(*pauses.last().unwrap(), 32_000);
        backoff.reset();
        assert_eq!(backoff.next_pause(), Duration::from_millis(100));
    }
}
