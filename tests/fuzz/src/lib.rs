//! The decoders of the host, built here a second time without the rest of it: layer 0, which uses
//! nothing above, and what the adapters read.

#[path = "../../../host/src/document.rs"]
pub mod document;
#[path = "../../../host/src/message/mod.rs"]
pub mod message;
#[path = "../../../host/src/nearest.rs"]
#[allow(dead_code, reason = "its users are left out")]
mod nearest;
#[path = "../../../host/src/outcome.rs"]
pub mod outcome;
#[path = "../../../host/src/policy/mod.rs"]
pub mod policy;
pub mod record;
pub mod screen;
pub mod state_db;
#[path = "../../../host/src/task.rs"]
pub mod task;

use jiff::Timestamp;
use message::content::{Reader, Serializer, Writer};
use message::{JsonMap, Message, Properties};

/// What a body may have, bytes; small, so that what goes beyond it is found soon.
pub const LIMIT: usize = 1 << 20;

/// Serializers, all of which this reader takes.
pub const SERIALIZERS: [Serializer; 4] = [
    Serializer::Json,
    Serializer::Yaml,
    Serializer::Msgpack,
    Serializer::Pickle,
];

/// A reader of everything.
pub fn reader() -> Reader {
    Reader {
        accept: SERIALIZERS.to_vec(),
        limit: LIMIT,
        trust: None,
    }
}

/// A message with this body.
pub fn message(serializer: Serializer, body: &[u8]) -> Message {
    Message {
        headers: Some(JsonMap::new()),
        properties: Properties {
            content_type: Some(serializer.content_type().to_owned()),
            content_encoding: Some(serializer.content_encoding().to_owned()),
            ..Properties::default()
        },
        body: body.to_vec(),
    }
}

/// Reads a body. What comes out is strict JSON, plain data within the limit; it can be written in the same serializer
/// and is the same when it is read again.
pub fn decodes_to_plain_data(serializer: Serializer, body: &[u8]) {
    let read = |body: &[u8]| {
        reader()
            .body(&message(serializer, body), Timestamp::UNIX_EPOCH)
            .map(|text| text.into_owned())
    };
    let Ok(first) = read(body) else { return };
    assert!(is_json(&first), "{first}");
    // A little more than the limit: it is looked at between two values.
    assert!(first.len() <= 8 * LIMIT, "{} bytes", first.len());
    let writer = Writer {
        serializer,
        ..Writer::default()
    };
    let again = |text: &str| read(&writer.serialize(text).ok()?).ok();
    // A map that looks like a typed value becomes one on its first way.
    let Some(second) = again(&first) else { return };
    assert!(is_json(&second), "{second}");
    if let Some(third) = again(&second) {
        assert_eq!(second, third);
    }
}

/// Whether a text is strict JSON.
pub fn is_json(text: &str) -> bool {
    serde_json::from_str::<serde::de::IgnoredAny>(text).is_ok()
}
