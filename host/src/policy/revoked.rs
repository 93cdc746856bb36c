//! What was revoked: ids and stamps (contract section 3.8).

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::limited_set::LimitedSet;
use crate::message::Request;

/// The most names of stamps, and values of each, that are kept.
const MOST_STAMPS: usize = 1000;
/// The longest name or value, and all of them together, bytes.
const LARGEST: (usize, usize) = (1024, 4 << 20);

/// Ids and stamps of tasks that are not to run.
#[derive(Debug)]
pub struct Revoked {
    /// Task ids.
    pub ids: LimitedSet,
    stamps: BTreeMap<String, Vec<Value>>,
    /// What the stamps have together.
    bytes: usize,
}

impl Revoked {
    /// Nothing is revoked; at most `most` ids, each for `expires`.
    pub fn new(most: usize, expires: Duration) -> Self {
        Self {
            ids: LimitedSet::new(most, expires),
            stamps: BTreeMap::new(),
            bytes: 0,
        }
    }

    /// Revokes every task that carries this stamp with one of these values. False when there are too many stamps, or
    /// they are too large.
    pub fn add_stamp(&mut self, name: &str, values: &[&Value]) -> bool {
        let is_new = !self.stamps.contains_key(name);
        if (is_new && self.stamps.len() >= MOST_STAMPS)
            || values.len() > MOST_STAMPS
            || name.len() > LARGEST.0
        {
            return false;
        }
        if is_new {
            self.bytes += name.len();
        }
        let known = self.stamps.entry(name.to_owned()).or_default();
        for value in values {
            if known.contains(value) {
                continue;
            }
            let bytes = value.to_string().len();
            if known.len() >= MOST_STAMPS || bytes > LARGEST.0 || self.bytes + bytes > LARGEST.1 {
                return false;
            }
            self.bytes += bytes;
            known.push((*value).clone());
        }
        true
    }

    /// The stamps, for other workers.
    pub fn stamps(&self) -> &BTreeMap<String, Vec<Value>> {
        &self.stamps
    }

    /// Whether a request's id was revoked.
    pub fn by_id(&self, request: &Request, now: Instant) -> bool {
        self.ids.contains(&request.id, now)
    }

    /// The stamp by which a request was revoked. Values compare by type: `4242` is not `"4242"`.
    pub fn by_stamp(&self, request: &Request) -> Option<(String, Value)> {
        if self.stamps.is_empty() || request.stamped_headers.is_empty() {
            return None;
        }
        request.stamps().into_iter().find_map(|(name, value)| {
            let revoked = self.stamps.get(&name)?;
            let carried = match value {
                Value::Array(values) => values,
                value => vec![value],
            };
            let hit = carried.into_iter().find(|value| revoked.contains(value))?;
            Some((name, hit))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::request::fixture::request;
    use serde_json::json;

    #[test]
    fn stamps_compare_by_type_and_only_named_ones_count() {
        let mut revoked = Revoked::new(10, Duration::from_secs(60));
        assert!(revoked.add_stamp("customer", &[&json!(4242), &json!("x")]));
        let stamped = |stamps: Value, names: Value| {
            let request = request(json!({"stamps": stamps, "stamped_headers": names}));
            revoked.by_stamp(&request).map(|(_, value)| value)
        };
        let named = json!(["customer"]);
        assert_eq!(
            stamped(json!({"customer": 4242}), named.clone()),
            Some(json!(4242))
        );
        assert_eq!(
            stamped(json!({"customer": [1, "x"]}), named.clone()),
            Some(json!("x"))
        );
        assert_eq!(stamped(json!({"customer": "4242"}), named.clone()), None);
        assert_eq!(stamped(json!({"other": 4242}), json!(["other"])), None);
        assert_eq!(stamped(json!({"customer": 4242}), json!([])), None);
    }

    #[test]
    fn stamps_are_bounded() {
        let mut revoked = Revoked::new(10, Duration::from_secs(60));
        let numbers: Vec<Value> = (0..MOST_STAMPS).map(Value::from).collect();
        assert!(revoked.add_stamp("a", &numbers.iter().collect::<Vec<_>>()));
        assert!(revoked.add_stamp("a", &[&json!(0)]));
        assert!(!revoked.add_stamp("a", &[&json!("one more")]));
        assert!(!revoked.add_stamp("a", &[&json!(0); MOST_STAMPS + 1]));
        for n in 1..MOST_STAMPS {
            assert!(revoked.add_stamp(&format!("stamp{n}"), &[&json!(1)]));
        }
        assert!(!revoked.add_stamp("one more", &[&json!(1)]));
    }

    #[test]
    fn stamps_are_bounded_in_bytes_too() {
        let mut revoked = Revoked::new(10, Duration::from_secs(60));
        let long = |n: usize| json!(format!("{n:0>1000}"));
        assert!(!revoked.add_stamp("a", &[&json!("x".repeat(LARGEST.0))]));
        assert!(!revoked.add_stamp("a", &[&json!([long(0), long(1)])]));
        assert!(!revoked.add_stamp(&"x".repeat(LARGEST.0 + 1), &[]));
        let taken = (0..10_000)
            .filter(|n| revoked.add_stamp(&format!("stamp{}", n % 10), &[&long(*n)]))
            .count();
        assert!(taken > 4000 && revoked.bytes <= LARGEST.1, "{taken}");
    }
}
