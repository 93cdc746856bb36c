//! Texts of others on a terminal: what workers, senders and tasks put into names, values and errors is not obeyed.

use std::fmt::Write;
use std::io::{self, Write as _};

use serde::Serialize;
use serde_json::Value;
use serde_json::ser::Formatter;

/// A text of several lines without anything that a terminal would obey or that would hide what it says.
pub(super) fn lines(text: &str) -> String {
    escaped(text, true)
}

/// The same on one line.
pub(super) fn line(text: &str) -> String {
    escaped(text, false)
}

fn escaped(text: &str, lines: bool) -> String {
    let mut safe = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\n' | '\t' if lines => safe.push(c),
            '\n' => safe.push_str("\\n"),
            '\r' => safe.push_str("\\r"),
            '\t' => safe.push_str("\\t"),
            c if c.is_control() && (c as u32) < 0x100 => {
                let _ = write!(safe, "\\x{:02x}", c as u32);
            }
            c if is_hidden(c) => {
                let _ = write!(safe, "\\u{:04x}", c as u32);
            }
            c => safe.push(c),
        }
    }
    safe
}

/// JSON text as it is, but for characters that a terminal would obey or that would hide what it says: in texts, the only
/// place where JSON has them, they become escapes.
pub(super) fn json_text(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_control() && !c.is_ascii_whitespace() || is_hidden(c) {
            for unit in c.encode_utf16(&mut [0; 2]) {
                let _ = write!(safe, "\\u{unit:04x}");
            }
        } else {
            safe.push(c);
        }
    }
    safe
}

/// Prints a line; that nobody reads any more is no error of ours.
pub(super) fn say(text: &str) {
    let mut out = io::stdout().lock();
    let _ = writeln!(out, "{text}").and_then(|()| out.flush());
}

/// Characters without a picture that change how others are shown: directions, joiners, line separators, tags.
fn is_hidden(c: char) -> bool {
    matches!(
        c as u32,
        0xad | 0x61c | 0x200b..=0x200f | 0x2028..=0x202e | 0x2060..=0x206f | 0xfeff | 0xfff9..=0xfffb | 0xe0000..=0xe0fff
    )
}

/// As many characters as fit, the last one an ellipsis when some were cut.
pub(super) fn cut(text: &str, most: usize) -> String {
    match text.char_indices().nth(most) {
        None => text.to_owned(),
        Some(_) if most == 0 => String::new(),
        Some(_) => {
            let kept: String = text.chars().take(most - 1).collect();
            format!("{kept}…")
        }
    }
}

/// JSON as Python writes it: `", "`, `": "`, and ASCII alone, which no terminal obeys.
pub(super) fn json(value: &Value) -> String {
    serialized(
        value,
        Python {
            indent: None,
            depth: 0,
            empty: true,
        },
    )
}

/// The same with keys in their order, over several lines.
pub(super) fn pretty_json(value: &Value) -> String {
    serialized(
        value,
        Python {
            indent: Some(4),
            depth: 0,
            empty: true,
        },
    )
}

fn serialized(value: &Value, format: Python) -> String {
    let mut text = Vec::new();
    // A value in memory always serializes.
    let _ = value.serialize(&mut serde_json::Serializer::with_formatter(&mut text, format));
    String::from_utf8(text).unwrap_or_default()
}

/// `json.dumps`.
struct Python {
    indent: Option<usize>,
    depth: usize,
    /// Nothing was written since the last bracket was opened.
    empty: bool,
}

impl Python {
    fn open<W: ?Sized + io::Write>(&mut self, writer: &mut W, bracket: &[u8]) -> io::Result<()> {
        self.depth += 1;
        self.empty = true;
        writer.write_all(bracket)
    }

    fn close<W: ?Sized + io::Write>(&mut self, writer: &mut W, bracket: &[u8]) -> io::Result<()> {
        self.depth = self.depth.saturating_sub(1);
        if !std::mem::replace(&mut self.empty, false) {
            self.new_line(writer)?;
        }
        writer.write_all(bracket)
    }

    fn next<W: ?Sized + io::Write>(&mut self, writer: &mut W, first: bool) -> io::Result<()> {
        self.empty = false;
        match (first, self.indent) {
            (true, _) => {}
            (false, Some(_)) => writer.write_all(b",")?,
            (false, None) => writer.write_all(b", ")?,
        }
        self.new_line(writer)
    }

    fn new_line<W: ?Sized + io::Write>(&self, writer: &mut W) -> io::Result<()> {
        match self.indent {
            Some(indent) => write!(writer, "\n{:width$}", "", width = indent * self.depth),
            None => Ok(()),
        }
    }
}

impl Formatter for Python {
    fn begin_array<W: ?Sized + io::Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.open(writer, b"[")
    }

    fn end_array<W: ?Sized + io::Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.close(writer, b"]")
    }

    fn begin_array_value<W: ?Sized + io::Write>(&mut self, writer: &mut W, first: bool) -> io::Result<()> {
        self.next(writer, first)
    }

    fn end_array_value<W: ?Sized + io::Write>(&mut self, _: &mut W) -> io::Result<()> {
        self.empty = false;
        Ok(())
    }

    fn begin_object<W: ?Sized + io::Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.open(writer, b"{")
    }

    fn end_object<W: ?Sized + io::Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.close(writer, b"}")
    }

    fn begin_object_key<W: ?Sized + io::Write>(&mut self, writer: &mut W, first: bool) -> io::Result<()> {
        self.next(writer, first)
    }

    fn begin_object_value<W: ?Sized + io::Write>(&mut self, writer: &mut W) -> io::Result<()> {
        writer.write_all(b": ")
    }

    fn end_object_value<W: ?Sized + io::Write>(&mut self, _: &mut W) -> io::Result<()> {
        self.empty = false;
        Ok(())
    }

    fn write_string_fragment<W: ?Sized + io::Write>(
        &mut self,
        writer: &mut W,
        fragment: &str,
    ) -> io::Result<()> {
        for c in fragment.chars() {
            if c.is_ascii() && c != '\u{7f}' {
                writer.write_all(&[c as u8])?;
                continue;
            }
            for unit in c.encode_utf16(&mut [0; 2]) {
                write!(writer, "\\u{unit:04x}")?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn nothing_reaches_the_terminal_that_it_obeys() {
        let hostile = "a\u{1b}[2J\u{9b}31m\u{7f}\r\nb\t\u{202e}c\u{2028}\u{feff}é漢";
        assert_eq!(
            line(hostile),
            "a\\x1b[2J\\x9b31m\\x7f\\r\\nb\\t\\u202ec\\u2028\\ufeffé漢"
        );
        assert_eq!(lines("a\n\tb\u{1b}"), "a\n\tb\\x1b");
        assert!(json(&json!(hostile)).is_ascii());
        let read: Value = serde_json::from_str(&json(&json!({ hostile: [hostile] }))).unwrap();
        assert_eq!(read, json!({ hostile: [hostile] }));
    }

    #[test]
    fn json_text_stays_the_same_json() {
        let value = json!({"a\u{1b}\u{7f}": ["\u{9b}31m\u{202e}é漢\u{e0041}", 1.5]});
        let text = json_text(&value.to_string());
        assert_eq!(
            text,
            r#"{"a\u001b\u007f":["\u009b31m\u202eé漢\udb40\udc41",1.5]}"#
        );
        assert_eq!(serde_json::from_str::<Value>(&text).unwrap(), value);
        assert_eq!(json_text("[1,\n\t2]"), "[1,\n\t2]");
    }

    #[test]
    fn json_is_that_of_python() {
        let value = json!({"b": [1, 2.5, null, "é😀"], "a": {}, "c": [], "d": {"e": [[], {}]}});
        assert_eq!(
            json(&value),
            r#"{"a": {}, "b": [1, 2.5, null, "\u00e9\ud83d\ude00"], "c": [], "d": {"e": [[], {}]}}"#
        );
        let pretty = "{\n    \"a\": {},\n    \"b\": [\n        1\n    ],\n    \"c\": []\n}";
        assert_eq!(pretty_json(&json!({"a": {}, "b": [1], "c": []})), pretty);
    }

    #[test]
    fn a_cut_is_marked() {
        assert_eq!(
            (cut("abc", 3), cut("abcd", 3), cut("a", 0)),
            ("abc".into(), "ab…".into(), String::new())
        );
    }
}
