//! The records of unacknowledged messages in Redis.

#[path = "../../../host/src/broker/redis/record.rs"]
#[expect(clippy::module_inception, reason = "the file has its own name")]
mod record;

use crate::message::envelope;

/// What is read of a record goes back as it is, but for the mark of a message that was delivered before, where there is a
/// place for it.
pub fn goes_back(bytes: &[u8]) {
    let Ok(record) = record::Record::read(bytes) else { return };
    assert!(record.priority <= 9);
    assert!(record.exchange.len() + record.routing_key.len() <= bytes.len());
    if let Ok(opened) = envelope::open(record.text.as_bytes()) {
        let envelope = serde_json::from_str(&record.text).unwrap_or(serde_json::Value::Null);
        let info = &envelope["properties"]["delivery_info"];
        assert!(opened.redelivered || !info.is_object(), "{}", record.text);
    }
}
