//! The parts of a pickle: lines, lengths, numbers, texts and the state of dates.

use rsa::BigUint;

use super::{ContentError, DIGITS, Node, malformed, too_many_digits};

/// What is left of a pickle.
pub(super) struct Bytes<'a>(&'a [u8]);

impl<'a> Bytes<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    pub(super) fn take(&mut self, length: usize) -> Result<&'a [u8], ContentError> {
        let (taken, rest) = self
            .0
            .split_at_checked(length)
            .ok_or_else(|| malformed("a pickle that is cut off"))?;
        self.0 = rest;
        Ok(taken)
    }

    pub(super) fn byte(&mut self) -> Result<u8, ContentError> {
        self.array().map(|[byte]| byte)
    }

    pub(super) fn array<const N: usize>(&mut self) -> Result<[u8; N], ContentError> {
        self.take(N)?
            .try_into()
            .map_err(|_| malformed("a pickle that is cut off"))
    }

    pub(super) fn length4(&mut self) -> Result<usize, ContentError> {
        Ok(u32::from_le_bytes(self.array()?) as usize)
    }

    pub(super) fn length8(&mut self) -> Result<usize, ContentError> {
        usize::try_from(u64::from_le_bytes(self.array()?)).map_err(|_| malformed("a pickle that is cut off"))
    }

    pub(super) fn raw_line(&mut self) -> Result<&'a [u8], ContentError> {
        let end = self.0.iter().position(|byte| *byte == b'\n');
        let line = self.take(end.ok_or_else(|| malformed("a pickle that is cut off"))?)?;
        self.take(1)?;
        Ok(line)
    }

    pub(super) fn line(&mut self) -> Result<&'a str, ContentError> {
        std::str::from_utf8(self.raw_line()?).map_err(|_| malformed("a line that is no text"))
    }
}

/// Decimal digits.
pub(super) fn int(text: &str) -> Result<Node, ContentError> {
    let text = text.trim();
    let (sign, digits) = match text.strip_prefix('-') {
        Some(digits) => ("-", digits),
        None => ("", text.strip_prefix('+').unwrap_or(text)),
    };
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(malformed("an integer that is none"));
    }
    if digits.len() > DIGITS {
        return Err(too_many_digits());
    }
    Ok(Node::Int(match digits.trim_start_matches('0') {
        "" => "0".to_owned(),
        digits => format!("{sign}{digits}"),
    }))
}

/// A little-endian two's complement.
pub(super) fn long(bytes: &[u8]) -> Result<Node, ContentError> {
    // So many bytes have at most so many digits.
    if bytes.len() > DIGITS * 5 / 12 {
        return Err(too_many_digits());
    }
    let negative = bytes.last().is_some_and(|last| last & 0x80 != 0);
    let mut magnitude = bytes.to_vec();
    if negative {
        let mut carry = true;
        for byte in &mut magnitude {
            let (value, more) = (!*byte).overflowing_add(carry.into());
            (*byte, carry) = (value, more);
        }
    }
    let sign = if negative { "-" } else { "" };
    Ok(Node::Int(format!("{sign}{}", BigUint::from_bytes_le(&magnitude))))
}

/// UTF-8; lone surrogates, which Python lets through, become U+FFFD.
pub(super) fn text(bytes: &[u8]) -> Result<Node, ContentError> {
    if let Ok(text) = std::str::from_utf8(bytes) {
        return Ok(Node::Text(text.to_owned()));
    }
    let mut mended = Vec::with_capacity(bytes.len());
    let mut rest = bytes;
    while let Some((&byte, after)) = rest.split_first() {
        match rest {
            [0xed, 0xa0..=0xbf, 0x80..=0xbf, after @ ..] => {
                mended.extend_from_slice("\u{fffd}".as_bytes());
                rest = after;
            }
            _ => {
                mended.push(byte);
                rest = after;
            }
        }
    }
    String::from_utf8(mended)
        .map(Node::Text)
        .map_err(|_| malformed("a text that is not UTF-8"))
}

pub(super) fn ascii(bytes: &[u8]) -> Result<Node, ContentError> {
    if !bytes.is_ascii() {
        return Err(malformed("a text of Python 2 that is not ASCII"));
    }
    Ok(Node::Text(String::from_utf8_lossy(bytes).into_owned()))
}

/// Text of protocol 0: Latin-1 with `\uXXXX` and `\UXXXXXXXX`.
pub(super) fn raw_unicode(line: &[u8]) -> Result<String, ContentError> {
    let mut text = String::with_capacity(line.len());
    let mut rest = line;
    while let Some((&byte, after)) = rest.split_first() {
        let digits = match rest {
            [b'\\', b'u', ..] => rest.get(2..6),
            [b'\\', b'U', ..] => rest.get(2..10),
            _ => {
                text.push(char::from(byte));
                rest = after;
                continue;
            }
        };
        let digits = digits.ok_or_else(|| malformed("an escape that is cut off"))?;
        let code = std::str::from_utf8(digits)
            .ok()
            .filter(|digits| digits.bytes().all(|b| b.is_ascii_hexdigit()))
            .and_then(|digits| u32::from_str_radix(digits, 16).ok())
            .filter(|code| *code <= 0x10_ffff)
            .ok_or_else(|| malformed("an escape that is none"))?;
        text.push(char::from_u32(code).unwrap_or('\u{fffd}'));
        rest = rest.get(2 + digits.len()..).unwrap_or_default();
    }
    Ok(text)
}

/// A text of Python 2 as its `repr`.
pub(super) fn quoted(line: &str) -> Result<String, ContentError> {
    let line = line.trim();
    let inner = ['\'', '"']
        .iter()
        .find_map(|quote| line.strip_prefix(*quote)?.strip_suffix(*quote))
        .ok_or_else(|| malformed("a text without quotes"))?;
    let mut text = String::with_capacity(inner.len());
    let mut rest = inner.chars();
    while let Some(c) = rest.next() {
        if !c.is_ascii() {
            return Err(malformed("a text of Python 2 that is not ASCII"));
        }
        if c != '\\' {
            text.push(c);
            continue;
        }
        match rest.next() {
            Some('n') => text.push('\n'),
            Some('r') => text.push('\r'),
            Some('t') => text.push('\t'),
            Some(c @ ('\\' | '\'' | '"')) => text.push(c),
            Some('x') => {
                let digits: String = rest.by_ref().take(2).collect();
                let code = u8::from_str_radix(&digits, 16)
                    .ok()
                    .filter(|code| code.is_ascii());
                text.push(
                    code.ok_or_else(|| malformed("a text of Python 2 that is not ASCII"))?
                        .into(),
                );
            }
            _ => return Err(malformed("an escape that is none")),
        }
    }
    Ok(text)
}

/// The ten bytes of a `datetime` as ISO 8601.
pub(super) fn datetime(state: &[u8]) -> Option<String> {
    let (day, clock) = state.split_at_checked(4)?;
    Some(format!("{}T{}", date(day)?, time(clock)?))
}

/// The four bytes of a `date`.
pub(super) fn date(state: &[u8]) -> Option<String> {
    let [high, low, month, day] = *state else {
        return None;
    };
    // The highest bit of the month says which of two equal times it is (`fold`).
    let (year, month) = (i16::from_be_bytes([high, low]), i8::try_from(month & 0x7f).ok()?);
    let date = jiff::civil::Date::new(year, month, i8::try_from(day).ok()?).ok()?;
    (date.year() > 0).then(|| format!("{year:04}-{month:02}-{day:02}"))
}

/// The six bytes of a `time`.
pub(super) fn time(state: &[u8]) -> Option<String> {
    let [hour, minute, second, a, b, c] = *state else {
        return None;
    };
    let (hour, micros) = (hour & 0x7f, u32::from_be_bytes([0, a, b, c]));
    if hour > 23 || minute > 59 || second > 59 || micros > 999_999 {
        return None;
    }
    let clock = format!("{hour:02}:{minute:02}:{second:02}");
    Some(match micros {
        0 => clock,
        _ => format!("{clock}.{micros:06}"),
    })
}

/// An offset from UTC as Python prints it, out of microseconds.
pub(super) fn offset(micros: i128) -> Option<String> {
    let (sign, seconds) = (if micros < 0 { '-' } else { '+' }, micros.abs() / 1_000_000);
    if seconds >= 86_400 || micros % 1_000_000 != 0 {
        return None;
    }
    let (hours, minutes, seconds) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    Some(match seconds {
        0 => format!("{sign}{hours:02}:{minutes:02}"),
        _ => format!("{sign}{hours:02}:{minutes:02}:{seconds:02}"),
    })
}
