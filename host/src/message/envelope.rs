//! kombu's JSON envelope, which Redis and the filesystem carry (contract section 2.2.1).

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use serde_json::value::RawValue;
use uuid::Uuid;

use super::content::json;
use super::raw::RawMap;
use super::{JsonMap, Message, Outgoing, Properties, Route};

/// What an envelope holds.
#[derive(Debug, Clone, PartialEq)]
pub struct Opened {
    /// The message.
    pub message: Message,
    /// `properties.delivery_info`.
    pub route: Route,
    /// `properties.delivery_tag`, when it is there.
    pub delivery_tag: Option<String>,
    /// Whether it had been delivered before.
    pub redelivered: bool,
}

/// Why an envelope cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum EnvelopeError {
    /// Not a JSON map of the right shape.
    #[error("not a message envelope: {0}")]
    Json(#[from] serde_json::Error),
    /// The body is not the base64 it claims to be.
    #[error("the body is not base64: {0}")]
    Base64(#[from] base64::DecodeError),
}

#[derive(Serialize, Deserialize)]
struct Envelope<'a> {
    #[serde(borrow, default)]
    body: std::borrow::Cow<'a, str>,
    #[serde(rename = "content-encoding", default)]
    content_encoding: Option<String>,
    #[serde(rename = "content-type", default)]
    content_type: Option<String>,
    /// Read apart: it may have what only Python calls JSON.
    #[serde(borrow, default)]
    headers: Option<&'a RawValue>,
    #[serde(borrow, default)]
    properties: Option<&'a RawValue>,
    /// Where kombu's transports other than Redis say it.
    #[serde(default, skip_serializing)]
    redelivered: Value,
}

/// Opens an envelope. Numbers that no JSON value can hold, Python's `NaN` among them, arrive in the form of kombu's
/// typed values, lone surrogates as U+FFFD.
pub fn open(text: &[u8]) -> Result<Opened, EnvelopeError> {
    let not_a_map = || EnvelopeError::Json(serde::de::Error::custom("not a map"));
    if text.trim_ascii_start().first() != Some(&b'{') {
        // Or else a list would be read as the fields in their order.
        return Err(not_a_map());
    }
    let mended;
    let envelope: Envelope<'_> = match serde_json::from_slice(text) {
        Ok(envelope) => envelope,
        Err(error) => {
            let Ok(text) = std::str::from_utf8(text) else {
                return Err(error.into());
            };
            mended = json::strict(text);
            serde_json::from_str(&mended).map_err(|_| error)?
        }
    };
    let value = |raw: Option<&RawValue>| raw.map_or(Some(Value::Null), |raw| json::value(raw.get()));
    let mut properties = match value(envelope.properties) {
        Some(Value::Object(properties)) => properties,
        Some(Value::Null) => JsonMap::new(),
        _ => return Err(not_a_map()),
    };
    let body = match properties.remove("body_encoding") {
        Some(Value::String(encoding)) if encoding == "base64" => BASE64.decode(envelope.body.as_bytes())?,
        _ => envelope.body.into_owned().into_bytes(),
    };
    let delivery_info = properties.remove("delivery_info");
    let part = |name: &str| {
        let part = delivery_info
            .as_ref()
            .and_then(|info| info.get(name))
            .and_then(Value::as_str);
        part.unwrap_or_default().to_owned()
    };
    let route = Route {
        exchange: part("exchange"),
        routing_key: part("routing_key"),
    };
    let redelivered = delivery_info.as_ref().and_then(|info| info.get("redelivered"));
    let redelivered = [redelivered, Some(&envelope.redelivered)].contains(&Some(&Value::Bool(true)));
    Ok(Opened {
        route,
        redelivered,
        delivery_tag: take_text(&mut properties, "delivery_tag"),
        message: Message {
            headers: match value(envelope.headers) {
                Some(Value::Object(headers)) => Some(headers),
                _ => None,
            },
            properties: Properties {
                content_type: envelope.content_type,
                content_encoding: envelope.content_encoding,
                ..properties_from_json(properties)
            },
            body,
        },
    })
}

/// Writes an envelope with a delivery tag of its own.
pub fn seal(outgoing: &Outgoing) -> String {
    let message = &outgoing.message;
    let mut properties = properties_to_json(&message.properties);
    properties.remove("content_type");
    properties.remove("content_encoding");
    // Python consumers index these without a default (contract section 2.2.1).
    properties.insert(
        "delivery_mode".into(),
        message.properties.delivery_mode.unwrap_or(2).into(),
    );
    properties.insert("priority".into(), message.properties.priority.unwrap_or(0).into());
    properties.insert("body_encoding".into(), "base64".into());
    properties.insert("delivery_tag".into(), Uuid::new_v4().to_string().into());
    let mut info = JsonMap::new();
    info.insert("exchange".into(), outgoing.route.exchange.clone().into());
    info.insert("routing_key".into(), outgoing.route.routing_key.clone().into());
    properties.insert("delivery_info".into(), Value::Object(info));
    let (headers, properties) = (raw(message.headers.clone().unwrap_or_default()), raw(properties));
    let envelope = Envelope {
        body: BASE64.encode(&message.body).into(),
        content_encoding: message.properties.content_encoding.clone(),
        content_type: message.properties.content_type.clone(),
        headers: Some(&headers),
        properties: Some(&properties),
        redelivered: Value::Null,
    };
    // A map with text keys always serializes.
    let text = serde_json::to_string(&envelope).unwrap_or_default();
    json::python(&text).into_owned()
}

fn raw(map: JsonMap) -> Box<RawValue> {
    RawValue::from_string(Value::Object(map).to_string()).unwrap_or_else(|_| RawValue::NULL.to_owned())
}

/// Marks an envelope as delivered before, for its way back to the queue (contract section 2.2.4). All else stays as
/// it is. Text that is no envelope comes back unchanged.
pub fn mark_redelivered(text: &str) -> String {
    match mark(text) {
        Ok(marked) => marked,
        // Perhaps it has Python's NaN and the like.
        Err(_) => match mark(&json::strict(text)) {
            Ok(marked) => json::python(&marked).into_owned(),
            Err(_) => text.to_owned(),
        },
    }
}

fn mark(text: &str) -> serde_json::Result<String> {
    let yes = RawValue::from_string("true".to_owned())?;
    let set = |map: &RawValue| -> serde_json::Result<Box<RawValue>> {
        let mut map: RawMap<'_> = serde_json::from_str(map.get())?;
        map.set("redelivered", &yes);
        serde_json::value::to_raw_value(&map)
    };
    let mut envelope: RawMap<'_> = serde_json::from_str(text)?;
    let headers = envelope
        .get("headers")
        .filter(|raw| raw.get().starts_with('{'))
        .map(set)
        .transpose()?;
    if let Some(headers) = &headers {
        envelope.set("headers", headers);
    }
    let properties = envelope
        .get("properties")
        .filter(|raw| raw.get().starts_with('{'));
    let properties = match properties {
        None => None,
        Some(raw) => {
            let mut properties: RawMap<'_> = serde_json::from_str(raw.get())?;
            let info = properties
                .get("delivery_info")
                .filter(|raw| raw.get().starts_with('{'))
                .map(set)
                .transpose()?;
            if let Some(info) = &info {
                properties.set("delivery_info", info);
            }
            Some(serde_json::value::to_raw_value(&properties)?)
        }
    };
    if let Some(properties) = &properties {
        envelope.set("properties", properties);
    }
    serde_json::to_string(&envelope)
}

/// The properties as one map, with the names of kombu's envelope.
pub fn properties_to_json(properties: &Properties) -> JsonMap {
    let mut map = properties.other.clone();
    let mut put = |name: &str, value: Option<Value>| {
        if let Some(value) = value {
            map.insert(name.into(), value);
        }
    };
    put("content_type", properties.content_type.clone().map(Value::from));
    put(
        "content_encoding",
        properties.content_encoding.clone().map(Value::from),
    );
    put(
        "correlation_id",
        properties.correlation_id.clone().map(Value::from),
    );
    put("reply_to", properties.reply_to.clone().map(Value::from));
    put("priority", properties.priority.map(Value::from));
    put("delivery_mode", properties.delivery_mode.map(Value::from));
    put("expiration", properties.expiration.clone().map(Value::from));
    map
}

/// The properties out of one map with the names of kombu's envelope; unknown ones are kept.
pub fn properties_from_json(mut map: JsonMap) -> Properties {
    let small = |value: Option<Value>| value.and_then(|v| v.as_u64()).and_then(|n| u8::try_from(n).ok());
    Properties {
        content_type: take_text(&mut map, "content_type"),
        content_encoding: take_text(&mut map, "content_encoding"),
        correlation_id: take_text(&mut map, "correlation_id"),
        reply_to: take_text(&mut map, "reply_to"),
        priority: small(map.remove("priority")),
        delivery_mode: small(map.remove("delivery_mode")),
        expiration: match map.remove("expiration") {
            Some(Value::String(text)) => Some(text),
            Some(Value::Number(number)) => Some(number.to_string()),
            _ => None,
        },
        other: map,
    }
}

fn take_text(map: &mut JsonMap, name: &str) -> Option<String> {
    match map.remove(name) {
        Some(Value::String(text)) => Some(text),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn redelivered_is_read_wherever_kombu_writes_it() {
        let envelope = |top: &str, info: &str| {
            let text = format!(
                r#"{{"body": "", "headers": {{}}, "properties": {{"delivery_info": {{"exchange": ""{info}}}}}{top}}}"#
            );
            open(text.as_bytes()).unwrap().redelivered
        };
        assert!(!envelope("", ""));
        assert!(!envelope(r#", "redelivered": false"#, ""));
        assert!(!envelope(r#", "redelivered": "yes""#, r#", "redelivered": null"#));
        assert!(envelope(r#", "redelivered": true"#, ""));
        assert!(envelope("", r#", "redelivered": true"#));
    }

    #[test]
    fn what_was_sealed_opens_again() {
        let mut outgoing = Outgoing {
            route: Route::to_queue("q"),
            message: Message {
                headers: Some([("id".to_owned(), "1".into())].into_iter().collect()),
                body: vec![0, 255, 10],
                properties: Properties {
                    priority: Some(3),
                    delivery_mode: Some(1),
                    ..Properties::default()
                },
            },
        };
        let opened = open(seal(&outgoing).as_bytes()).unwrap();
        assert_eq!(
            (&opened.message, &opened.route),
            (&outgoing.message, &outgoing.route)
        );
        assert!(!opened.redelivered && opened.delivery_tag.is_some());
        let marked = open(mark_redelivered(&seal(&outgoing)).as_bytes()).unwrap();
        assert!(marked.redelivered);
        assert_eq!(marked.message.body, outgoing.message.body);
        // Python consumers need these two.
        outgoing.message.properties = Properties::default();
        let opened = open(seal(&outgoing).as_bytes()).unwrap();
        assert_eq!(opened.message.properties.priority, Some(0));
        assert_eq!(opened.message.properties.delivery_mode, Some(2));
    }

    /// Headers are the sender's: what Python can write there comes back as it was.
    #[test]
    fn what_only_python_calls_json_opens_and_survives() {
        let text = r#"{"body": "", "headers": {"big": 123456789012345678901234567890, "n": [NaN, -Infinity],
            "lone": "\ud800", "small": 1.10}, "properties": {"x": NaN, "delivery_info": {"exchange": ""}}}"#;
        let opened = open(text.as_bytes()).unwrap();
        let headers = opened.message.headers.clone().unwrap();
        assert_eq!(headers["lone"], "\u{fffd}");
        assert_eq!(opened.message.properties.other["x"]["__value__"], "NaN");
        let outgoing = Outgoing {
            route: opened.route,
            message: opened.message,
        };
        let sealed = seal(&outgoing);
        assert!(
            sealed.contains(r#""big":123456789012345678901234567890"#),
            "{sealed}"
        );
        assert!(
            sealed.contains(r#""n":[NaN,-Infinity]"#) && sealed.contains(r#""x":NaN"#),
            "{sealed}"
        );

        let marked = mark_redelivered(text);
        for kept in [
            "123456789012345678901234567890",
            "[NaN, -Infinity]",
            r#""\ud800""#,
            "1.10",
        ] {
            assert!(marked.contains(kept), "{marked}");
        }
        let opened = open(marked.as_bytes()).unwrap();
        assert!(opened.redelivered && opened.message.headers.unwrap()["redelivered"] == true);
        // Every digit of a float counts.
        let float = r#"{"headers": {"x": 1e-110}, "properties": {}}"#;
        let headers = open(float.as_bytes()).unwrap().message.headers.unwrap();
        assert_eq!(headers["x"].to_string(), "1e-110");
        // An exact number needs no detour.
        let big = r#"{"headers":{"big":123456789012345678901234567890},"properties":{}}"#;
        assert_eq!(
            mark_redelivered(big),
            r#"{"headers":{"big":123456789012345678901234567890,"redelivered":true},"properties":{}}"#
        );
    }

    #[test]
    fn what_is_no_envelope_is_an_error_and_stays_as_it_is() {
        let deep = "[".repeat(100_000);
        for text in [
            "",
            "null",
            "[]",
            "{",
            r#"{"properties": 1}"#,
            r#"{"body": 1}"#,
            &deep,
        ] {
            assert!(open(text.as_bytes()).is_err(), "{text:.20}");
            assert!(open(mark_redelivered(text).as_bytes()).is_err(), "{text:.20}");
        }
        assert_eq!(mark_redelivered("[ ]"), "[ ]");
        let base64 = r#"{"body": "%", "properties": {"body_encoding": "base64"}}"#;
        assert!(matches!(open(base64.as_bytes()), Err(EnvelopeError::Base64(_))));
    }
}
