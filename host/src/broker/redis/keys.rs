//! Kombu's names: which key holds what (contract sections 2.2.2 and 2.2.3).

use std::sync::Arc;

use serde_json::Value;

use super::Options;
use super::expiry::Expiring;
use crate::broker::Bound;
use crate::queue::{ExchangeKind, topic};

/// The names of everything in the database.
#[derive(Debug, Clone)]
pub(super) struct Keys {
    prefix: String,
    sep: String,
    steps: Vec<u8>,
    /// In front of the channels of fanout exchanges, behind `prefix`.
    fanout: String,
    fanout_patterns: bool,
    /// Where messages go that no queue is bound for.
    pub(super) deadletter_queue: Option<String>,
    /// The queues that expire.
    pub(super) expiring: Arc<Expiring>,
    /// Hash: messages that were taken and not acknowledged.
    pub(super) unacked: String,
    /// Sorted set: when they were taken.
    pub(super) unacked_index: String,
    /// Lock of the sweep.
    pub(super) unacked_mutex: String,
}

/// One list of a queue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct QueueList {
    /// The queue.
    pub(super) queue: String,
    /// The key.
    pub(super) key: String,
    /// What closes an entry of [`Keys::unacked`] after the envelope: `, "", "queue"]`. The default exchange and the
    /// queue's own name lead back to the queue the message came from, whatever it was published to.
    pub(super) entry_end: String,
}

impl Keys {
    pub(super) fn new(options: &Options, db: i64) -> Self {
        let prefixed = |key: &str| format!("{}{key}", options.global_keyprefix);
        Self {
            unacked: prefixed(&options.unacked_key),
            unacked_index: prefixed(&options.unacked_index_key),
            unacked_mutex: prefixed(&options.unacked_mutex_key),
            prefix: options.global_keyprefix.clone(),
            sep: options.sep.clone(),
            steps: options.priority_steps.clone(),
            fanout: options.fanout_prefix.replace("{db}", &db.to_string()),
            fanout_patterns: options.fanout_patterns,
            deadletter_queue: options.deadletter_queue.clone(),
            expiring: Arc::new(Expiring::new(options.queues.as_ref())),
        }
    }

    /// The list a message of this priority goes to: that of the largest step that is not above it.
    pub(super) fn list(&self, queue: &str, priority: u8) -> String {
        let priority = priority.min(9);
        let step = self.steps.iter().rev().find(|step| **step <= priority);
        // Python's index -1: below the first step is the last one.
        self.step_list(queue, step.or(self.steps.last()).copied().unwrap_or(0))
    }

    fn step_list(&self, queue: &str, step: u8) -> String {
        match step {
            0 => format!("{}{queue}", self.prefix),
            step => format!("{}{queue}{}{step}", self.prefix, self.sep),
        }
    }

    /// All lists of the queues in the order in which they are served: by step, then by queue.
    pub(super) fn lists(&self, queues: &[String]) -> Vec<QueueList> {
        let in_step = |step: u8| {
            queues.iter().map(move |queue| QueueList {
                queue: queue.clone(),
                key: self.step_list(queue, step),
                entry_end: format!(", \"\", {}]", Value::from(queue.as_str())),
            })
        };
        self.steps.iter().flat_map(|step| in_step(*step)).collect()
    }

    /// Renews the lists of a queue that expires. Returns how many commands that takes.
    pub(super) fn renew(&self, pipeline: &mut redis::Pipeline, queue: &str) -> usize {
        let Some(after) = self.expiring.after(queue) else {
            return 0;
        };
        for step in &self.steps {
            pipeline
                .cmd("PEXPIRE")
                .arg(self.step_list(queue, *step))
                .arg(after);
        }
        self.steps.len()
    }

    /// The set of an exchange's bindings.
    pub(super) fn bindings(&self, exchange: &str) -> String {
        format!("{}_kombu.binding.{exchange}", self.prefix)
    }

    /// The set of those bindings that do not expire.
    pub(super) fn permanent_bindings(&self, exchange: &str) -> String {
        format!("{}_kombu.binding_permanent.{exchange}", self.prefix)
    }

    /// Sorted set: until when the bindings of an exchange hold whose queues all expire.
    pub(super) fn binding_deadlines(&self) -> String {
        format!("{}_kombu.binding_deadlines", self.prefix)
    }

    /// The member that binds a queue to an exchange.
    pub(super) fn binding(&self, kind: ExchangeKind, routing_key: &str, queue: &str) -> String {
        let sep = &self.sep;
        let pattern = match kind {
            ExchangeKind::Topic => topic::pattern(routing_key),
            _ => String::new(),
        };
        format!("{routing_key}{sep}{pattern}{sep}{queue}")
    }

    /// The queue and the routing key of a member of an exchange's binding set.
    pub(super) fn bound(&self, member: &str) -> Option<Bound> {
        let mut parts = member.split(self.sep.as_str());
        let (routing_key, _, queue) = (parts.next()?, parts.next()?, parts.next()?);
        Some(Bound {
            queue: queue.to_owned(),
            routing_key: routing_key.to_owned(),
        })
    }

    /// The channel of a fanout exchange for one routing key: what is published there, and with `*` for `#` what is
    /// subscribed to (contract section 2.2.5).
    pub(super) fn channel(&self, exchange: &str, routing_key: &str) -> String {
        let (prefix, fanout) = (&self.prefix, &self.fanout);
        match routing_key {
            key if self.fanout_patterns && !key.is_empty() => format!("{prefix}{fanout}{exchange}/{key}"),
            _ => format!("{prefix}{fanout}{exchange}"),
        }
    }

    /// The queues that a routing key leads to, by the members of an exchange's binding set. A member with a pattern
    /// belongs to a topic exchange.
    pub(super) fn bound_queues(&self, members: &[String], routing_key: &str) -> Vec<String> {
        let mut queues: Vec<String> = Vec::new();
        for member in members {
            let mut parts = member.split(self.sep.as_str());
            let (Some(bound), Some(pattern), Some(queue)) = (parts.next(), parts.next(), parts.next()) else {
                continue;
            };
            let matches = match pattern {
                "" => bound == routing_key,
                _ => topic::matches(bound, routing_key),
            };
            if matches && !queue.is_empty() && !queues.iter().any(|known| known == queue) {
                queues.push(queue.to_owned());
            }
        }
        queues
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys() -> Keys {
        Keys::new(&Options::default(), 0)
    }

    #[test]
    fn the_step_is_the_largest_one_that_is_not_above_the_priority() {
        let lists: Vec<String> = (0..=11).map(|priority| keys().list("q", priority)).collect();
        let step = |n: u8| format!("q\x06\x16{n}");
        let expected: Vec<String> = [0, 0, 0, 3, 3, 3, 6, 6, 6, 9, 9, 9]
            .map(|n| if n == 0 { "q".to_owned() } else { step(n) })
            .into();
        assert_eq!(lists, expected);
    }

    #[test]
    fn lists_are_served_by_step_and_then_by_queue() {
        let options = Options {
            priority_steps: vec![0, 5],
            global_keyprefix: "app:".into(),
            ..Options::default()
        };
        let lists = Keys::new(&options, 0).lists(&["a".into(), "b\"".into()]);
        let names: Vec<&str> = lists.iter().map(|list| list.key.as_str()).collect();
        assert_eq!(names, ["app:a", "app:b\"", "app:a\x06\x165", "app:b\"\x06\x165"]);
        assert_eq!(lists[1].entry_end, r#", "", "b\""]"#);
    }

    #[test]
    fn every_key_has_the_prefix() {
        let options = Options {
            global_keyprefix: "p_".into(),
            ..Options::default()
        };
        let keys = Keys::new(&options, 0);
        for key in [
            &keys.unacked,
            &keys.unacked_index,
            &keys.unacked_mutex,
            &keys.bindings("x"),
            &keys.permanent_bindings("x"),
            &keys.list("q", 9),
        ] {
            assert!(key.starts_with("p_"), "{key}");
        }
        let direct = keys.binding(ExchangeKind::Direct, "celery", "celery");
        assert_eq!(direct, "celery\x06\x16\x06\x16celery");
        let topic = keys.binding(ExchangeKind::Topic, "t.#", "q");
        assert_eq!(topic, "t.#\x06\x16^t\\..*?$\x06\x16q");
    }

    #[test]
    fn channels_are_kombus() {
        let channel = |change: fn(&mut Options), key: &str| {
            let mut options = Options::default();
            change(&mut options);
            Keys::new(&options, 7).channel("celeryev", key)
        };
        assert_eq!(channel(|_| {}, ""), "/7.celeryev");
        assert_eq!(channel(|_| {}, "worker.*"), "/7.celeryev/worker.*");
        assert_eq!(channel(|o| o.fanout_patterns = false, "k"), "/7.celeryev");
        assert_eq!(channel(|o| o.fanout_prefix = String::new(), "k"), "celeryev/k");
        assert_eq!(channel(|o| o.global_keyprefix = "p:".into(), ""), "p:/7.celeryev");
    }

    #[test]
    fn bindings_lead_to_their_queues() {
        let members: Vec<String> = [
            "a\x06\x16\x06\x16one",
            "a\x06\x16\x06\x16two",
            "b\x06\x16\x06\x16three",
            "t.#\x06\x16^t\\..*?$\x06\x16four",
            "garbage",
        ]
        .map(str::to_owned)
        .into();
        assert_eq!(keys().bound_queues(&members, "a"), ["one", "two"]);
        assert_eq!(keys().bound_queues(&members, "t.x.y"), ["four"]);
        assert!(keys().bound_queues(&members, "c").is_empty());
    }
}
