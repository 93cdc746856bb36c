//! Several servers that stand in for each other, and how long to try them (contract section 3.13).

use serde::Deserialize;
use uuid::Uuid;

/// `broker_failover_strategy`: in which order the servers are tried after a lost connection.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Strategy {
    /// As they are named.
    #[default]
    RoundRobin,
    /// In a new random order each time.
    Shuffle,
}

impl Strategy {
    /// The servers in the order of one round of attempts.
    pub(crate) fn order<T>(self, servers: &[T]) -> Vec<&T> {
        let mut order: Vec<&T> = servers.iter().collect();
        if self == Self::Shuffle {
            order.sort_by_cached_key(|_| Uuid::new_v4());
        }
        order
    }
}

/// Whether to try again when no server answers: `broker_connection_retry` and its relatives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reconnect {
    /// `broker_connection_retry_on_startup`: when the first connection fails.
    pub on_startup: bool,
    /// `broker_connection_retry`: when a connection was lost.
    pub after_loss: bool,
    /// `broker_connection_max_retries`: rounds of attempts after the first; `None`: for ever.
    pub max_retries: Option<u32>,
}

/// Celery's defaults.
impl Default for Reconnect {
    fn default() -> Self {
        Self {
            on_startup: true,
            after_loss: true,
            max_retries: Some(100),
        }
    }
}

impl Reconnect {
    /// Whether there is another round after so many that failed in a row.
    pub(crate) fn allows(self, starting: bool, failed: u32) -> bool {
        let wanted = if starting {
            self.on_startup
        } else {
            self.after_loss
        };
        wanted && self.max_retries.is_none_or(|most| failed <= most)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_order_is_the_named_one_or_a_random_one() {
        let servers: Vec<u32> = (0..50).collect();
        let named: Vec<u32> = Strategy::RoundRobin
            .order(&servers)
            .into_iter()
            .copied()
            .collect();
        assert_eq!(named, servers);
        let mut random: Vec<u32> = Strategy::Shuffle.order(&servers).into_iter().copied().collect();
        assert_ne!(random, servers);
        random.sort_unstable();
        assert_eq!(random, servers);
    }

    #[test]
    fn attempts_end_where_the_settings_say() {
        let rules = Reconnect {
            on_startup: false,
            after_loss: true,
            max_retries: Some(2),
        };
        assert!(!rules.allows(true, 1));
        assert!(rules.allows(false, 1) && rules.allows(false, 2));
        assert!(!rules.allows(false, 3));
        let endless = Reconnect {
            max_retries: None,
            ..rules
        };
        assert!(endless.allows(false, 1_000_000));
    }
}
