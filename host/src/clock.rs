//! Lamport's logical clock (contract sections 6.1 and 7.1): one for everything that a worker sends and hears.

use std::sync::atomic::{AtomicU64, Ordering};

/// Clocks of others are not believed beyond this, so that no sender can bring ours to its end.
pub const LATEST: u64 = 1 << 53;

/// The clock. It only goes forward.
#[derive(Debug, Default)]
pub struct Clock(AtomicU64);

impl Clock {
    /// What it shows.
    pub fn now(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    /// Goes one on, for something that is sent; what it shows then.
    pub fn forward(&self) -> u64 {
        self.0.fetch_add(1, Ordering::Relaxed).saturating_add(1)
    }

    /// Goes beyond the clock of a message that came; what it shows then.
    pub fn hear(&self, theirs: u64) -> u64 {
        let later = |own: u64| own.max(theirs.min(LATEST)).saturating_add(1);
        let before = self
            .0
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |own| Some(later(own)));
        // It always has a next value.
        before.map_or_else(|own| own, later)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_goes_forward_whatever_it_hears() {
        let clock = Clock::default();
        assert_eq!((clock.forward(), clock.now()), (1, 1));
        assert_eq!(clock.hear(41), 42);
        assert_eq!(clock.hear(7), 43);
        assert_eq!(clock.hear(u64::MAX), LATEST + 1);
        assert_eq!(clock.forward(), LATEST + 2);
    }
}
