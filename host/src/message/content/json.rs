//! JSON as Python writes it (contract section 1.5), and JSON as everybody reads it.
//!
//! Three things of Python's are not JSON, or not JSON that our parser can hold: the floats `NaN`, `Infinity` and
//! `-Infinity`, lone surrogates in text, and integers beyond 64 bits. The floats, and in headers the integers, travel
//! in the form of kombu's typed values, `{"__type__": "float", "__value__": "NaN"}`, and are written back as what
//! they were.

use std::borrow::Cow;
use std::sync::LazyLock;

use regex::{Captures, Regex};
use serde_json::Value;

/// A run of so many digits may be an integer beyond 64 bits.
const LONG_RUN: usize = 18;

/// Text as a JSON string.
pub(super) fn string(text: &str) -> String {
    // A string always serializes.
    serde_json::to_string(text).unwrap_or_default()
}

/// A float as JSON.
pub(super) fn float(number: f64) -> String {
    if number.is_finite() {
        return serde_json::to_string(&number).unwrap_or_default();
    }
    format!(
        r#"{{"__type__": "float", "__value__": "{}"}}"#,
        plain_float(number)
    )
}

/// A float as Python's JSON writes it.
pub(super) fn plain_float(number: f64) -> String {
    match number {
        _ if number.is_finite() => serde_json::to_string(&number).unwrap_or_default(),
        _ if number.is_nan() => "NaN".to_owned(),
        _ if number > 0.0 => "Infinity".to_owned(),
        _ => "-Infinity".to_owned(),
    }
}

/// One of the floats that JSON has not.
pub(super) fn special_float(name: &str) -> Option<f64> {
    match name {
        "NaN" => Some(f64::NAN),
        "Infinity" => Some(f64::INFINITY),
        "-Infinity" => Some(f64::NEG_INFINITY),
        _ => None,
    }
}

/// The text of a JSON string; lone surrogates become U+FFFD.
pub(super) fn unquoted(text: &str) -> Option<String> {
    serde_json::from_str(text)
        .or_else(|_| serde_json::from_str(&rewrite(text, true)))
        .ok()
}

/// Python's JSON as strict JSON, except for lone surrogates, which go through as they are.
pub(in crate::message) fn strict(text: &str) -> String {
    rewrite(text, false)
}

/// Any JSON of Python's as a value: lone surrogates become U+FFFD, numbers that a value cannot hold their typed form.
pub(in crate::message) fn value(text: &str) -> Option<Value> {
    if !has_long_number(text)
        && let Ok(value) = serde_json::from_str(text)
    {
        return Some(value);
    }
    serde_json::from_str(&rewrite(text, true)).ok()
}

/// Strict JSON with our typed numbers as Python's JSON with literals: the way back of [`strict`] and [`value`].
pub(in crate::message) fn python(text: &str) -> Cow<'_, str> {
    /// In valid JSON this is a map and never part of a string: there the quotes would have backslashes.
    static TYPED: LazyLock<Option<Regex>> = LazyLock::new(|| {
        let (value, kind) = (
            r#""__value__"\s*:\s*"(?:(NaN|-?Infinity)|(-?[0-9]{1,4300}))""#,
            r#""__type__"\s*:\s*"(float|int)""#,
        );
        Regex::new(&format!(
            r"\{{\s*(?:{kind}\s*,\s*{value}|{value}\s*,\s*{kind})\s*\}}"
        ))
        .ok()
    });
    let Some(typed) = TYPED.as_ref().filter(|_| text.contains("\"__type__\"")) else {
        return text.into();
    };
    typed.replace_all(text, |found: &Captures<'_>| {
        let group = |n: usize| found.get(n).map(|part| part.as_str());
        let (kind, float, int) = match group(1) {
            Some(kind) => (Some(kind), group(2), group(3)),
            None => (group(6), group(4), group(5)),
        };
        let literal = match kind {
            Some("float") => float,
            _ => int,
        };
        literal.or(group(0)).unwrap_or_default().to_owned()
    })
}

/// Whether there is a number, or something like one, that 64 bits may not hold.
fn has_long_number(text: &str) -> bool {
    let mut run = 0;
    text.bytes().any(|byte| {
        run = if byte.is_ascii_digit() { run + 1 } else { 0 };
        run > LONG_RUN
    })
}

/// Rewrites what is not strict JSON. Text that is no JSON at all stays none. With `for_value` also what a value cannot
/// hold: lone surrogates, integers beyond 64 bits, floats beyond the largest.
fn rewrite(text: &str, for_value: bool) -> String {
    let mut out = String::with_capacity(text.len() + 64);
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        let taken = match c {
            '"' => {
                let (string, _) = rest.split_at(string_end(rest));
                match for_value {
                    true => mend(string, &mut out),
                    false => out.push_str(string),
                }
                string.len()
            }
            'N' | 'I' | '-' | '0'..='9' => {
                let end = rest
                    .find(|c: char| !matches!(c, '+' | '-' | '.' | '0'..='9' | 'a'..='z' | 'A'..='Z'))
                    .unwrap_or(rest.len());
                let (token, _) = rest.split_at(end);
                out.push_str(&number(token, for_value));
                end
            }
            _ => {
                out.push(c);
                c.len_utf8()
            }
        };
        rest = rest.get(taken.max(1)..).unwrap_or_default();
    }
    out
}

/// The length of the string at the start of the text, quotes included.
fn string_end(text: &str) -> usize {
    let mut escaped = false;
    for (i, byte) in text.bytes().enumerate().skip(1) {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = true,
            b'"' => return i + 1,
            _ => {}
        }
    }
    text.len()
}

/// A number that JSON can hold as it is, any other in its typed form.
fn number(token: &str, for_value: bool) -> Cow<'_, str> {
    if let Some(number) = special_float(token) {
        return float(number).into();
    }
    let digits = token.strip_prefix('-').unwrap_or(token);
    if !for_value {
        return token.into();
    }
    if digits.bytes().all(|byte| byte.is_ascii_digit()) {
        let fits = token.parse::<i64>().is_ok() || token.parse::<u64>().is_ok();
        if !fits && !digits.is_empty() && !digits.starts_with('0') {
            return format!(r#"{{"__type__": "int", "__value__": "{token}"}}"#).into();
        }
    } else if let Ok(number) = token.parse::<f64>()
        && !number.is_finite()
        && digits.starts_with(|c: char| c.is_ascii_digit())
    {
        return float(number).into();
    }
    token.into()
}

/// Copies a JSON string with every lone surrogate escape as U+FFFD.
fn mend(string: &str, out: &mut String) {
    let mut rest = string;
    while let Some(at) = rest.find('\\') {
        let (before, escape) = rest.split_at(at);
        out.push_str(before);
        let taken = match (surrogate(escape), escape.get(6..).and_then(surrogate)) {
            (Some(0xd800..=0xdbff), Some(0xdc00..=0xdfff)) => {
                out.push_str(escape.get(..12).unwrap_or_default());
                12
            }
            (Some(_), _) => {
                out.push_str("\\ufffd");
                6
            }
            (None, _) => {
                // A backslash and what it escapes.
                let length = 1 + escape.chars().nth(1).map_or(0, char::len_utf8);
                out.push_str(escape.get(..length).unwrap_or_default());
                length
            }
        };
        rest = escape.get(taken..).unwrap_or_default();
    }
    out.push_str(rest);
}

/// The surrogate whose escape the text starts with.
fn surrogate(text: &str) -> Option<u32> {
    let digits = text.strip_prefix("\\u")?.get(..4)?;
    let code = u32::from_str_radix(digits, 16).ok()?;
    (0xd800..0xe000).contains(&code).then_some(code)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PYTHONS: &str = r#"{"a": [NaN, Infinity, -Infinity, -1.5e3], "NaN": "Infinity \" NaN", "b": 1}"#;

    #[test]
    fn pythons_literals_become_typed_values_and_come_back() {
        let strict = strict(PYTHONS);
        let value: Value = serde_json::from_str(&strict).unwrap();
        assert_eq!(
            value["a"][0],
            serde_json::json!({"__type__": "float", "__value__": "NaN"})
        );
        assert_eq!(value["NaN"], "Infinity \" NaN");
        assert_eq!(python(&strict), PYTHONS);
        let other_order = r#"[{ "__value__" : "NaN" , "__type__" : "float" }]"#;
        assert_eq!(python(other_order), "[NaN]");
    }

    #[test]
    fn only_our_typed_numbers_become_literals() {
        for text in [
            r#"{"__type__": "float", "__value__": "nan"}"#,
            r#"{"__type__": "int", "__value__": "NaN"}"#,
            r#"{"__type__": "float", "__value__": "12"}"#,
            r#"{"__type__": "int", "__value__": "1, 2"}"#,
            r#"{"__type__": "decimal", "__value__": "1"}"#,
            r#"{"__type__": "float", "__value__": "NaN", "x": 1}"#,
            r#"["{\"__type__\": \"float\", \"__value__\": \"NaN\"}"]"#,
        ] {
            assert_eq!(python(text), text);
        }
    }

    #[test]
    fn a_value_holds_whatever_python_writes() {
        let text = r#"{"big": 123456789012345678901234567890, "n": [-98765432109876543210, 1e999, 18446744073709551615],
            "s": "\ud800 \ud83d\ude00 \\ud800 \udc00\ud800", "\ud800": NaN}"#;
        let held = value(text).unwrap();
        assert_eq!(held["big"]["__value__"], "123456789012345678901234567890");
        assert_eq!(held["n"][0]["__value__"], "-98765432109876543210");
        assert_eq!(held["n"][1]["__value__"], "Infinity");
        assert_eq!(held["n"][2], u64::MAX);
        assert_eq!(held["s"], "\u{fffd} \u{1f600} \\ud800 \u{fffd}\u{fffd}");
        assert_eq!(held["\u{fffd}"]["__value__"], "NaN");
        let back = held.to_string();
        assert!(
            python(&back).contains(r#""big":123456789012345678901234567890"#),
            "{back}"
        );
    }

    #[test]
    fn what_is_no_json_stays_none() {
        for text in [
            "",
            "nan",
            "NaNN",
            "[Infinity",
            "-",
            "--Infinity",
            "\"\\ud8",
            "+1",
            "01",
            "0x1",
        ] {
            assert_eq!(value(text), None, "{text}");
            assert!(serde_json::from_str::<Value>(&strict(text)).is_err(), "{text}");
        }
    }
}
