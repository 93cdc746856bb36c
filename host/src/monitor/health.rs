//! Whether a worker can take tasks, and why not.

use crate::broker::Presence;
use crate::shutdown::{Shutdown, Stage};

/// What readiness is made of.
#[derive(Debug, Clone)]
pub struct Health {
    /// The broker that tasks come from.
    pub broker: Presence,
    /// The result backend, if there is one.
    pub backend: Option<Presence>,
    /// Whether the worker is stopping.
    pub shutdown: Shutdown,
}

impl Health {
    /// Why the worker is not ready; empty when it is.
    pub fn reasons(&self) -> Vec<&'static str> {
        let stopping = self.shutdown.stage() >= Stage::Warm;
        let backend_gone = self.backend.as_ref().is_some_and(|backend| !backend.is_up());
        [
            (stopping, "the worker is stopping"),
            (!self.broker.is_up(), "the broker is not connected"),
            (backend_gone, "the result backend did not answer"),
        ]
        .into_iter()
        .filter_map(|(wrong, reason)| wrong.then_some(reason))
        .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_worker_is_ready_while_nothing_is_in_its_way() {
        let health = Health {
            broker: Presence::default(),
            backend: Some(Presence::default()),
            shutdown: Shutdown::default(),
        };
        assert_eq!(health.reasons().len(), 2);
        health.broker.came();
        assert_eq!(health.reasons(), ["the result backend did not answer"]);
        health.backend.as_ref().unwrap().came();
        assert!(health.reasons().is_empty());
        health.shutdown.advance(Stage::Warm);
        assert_eq!(health.reasons(), ["the worker is stopping"]);
        let without = Health {
            backend: None,
            ..health
        };
        without.broker.went();
        assert_eq!(without.reasons().len(), 2);
    }
}
