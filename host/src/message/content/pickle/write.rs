//! Pickles of protocol 4.

use super::super::ContentError;
use super::super::graph::{Graph, Id, Kind, Node, deeper};
use rsa::BigUint;

/// Writes a value; dates, decimals and UUIDs as what they are in Python.
pub(in super::super) fn encode(graph: &Graph, root: Id) -> Result<Vec<u8>, ContentError> {
    let mut bytes = vec![0x80, 4];
    write(graph, root, &mut bytes, 0)?;
    bytes.push(b'.');
    Ok(bytes)
}

fn write(graph: &Graph, id: Id, bytes: &mut Vec<u8>, depth: usize) -> Result<(), ContentError> {
    match graph.get(id) {
        Node::Null => bytes.push(b'N'),
        Node::Bool(true) => bytes.push(0x88),
        Node::Bool(false) => bytes.push(0x89),
        Node::Int(digits) => int(digits, bytes),
        Node::Float(number) => {
            bytes.push(b'G');
            bytes.extend_from_slice(&number.to_be_bytes());
        }
        Node::Text(string) => text(string, bytes),
        Node::Bytes(content) => with_length(0x8e, content, bytes),
        Node::List(items) => {
            let depth = deeper(depth)?;
            bytes.extend_from_slice(b"](");
            for item in items {
                write(graph, *item, bytes, depth)?;
            }
            bytes.push(b'e');
        }
        Node::Map(entries) => {
            let depth = deeper(depth)?;
            bytes.extend_from_slice(b"}(");
            for (key, value) in entries {
                write(graph, *key, bytes, depth)?;
                write(graph, *value, bytes, depth)?;
            }
            bytes.push(b'u');
        }
        Node::Typed(kind, value) => {
            let (module, name) = match kind {
                Kind::Datetime => ("datetime", "datetime.fromisoformat"),
                Kind::Date => ("datetime", "date.fromisoformat"),
                Kind::Time => ("datetime", "time.fromisoformat"),
                Kind::Decimal => ("decimal", "Decimal"),
                Kind::Uuid => ("uuid", "UUID"),
            };
            text(module, bytes);
            text(name, bytes);
            bytes.push(0x93);
            text(value, bytes);
            // A tuple of one, and the call.
            bytes.extend_from_slice(&[0x85, b'R']);
        }
    }
    Ok(())
}

fn text(string: &str, bytes: &mut Vec<u8>) {
    match u8::try_from(string.len()) {
        Ok(length) => {
            bytes.extend_from_slice(&[0x8c, length]);
            bytes.extend_from_slice(string.as_bytes());
        }
        Err(_) => with_length(0x8d, string.as_bytes(), bytes),
    }
}

fn with_length(op: u8, content: &[u8], bytes: &mut Vec<u8>) {
    bytes.push(op);
    bytes.extend_from_slice(&(content.len() as u64).to_le_bytes());
    bytes.extend_from_slice(content);
}

fn int(digits: &str, bytes: &mut Vec<u8>) {
    if let Ok(number) = digits.parse::<i32>() {
        bytes.push(b'J');
        bytes.extend_from_slice(&number.to_le_bytes());
        return;
    }
    let (negative, magnitude) = match digits.strip_prefix('-') {
        Some(magnitude) => (true, magnitude),
        None => (false, digits),
    };
    let magnitude = BigUint::parse_bytes(magnitude.as_bytes(), 10).unwrap_or_default();
    let mut content = magnitude.to_bytes_le();
    content.push(0);
    if negative {
        let mut carry = true;
        for byte in &mut content {
            let (value, more) = (!*byte).overflowing_add(carry.into());
            (*byte, carry) = (value, more);
        }
    }
    bytes.push(0x8b);
    bytes.extend_from_slice(&(content.len() as u32).to_le_bytes());
    bytes.extend_from_slice(&content);
}
