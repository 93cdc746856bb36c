//! Kombu's names: which key holds what (contract sections 2.2.2 and 2.2.3).

use serde_json::Value;

use super::Options;

/// The names of everything in the database.
#[derive(Debug, Clone)]
pub(super) struct Keys {
    prefix: String,
    sep: String,
    steps: Vec<u8>,
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
    /// The key.
    pub(super) key: String,
    /// What closes an entry of [`Keys::unacked`] after the envelope: `, "", "queue"]`. The default exchange and the
    /// queue's own name lead back to the queue the message came from, whatever it was published to.
    pub(super) entry_end: String,
}

impl Keys {
    pub(super) fn new(options: &Options) -> Self {
        let prefixed = |key: &str| format!("{}{key}", options.global_keyprefix);
        Self {
            unacked: prefixed(&options.unacked_key),
            unacked_index: prefixed(&options.unacked_index_key),
            unacked_mutex: prefixed(&options.unacked_mutex_key),
            prefix: options.global_keyprefix.clone(),
            sep: options.sep.clone(),
            steps: options.priority_steps.clone(),
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
                key: self.step_list(queue, step),
                entry_end: format!(", \"\", {}]", Value::from(queue.as_str())),
            })
        };
        self.steps.iter().flat_map(|step| in_step(*step)).collect()
    }

    /// The set of an exchange's bindings.
    pub(super) fn bindings(&self, exchange: &str) -> String {
        format!("{}_kombu.binding.{exchange}", self.prefix)
    }

    /// The set of those bindings that do not expire.
    pub(super) fn permanent_bindings(&self, exchange: &str) -> String {
        format!("{}_kombu.binding_permanent.{exchange}", self.prefix)
    }

    /// The member that binds a queue to a direct exchange.
    pub(super) fn binding(&self, routing_key: &str, queue: &str) -> String {
        format!("{routing_key}{sep}{sep}{queue}", sep = self.sep)
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
                _ => topic_matches(bound, routing_key),
            };
            if matches && !queue.is_empty() && !queues.iter().any(|known| known == queue) {
                queues.push(queue.to_owned());
            }
        }
        queues
    }
}

/// The priority in an envelope's `properties`, as Python reads it.
pub(super) fn priority_of(value: Option<&Value>) -> u8 {
    let number = match value {
        Some(Value::Number(number)) => number.as_f64().map(|n| n as i64),
        Some(Value::String(text)) => text.trim().parse().ok(),
        _ => None,
    };
    u8::try_from(number.unwrap_or(0).clamp(0, 9)).unwrap_or(0)
}

/// Whether a routing key matches a topic binding as kombu's patterns do: `*` is one word that is not empty, `#` is
/// one word or more.
fn topic_matches(binding: &str, routing_key: &str) -> bool {
    // Column by column: which of the binding's beginnings match the key's words so far.
    let pattern: Vec<&str> = binding.split('.').collect();
    let mut reached = vec![false; pattern.len() + 1];
    if let Some(start) = reached.first_mut() {
        *start = true;
    }
    for word in routing_key.split('.') {
        let mut next = vec![false; reached.len()];
        for ((part, here), (before, after)) in pattern
            .iter()
            .zip(next.iter_mut().skip(1))
            .zip(reached.iter().zip(reached.iter().skip(1)))
        {
            *here = match *part {
                "#" => *before || *after,
                "*" => *before && !word.is_empty(),
                literal => *before && literal == word,
            };
        }
        reached = next;
    }
    reached.last() == Some(&true)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys() -> Keys {
        Keys::new(&Options::default())
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
        let lists = Keys::new(&options).lists(&["a".into(), "b\"".into()]);
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
        let keys = Keys::new(&options);
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
        assert_eq!(keys.binding("celery", "celery"), "celery\x06\x16\x06\x16celery");
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

    #[test]
    fn topics_match_as_in_kombu() {
        for (binding, key, matches) in [
            ("a.b", "a.b", true),
            ("a.b", "a.c", false),
            ("a.*", "a.b", true),
            ("a.*", "a.", false),
            ("a.*", "a.b.c", false),
            ("a.#", "a.b.c", true),
            ("a.#", "a", false),
            ("#", "anything.at.all", true),
            ("#.c", "a.b.c", true),
            ("*.b.#", "a.b.x", true),
            ("#.#.z", "a.b.c.d.e.f.g", false),
        ] {
            assert_eq!(topic_matches(binding, key), matches, "{binding} {key}");
        }
    }

    #[test]
    fn priorities_are_read_as_python_reads_them() {
        for (json, priority) in [
            ("3", 3),
            ("\"7\"", 7),
            ("12", 9),
            ("-4", 0),
            ("6.9", 6),
            ("null", 0),
            ("[]", 0),
        ] {
            let value: Value = serde_json::from_str(json).unwrap();
            assert_eq!(priority_of(Some(&value)), priority, "{json}");
        }
        assert_eq!(priority_of(None), 0);
    }
}
