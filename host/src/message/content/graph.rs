//! What decoders build and encoders read: Python's plain values, in nodes that point to each other.
//!
//! A node may have several parents (YAML aliases, a pickle's memo) and may even contain itself. Nothing here follows
//! pointers without a bound: depth and size of what is written are limited, so that neither a cycle nor a few
//! aliases that multiply cost more than the limit.

use std::borrow::Cow;
use std::collections::HashMap;
use std::fmt::Write as _;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde_json::value::RawValue;

use super::{ContentError, json};
use crate::message::raw::RawMap;

/// How deep lists and maps may be nested.
pub(super) const DEPTH: usize = 400;

/// The most digits of an integer: Python's own limit for text (`sys.int_info.default_max_str_digits`).
pub(super) const DIGITS: usize = 4300;

/// Where a node is.
pub(super) type Id = usize;

/// A value.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Node {
    Null,
    Bool(bool),
    /// Decimal digits, perhaps with a `-`.
    Int(String),
    Float(f64),
    Text(String),
    Bytes(Vec<u8>),
    List(Vec<Id>),
    Map(Vec<(Id, Id)>),
    /// A value that kombu writes into JSON with its type (contract section 1.5), and its text.
    Typed(Kind, String),
}

/// The types of kombu's JSON that are text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Datetime,
    Date,
    Time,
    Decimal,
    Uuid,
}

impl Kind {
    pub(super) const ALL: [(Kind, &str); 5] = [
        (Kind::Datetime, "datetime"),
        (Kind::Date, "date"),
        (Kind::Time, "time"),
        (Kind::Decimal, "decimal"),
        (Kind::Uuid, "uuid"),
    ];

    pub(super) fn name(self) -> &'static str {
        Self::ALL
            .iter()
            .find_map(|(kind, name)| (*kind == self).then_some(*name))
            .unwrap_or_default()
    }
}

/// Values and how much more of them there may be.
#[derive(Debug)]
pub(super) struct Graph {
    nodes: Vec<Node>,
    limit: usize,
    left: usize,
}

impl Graph {
    /// An empty graph for values whose JSON text has at most `limit` bytes.
    pub(super) fn new(limit: usize) -> Self {
        Self {
            nodes: Vec::new(),
            limit,
            left: limit,
        }
    }

    /// Adds a value. Each costs at least the two bytes that it needs in JSON.
    pub(super) fn push(&mut self, node: Node) -> Result<Id, ContentError> {
        let text = match &node {
            Node::Text(text) | Node::Int(text) | Node::Typed(_, text) => text.len(),
            Node::Bytes(bytes) => bytes.len(),
            _ => 0,
        };
        self.charge(text.saturating_add(2))?;
        self.nodes.push(node);
        Ok(self.nodes.len() - 1)
    }

    /// Takes so many bytes off what is left.
    pub(super) fn charge(&mut self, bytes: usize) -> Result<(), ContentError> {
        self.left = self
            .left
            .checked_sub(bytes)
            .ok_or_else(|| too_large(self.limit))?;
        Ok(())
    }

    /// A value; null where there is none.
    pub(super) fn get(&self, id: Id) -> &Node {
        self.nodes.get(id).unwrap_or(&Node::Null)
    }

    /// A value to add to.
    pub(super) fn get_mut(&mut self, id: Id) -> Option<&mut Node> {
        self.nodes.get_mut(id)
    }

    /// The value as strict JSON, typed values in kombu's form.
    pub(super) fn to_json(&self, root: Id) -> Result<String, ContentError> {
        let mut text = String::new();
        self.write(root, &mut text, 0)?;
        Ok(text)
    }

    fn write(&self, id: Id, text: &mut String, depth: usize) -> Result<(), ContentError> {
        if text.len() > self.limit {
            return Err(too_large(self.limit));
        }
        match self.get(id) {
            Node::Null => text.push_str("null"),
            Node::Bool(true) => text.push_str("true"),
            Node::Bool(false) => text.push_str("false"),
            Node::Int(digits) => text.push_str(digits),
            Node::Float(number) => text.push_str(&json::float(*number)),
            Node::Text(string) => text.push_str(&json::string(string)),
            Node::Bytes(bytes) => {
                let (name, value) = match std::str::from_utf8(bytes) {
                    Ok(string) => ("bytes", json::string(string)),
                    Err(_) => ("base64", json::string(&BASE64.encode(bytes))),
                };
                typed(text, name, &value);
            }
            Node::Typed(Kind::Uuid, hex) => {
                typed(text, "uuid", &format!(r#"{{"hex": {}}}"#, json::string(hex)))
            }
            Node::Typed(kind, value) => typed(text, kind.name(), &json::string(value)),
            Node::List(items) => {
                let depth = deeper(depth)?;
                text.push('[');
                for (i, item) in items.iter().enumerate() {
                    text.push_str(if i > 0 { ", " } else { "" });
                    self.write(*item, text, depth)?;
                }
                text.push(']');
            }
            Node::Map(entries) => {
                let depth = deeper(depth)?;
                let mut values = HashMap::with_capacity(entries.len());
                let mut keys = Vec::with_capacity(entries.len());
                for (key, value) in entries {
                    let key = self.key(*key)?;
                    // As in Python, a key that comes again has the last value.
                    if values.insert(key.clone(), *value).is_none() {
                        keys.push(key);
                    }
                }
                text.push('{');
                for (i, key) in keys.iter().enumerate() {
                    text.push_str(if i > 0 { ", " } else { "" });
                    text.push_str(&json::string(key));
                    text.push_str(": ");
                    self.write(values.get(key).copied().unwrap_or(Id::MAX), text, depth)?;
                }
                text.push('}');
            }
        }
        Ok(())
    }

    /// A key as Python's JSON writes it; types that Python's JSON does not take as keys become their text.
    fn key(&self, id: Id) -> Result<Cow<'_, str>, ContentError> {
        Ok(match self.get(id) {
            Node::Text(text) | Node::Int(text) | Node::Typed(_, text) => text.as_str().into(),
            Node::Null => "null".into(),
            Node::Bool(value) => if *value { "true" } else { "false" }.into(),
            Node::Float(number) => json::plain_float(*number).into(),
            Node::Bytes(bytes) => std::str::from_utf8(bytes)
                .map_err(|_| ContentError::Malformed("a key of a map is bytes that are not text".into()))?
                .into(),
            Node::List(_) | Node::Map(_) => {
                return Err(ContentError::Malformed(
                    "a key of a map is itself a list or a map".into(),
                ));
            }
        })
    }

    /// Reads JSON text that is known to be valid, kombu's typed values included.
    pub(super) fn of_json(text: &str, limit: usize) -> Result<(Self, Id), ContentError> {
        let malformed = |error: serde_json::Error| ContentError::Malformed(error.to_string());
        let raw: &RawValue = serde_json::from_str(text).map_err(malformed)?;
        let mut graph = Self::new(limit);
        let root = graph.read(raw, 0)?;
        Ok((graph, root))
    }

    fn read(&mut self, raw: &RawValue, depth: usize) -> Result<Id, ContentError> {
        let malformed = |error: serde_json::Error| ContentError::Malformed(error.to_string());
        let text = raw.get();
        let node = match text.as_bytes().first() {
            Some(b'[') => {
                let depth = deeper(depth)?;
                let items: Vec<&RawValue> = serde_json::from_str(text).map_err(malformed)?;
                let items: Result<_, _> = items.into_iter().map(|item| self.read(item, depth)).collect();
                Node::List(items?)
            }
            Some(b'{') => {
                let depth = deeper(depth)?;
                let map: RawMap<'_> = serde_json::from_str(text).map_err(malformed)?;
                match of_typed(&map) {
                    Some(node) => node,
                    None => {
                        let mut entries = Vec::with_capacity(map.0.len());
                        for (key, value) in map.0 {
                            let key = self.push(Node::Text(key.into_owned()))?;
                            entries.push((key, self.read(value, depth)?));
                        }
                        Node::Map(entries)
                    }
                }
            }
            Some(b'"') => Node::Text(
                json::unquoted(text)
                    .ok_or_else(|| ContentError::Malformed("a text that cannot be read".into()))?,
            ),
            Some(b't') => Node::Bool(true),
            Some(b'f') => Node::Bool(false),
            Some(b'n') => Node::Null,
            _ if text.contains(['.', 'e', 'E']) => Node::Float(text.parse().unwrap_or(f64::NAN)),
            _ if text.len() > DIGITS => return Err(too_many_digits()),
            _ if text == "-0" => Node::Int("0".into()),
            _ => Node::Int(text.to_owned()),
        };
        self.push(node)
    }
}

/// Kombu's typed value, or one of our own for the floats that JSON has not, when that is what the map is.
fn of_typed(map: &RawMap<'_>) -> Option<Node> {
    let [one, two] = map.0.as_slice() else { return None };
    let (kind, value) = match (one.0.as_ref(), two.0.as_ref()) {
        ("__type__", "__value__") => (one.1, two.1),
        ("__value__", "__type__") => (two.1, one.1),
        _ => return None,
    };
    let kind: String = serde_json::from_str(kind.get()).ok()?;
    if kind == "uuid" {
        let value: RawMap<'_> = serde_json::from_str(value.get()).ok()?;
        let [(name, hex)] = value.0.as_slice() else {
            return None;
        };
        let hex: String = serde_json::from_str(hex.get()).ok()?;
        return (name == "hex").then_some(Node::Typed(Kind::Uuid, hex));
    }
    let value: String = serde_json::from_str(value.get()).ok()?;
    match kind.as_str() {
        "bytes" => Some(Node::Bytes(value.into_bytes())),
        "base64" => BASE64.decode(value).ok().map(Node::Bytes),
        "float" => json::special_float(&value).map(Node::Float),
        kind => Kind::ALL
            .iter()
            .find(|(_, name)| *name == kind)
            .map(|(kind, _)| Node::Typed(*kind, value)),
    }
}

/// One level deeper, if there may be one.
pub(super) fn deeper(depth: usize) -> Result<usize, ContentError> {
    if depth < DEPTH {
        return Ok(depth + 1);
    }
    Err(ContentError::TooLarge(format!(
        "lists and maps are nested more than {DEPTH} deep"
    )))
}

pub(super) fn too_large(limit: usize) -> ContentError {
    ContentError::TooLarge(format!(
        "the content has more than {limit} bytes (the limit is limits.body)"
    ))
}

pub(super) fn too_many_digits() -> ContentError {
    ContentError::TooLarge(format!("an integer has more than {DIGITS} digits"))
}

fn typed(text: &mut String, kind: &str, value: &str) {
    let _ = write!(text, r#"{{"__type__": "{kind}", "__value__": {value}}}"#);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn again(text: &str) -> Result<String, ContentError> {
        let (graph, root) = Graph::of_json(text, 10_000)?;
        graph.to_json(root)
    }

    #[test]
    fn json_and_kombus_types_come_out_as_they_went_in() {
        for text in [
            r#"[1, -2, 123456789012345678901234567890, 1.5, 1e+300, "ä\n\"", true, false, null]"#,
            r#"{"a": {"b": []}, "c": {}}"#,
            r#"{"__type__": "datetime", "__value__": "2026-11-21T10:00:00"}"#,
            r#"{"__type__": "uuid", "__value__": {"hex": "00000000000000000000000000000001"}}"#,
            r#"[{"__type__": "bytes", "__value__": "x"}, {"__type__": "base64", "__value__": "/w=="}]"#,
            r#"[{"__type__": "float", "__value__": "NaN"}, {"__type__": "float", "__value__": "-Infinity"}]"#,
            r#"{"__type__": "unknown", "__value__": "x"}"#,
            r#"{"__type__": "decimal", "__value__": "1.10", "more": 1}"#,
        ] {
            assert_eq!(again(text).unwrap(), text);
        }
    }

    #[test]
    fn the_last_value_of_a_key_counts() {
        assert_eq!(
            again(r#"{"a": 1, "b": 2, "a": 3}"#).unwrap(),
            r#"{"a": 3, "b": 2}"#
        );
    }

    #[test]
    fn a_value_that_contains_itself_is_too_deep_and_one_that_multiplies_too_large() {
        let mut graph = Graph::new(10_000);
        let id = graph.push(Node::List(Vec::new())).unwrap();
        *graph.get_mut(id).unwrap() = Node::List(vec![id]);
        assert!(matches!(graph.to_json(id), Err(ContentError::TooLarge(_))));
        let mut graph = Graph::new(10_000);
        let mut last = graph.push(Node::Text("lol".into())).unwrap();
        for _ in 0..50 {
            last = graph.push(Node::List(vec![last; 10])).unwrap();
        }
        assert!(matches!(graph.to_json(last), Err(ContentError::TooLarge(_))));
    }

    #[test]
    fn size_and_depth_are_bounded() {
        assert!(matches!(
            again(&format!("[{}1]", "1, ".repeat(9000))),
            Err(ContentError::TooLarge(_))
        ));
        let deep = |n: usize| format!("{}{}", "[".repeat(n), "]".repeat(n));
        assert!(again(&deep(DEPTH)).is_ok());
        assert!(matches!(again(&deep(DEPTH + 1)), Err(ContentError::TooLarge(_))));
        assert!(matches!(
            again(&"1".repeat(DIGITS + 1)),
            Err(ContentError::TooLarge(_))
        ));
    }
}
