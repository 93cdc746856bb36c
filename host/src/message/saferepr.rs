//! Values as Celery's `saferepr` shows them, in `argsrepr` and in results of events and logs: like Python's `repr`, but cut
//! while it is written, so that brackets still close, and no deeper than three levels. Texts are quoted without escapes.

use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::Number;

/// `resultrepr_maxsize`, `argsrepr_maxsize` and `kwargsrepr_maxsize`: characters before it is cut.
const LONGEST: usize = 1024;
/// `maxlevels`.
const DEEPEST: usize = 3;

/// JSON text as Celery shows the value; empty for text that is none.
pub fn of_json(text: &str) -> String {
    let Ok(node) = serde_json::from_str::<Node>(text) else {
        return String::new();
    };
    let mut shown = Shown {
        text: String::new(),
        left: LONGEST,
        cut: false,
    };
    shown.node(&node, 0);
    shown.text
}

/// A value that keeps the order of its keys.
enum Node {
    Null,
    Bool(bool),
    Number(Number),
    Text(String),
    List(Vec<Node>),
    Map(Vec<(String, Node)>),
}

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Reading)
    }
}

struct Reading;

impl<'de> Visitor<'de> for Reading {
    type Value = Node;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_unit<E>(self) -> Result<Node, E> {
        Ok(Node::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Node, E> {
        Ok(Node::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Node, E> {
        Ok(Node::Number(value.into()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Node, E> {
        Ok(Node::Number(value.into()))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Node, E> {
        Ok(Number::from_f64(value).map_or(Node::Null, Node::Number))
    }

    fn visit_str<E>(self, value: &str) -> Result<Node, E> {
        Ok(Node::Text(value.to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Node, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = items.next_element()? {
            list.push(item);
        }
        Ok(Node::List(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Node, A::Error> {
        let mut map = Vec::new();
        while let Some(entry) = entries.next_entry()? {
            map.push(entry);
        }
        Ok(Node::Map(map))
    }
}

/// What is written so far.
struct Shown {
    text: String,
    /// Characters that may still be written.
    left: usize,
    cut: bool,
}

impl Shown {
    fn node(&mut self, node: &Node, level: usize) {
        match node {
            Node::Null => self.word("None"),
            Node::Bool(true) => self.word("True"),
            Node::Bool(false) => self.word("False"),
            Node::Number(number) => self.word(&number.to_string()),
            Node::Text(text) => self.quoted(text),
            Node::List(_) if level >= DEEPEST => self.put("[...]"),
            Node::Map(_) if level >= DEEPEST => self.put("{...}"),
            Node::List(items) => {
                self.put("[");
                if self.cut {
                    return;
                }
                for (number, item) in items.iter().enumerate() {
                    if number > 0 {
                        self.put(", ");
                    }
                    self.node(item, level + 1);
                    if self.cut {
                        break;
                    }
                }
                self.close("]");
            }
            Node::Map(entries) => {
                self.put("{");
                if self.cut {
                    return;
                }
                for (number, (key, value)) in entries.iter().enumerate() {
                    if number > 0 {
                        self.put(", ");
                    }
                    self.quoted(key);
                    self.put(": ");
                    self.node(value, level + 1);
                    if self.cut {
                        break;
                    }
                }
                self.close("}");
            }
        }
    }

    fn word(&mut self, text: &str) {
        let text = truncated(text, self.left);
        self.put(&text);
    }

    fn quoted(&mut self, text: &str) {
        let text = truncated(text, self.left).replace('\'', "\\'");
        self.put(&format!("'{text}'"));
    }

    fn put(&mut self, text: &str) {
        if self.cut {
            return;
        }
        if self.left == 0 {
            self.text.push_str(", ...");
            self.cut = true;
            return;
        }
        self.text.push_str(text);
        self.left = self.left.saturating_sub(text.chars().count());
    }

    /// A bracket closes however much was written.
    fn close(&mut self, text: &str) {
        self.text.push_str(text);
        self.left = self.left.saturating_sub(text.len());
    }
}

/// Celery's `truncate`: before the last space, if there is one.
fn truncated(text: &str, most: usize) -> String {
    let Some((end, _)) = text.char_indices().nth(most.saturating_sub(1)) else {
        return text.to_owned();
    };
    let whole = text.get(end..).and_then(|rest| rest.chars().next());
    let end = end + whole.map_or(0, char::len_utf8);
    let kept = text.get(..end).unwrap_or(text);
    let kept = kept.rsplit_once(' ').map_or(kept, |(before, _)| before);
    format!("{kept}...")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What Celery 5.7's `saferepr(json.loads(text), 1024)` says.
    #[test]
    fn it_reads_like_celery() {
        let x = |count: usize| "x".repeat(count);
        for (text, shown) in [
            (
                r#"{"b": 1, "a": [1.5, null, true, false]}"#.to_owned(),
                r"{'b': 1, 'a': [1.5, None, True, False]}".to_owned(),
            ),
            (r#""it's\n""#.into(), "'it\\'s\n'".into()),
            (
                r#"[[[[1]]], {"a": {"b": {"c": {}}}}]"#.into(),
                "[[[[...]]], {'a': {'b': {...}}}]".into(),
            ),
            (format!("{:?}", x(2000)), format!("'{}...'", x(1024))),
            (
                format!("[{:?}, 1, [2]]", x(2000)),
                format!("['{}...', ...]", x(1023)),
            ),
            (
                format!("{{\"a\": [1.5, null, {:?}]}}", x(2000)),
                format!("{{'a': [1.5, None, '{}...']}}", x(1006)),
            ),
            ("[]".into(), "[]".into()),
            ("no JSON".into(), String::new()),
        ] {
            assert_eq!(of_json(&text), shown, "{text:.100}");
        }
    }

    #[test]
    fn depth_and_length_have_bounds() {
        let deep = format!("{}1{}", "[".repeat(100), "]".repeat(100));
        assert_eq!(of_json(&deep), "[[[[...]]]]");
        let long = format!("[{}1]", "1, ".repeat(100_000));
        let shown = of_json(&long);
        assert!(shown.len() < 1100 && shown.ends_with(", ...]"), "{shown}");
    }
}
