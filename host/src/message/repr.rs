//! JSON values as Python's `repr` prints them, for logs and messages.

use std::fmt::Write;

use serde_json::Value;

/// The longest text a repr may have before it is cut (contract section 1.2).
const LONGEST: usize = 1024;

/// `repr(value)`, cut to 1024 characters.
pub fn value(value: &Value) -> String {
    let mut text = String::new();
    write_value(&mut text, value, LONGEST);
    cut(text)
}

/// `repr(value)`, whole.
pub fn whole(value: &Value) -> String {
    let mut text = String::new();
    write_value(&mut text, value, usize::MAX);
    text
}

/// `argsrepr` of a JSON list: Python shows it as a tuple.
pub fn args(args: &[Value]) -> String {
    let mut text = String::from("(");
    write_items(&mut text, args, LONGEST);
    text.push_str(if args.len() == 1 { ",)" } else { ")" });
    cut(text)
}

fn cut(text: String) -> String {
    match text.char_indices().nth(LONGEST - 3) {
        Some((end, _)) if text.chars().count() > LONGEST => {
            format!("{}...", text.get(..end).unwrap_or_default())
        }
        _ => text,
    }
}

/// Writes no more than a few times `longest` characters.
fn write_items(text: &mut String, items: &[Value], longest: usize) {
    for (i, item) in items.iter().enumerate() {
        if i > 0 {
            text.push_str(", ");
        }
        write_value(text, item, longest);
        if text.len() > longest.saturating_mul(8) {
            return;
        }
    }
}

fn write_value(text: &mut String, value: &Value, longest: usize) {
    match value {
        Value::Null => text.push_str("None"),
        Value::Bool(true) => text.push_str("True"),
        Value::Bool(false) => text.push_str("False"),
        Value::Number(number) => {
            let _ = write!(text, "{number}");
        }
        Value::String(string) => write_text(text, string, longest),
        Value::Array(items) => {
            text.push('[');
            write_items(text, items, longest);
            text.push(']');
        }
        Value::Object(map) => {
            text.push('{');
            for (i, (key, value)) in map.iter().enumerate() {
                if i > 0 {
                    text.push_str(", ");
                }
                write_text(text, key, longest);
                text.push_str(": ");
                write_value(text, value, longest);
                if text.len() > longest.saturating_mul(8) {
                    break;
                }
            }
            text.push('}');
        }
    }
}

fn write_text(text: &mut String, string: &str, longest: usize) {
    let quote = if string.contains('\'') && !string.contains('"') {
        '"'
    } else {
        '\''
    };
    text.push(quote);
    for c in string.chars().take(longest.saturating_mul(2)) {
        match c {
            '\\' => text.push_str("\\\\"),
            '\n' => text.push_str("\\n"),
            '\r' => text.push_str("\\r"),
            '\t' => text.push_str("\\t"),
            c if c == quote => {
                text.push('\\');
                text.push(c);
            }
            c if c.is_control() => {
                let _ = write!(text, "\\x{:02x}", c as u32);
            }
            c => text.push(c),
        }
    }
    text.push(quote);
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn reads_like_python() {
        assert_eq!(
            value(&json!({"a": [1, 2.5, null, true], "it's": "x\n\"y\""})),
            r#"{'a': [1, 2.5, None, True], "it's": 'x\n"y"'}"#
        );
        assert_eq!(args(&[json!(7)]), "(7,)");
        assert_eq!(args(&[json!(2), json!("b")]), "(2, 'b')");
    }

    #[test]
    fn a_long_text_is_cut_to_1024_characters() {
        let long = value(&json!("ä".repeat(5000)));
        assert_eq!(long.chars().count(), 1024);
        assert!(long.ends_with("..."));
    }
}
