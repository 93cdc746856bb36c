//! msgpack as Python's `msgpack` reads and writes it with kombu's options: text is UTF-8, bytes are bytes.

use rmpv::Value;

use super::ContentError;
use super::graph::{DEPTH, Graph, Id, Kind, Node, deeper};

/// Reads one msgpack value. Extension types have no meaning here and are refused.
pub(super) fn decode(bytes: &[u8], limit: usize) -> Result<(Graph, Id), ContentError> {
    let mut rest = bytes;
    let value = rmpv::decode::read_value_with_max_depth(&mut rest, DEPTH).map_err(|error| match error {
        rmpv::decode::Error::DepthLimitExceeded => ContentError::TooLarge(error.to_string()),
        error => ContentError::Malformed(error.to_string()),
    })?;
    if !rest.is_empty() {
        return Err(ContentError::Malformed(format!(
            "{} bytes follow the msgpack value",
            rest.len()
        )));
    }
    let mut graph = Graph::new(limit);
    let root = read(&mut graph, value, 0)?;
    Ok((graph, root))
}

fn read(graph: &mut Graph, value: Value, depth: usize) -> Result<Id, ContentError> {
    let node = match value {
        Value::Nil => Node::Null,
        Value::Boolean(value) => Node::Bool(value),
        Value::Integer(number) => Node::Int(number.to_string()),
        Value::F32(number) => Node::Float(number.into()),
        Value::F64(number) => Node::Float(number),
        Value::String(text) => Node::Text(
            text.into_str()
                .ok_or_else(|| ContentError::Malformed("a msgpack text is not UTF-8".into()))?,
        ),
        Value::Binary(bytes) => Node::Bytes(bytes),
        Value::Array(items) => {
            let depth = deeper(depth)?;
            let items: Result<_, _> = items.into_iter().map(|item| read(graph, item, depth)).collect();
            Node::List(items?)
        }
        Value::Map(entries) => {
            let depth = deeper(depth)?;
            let mut ids = Vec::with_capacity(entries.len());
            for (key, value) in entries {
                ids.push((read(graph, key, depth)?, read(graph, value, depth)?));
            }
            Node::Map(ids)
        }
        Value::Ext(kind, _) => {
            return Err(ContentError::Malformed(format!(
                "msgpack extension type {kind} has no meaning here"
            )));
        }
    };
    graph.push(node)
}

/// Writes a value. Integers beyond 64 bits and kombu's typed values, which msgpack has not, become text and maps.
pub(super) fn encode(graph: &Graph, root: Id) -> Result<Vec<u8>, ContentError> {
    let value = write(graph, root, 0)?;
    let mut bytes = Vec::new();
    rmpv::encode::write_value(&mut bytes, &value)
        .map_err(|error| ContentError::Malformed(error.to_string()))?;
    Ok(bytes)
}

fn write(graph: &Graph, id: Id, depth: usize) -> Result<Value, ContentError> {
    Ok(match graph.get(id) {
        Node::Null => Value::Nil,
        Node::Bool(value) => (*value).into(),
        Node::Int(digits) => match (digits.parse::<i64>(), digits.parse::<u64>()) {
            (Ok(number), _) => number.into(),
            (_, Ok(number)) => number.into(),
            _ => digits.as_str().into(),
        },
        Node::Float(number) => (*number).into(),
        Node::Text(text) => text.as_str().into(),
        Node::Bytes(bytes) => bytes.as_slice().into(),
        Node::List(items) => {
            let depth = deeper(depth)?;
            let items: Result<_, _> = items.iter().map(|item| write(graph, *item, depth)).collect();
            Value::Array(items?)
        }
        Node::Map(entries) => {
            let depth = deeper(depth)?;
            let entry =
                |(key, value): &(Id, Id)| Ok((write(graph, *key, depth)?, write(graph, *value, depth)?));
            Value::Map(entries.iter().map(entry).collect::<Result<_, ContentError>>()?)
        }
        Node::Typed(kind, text) => {
            let value = match kind {
                Kind::Uuid => Value::Map(vec![("hex".into(), text.as_str().into())]),
                _ => text.as_str().into(),
            };
            Value::Map(vec![
                ("__type__".into(), kind.name().into()),
                ("__value__".into(), value),
            ])
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn json(bytes: &[u8]) -> Result<String, ContentError> {
        let (graph, root) = decode(bytes, 10_000)?;
        graph.to_json(root)
    }

    fn msgpack(text: &str) -> Vec<u8> {
        let (graph, root) = Graph::of_json(text, 10_000).unwrap();
        encode(&graph, root).unwrap()
    }

    #[test]
    fn every_type_of_msgpack_has_its_json() {
        assert_eq!(
            json(b"\x93\xc0\xc3\x81\xa1a\xcf\xff\xff\xff\xff\xff\xff\xff\xff").unwrap(),
            r#"[null, true, {"a": 18446744073709551615}]"#
        );
        assert_eq!(
            json(b"\xc4\x01\xff").unwrap(),
            r#"{"__type__": "base64", "__value__": "/w=="}"#
        );
        assert_eq!(
            json(b"\xca\x7f\xc0\x00\x00").unwrap(),
            r#"{"__type__": "float", "__value__": "NaN"}"#
        );
        assert_eq!(
            json(b"\x82\x01\xc0\xc2\xc0").unwrap(),
            r#"{"1": null, "false": null}"#
        );
    }

    #[test]
    fn what_is_written_is_read_again() {
        for text in [
            r#"{"a": [1, -1, 1.5, null, true, "ä", 18446744073709551615]}"#,
            r#"[{"__type__": "base64", "__value__": "/w=="}, {"__type__": "float", "__value__": "Infinity"}]"#,
            r#"{"__type__": "uuid", "__value__": {"hex": "01"}}"#,
            r#"{"__type__": "decimal", "__value__": "1.10"}"#,
        ] {
            assert_eq!(json(&msgpack(text)).unwrap(), text);
        }
        assert_eq!(
            json(&msgpack("-9223372036854775809")).unwrap(),
            r#""-9223372036854775809""#
        );
    }

    #[test]
    fn hostile_bytes_are_refused() {
        for bytes in [
            &b""[..],
            b"\x91",
            b"\x01\x01",
            b"\xa1\xff",
            b"\xd4\x01\x00",
            b"\xdd\xff\xff\xff\xff",
            b"\xdb\xff\xff\xff\xff",
        ] {
            assert!(
                matches!(json(bytes), Err(ContentError::Malformed(_))),
                "{bytes:?}"
            );
        }
        assert!(matches!(json(&[0x91; 100_000]), Err(ContentError::TooLarge(_))));
        assert!(
            matches!(json(b"\x81\x90\xc0"), Err(ContentError::Malformed(_))),
            "a list as a key"
        );
        let many = [&b"\xdd\x00\x01\x00\x00"[..], &[0xc0; 65536]].concat();
        assert!(matches!(json(&many), Err(ContentError::TooLarge(_))));
    }
}
