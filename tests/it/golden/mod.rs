//! Golden messages: every message in the wire samples, decoded.
//!
//! The samples are found by their shape, wherever they are in a file, so that a new sample is tested without a list.

mod cases;
mod requests;
mod signed;
mod unusable;

use std::collections::BTreeMap;

use celerybox::message::{JsonMap, Message, Outgoing, Request, Route, Unusable, envelope, request};
use celerybox_tests::root;
use serde_json::Value;

/// A message of a sample.
pub(crate) struct Sample {
    /// The file it is from, without `.json`.
    pub(crate) case: String,
    /// The message as our brokers would hand it over.
    pub(crate) message: Message,
    pub(crate) route: Route,
    pub(crate) redelivered: bool,
    /// The envelope it came in, when it came in one.
    pub(crate) envelope: Option<String>,
}

impl Sample {
    pub(crate) fn decode(&self) -> Result<Request, Unusable> {
        let accept = ["json", "yaml", "msgpack", "pickle"].map(str::to_owned);
        request::decode(
            self.message.clone(),
            self.route.clone(),
            self.redelivered,
            &accept,
        )
    }

    /// The headers; none when they are no map.
    pub(crate) fn headers(&self) -> JsonMap {
        self.message.headers.clone().unwrap_or_default()
    }

    /// Whether it is a task of protocol 2 that anybody can read: only the signed one needs a certificate.
    pub(crate) fn is_usable(&self) -> bool {
        self.headers().contains_key("task")
            && self.message.properties.content_type.as_deref() != Some("application/data")
    }

    /// Whether its body is JSON as it is.
    pub(crate) fn is_plain(&self) -> bool {
        let is_json = self.message.properties.content_type.as_deref() == Some("application/json");
        is_json && !self.headers().contains_key("compression")
    }

    pub(crate) fn outgoing(&self) -> Outgoing {
        Outgoing {
            route: self.route.clone(),
            message: self.message.clone(),
        }
    }
}

/// A sample file.
pub(crate) fn file(case: &str) -> Value {
    let path = root().join("tests/cases/wire").join(format!("{case}.json"));
    serde_json::from_slice(&std::fs::read(&path).unwrap_or_else(|error| panic!("{path:?}: {error}"))).unwrap()
}

/// All messages of all samples.
pub(crate) fn all() -> Vec<Sample> {
    let folder = std::fs::read_dir(root().join("tests/cases/wire")).unwrap();
    let mut cases: Vec<String> = folder
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter_map(|name| name.strip_suffix(".json").map(str::to_owned))
        .collect();
    cases.sort();
    cases.iter().flat_map(|case| of(case)).collect()
}

/// The messages of one sample file.
pub(crate) fn of(case: &str) -> Vec<Sample> {
    let mut found = Vec::new();
    collect(case, &file(case), &mut found);
    found
}

/// How many samples there are for each file.
pub(crate) fn count_by_case<'a>(samples: impl Iterator<Item = &'a Sample>) -> BTreeMap<&'a str, usize> {
    let mut counts = BTreeMap::new();
    for sample in samples {
        *counts.entry(sample.case.as_str()).or_default() += 1;
    }
    counts
}

fn collect(case: &str, value: &Value, found: &mut Vec<Sample>) {
    match value {
        Value::String(text) if text.starts_with(['{', '[']) => {
            let Ok(inner) = serde_json::from_str::<Value>(text) else {
                return;
            };
            if is_envelope(&inner) {
                let opened = envelope::open(text.as_bytes()).unwrap();
                found.push(Sample {
                    case: case.to_owned(),
                    message: opened.message,
                    route: opened.route,
                    redelivered: opened.redelivered,
                    envelope: Some(text.clone()),
                });
            } else if let Value::Array(parts) = &inner
                && parts.first().is_some_and(is_envelope)
            {
                // The Redis transport's `unacked`: message, exchange, routing key.
                collect(case, &Value::String(parts[0].to_string()), found);
            }
        }
        Value::String(_) => {}
        Value::Array(items) => items.iter().for_each(|item| collect(case, item, found)),
        Value::Object(map) if map.get("method").is_some_and(|method| method == "Basic.Publish") => {
            found.push(from_amqp(case, map));
        }
        Value::Object(map) => map.values().for_each(|item| collect(case, item, found)),
        _ => {}
    }
}

fn is_envelope(value: &Value) -> bool {
    ["body", "headers", "properties"]
        .iter()
        .all(|key| value.get(key).is_some())
}

fn from_amqp(case: &str, method: &JsonMap) -> Sample {
    use base64::Engine as _;
    let mut properties = method["properties"].as_object().unwrap().clone();
    let headers = properties.remove("headers");
    let argument = |name: &str| method["args"][name].as_str().unwrap().to_owned();
    let body = method["body_base64"].as_str().unwrap();
    Sample {
        case: case.to_owned(),
        message: Message {
            headers: headers.map(|headers| headers.as_object().unwrap().clone()),
            properties: envelope::properties_from_json(properties),
            body: base64::engine::general_purpose::STANDARD.decode(body).unwrap(),
        },
        route: Route {
            exchange: argument("exchange"),
            routing_key: argument("routing_key"),
        },
        redelivered: false,
        envelope: None,
    }
}
