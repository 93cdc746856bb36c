//! What a message of the mailbox asks for, and of whom (contract section 6.1).

use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;

use crate::message::Route;
use crate::queue::glob;

/// The longest expression that nodes are chosen by, bytes, and how large it may become.
const LONGEST_PATTERN: usize = 1000;
const LARGEST_PATTERN: usize = 1 << 20;

/// A command and whom it is for.
#[derive(Debug)]
pub struct Asked<'a> {
    /// The command.
    pub method: String,
    /// Its arguments, as they came: only who obeys reads them.
    pub arguments: &'a RawValue,
    /// Where the answer goes, when one is wanted.
    pub reply: Option<Reply>,
    audience: Audience,
}

/// Where an answer goes.
#[derive(Debug, PartialEq)]
pub struct Reply {
    /// What the client knows its answers by.
    pub ticket: Value,
    /// Exchange and routing key.
    pub route: Route,
}

#[derive(Debug, PartialEq)]
enum Audience {
    Everybody,
    Nodes(Vec<String>),
    Matching { pattern: String, regex: bool },
}

#[derive(Deserialize)]
struct Body<'a> {
    method: String,
    #[serde(borrow, default)]
    arguments: Option<&'a RawValue>,
    #[serde(default)]
    destination: Value,
    #[serde(default)]
    pattern: Option<String>,
    #[serde(default)]
    matcher: Option<String>,
    #[serde(default)]
    ticket: Value,
    #[serde(default)]
    reply_to: Value,
}

#[derive(Deserialize)]
struct ReplyTo {
    exchange: String,
    routing_key: String,
}

impl<'a> Asked<'a> {
    /// Reads the body of a message; what is wrong with it, as a sentence.
    pub fn read(body: &'a str) -> Result<Self, String> {
        if !body.trim_start().starts_with('{') {
            // Or else a list would be read as the fields in their order.
            return Err("it is not a map".into());
        }
        let body: Body<'_> = serde_json::from_str(body).map_err(|error| error.to_string())?;
        let audience = match (body.destination, body.pattern, body.matcher) {
            (Value::Array(nodes), ..) if !nodes.is_empty() => Audience::Nodes(
                nodes
                    .iter()
                    .filter_map(|node| node.as_str().map(str::to_owned))
                    .collect(),
            ),
            (Value::String(node), ..) if !node.is_empty() => Audience::Nodes(vec![node]),
            (_, Some(pattern), Some(matcher)) if !pattern.is_empty() && !matcher.is_empty() => {
                Audience::Matching {
                    pattern,
                    regex: match matcher.as_str() {
                        "glob" => false,
                        "pcre" => true,
                        other => return Err(format!("the matcher {other:.100?} is none of glob and pcre")),
                    },
                }
            }
            _ => Audience::Everybody,
        };
        // A route that is none keeps nobody from obeying; there is just no way back, as in Celery.
        let to = serde_json::from_value::<ReplyTo>(body.reply_to).ok();
        Ok(Self {
            method: body.method,
            arguments: body.arguments.unwrap_or(RawValue::NULL),
            reply: to.map(|to| Reply {
                ticket: body.ticket,
                route: Route {
                    exchange: to.exchange,
                    routing_key: to.routing_key,
                },
            }),
            audience,
        })
    }

    /// Whether a node is to obey.
    pub fn is_for(&self, hostname: &str) -> bool {
        match &self.audience {
            Audience::Everybody => true,
            Audience::Nodes(nodes) => nodes.iter().any(|node| node == hostname),
            Audience::Matching { pattern, regex } => matches(hostname, pattern, *regex),
        }
    }
}

/// Python's `fnmatchcase`, or its `re.match` as far as the expression is one that takes linear time.
fn matches(hostname: &str, pattern: &str, regex: bool) -> bool {
    if pattern.len() > LONGEST_PATTERN {
        return false;
    }
    let expression = match regex {
        true => format!(r"\A(?:{pattern})"),
        false => glob(pattern),
    };
    let built = regex::RegexBuilder::new(&expression)
        .size_limit(LARGEST_PATTERN)
        .build();
    built.is_ok_and(|built| built.is_match(hostname))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn asked(body: &str) -> Asked<'_> {
        Asked::read(body).unwrap()
    }

    #[test]
    fn a_request_of_the_real_client_is_read() {
        let sample = include_str!("../../../tests/cases/wire/pidbox-ping.json");
        let sample: Value = serde_json::from_str(sample).unwrap();
        let body = sample["request"][0]["body_json"].to_string();
        let asked = asked(&body);
        assert_eq!((asked.method.as_str(), asked.arguments.get()), ("ping", "{}"));
        let reply = asked.reply.as_ref().unwrap();
        assert_eq!(reply.ticket, "33333333-0000-4000-8000-000000000001");
        assert_eq!(reply.route.exchange, "reply.celery.pidbox");
        assert_eq!(reply.route.routing_key, "22222222-2222-3222-8222-222222222222");
        assert!(asked.is_for("anybody@h"));
    }

    #[test]
    fn only_who_is_meant_obeys() {
        for (whom, is_for) in [
            (json!({}), true),
            (json!({"destination": null}), true),
            (json!({"destination": []}), true),
            (json!({"destination": ["w2@h", "w1@h"]}), true),
            (json!({"destination": ["w2@h", 1]}), false),
            (json!({"destination": "w1@h"}), true),
            (
                json!({"destination": ["w2@h"], "pattern": "w1*", "matcher": "glob"}),
                false,
            ),
            (json!({"pattern": "w?@*", "matcher": "glob"}), true),
            (json!({"pattern": "W1*", "matcher": "glob"}), false),
            (json!({"pattern": "w", "matcher": "glob"}), false),
            (json!({"pattern": "w", "matcher": "pcre"}), true),
            (json!({"pattern": "1@", "matcher": "pcre"}), false),
            (json!({"pattern": "x|w1", "matcher": "pcre"}), true),
            (json!({"pattern": "(", "matcher": "pcre"}), false),
            (
                json!({"pattern": "(w{1,1000}){1,1000}", "matcher": "pcre"}),
                false,
            ),
            (json!({"pattern": "w1*"}), true),
        ] {
            let mut body = whom.clone();
            body["method"] = "ping".into();
            assert_eq!(asked(&body.to_string()).is_for("w1@h"), is_for, "{whom}");
        }
    }

    #[test]
    fn who_cannot_be_answered_is_obeyed_all_the_same() {
        for to in [
            json!(null),
            json!({}),
            json!([]),
            json!("x"),
            json!({"exchange": "x"}),
        ] {
            let body = json!({"method": "ping", "reply_to": to}).to_string();
            assert_eq!(asked(&body).reply, None, "{to}");
        }
        // What is wrong with them is said by who obeys.
        for arguments in ["[]", "null", "[[1]]", "{\"x\": 1}"] {
            let body = format!("{{\"method\": \"ping\", \"arguments\": {arguments}}}");
            assert_eq!(asked(&body).arguments.get(), arguments);
        }
    }

    #[test]
    fn what_makes_no_sense_is_an_error() {
        for body in [
            "",
            "null",
            "[\"ping\", {}]",
            "{}",
            "{\"method\": 1}",
            "{\"method\": \"ping\", \"pattern\": \"a\", \"matcher\": \"perl\"}",
            &format!("{{\"method\": \"ping\", \"ticket\": {}", "[".repeat(100_000)),
        ] {
            assert!(Asked::read(body).is_err(), "{body:.60}");
        }
    }
}
