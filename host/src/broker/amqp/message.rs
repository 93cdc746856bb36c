//! lapin's messages to ours and back.

use lapin::BasicProperties;
use lapin::types::ShortString;
use serde_json::Value;

use super::screen::UNREADABLE;
use super::table::{from_json, short, to_json, wire_size};
use crate::message::{JsonMap, Message, Outgoing, Properties};

/// Why a message cannot be put on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum EncodeError {
    /// A name, key or property of more than 255 bytes.
    #[error("AMQP names and properties hold 255 bytes at most, this one has {0}")]
    TooLong(usize),
    /// Headers and properties have to fit into one frame.
    #[error("the headers are larger than a frame of AMQP can be")]
    HeadersTooLarge,
}

/// Bytes of a content header besides its properties: the frame's eight, class, weight, body size and flags.
const HEADER_OVERHEAD: usize = 8 + 14;

/// A message that was delivered.
pub(super) fn received(properties: &BasicProperties, body: Vec<u8>) -> Message {
    let text = |text: &Option<ShortString>| text.as_ref().map(ShortString::to_string);
    let mut other = JsonMap::new();
    for (name, value) in [
        ("message_id", properties.message_id()),
        ("type", properties.kind()),
        ("user_id", properties.user_id()),
        ("app_id", properties.app_id()),
        ("cluster_id", properties.cluster_id()),
    ] {
        if let Some(value) = value {
            other.insert(name.into(), value.as_str().into());
        }
    }
    if let Some(seconds) = properties.timestamp() {
        other.insert("timestamp".into(), (*seconds).into());
    }
    let headers = match properties.headers() {
        Some(table) if table.contains_key(UNREADABLE) => None,
        Some(table) => Some(to_json(table)),
        None => Some(JsonMap::new()),
    };
    Message {
        headers,
        properties: Properties {
            content_type: text(properties.content_type()),
            content_encoding: text(properties.content_encoding()),
            correlation_id: text(properties.correlation_id()),
            reply_to: text(properties.reply_to()),
            priority: *properties.priority(),
            delivery_mode: *properties.delivery_mode(),
            expiration: text(properties.expiration()),
            other,
        },
        body,
    }
}

/// A message for lapin to publish.
pub(super) struct Publication {
    pub(super) exchange: ShortString,
    pub(super) routing_key: ShortString,
    pub(super) properties: BasicProperties,
    pub(super) body: Vec<u8>,
}

impl Publication {
    /// Of a message; `frame_max` is the largest frame we may send, in bytes.
    pub(super) fn new(outgoing: Outgoing, frame_max: usize) -> Result<Self, EncodeError> {
        let Outgoing { route, message } = outgoing;
        let ours = message.properties;
        let mut properties = BasicProperties::default();
        let mut size = HEADER_OVERHEAD;
        if let Some(headers) = &message.headers {
            let table = from_json(headers)?;
            size += wire_size(&table);
            properties = properties.with_headers(table);
        }
        for (number, with) in [
            (
                ours.delivery_mode,
                BasicProperties::with_delivery_mode as fn(BasicProperties, u8) -> _,
            ),
            (ours.priority, BasicProperties::with_priority),
        ] {
            if let Some(number) = number {
                size += 1;
                properties = with(properties, number);
            }
        }
        let other = |name: &str| ours.other.get(name).and_then(Value::as_str);
        for (text, with) in [
            (
                ours.content_type.as_deref(),
                BasicProperties::with_content_type as fn(BasicProperties, ShortString) -> _,
            ),
            (
                ours.content_encoding.as_deref(),
                BasicProperties::with_content_encoding,
            ),
            (
                ours.correlation_id.as_deref(),
                BasicProperties::with_correlation_id,
            ),
            (ours.reply_to.as_deref(), BasicProperties::with_reply_to),
            (ours.expiration.as_deref(), BasicProperties::with_expiration),
            (other("message_id"), BasicProperties::with_message_id),
            (other("type"), BasicProperties::with_type),
            (other("user_id"), BasicProperties::with_user_id),
            (other("app_id"), BasicProperties::with_app_id),
            (other("cluster_id"), BasicProperties::with_cluster_id),
        ] {
            if let Some(text) = text {
                size += 1 + text.len();
                properties = with(properties, short(text)?);
            }
        }
        if let Some(seconds) = ours.other.get("timestamp").and_then(Value::as_u64) {
            size += 8;
            properties = properties.with_timestamp(seconds);
        }
        if size > frame_max {
            return Err(EncodeError::HeadersTooLarge);
        }
        Ok(Self {
            exchange: short(&route.exchange)?,
            routing_key: short(&route.routing_key)?,
            properties,
            body: message.body,
        })
    }
}
