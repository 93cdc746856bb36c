//! YAML in one line, with quotes around every text: nothing is left to guess.

use std::fmt::Write as _;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;

use super::super::ContentError;
use super::super::graph::{Graph, Id, Kind, Node, deeper};
use super::super::json;

/// The longest key that PyYAML reads without a `?` in front, characters, with a margin for escapes.
const SIMPLE_KEY: usize = 100;

/// Writes a value. Times without a date, decimals and UUIDs, which YAML has not, stay kombu's maps.
pub(in super::super) fn encode(graph: &Graph, root: Id) -> Result<Vec<u8>, ContentError> {
    let mut text = String::new();
    write(graph, root, &mut text, 0)?;
    text.push('\n');
    Ok(text.into_bytes())
}

fn write(graph: &Graph, id: Id, text: &mut String, depth: usize) -> Result<(), ContentError> {
    match graph.get(id) {
        Node::Null => text.push_str("null"),
        Node::Bool(value) => text.push_str(if *value { "true" } else { "false" }),
        Node::Int(digits) => text.push_str(digits),
        Node::Float(number) => text.push_str(&float(*number)),
        Node::Text(string) => quote(string, text),
        Node::Bytes(bytes) => {
            let _ = write!(text, "!!binary \"{}\"", BASE64.encode(bytes));
        }
        Node::List(items) => {
            let depth = deeper(depth)?;
            text.push('[');
            for (i, item) in items.iter().enumerate() {
                text.push_str(if i > 0 { ", " } else { "" });
                write(graph, *item, text, depth)?;
            }
            text.push(']');
        }
        Node::Map(entries) => {
            let depth = deeper(depth)?;
            text.push('{');
            for (i, (key, value)) in entries.iter().enumerate() {
                text.push_str(if i > 0 { ", " } else { "" });
                if matches!(graph.get(*key), Node::Text(key) if key.len() > SIMPLE_KEY) {
                    text.push_str("? ");
                }
                write(graph, *key, text, depth)?;
                text.push_str(": ");
                write(graph, *value, text, depth)?;
            }
            text.push('}');
        }
        Node::Typed(kind @ (Kind::Datetime | Kind::Date), value) => {
            let is_timestamp = matches!(
                super::scalar::resolve(value, true, None),
                Ok(Some(Node::Typed(..)))
            );
            match is_timestamp {
                true => {
                    let _ = write!(text, "!!timestamp \"{value}\"");
                }
                false => typed(kind.name(), &json::string(value), text),
            }
        }
        Node::Typed(Kind::Uuid, hex) => typed("uuid", &format!("{{\"hex\": {}}}", json::string(hex)), text),
        Node::Typed(kind, value) => typed(kind.name(), &json::string(value), text),
    }
    Ok(())
}

fn typed(kind: &str, value: &str, text: &mut String) {
    let _ = write!(text, r#"{{"__type__": "{kind}", "__value__": {value}}}"#);
}

/// A float with the point and the sign in front of the exponent without which YAML 1.1 sees a text.
fn float(number: f64) -> String {
    if number.is_nan() {
        return ".nan".to_owned();
    }
    if number.is_infinite() {
        return if number > 0.0 { ".inf" } else { "-.inf" }.to_owned();
    }
    let plain = json::float(number);
    let (mantissa, exponent) = plain.split_once('e').unwrap_or((&plain, ""));
    let point = if mantissa.contains('.') { "" } else { ".0" };
    match exponent {
        "" => format!("{mantissa}{point}"),
        exponent if exponent.starts_with(['-', '+']) => format!("{mantissa}{point}e{exponent}"),
        exponent => format!("{mantissa}{point}e+{exponent}"),
    }
}

fn quote(string: &str, text: &mut String) {
    text.push('"');
    for c in string.chars() {
        match c {
            '"' => text.push_str("\\\""),
            '\\' => text.push_str("\\\\"),
            '\n' => text.push_str("\\n"),
            ' '..='~' => text.push(c),
            c if u32::from(c) <= 0xff => {
                let _ = write!(text, "\\x{:02x}", u32::from(c));
            }
            c if u32::from(c) <= 0xffff => {
                let _ = write!(text, "\\u{:04x}", u32::from(c));
            }
            c => {
                let _ = write!(text, "\\U{:08x}", u32::from(c));
            }
        }
    }
    text.push('"');
}
