//! Elections among workers: who carries out an action (contract section 7.5). Bounded, as anybody may call one.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::message::JsonMap;

/// How many elections may be under way, and how many candidates one may have.
const MOST: (usize, usize) = (100, 1000);
/// The largest action, bytes, and all of them together.
const LARGEST: (usize, usize) = (64 << 10, 4 << 20);
/// The longest id, bytes of JSON.
const LONGEST_ID: usize = 256;

/// The elections that are under way.
#[derive(Debug, Default)]
pub struct Elections {
    /// By id; JSON text.
    running: BTreeMap<String, Election>,
    bytes: usize,
}

#[derive(Debug, Default)]
struct Election {
    candidates: Vec<Candidate>,
    /// How many have seen candidates; `None`: this worker did not call the election.
    acknowledged: Option<usize>,
}

/// The lowest wins.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Candidate {
    clock: u64,
    name: String,
    topic: String,
    /// JSON text.
    action: String,
}

/// Who won.
#[derive(Debug, PartialEq)]
pub struct Elected {
    /// Node name and process id.
    pub name: String,
    /// What kind of action.
    pub topic: String,
    /// The action, JSON text.
    pub action: String,
}

impl Elections {
    /// This worker calls an election; false when it is one that nobody would take part in, or there is no room.
    pub(super) fn call(&mut self, id: &Value, topic: &Value, action: &Value) -> bool {
        if topic.to_string().len() + action.to_string().len() > LARGEST.0 {
            return false;
        }
        let Some(election) = self.election(id) else {
            return false;
        };
        election.acknowledged = Some(0);
        true
    }

    /// A candidate of a `worker-elect` event; false when the event is none, or there is no room.
    pub fn stand(&mut self, event: &JsonMap) -> bool {
        let field = |name: &str| event.get(name);
        let (Some(id), Some(clock), Some(hostname), Some(pid), Some(topic), Some(action)) = (
            field("id"),
            field("clock").and_then(Value::as_u64),
            field("hostname").and_then(Value::as_str),
            field("pid"),
            field("topic").and_then(Value::as_str),
            field("action"),
        ) else {
            return false;
        };
        let candidate = Candidate {
            clock,
            name: format!("{hostname}.{pid}"),
            topic: topic.to_owned(),
            action: action.to_string(),
        };
        let bytes = candidate.bytes();
        if bytes > LARGEST.0 || self.bytes + bytes > LARGEST.1 {
            return false;
        }
        match self.election(id) {
            Some(election) if election.candidates.len() < MOST.1 => election.candidates.push(candidate),
            _ => return false,
        }
        self.bytes += bytes;
        true
    }

    /// A worker has seen a candidate. The winner, once all `alive` workers have.
    pub fn acknowledge(&mut self, id: &Value, alive: usize) -> Option<Elected> {
        let id = id.to_string();
        let acknowledged = self.running.get_mut(&id)?.acknowledged.as_mut()?;
        *acknowledged += 1;
        if *acknowledged < alive {
            return None;
        }
        let election = self.running.remove(&id)?;
        self.bytes -= election.bytes().min(self.bytes);
        let winner = election.candidates.into_iter().min()?;
        Some(Elected {
            name: winner.name,
            topic: winner.topic,
            action: winner.action,
        })
    }

    /// The election with this id. When there are too many, one that this worker did not call makes room.
    fn election(&mut self, id: &Value) -> Option<&mut Election> {
        let id = id.to_string();
        if id.len() > LONGEST_ID {
            return None;
        }
        if self.running.len() >= MOST.0 && !self.running.contains_key(&id) {
            let others = self.running.iter();
            let other = others
                .filter(|(_, other)| other.acknowledged.is_none())
                .map(|(id, _)| id.clone())
                .next()?;
            if let Some(other) = self.running.remove(&other) {
                self.bytes -= other.bytes().min(self.bytes);
            }
        }
        Some(self.running.entry(id).or_default())
    }
}

impl Election {
    fn bytes(&self) -> usize {
        self.candidates.iter().map(Candidate::bytes).sum()
    }
}

impl Candidate {
    fn bytes(&self) -> usize {
        self.name.len() + self.topic.len() + self.action.len()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn elect(id: &str, clock: u64, hostname: &str, action: &Value) -> JsonMap {
        let event = json!({"type": "worker-elect", "id": id, "clock": clock, "hostname": hostname, "pid": 7,
            "topic": "task", "action": action, "cver": 1});
        event.as_object().unwrap().clone()
    }

    #[test]
    fn the_lowest_clock_wins_once_all_have_seen_it() {
        let mut elections = Elections::default();
        assert!(elections.call(&json!("e1"), &json!("task"), &json!({})));
        for (clock, hostname) in [(9, "b@h"), (3, "c@h"), (3, "a@h")] {
            assert!(elections.stand(&elect("e1", clock, hostname, &json!({"task": hostname}))));
        }
        assert_eq!(elections.acknowledge(&json!("e1"), 2), None);
        let elected = elections.acknowledge(&json!("e1"), 2).unwrap();
        assert_eq!(elected.name, "a@h.7");
        assert_eq!(elected.action, r#"{"task":"a@h"}"#);
        assert_eq!(elections.acknowledge(&json!("e1"), 1), None, "it is over");
        assert_eq!(elections.bytes, 0);
    }

    #[test]
    fn what_others_say_has_bounds_and_only_a_called_election_ends() {
        let mut elections = Elections::default();
        assert!(!elections.stand(&JsonMap::new()));
        for number in 0..10_000 {
            elections.stand(&elect(&number.to_string(), 1, "a@h", &json!(1)));
        }
        assert_eq!(elections.running.len(), MOST.0);
        assert_eq!(elections.acknowledge(&json!("9999"), 1), None);
        let large = json!("x".repeat(LARGEST.0 / 2));
        let taken = (0..1000)
            .filter(|_| elections.stand(&elect("e", 1, "a@h", &large)))
            .count();
        assert!(taken > 10 && elections.bytes <= LARGEST.1, "{taken}");
        assert!(!elections.stand(&elect("e", 1, "a@h", &json!("x".repeat(LARGEST.0)))));
        let long = |length| json!("x".repeat(length));
        assert!(!elections.call(&long(LONGEST_ID), &json!("task"), &json!({})));
        assert!(!elections.call(&json!("e"), &json!("task"), &long(LARGEST.0)));
        let called = (0..MOST.0 + 1).filter(|n| elections.call(&json!(n), &json!("task"), &json!({})));
        assert_eq!(called.count(), MOST.0, "nobody's own election makes room");
        assert_eq!(elections.running.len(), MOST.0);
    }
}
