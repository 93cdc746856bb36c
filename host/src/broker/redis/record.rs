//! The record of an unacknowledged message, ours or a Python worker's (contract section 2.2.4).

use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;

use crate::message::envelope;

/// What is kept of an unacknowledged message, ready to go back.
#[derive(Debug)]
pub(super) struct Record {
    /// Where it was published; empty for the default exchange.
    pub(super) exchange: String,
    /// The routing key it was published with; with the default exchange this is the queue.
    pub(super) routing_key: String,
    /// 0 to 9.
    pub(super) priority: u8,
    /// The envelope, with the mark that it was delivered before.
    pub(super) text: String,
}

#[derive(Deserialize)]
struct Envelope {
    #[serde(default)]
    properties: Properties,
}

#[derive(Default, Deserialize)]
struct Properties {
    #[serde(default)]
    priority: Value,
}

impl Record {
    /// Reads `[envelope, exchange, routing key]`.
    pub(super) fn read(record: &[u8]) -> Result<Record, serde_json::Error> {
        let (raw, exchange, routing_key): (&RawValue, Option<String>, Option<String>) =
            serde_json::from_slice(record)?;
        let envelope: Envelope = serde_json::from_str(raw.get())?;
        Ok(Record {
            exchange: exchange.unwrap_or_default(),
            routing_key: routing_key.unwrap_or_default(),
            priority: priority_of(&envelope.properties.priority),
            text: envelope::mark_redelivered(raw.get()),
        })
    }
}

/// The priority in an envelope's `properties`, as Python reads it.
fn priority_of(value: &Value) -> u8 {
    let number = match value {
        Value::Number(number) => number.as_f64().map(|n| n as i64),
        Value::String(text) => text.trim().parse().ok(),
        _ => None,
    };
    u8::try_from(number.unwrap_or(0).clamp(0, 9)).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_of_python_is_read() {
        let sample: Value =
            serde_json::from_str(include_str!("../../../../tests/cases/wire/redis-unacked.json")).unwrap();
        for (_, record) in sample["unacked"].as_object().unwrap() {
            let record = Record::read(record.as_str().unwrap().as_bytes()).unwrap();
            assert_eq!(
                (record.exchange.as_str(), record.routing_key.as_str()),
                ("", "celery")
            );
            assert_eq!(record.priority, 0);
            let envelope: Value = serde_json::from_str(&record.text).unwrap();
            assert_eq!(envelope["headers"]["redelivered"], true);
            assert_eq!(envelope["properties"]["delivery_info"]["redelivered"], true);
            assert_eq!(envelope["headers"]["task"], "proj.add");
        }
    }

    #[test]
    fn garbage_is_no_record() {
        for garbage in ["", "null", "[]", "[1, 2, 3]", "[{}, 1, 2]", "{\"a\": 1}", "\u{1}"] {
            assert!(Record::read(garbage.as_bytes()).is_err(), "{garbage}");
        }
        assert!(Record::read(b"\xff").is_err());
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
            assert_eq!(priority_of(&value), priority, "{json}");
        }
    }
}
