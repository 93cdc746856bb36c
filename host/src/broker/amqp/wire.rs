//! AMQP 0-9-1 on the wire: frames, methods, content headers. Only what a worker and a client of Celery need.

use super::table::{put_table, read_table, text};
use crate::message::{JsonMap, Message, Outgoing, Properties};
use serde_json::Value;

/// What is sent before anything else.
pub(super) const PROTOCOL_HEADER: &[u8] = b"AMQP\0\0\x09\x01";
/// Bytes around the payload of a frame: type, channel and size before it, the end mark behind.
pub(super) const FRAME_OVERHEAD: usize = 8;

const METHOD: u8 = 1;
const HEADER: u8 = 2;
const BODY: u8 = 3;
const HEARTBEAT: u8 = 8;
const FRAME_END: u8 = 0xCE;
/// A frame larger than this is taken for garbage. Header frames do not keep to `frame_max`.
const MAX_FRAME: usize = 16 << 20;

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

/// What the server said.
#[derive(Debug, PartialEq)]
pub(super) enum Incoming {
    /// `connection.start`.
    Start {
        /// What the server says about itself.
        server: JsonMap,
        /// SASL mechanisms, separated by spaces.
        mechanisms: String,
    },
    /// `connection.tune`.
    Tune {
        /// Largest frame in bytes, 0 for no limit.
        frame_max: u32,
        /// Seconds, 0 for none.
        heartbeat: u16,
    },
    /// `connection.close`: the server ends the connection.
    Close(Reply),
    /// `channel.close`: the server ends a channel.
    ChannelClose(Reply),
    /// `connection.blocked` with its reason: the server does not read what we publish for now.
    Blocked(String),
    /// `connection.unblocked`.
    Unblocked,
    /// `basic.deliver` or `basic.return`, content follows.
    Deliver(Deliver),
    /// The content header.
    Header {
        /// Size of the body in bytes.
        size: u64,
        /// The message with an empty body.
        message: Message,
    },
    /// A piece of the body.
    Body(Vec<u8>),
    /// A whole message, put together by the connection.
    Message(Deliver, Message),
    /// `basic.cancel`: the server ended a consumer, for example because its queue was deleted.
    Cancel(String),
    /// A publisher confirm.
    Confirm {
        /// Which message.
        tag: u64,
        /// All up to this one.
        multiple: bool,
        /// False when the server could not take it.
        taken: bool,
    },
    /// A heartbeat.
    Heartbeat,
    /// Everything that was to be written is written.
    Flushed,
    /// Any other method, by class and method number: the `…-ok` answers.
    Other(u16, u16),
}

/// The reason the server gives when it closes something.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Reply {
    /// AMQP's reply code, for example 406.
    pub(super) code: u16,
    /// The server's sentence, for example `PRECONDITION_FAILED - inequivalent arg …`.
    pub(super) text: String,
}

/// What `basic.deliver` says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Deliver {
    /// Number of this delivery on its channel, from 1; 0 for a returned message.
    pub(super) tag: u64,
    /// Delivered before.
    pub(super) redelivered: bool,
    /// The exchange it was published to.
    pub(super) exchange: String,
    /// The routing key it was published with.
    pub(super) routing_key: String,
}

/// The bytes are not AMQP.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("the server sent something that is not AMQP 0-9-1")]
pub(super) struct Garbage;

/// The first frame of `bytes` and its length in bytes; `None` when it is not complete.
pub(super) fn parse(bytes: &[u8]) -> Result<Option<(Incoming, usize)>, Garbage> {
    if bytes.starts_with(b"AMQP") {
        return Err(Garbage);
    }
    let mut reader = Reader::new(bytes);
    let (Some(kind), Some(_channel), Some(size)) = (reader.u8(), reader.u16(), reader.u32()) else {
        return Ok(None);
    };
    let size = size as usize;
    if size > MAX_FRAME {
        return Err(Garbage);
    }
    let (Some(payload), Some(end)) = (reader.take(size), reader.u8()) else {
        return Ok(None);
    };
    if end != FRAME_END {
        return Err(Garbage);
    }
    let mut payload_reader = Reader::new(payload);
    let incoming = match kind {
        METHOD => method(&mut payload_reader).ok_or(Garbage)?,
        HEADER => header(&mut payload_reader).ok_or(Garbage)?,
        BODY => Incoming::Body(payload.to_vec()),
        HEARTBEAT => Incoming::Heartbeat,
        _ => return Err(Garbage),
    };
    Ok(Some((incoming, size + FRAME_OVERHEAD)))
}

fn method(reader: &mut Reader<'_>) -> Option<Incoming> {
    let class = reader.u16()?;
    let method = reader.u16()?;
    Some(match (class, method) {
        (10, 10) => {
            reader.take(2)?; // The protocol's version.
            Incoming::Start {
                server: read_table(reader).unwrap_or_default(),
                mechanisms: text(reader.long_bytes()?),
            }
        }
        (10, 30) => {
            reader.u16()?; // Channels: we use one.
            Incoming::Tune {
                frame_max: reader.u32()?,
                heartbeat: reader.u16()?,
            }
        }
        (10, 50) => Incoming::Close(reply(reader)?),
        (20, 40) => Incoming::ChannelClose(reply(reader)?),
        (10, 60) => Incoming::Blocked(reader.short()?),
        (10, 61) => Incoming::Unblocked,
        (60, 30) => Incoming::Cancel(reader.short()?),
        (60, 50) => Incoming::Deliver(Deliver::default()),
        (60, 60) => {
            reader.short()?; // The consumer's tag.
            Incoming::Deliver(Deliver {
                tag: reader.u64()?,
                redelivered: reader.u8()? & 1 == 1,
                exchange: reader.short()?,
                routing_key: reader.short()?,
            })
        }
        (60, 80) | (60, 120) => Incoming::Confirm {
            tag: reader.u64()?,
            multiple: reader.u8()? & 1 == 1,
            taken: method == 80,
        },
        _ => Incoming::Other(class, method),
    })
}

fn reply(reader: &mut Reader<'_>) -> Option<Reply> {
    Some(Reply {
        code: reader.u16()?,
        text: reader.short()?,
    })
}

fn header(reader: &mut Reader<'_>) -> Option<Incoming> {
    reader.take(4)?; // Class and weight.
    let size = reader.u64()?;
    let flags = reader.u16()?;
    let has = |bit: u16| flags & (1 << bit) != 0;
    let mut properties = Properties::default();
    let mut headers = Some(JsonMap::new());
    if has(15) {
        properties.content_type = Some(reader.short()?);
    }
    if has(14) {
        properties.content_encoding = Some(reader.short()?);
    }
    if has(13) {
        // A table that nobody can read is the sender's mistake, not the connection's: the length in front of it says
        // where the next property starts.
        let bytes = reader.long_bytes_with_length()?;
        headers = read_table(&mut Reader::new(bytes));
    }
    if has(12) {
        properties.delivery_mode = Some(reader.u8()?);
    }
    if has(11) {
        properties.priority = Some(reader.u8()?);
    }
    if has(10) {
        properties.correlation_id = Some(reader.short()?);
    }
    if has(9) {
        properties.reply_to = Some(reader.short()?);
    }
    if has(8) {
        properties.expiration = Some(reader.short()?);
    }
    for (bit, name) in OTHER_PROPERTIES {
        if has(bit) {
            let value = match name {
                "timestamp" => reader.u64()?.into(),
                _ => reader.short()?.into(),
            };
            properties.other.insert(name.into(), value);
        }
    }
    let body = Vec::new();
    Some(Incoming::Header {
        size,
        message: Message {
            headers,
            properties,
            body,
        },
    })
}

/// The properties that mean nothing to a worker, in the order of the wire.
const OTHER_PROPERTIES: [(u16, &str); 6] = [
    (7, "message_id"),
    (6, "timestamp"),
    (5, "type"),
    (4, "user_id"),
    (3, "app_id"),
    (2, "cluster_id"),
];

/// A frame that says nothing but that we are there.
pub(super) fn put_heartbeat(out: &mut Vec<u8>) {
    out.extend([HEARTBEAT, 0, 0, 0, 0, 0, 0, FRAME_END]);
}

/// Writes a method frame. Nothing is written when `arguments` cannot be encoded.
pub(super) fn put_method(
    out: &mut Vec<u8>,
    channel: u16,
    (class, method): (u16, u16),
    arguments: impl FnOnce(&mut Vec<u8>) -> Result<(), EncodeError>,
) -> Result<(), EncodeError> {
    put_frame(out, METHOD, channel, |out| {
        out.extend(class.to_be_bytes());
        out.extend(method.to_be_bytes());
        arguments(out)
    })
}

fn put_frame(
    out: &mut Vec<u8>,
    kind: u8,
    channel: u16,
    payload: impl FnOnce(&mut Vec<u8>) -> Result<(), EncodeError>,
) -> Result<(), EncodeError> {
    let start = out.len();
    out.push(kind);
    out.extend(channel.to_be_bytes());
    out.extend([0; 4]);
    if let Err(error) = payload(out) {
        out.truncate(start);
        return Err(error);
    }
    let size = u32::try_from(out.len() - start - 7).unwrap_or(u32::MAX);
    if let Some(place) = out.get_mut(start + 3..start + 7) {
        place.copy_from_slice(&size.to_be_bytes());
    }
    out.push(FRAME_END);
    Ok(())
}

/// Writes `basic.publish` with its content. Nothing is written when it cannot be encoded.
pub(super) fn put_publish(
    out: &mut Vec<u8>,
    channel: u16,
    outgoing: &Outgoing,
    frame_max: usize,
) -> Result<(), EncodeError> {
    let start = out.len();
    let message = &outgoing.message;
    put_method(out, channel, (60, 40), |out| {
        out.extend([0; 2]);
        put_short(out, &outgoing.route.exchange)?;
        put_short(out, &outgoing.route.routing_key)?;
        out.push(0); // Neither mandatory nor immediate.
        Ok(())
    })?;
    let header_start = out.len();
    let header = put_frame(out, HEADER, channel, |out| put_content_header(out, message));
    let header = header.and_then(|()| match out.len() - header_start > frame_max {
        true => Err(EncodeError::HeadersTooLarge),
        false => Ok(()),
    });
    if let Err(error) = header {
        out.truncate(start);
        return Err(error);
    }
    for chunk in message
        .body
        .chunks(frame_max.saturating_sub(FRAME_OVERHEAD).max(1))
    {
        put_frame(out, BODY, channel, |out| {
            out.extend_from_slice(chunk);
            Ok(())
        })?;
    }
    Ok(())
}

fn put_content_header(out: &mut Vec<u8>, message: &Message) -> Result<(), EncodeError> {
    out.extend(60_u16.to_be_bytes());
    out.extend([0; 2]);
    out.extend((message.body.len() as u64).to_be_bytes());
    let flags_at = out.len();
    out.extend([0; 2]);
    let mut flags = 0_u16;
    let properties = &message.properties;
    for (bit, text) in [(15, &properties.content_type), (14, &properties.content_encoding)] {
        if let Some(text) = text {
            flags |= 1 << bit;
            put_short(out, text)?;
        }
    }
    if let Some(headers) = &message.headers {
        flags |= 1 << 13;
        put_table(out, headers)?;
    }
    for (bit, number) in [(12, properties.delivery_mode), (11, properties.priority)] {
        if let Some(number) = number {
            flags |= 1 << bit;
            out.push(number);
        }
    }
    for (bit, text) in [
        (10, &properties.correlation_id),
        (9, &properties.reply_to),
        (8, &properties.expiration),
    ] {
        if let Some(text) = text {
            flags |= 1 << bit;
            put_short(out, text)?;
        }
    }
    for (bit, name) in OTHER_PROPERTIES {
        match (name, properties.other.get(name)) {
            ("timestamp", Some(value)) => {
                if let Some(seconds) = value.as_u64() {
                    flags |= 1 << bit;
                    out.extend(seconds.to_be_bytes());
                }
            }
            (_, Some(Value::String(text))) => {
                flags |= 1 << bit;
                put_short(out, text)?;
            }
            _ => {}
        }
    }
    if let Some(place) = out.get_mut(flags_at..flags_at + 2) {
        place.copy_from_slice(&flags.to_be_bytes());
    }
    Ok(())
}

/// Writes a text of at most 255 bytes.
pub(super) fn put_short(out: &mut Vec<u8>, text: &str) -> Result<(), EncodeError> {
    let length = u8::try_from(text.len()).map_err(|_| EncodeError::TooLong(text.len()))?;
    out.push(length);
    out.extend_from_slice(text.as_bytes());
    Ok(())
}

/// Reads big-endian values off bytes; `None` at their end.
pub(super) struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(taken)
    }

    pub(super) fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (taken, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*taken)
    }

    pub(super) fn u8(&mut self) -> Option<u8> {
        self.array().map(u8::from_be_bytes)
    }

    pub(super) fn u16(&mut self) -> Option<u16> {
        self.array().map(u16::from_be_bytes)
    }

    pub(super) fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_be_bytes)
    }

    pub(super) fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_be_bytes)
    }

    /// Text with a length of one byte.
    pub(super) fn short(&mut self) -> Option<String> {
        let length = self.u8()?;
        self.take(usize::from(length)).map(text)
    }

    /// Bytes with a length of four bytes.
    pub(super) fn long_bytes(&mut self) -> Option<&'a [u8]> {
        let length = self.u32()?;
        self.take(length as usize)
    }

    fn long_bytes_with_length(&mut self) -> Option<&'a [u8]> {
        let length = Reader(self.0).u32()?;
        self.take((length as usize).checked_add(4)?)
    }
}
