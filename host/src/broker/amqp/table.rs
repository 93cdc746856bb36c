//! Field tables, AMQP's maps, to JSON and back (contract section 1.9).
//!
//! Decoding is forgiving, because what is in a table is the sender's choice: text that is not UTF-8 is repaired, and
//! tables nested deeper than [`MAX_DEPTH`] are refused before they cost any stack.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde_json::{Number, Value};

use super::wire::{EncodeError, Reader, put_short};
use crate::message::JsonMap;

/// How deep tables and arrays may be nested.
const MAX_DEPTH: usize = 64;

/// Reads a field table with its length. `None` when it is malformed or too deep; the reader stands behind it then, if
/// at least its length was right.
pub(super) fn read_table(reader: &mut Reader<'_>) -> Option<JsonMap> {
    let bytes = reader.long_bytes()?;
    table(&mut Reader::new(bytes), MAX_DEPTH)
}

fn table(reader: &mut Reader<'_>, depth: usize) -> Option<JsonMap> {
    let mut map = JsonMap::new();
    while !reader.is_empty() {
        let name = reader.short()?;
        map.insert(name, value(reader, depth)?);
    }
    Some(map)
}

/// One typed value. The letters are those that RabbitMQ and py-amqp use, which differ from the specification's.
fn value(reader: &mut Reader<'_>, depth: usize) -> Option<Value> {
    Some(match reader.u8()? {
        b'V' => Value::Null,
        b't' => Value::Bool(reader.u8()? != 0),
        b'b' => i8::from_be_bytes(reader.array()?).into(),
        b'B' => reader.u8()?.into(),
        b'U' | b's' => i16::from_be_bytes(reader.array()?).into(),
        b'u' => reader.u16()?.into(),
        b'I' => i32::from_be_bytes(reader.array()?).into(),
        b'i' => reader.u32()?.into(),
        b'L' | b'l' => i64::from_be_bytes(reader.array()?).into(),
        b'f' => float(f64::from(f32::from_be_bytes(reader.array()?))),
        b'd' => float(f64::from_be_bytes(reader.array()?)),
        b'D' => {
            let scale = reader.u8()?;
            Value::String(decimal(i32::from_be_bytes(reader.array()?), scale))
        }
        b'S' => text(reader.long_bytes()?).into(),
        b'x' => {
            let bytes = reader.long_bytes()?;
            match std::str::from_utf8(bytes) {
                Ok(text) => text.into(),
                Err(_) => BASE64.encode(bytes).into(),
            }
        }
        b'T' => timestamp(reader.u64()?),
        b'F' => {
            let bytes = reader.long_bytes()?;
            Value::Object(table(&mut Reader::new(bytes), depth.checked_sub(1)?)?)
        }
        b'A' => {
            let mut inner = Reader::new(reader.long_bytes()?);
            let depth = depth.checked_sub(1)?;
            let mut list = Vec::new();
            while !inner.is_empty() {
                list.push(value(&mut inner, depth)?);
            }
            Value::Array(list)
        }
        _ => return None,
    })
}

/// JSON has no NaN and no infinities.
fn float(value: f64) -> Value {
    Number::from_f64(value).map_or(Value::Null, Value::Number)
}

/// A decimal as Python's `str(Decimal)` writes it.
fn decimal(value: i32, scale: u8) -> String {
    let digits = format!("{:0width$}", value.unsigned_abs(), width = usize::from(scale) + 1);
    let (whole, fraction) = digits.split_at(digits.len() - usize::from(scale));
    let sign = if value < 0 { "-" } else { "" };
    let point = if scale == 0 { "" } else { "." };
    format!("{sign}{whole}{point}{fraction}")
}

/// Seconds since 1970 as an ISO 8601 time, the form in which headers hold times.
fn timestamp(seconds: u64) -> Value {
    let time = i64::try_from(seconds)
        .ok()
        .and_then(|seconds| jiff::Timestamp::from_second(seconds).ok());
    time.map_or_else(|| seconds.into(), |time| time.to_string().into())
}

/// UTF-8 text, repaired where it is not.
pub(super) fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Writes a field table with its length, with the types that py-amqp chooses.
pub(super) fn put_table(out: &mut Vec<u8>, map: &JsonMap) -> Result<(), EncodeError> {
    sized(out, |out| {
        for (name, value) in map {
            put_short(out, name)?;
            put_value(out, value)?;
        }
        Ok(())
    })
}

fn put_value(out: &mut Vec<u8>, value: &Value) -> Result<(), EncodeError> {
    match value {
        Value::Null => out.push(b'V'),
        Value::Bool(value) => out.extend([b't', u8::from(*value)]),
        Value::Number(number) => put_number(out, number),
        Value::String(text) => {
            out.push(b'S');
            sized(out, |out| {
                out.extend_from_slice(text.as_bytes());
                Ok(())
            })?;
        }
        Value::Array(list) => {
            out.push(b'A');
            sized(out, |out| list.iter().try_for_each(|item| put_value(out, item)))?;
        }
        Value::Object(map) => {
            out.push(b'F');
            put_table(out, map)?;
        }
    }
    Ok(())
}

fn put_number(out: &mut Vec<u8>, number: &Number) {
    match number.as_i64() {
        Some(value) => match i32::try_from(value) {
            Ok(value) => {
                out.push(b'I');
                out.extend(value.to_be_bytes());
            }
            Err(_) => {
                out.push(b'L');
                out.extend(value.to_be_bytes());
            }
        },
        // A float, or a whole number past 2^63, for which there is no type that everybody reads.
        None => {
            out.push(b'd');
            out.extend(number.as_f64().unwrap_or_default().to_be_bytes());
        }
    }
}

/// Writes the length of what `body` writes in front of it.
fn sized(
    out: &mut Vec<u8>,
    body: impl FnOnce(&mut Vec<u8>) -> Result<(), EncodeError>,
) -> Result<(), EncodeError> {
    let start = out.len();
    out.extend([0; 4]);
    body(out)?;
    let length = u32::try_from(out.len() - start - 4).map_err(|_| EncodeError::HeadersTooLarge)?;
    if let Some(place) = out.get_mut(start..start + 4) {
        place.copy_from_slice(&length.to_be_bytes());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn written(value: &Value) -> Vec<u8> {
        let mut out = Vec::new();
        put_table(&mut out, value.as_object().unwrap()).unwrap();
        out
    }

    fn read(bytes: &[u8]) -> Option<Value> {
        read_table(&mut Reader::new(bytes)).map(Value::Object)
    }

    fn table_of(entry: &[u8]) -> Vec<u8> {
        let mut bytes = u32::try_from(entry.len() + 2).unwrap().to_be_bytes().to_vec();
        bytes.extend([1, b'k']);
        bytes.extend(entry);
        bytes
    }

    #[test]
    fn json_survives_the_way_there_and_back() {
        let headers = json!({
            "lang": "py", "eta": null, "retries": 0, "timelimit": [null, 1.5], "stamps": {"a": ["é", true]},
            "big": 5_000_000_000_i64, "min": i64::MIN, "empty": {}, "none": [],
        });
        assert_eq!(read(&written(&headers)), Some(headers));
    }

    #[test]
    fn types_are_those_of_py_amqp() {
        let cases = [
            (json!(null), &b"V"[..]),
            (json!(true), b"t\x01"),
            (json!(7), b"I\0\0\0\x07"),
            (json!(-2_147_483_648_i64), b"I\x80\0\0\0"),
            (json!(2_147_483_648_i64), b"L\0\0\0\0\x80\0\0\0"),
            (json!(1.0), b"d\x3f\xf0\0\0\0\0\0\0"),
            (json!("ab"), b"S\0\0\0\x02ab"),
            (json!([null]), b"A\0\0\0\x01V"),
            (json!({}), b"F\0\0\0\0"),
        ];
        for (value, entry) in cases {
            assert_eq!(written(&json!({ "k": value })), table_of(entry), "{value}");
        }
    }

    #[test]
    fn every_type_of_rabbitmq_is_read() {
        let cases = [
            (&b"b\xff"[..], json!(-1)),
            (b"B\xff", json!(255)),
            (b"s\xff\xfe", json!(-2)),
            (b"U\xff\xfe", json!(-2)),
            (b"u\xff\xfe", json!(65534)),
            (b"i\xff\xff\xff\xff", json!(4_294_967_295_u64)),
            (b"l\xff\xff\xff\xff\xff\xff\xff\xff", json!(-1)),
            (b"f\x3f\x80\0\0", json!(1.0)),
            (b"d\x7f\xf0\0\0\0\0\0\0", json!(null)),
            (b"D\x02\0\0\0\x7d", json!("1.25")),
            (b"D\x02\xff\xff\xff\xff", json!("-0.01")),
            (b"D\0\0\0\0\x05", json!("5")),
            (b"T\0\0\0\0\x6a\xfe\x5d\x2b", json!("2026-11-19T02:21:31Z")),
            (b"T\xff\xff\xff\xff\xff\xff\xff\xff", json!(u64::MAX)),
            (b"x\0\0\0\x01a", json!("a")),
            (b"x\0\0\0\x01\xff", json!("/w==")),
            (b"S\0\0\0\x02a\xff", json!("a\u{fffd}")),
        ];
        for (entry, value) in cases {
            assert_eq!(read(&table_of(entry)), Some(json!({ "k": value })), "{entry:?}");
        }
    }

    #[test]
    fn malformed_and_bottomless_tables_are_refused() {
        for entry in [&b""[..], b"I\0", b"S\0\0\0\x05ab", b"?", b"A\0\0\0\x01I"] {
            assert_eq!(read(&table_of(entry)), None, "{entry:?}");
        }
        assert_eq!(read(b"\0\0\0\x09ab"), None, "longer than it is");
        let mut nested = vec![0, 0, 0, 0];
        for _ in 0..20_000 {
            let mut entry = vec![b'F'];
            entry.extend(&nested);
            nested = table_of(&entry);
        }
        assert_eq!(read(&nested), None);
    }
}
