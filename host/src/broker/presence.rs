//! Whether a broker is connected, and how often it had to connect again: for those who watch a worker.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// The connection that messages are taken over, as last known. Clones show the same one.
#[derive(Debug, Clone, Default)]
pub struct Presence(Arc<State>);

#[derive(Debug, Default)]
struct State {
    up: AtomicBool,
    connections: AtomicU64,
}

impl Presence {
    /// It stands. Saying it again changes nothing.
    pub fn came(&self) {
        if !self.0.up.swap(true, Ordering::Relaxed) {
            self.0.connections.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// It is gone, or was closed.
    pub fn went(&self) {
        self.0.up.store(false, Ordering::Relaxed);
    }

    /// Whether it stands.
    pub fn is_up(&self) -> bool {
        self.0.up.load(Ordering::Relaxed)
    }

    /// How often it was made again after it was gone.
    pub fn reconnects(&self) -> u64 {
        self.0.connections.load(Ordering::Relaxed).saturating_sub(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_connection_after_another_is_a_reconnect() {
        let presence = Presence::default();
        assert!(!presence.is_up());
        presence.went();
        presence.came();
        presence.came();
        assert_eq!((presence.is_up(), presence.reconnects()), (true, 0));
        presence.went();
        assert!(!presence.is_up());
        presence.clone().came();
        assert_eq!((presence.is_up(), presence.reconnects()), (true, 1));
    }
}
