//! Field tables, AMQP's maps, to JSON and back (contract section 1.9).
//!
//! Nothing that comes in is nested deeper than [`screen`](super::screen) lets pass.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use lapin::types::{AMQPValue, FieldArray, FieldTable, ShortString};
use serde_json::{Number, Value};

use super::message::EncodeError;
use crate::message::JsonMap;

/// A field table as JSON.
pub(super) fn to_json(table: &FieldTable) -> JsonMap {
    let entries = table.into_iter();
    entries
        .map(|(name, value)| (name.to_string(), value_to_json(value)))
        .collect()
}

fn value_to_json(value: &AMQPValue) -> Value {
    match value {
        AMQPValue::Void => Value::Null,
        AMQPValue::Boolean(value) => Value::Bool(*value),
        AMQPValue::ShortShortInt(value) => (*value).into(),
        AMQPValue::ShortShortUInt(value) => (*value).into(),
        AMQPValue::ShortInt(value) => (*value).into(),
        AMQPValue::ShortUInt(value) => (*value).into(),
        AMQPValue::LongInt(value) => (*value).into(),
        AMQPValue::LongUInt(value) => (*value).into(),
        AMQPValue::LongLongInt(value) => (*value).into(),
        AMQPValue::Float(value) => float(f64::from(*value)),
        AMQPValue::Double(value) => float(*value),
        // The digits are signed, whatever lapin says.
        AMQPValue::DecimalValue(value) => decimal(value.value.cast_signed(), value.scale).into(),
        AMQPValue::ShortString(value) => value.as_str().into(),
        AMQPValue::LongString(value) => String::from_utf8_lossy(value.as_bytes()).into(),
        AMQPValue::ByteArray(value) => match std::str::from_utf8(value.as_slice()) {
            Ok(text) => text.into(),
            Err(_) => BASE64.encode(value.as_slice()).into(),
        },
        AMQPValue::Timestamp(value) => timestamp(*value),
        AMQPValue::FieldTable(value) => Value::Object(to_json(value)),
        AMQPValue::FieldArray(value) => value.as_slice().iter().map(value_to_json).collect(),
    }
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

/// JSON as a field table, with the types that py-amqp chooses.
pub(super) fn from_json(map: &JsonMap) -> Result<FieldTable, EncodeError> {
    let mut table = FieldTable::default();
    for (name, value) in map {
        table.insert(short(name)?, value_from_json(value)?);
    }
    Ok(table)
}

/// A text of at most 255 bytes.
pub(super) fn short(text: &str) -> Result<ShortString, EncodeError> {
    ShortString::try_new(text).map_err(|_| EncodeError::TooLong(text.len()))
}

fn value_from_json(value: &Value) -> Result<AMQPValue, EncodeError> {
    Ok(match value {
        Value::Null => AMQPValue::Void,
        Value::Bool(value) => AMQPValue::Boolean(*value),
        Value::Number(number) => match number.as_i64() {
            Some(value) => match i32::try_from(value) {
                Ok(value) => AMQPValue::LongInt(value),
                Err(_) => AMQPValue::LongLongInt(value),
            },
            // A float, or a whole number past 2^63, for which there is no type that everybody reads.
            None => AMQPValue::Double(number.as_f64().unwrap_or_default()),
        },
        Value::String(text) => AMQPValue::LongString(text.as_bytes().into()),
        Value::Array(list) => {
            let values: Result<Vec<_>, _> = list.iter().map(value_from_json).collect();
            AMQPValue::FieldArray(FieldArray::from(values?))
        }
        Value::Object(map) => AMQPValue::FieldTable(from_json(map)?),
    })
}

/// How many bytes a table takes on the wire, its length included.
pub(super) fn wire_size(table: &FieldTable) -> usize {
    let entries = table.into_iter();
    4 + entries
        .map(|(name, value)| 1 + name.as_str().len() + value_size(value))
        .sum::<usize>()
}

/// Its type included.
fn value_size(value: &AMQPValue) -> usize {
    1 + match value {
        AMQPValue::Void => 0,
        AMQPValue::Boolean(_) | AMQPValue::ShortShortInt(_) | AMQPValue::ShortShortUInt(_) => 1,
        AMQPValue::ShortInt(_) | AMQPValue::ShortUInt(_) => 2,
        AMQPValue::LongInt(_) | AMQPValue::LongUInt(_) | AMQPValue::Float(_) => 4,
        AMQPValue::DecimalValue(_) => 5,
        AMQPValue::LongLongInt(_) | AMQPValue::Double(_) | AMQPValue::Timestamp(_) => 8,
        AMQPValue::ShortString(text) => 1 + text.as_str().len(),
        AMQPValue::LongString(text) => 4 + text.len(),
        AMQPValue::ByteArray(bytes) => 4 + bytes.as_slice().len(),
        AMQPValue::FieldTable(table) => wire_size(table),
        AMQPValue::FieldArray(list) => 4 + list.as_slice().iter().map(value_size).sum::<usize>(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use lapin::types::generation::gen_field_table;
    use lapin::types::parsing::parse_field_table;
    use serde_json::json;

    fn written(value: &Value) -> Vec<u8> {
        let table = from_json(value.as_object().unwrap()).unwrap();
        let mut buffer = vec![0; 1 << 16];
        let context = (&mut buffer[..]).into();
        let rest = gen_field_table(&table)(context).unwrap().write.len();
        buffer.truncate(buffer.len() - rest);
        assert_eq!(wire_size(&table), buffer.len(), "{value}");
        buffer
    }

    fn read(bytes: &[u8]) -> Value {
        let (rest, table) = parse_field_table(bytes).unwrap();
        assert!(rest.is_empty());
        Value::Object(to_json(&table))
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
        assert_eq!(read(&written(&headers)), headers);
    }

    #[test]
    fn types_are_those_of_py_amqp() {
        let cases = [
            (json!(null), &b"V"[..]),
            (json!(true), b"t\x01"),
            (json!(7), b"I\0\0\0\x07"),
            (json!(-2_147_483_648_i64), b"I\x80\0\0\0"),
            (json!(2_147_483_648_i64), b"l\0\0\0\0\x80\0\0\0"),
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
            assert_eq!(read(&table_of(entry)), json!({ "k": value }), "{entry:?}");
        }
    }
}
