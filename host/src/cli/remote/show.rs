//! Answers as `celery inspect` and its relatives print them.

use serde_json::Value;

use crate::cli::terminal::{lines, pretty_json};
use crate::control::client::Answer;
use crate::message::repr;

/// Whether to use colours, and whether to print no arrows.
#[derive(Debug, Clone, Copy)]
pub(super) struct Style {
    pub(super) color: bool,
    pub(super) quiet: bool,
}

impl Style {
    fn paint(self, code: &str, text: &str) -> String {
        match self.color {
            true => format!("\u{1b}[{code}m{text}\u{1b}[0m"),
            false => text.to_owned(),
        }
    }
}

/// One answer: its node and whether it is good, and with `body` what it says.
pub(super) fn answer(answer: &Answer, body: bool, style: Style) -> String {
    let arrow = match style.quiet {
        true => String::new(),
        false => format!("{} ", style.paint("37;1", "->")),
    };
    let node = style.paint("36;1", &format!("{}: ", crate::cli::terminal::line(&answer.node)));
    let status = match is_error(&answer.value) {
        true => style.paint("31;1", "ERROR"),
        false => style.paint("32;1", "OK"),
    };
    let title = format!("{arrow} {node}{status}");
    let said = said(&answer.value, style);
    match body && !said.is_empty() {
        true => format!("{title}\n{}", indented(&said)),
        false => title,
    }
}

/// Whether a command failed on its node.
pub(super) fn is_error(value: &Value) -> bool {
    value.get("error").is_some() && value.get("ok").is_none()
}

fn said(value: &Value, style: Style) -> String {
    match value {
        Value::Array(items) if items.is_empty() => "- empty -".into(),
        Value::Array(items) => {
            let bullet = style.paint("37", "*");
            let line = |item: &Value| match item {
                Value::String(text) => format!("{bullet} {}", lines(text)),
                other => format!("{bullet} {}", lines(&repr::whole(other))),
            };
            items.iter().map(line).collect::<Vec<_>>().join("\n")
        }
        Value::Object(map) => match map.get("ok").or_else(|| map.get("error")) {
            Some(inner) => indented(&said(inner, style)),
            None => pretty_json(value),
        },
        Value::String(text) => lines(text),
        other => lines(&repr::whole(other)),
    }
}

fn indented(text: &str) -> String {
    let lines: Vec<String> = text.split('\n').map(|line| format!("    {line}")).collect();
    lines.join("\n")
}

/// `1 node online.`
pub(super) fn online(nodes: usize) -> String {
    match nodes {
        1 => "1 node online.".into(),
        nodes => format!("{nodes} nodes online."),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const PLAIN: Style = Style {
        color: false,
        quiet: false,
    };

    fn shown(value: Value) -> String {
        let node = "w1@h".into();
        answer(&Answer { node, value }, true, PLAIN)
    }

    /// Each was printed by `celery` 5.7 for this reply.
    #[test]
    fn answers_look_as_celerys() {
        for (value, expected) in [
            (json!({"ok": "pong"}), "->  w1@h: OK\n        pong"),
            (
                json!({"error": "unknown task"}),
                "->  w1@h: ERROR\n        unknown task",
            ),
            (json!([]), "->  w1@h: OK\n    - empty -"),
            (json!(["t.a", "t.b"]), "->  w1@h: OK\n    * t.a\n    * t.b"),
            (
                json!([{"a": 1, "b": [true, null, "x"]}]),
                "->  w1@h: OK\n    * {'a': 1, 'b': [True, None, 'x']}",
            ),
            (
                json!({"clock": 5}),
                "->  w1@h: OK\n    {\n        \"clock\": 5\n    }",
            ),
            (json!({"ok": "a\nb"}), "->  w1@h: OK\n        a\n        b"),
            (json!("text"), "->  w1@h: OK\n    text"),
            (Value::Null, "->  w1@h: OK\n    None"),
            (json!({}), "->  w1@h: OK\n    {}"),
        ] {
            assert_eq!(shown(value), expected);
        }
        let answer = Answer {
            node: "w1@h".into(),
            value: json!({"ok": "pong"}),
        };
        let quiet = Style { quiet: true, ..PLAIN };
        assert_eq!(super::answer(&answer, false, quiet), " w1@h: OK");
        let color = Style { color: true, ..PLAIN };
        assert_eq!(
            super::answer(&answer, false, color),
            "\u{1b}[37;1m->\u{1b}[0m  \u{1b}[36;1mw1@h: \u{1b}[0m\u{1b}[32;1mOK\u{1b}[0m"
        );
        assert_eq!(
            (online(1), online(2)),
            ("1 node online.".into(), "2 nodes online.".into())
        );
    }

    #[test]
    fn no_answer_moves_the_cursor() {
        let hostile = "\u{1b}]0;x\u{7}\u{9b}2J\r\u{202e}";
        for value in [
            json!(hostile),
            json!([hostile, { hostile: hostile }]),
            json!({ "ok": hostile }),
            json!({ "error": [hostile] }),
            json!({ hostile: hostile }),
        ] {
            let node = hostile.into();
            let text = answer(&Answer { node, value }, true, PLAIN);
            let fine = |c: char| c == '\n' || (!c.is_control() && c != '\u{202e}');
            assert!(text.chars().all(fine), "{text:?}");
        }
    }
}
