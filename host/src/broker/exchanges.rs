//! What is known of exchanges where no server knows it.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use super::BrokerError;
use crate::queue::{Exchange, ExchangeKind, Queue, Queues};

/// The types of exchanges, as far as queues of ours are bound to them. On transports that emulate exchanges, whoever
/// sends has to know the type, as in kombu.
#[derive(Debug, Default)]
pub(super) struct Exchanges(Mutex<HashMap<String, ExchangeKind>>);

impl Exchanges {
    /// What the settings say.
    pub(super) fn new(queues: Option<&Queues>) -> Self {
        let known = Self::default();
        known.add(queues.map_or(&[], Queues::all));
        known
    }

    /// Learns what queues are bound to. Headers exchanges are refused: `transport` does not have them.
    pub(super) fn learn(&self, transport: &str, queues: &[Queue]) -> Result<(), BrokerError> {
        for queue in queues {
            let mut bindings = queue.all_bindings();
            if bindings.any(|(exchange, ..)| exchange.kind == ExchangeKind::Headers) {
                return Err(BrokerError::Config(format!(
                    "queue {:?} is bound to a headers exchange, which {transport} does not have",
                    queue.name
                )));
            }
        }
        self.add(queues);
        Ok(())
    }

    /// Learns of an exchange that no queue of ours is bound to.
    pub(super) fn learn_exchange(&self, transport: &str, exchange: &Exchange) -> Result<(), BrokerError> {
        if exchange.kind == ExchangeKind::Headers {
            let name = &exchange.name;
            return Err(BrokerError::Config(format!(
                "{name:?} is a headers exchange, which {transport} does not have"
            )));
        }
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.insert(exchange.name.clone(), exchange.kind);
        Ok(())
    }

    /// Whether messages to this exchange go to all of its queues.
    pub(super) fn is_fanout(&self, exchange: &str) -> bool {
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.get(exchange) == Some(&ExchangeKind::Fanout)
    }

    fn add(&self, queues: &[Queue]) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let bound = queues.iter().flat_map(Queue::all_bindings);
        known.extend(bound.map(|(exchange, ..)| (exchange.name.clone(), exchange.kind)));
    }
}
