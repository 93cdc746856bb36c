//! Kombu's transport options for Redis (contract section 2.2.6).

use std::time::Duration;

use serde::{Deserialize, Deserializer};

use crate::broker::Reconnect;
use crate::queue::Queues;
use crate::redis_url::Connecting;

/// `broker_transport_options` for Redis, under kombu's names and with kombu's defaults, and the settings that go
/// with them.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Options {
    /// How long a message may be unacknowledged before somebody else gets it. Seconds. A worker of ours that still
    /// has the message keeps it for itself.
    #[serde(deserialize_with = "seconds")]
    pub visibility_timeout: Duration,
    /// The priorities that have a list of their own, ascending.
    pub priority_steps: Vec<u8>,
    /// Between the parts of a list name or binding.
    pub sep: String,
    /// In front of every key.
    pub global_keyprefix: String,
    /// In which order queues are served.
    pub queue_order_strategy: QueueOrder,
    /// The hash of messages that were taken and not acknowledged.
    pub unacked_key: String,
    /// The sorted set of when they were taken.
    pub unacked_index_key: String,
    /// The lock around the search for messages that were taken too long ago.
    pub unacked_mutex_key: String,
    /// When that lock ends by itself. Seconds.
    #[serde(deserialize_with = "seconds")]
    pub unacked_mutex_expire: Duration,
    /// How often to count towards a search. Seconds.
    #[serde(deserialize_with = "seconds")]
    pub unacked_restore_interval: Duration,
    /// How many counts make a search.
    pub unacked_restore_throttle: u32,
    /// How many messages one search gives back at most; `None`: all.
    pub unacked_restore_limit: Option<usize>,
    /// In front of the channels of fanout exchanges; `{db}` stands for the database. True is kombu's own, false none.
    #[serde(deserialize_with = "fanout_prefix")]
    pub fanout_prefix: String,
    /// Channels of fanout exchanges end in the routing key.
    pub fanout_patterns: bool,
    /// Where messages go that no queue is bound for; without one they are dropped.
    pub deadletter_queue: Option<String>,
    /// How to connect.
    #[serde(skip)]
    pub connecting: Connecting,
    /// `broker_connection_retry` and its relatives.
    #[serde(skip)]
    pub reconnect: Reconnect,
    /// Every queue of the settings: the types of their exchanges are known.
    #[serde(skip)]
    pub queues: Option<Queues>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            visibility_timeout: Duration::from_secs(3600),
            priority_steps: vec![0, 3, 6, 9],
            sep: "\x06\x16".into(),
            global_keyprefix: String::new(),
            queue_order_strategy: QueueOrder::RoundRobin,
            unacked_key: "unacked".into(),
            unacked_index_key: "unacked_index".into(),
            unacked_mutex_key: "unacked_mutex".into(),
            unacked_mutex_expire: Duration::from_secs(300),
            unacked_restore_interval: Duration::from_secs(10),
            unacked_restore_throttle: 10,
            unacked_restore_limit: None,
            fanout_prefix: FANOUT_PREFIX.into(),
            fanout_patterns: true,
            deadletter_queue: None,
            connecting: Connecting::default(),
            reconnect: Reconnect::default(),
            queues: None,
        }
    }
}

/// In which order queues are served.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum QueueOrder {
    /// Each in its turn.
    RoundRobin,
    /// By name; a queue is served when those before it are empty.
    Sorted,
    /// As they were named; a queue is served when those before it are empty.
    Priority,
}

/// kombu's prefix of fanout channels.
const FANOUT_PREFIX: &str = "/{db}.";

impl Options {
    /// What makes no sense, as a sentence.
    pub(super) fn problem(&self) -> Option<String> {
        if self.visibility_timeout.is_zero() {
            return Some("visibility_timeout must be longer than 0".into());
        }
        let ascending = self.priority_steps.is_sorted_by(|a, b| a < b);
        if self.priority_steps.is_empty() || !ascending || self.priority_steps.iter().any(|step| *step > 9) {
            return Some("priority_steps are numbers from 0 to 9, ascending, at least one".into());
        }
        if self.sep.is_empty() {
            return Some("sep must not be empty".into());
        }
        None
    }

    /// How often to look for messages that were taken too long ago: kombu's pace, but at least a few times per
    /// visibility timeout.
    pub(super) fn sweep_period(&self) -> Duration {
        let kombu = self.unacked_restore_interval * self.unacked_restore_throttle.max(1);
        kombu
            .min(self.visibility_timeout / 4)
            .max(Duration::from_millis(50))
    }

    /// How long the lock of a sweep holds when its owner dies: not so long that it delays what is overdue much more.
    /// It saves work; that a message is restored once does not depend on it.
    pub(super) fn lock_time(&self) -> Duration {
        self.unacked_mutex_expire
            .min(self.visibility_timeout / 4)
            .max(Duration::from_secs(1))
    }

    /// How often to renew the claim on the messages this worker has.
    pub(super) fn refresh_period(&self) -> Duration {
        (self.visibility_timeout / 4).max(Duration::from_millis(50))
    }
}

fn fanout_prefix<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Prefix {
        Wanted(bool),
        Text(String),
    }
    Ok(match Prefix::deserialize(deserializer)? {
        Prefix::Wanted(true) => FANOUT_PREFIX.into(),
        Prefix::Wanted(false) => String::new(),
        Prefix::Text(text) => text,
    })
}

fn seconds<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    let seconds = f64::deserialize(deserializer)?;
    // A century is for ever, and no sum with it overflows.
    Duration::try_from_secs_f64(seconds.min(3.2e9)).map_err(serde::de::Error::custom)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sweep_keeps_kombus_pace_and_is_quick_enough_for_a_short_timeout() {
        let mut options = Options::default();
        assert_eq!(options.sweep_period(), Duration::from_secs(100));
        assert_eq!(options.refresh_period(), Duration::from_secs(900));
        options.visibility_timeout = Duration::from_secs(1);
        assert_eq!(options.sweep_period(), Duration::from_millis(250));
        assert_eq!(options.refresh_period(), Duration::from_millis(250));
    }

    #[test]
    fn options_without_sense_are_named() {
        let problem = |change: fn(&mut Options)| {
            let mut options = Options::default();
            change(&mut options);
            options.problem()
        };
        assert_eq!(problem(|_| {}), None);
        assert!(problem(|o| o.priority_steps = vec![]).is_some());
        assert!(problem(|o| o.priority_steps = vec![3, 0]).is_some());
        assert!(problem(|o| o.priority_steps = vec![0, 10]).is_some());
        assert!(problem(|o| o.sep = String::new()).is_some());
        assert!(problem(|o| o.visibility_timeout = Duration::ZERO).is_some());
    }
}
