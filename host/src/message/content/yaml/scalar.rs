//! What type a YAML scalar has, by PyYAML's rules.

use std::sync::LazyLock;

use jiff::civil::{Date, Time};
use regex::Regex;

use super::super::ContentError;
use super::super::graph::{DIGITS, Kind, Node, too_many_digits};
use super::{binary, malformed, unknown_tag};

static FLOAT: LazyLock<Option<Regex>> = LazyLock::new(|| {
    Regex::new(
        r"^(?:[-+]?[0-9][0-9_]*\.[0-9_]*(?:[eE][-+][0-9]+)?|\.[0-9][0-9_]*(?:[eE][-+][0-9]+)?|[-+]?[0-9][0-9_]*(?::[0-5]?[0-9])+\.[0-9_]*|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))$",
    )
    .ok()
});

static INT: LazyLock<Option<Regex>> = LazyLock::new(|| {
    Regex::new(
        r"^(?:[-+]?0b[0-1_]+|[-+]?0[0-7_]+|[-+]?(?:0|[1-9][0-9_]*)|[-+]?0x[0-9a-fA-F_]+|[-+]?[1-9][0-9_]*(?::[0-5]?[0-9])+)$",
    )
    .ok()
});

static TIMESTAMP: LazyLock<Option<Regex>> = LazyLock::new(|| {
    Regex::new(
        r"^([0-9]{4})-([0-9][0-9]?)-([0-9][0-9]?)(?:(?:[Tt]|[ \t]+)([0-9][0-9]?):([0-9][0-9]):([0-9][0-9])(?:\.([0-9]*))?(?:[ \t]*(?:(Z)|([-+])([0-9][0-9]?)(?::?([0-9][0-9]))?))?)?$",
    )
    .ok()
});

fn is(pattern: &Option<Regex>, text: &str) -> bool {
    pattern.as_ref().is_some_and(|pattern| pattern.is_match(text))
}

/// The value of a scalar; `None` for the merge key `<<`.
pub(super) fn resolve(text: &str, plain: bool, tag: Option<&str>) -> Result<Option<Node>, ContentError> {
    let tag = match tag {
        Some(tag) => tag,
        None if plain => implicit(text),
        None => "str",
    };
    Ok(Some(match tag {
        "" | "str" => Node::Text(text.to_owned()),
        "merge" => return Ok(None),
        "null" => Node::Null,
        "bool" => match text.to_ascii_lowercase().as_str() {
            "yes" | "true" | "on" => Node::Bool(true),
            "no" | "false" | "off" => Node::Bool(false),
            _ => return Err(wrong("bool", text)),
        },
        "int" => int(text)?,
        "float" => Node::Float(float(text).ok_or_else(|| wrong("float", text))?),
        "binary" => Node::Bytes(binary(text)?),
        "timestamp" => timestamp(text).ok_or_else(|| wrong("timestamp", text))?,
        other => return Err(unknown_tag(other)),
    }))
}

fn wrong(kind: &str, text: &str) -> ContentError {
    malformed(format!("{text:.100?} is no YAML {kind}"))
}

/// The type of a plain scalar without a tag.
fn implicit(text: &str) -> &'static str {
    match text {
        "" | "~" | "null" | "Null" | "NULL" => "null",
        "yes" | "Yes" | "YES" | "no" | "No" | "NO" | "true" | "True" | "TRUE" | "false" | "False"
        | "FALSE" | "on" | "On" | "ON" | "off" | "Off" | "OFF" => "bool",
        "<<" => "merge",
        _ if is(&FLOAT, text) => "float",
        _ if is(&INT, text) => "int",
        // A date alone has two digits everywhere.
        _ if is(&TIMESTAMP, text)
            && (text.len() > 10 || text.len() == 10 && text.as_bytes().get(7) == Some(&b'-')) =>
        {
            "timestamp"
        }
        _ => "str",
    }
}

fn int(text: &str) -> Result<Node, ContentError> {
    let digits = text.replace('_', "");
    let (sign, digits) = match digits.strip_prefix('-') {
        Some(digits) => ("-", digits),
        None => ("", digits.strip_prefix('+').unwrap_or(&digits)),
    };
    let radix = |digits: &str, radix: u32| {
        let number = u128::from_str_radix(digits, radix).map_err(|_| wrong("int", text))?;
        Ok::<_, ContentError>(number.to_string())
    };
    let magnitude = if let Some(digits) = digits.strip_prefix("0b") {
        radix(digits, 2)?
    } else if let Some(digits) = digits.strip_prefix("0x") {
        radix(digits, 16)?
    } else if digits.contains(':') {
        let mut parts = digits.split(':').map(|part| part.parse::<u64>().ok());
        let total = parts.try_fold(0u128, |total, part| {
            total.checked_mul(60)?.checked_add(part?.into())
        });
        total.ok_or_else(|| wrong("int", text))?.to_string()
    } else if digits.len() > 1 && digits.starts_with('0') {
        radix(digits, 8)?
    } else if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(wrong("int", text));
    } else if digits.len() > DIGITS {
        return Err(too_many_digits());
    } else {
        digits.to_owned()
    };
    let sign = if magnitude == "0" { "" } else { sign };
    Ok(Node::Int(format!("{sign}{magnitude}")))
}

fn float(text: &str) -> Option<f64> {
    let digits = text.replace('_', "").to_ascii_lowercase();
    let (sign, digits) = match digits.strip_prefix('-') {
        Some(digits) => (-1.0, digits),
        None => (1.0, digits.strip_prefix('+').unwrap_or(&digits)),
    };
    let magnitude = match digits {
        ".inf" => f64::INFINITY,
        ".nan" => f64::NAN,
        _ if digits.contains(':') => {
            let mut parts = digits.split(':').map(|part| part.parse::<f64>().ok());
            parts.try_fold(0.0, |total, part| Some(total * 60.0 + part?))?
        }
        _ => digits.parse().ok()?,
    };
    Some(sign * magnitude)
}

/// A date, or a date and time as Python prints it.
fn timestamp(text: &str) -> Option<Node> {
    let found = TIMESTAMP.as_ref()?.captures(text)?;
    let part = |n: usize| found.get(n).map(|part| part.as_str());
    let small = |n: usize| part(n).and_then(|digits| digits.parse::<i8>().ok());
    let date = Date::new(part(1)?.parse().ok()?, small(2)?, small(3)?).ok()?;
    if date.year() < 1 {
        return None;
    }
    let date = date.strftime("%Y-%m-%d").to_string();
    if part(4).is_none() {
        return Some(Node::Typed(Kind::Date, date));
    }
    let clock = Time::new(small(4)?, small(5)?, small(6)?, 0)
        .ok()?
        .strftime("%H:%M:%S")
        .to_string();
    let micros = part(7).and_then(|fraction| format!("{fraction:0<6}").get(..6).map(str::to_owned));
    let fraction = match micros.as_deref() {
        None | Some("000000") => String::new(),
        Some(micros) => format!(".{micros}"),
    };
    let offset = match (part(8), part(9)) {
        (Some(_), _) => "+00:00".to_owned(),
        (None, Some(sign)) => {
            let (hours, minutes) = (small(10)?, small(11).unwrap_or(0));
            if hours > 23 || minutes > 59 {
                return None;
            }
            format!("{sign}{hours:02}:{minutes:02}")
        }
        (None, None) => String::new(),
    };
    Some(Node::Typed(
        Kind::Datetime,
        format!("{date}T{clock}{fraction}{offset}"),
    ))
}
