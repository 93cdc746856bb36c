//! The messages of random workflows, sent by Celery's own code and by ours, are the same.

use std::collections::BTreeMap;

use celerybox::canvas::{self, Chords, Context, Defaults, Partial, Sender, Signature, Step};
use celerybox_tests::{Place, python};
use serde_json::{Map, Value, json};

/// Ids that were made while a case was applied, by what they were made as. Ids that went in stay as they are.
struct Names<'a> {
    given: &'a str,
    known: BTreeMap<String, usize>,
}

impl Names<'_> {
    /// The same with each new id replaced by its number, in the order in which they appear.
    fn replaced(&mut self, value: &Value) -> Value {
        match value {
            Value::String(text) if self.is_new(text) => {
                let next = self.known.len();
                let number = self.known.entry(text.clone()).or_insert(next);
                json!(format!("#{number}"))
            }
            Value::Array(items) => items.iter().map(|item| self.replaced(item)).collect(),
            Value::Object(map) => {
                let fields = map.iter().map(|(key, value)| (key.clone(), self.replaced(value)));
                Value::Object(fields.collect())
            }
            other => other.clone(),
        }
    }

    fn is_new(&self, text: &str) -> bool {
        let made = text.strip_prefix("u-").or(text.strip_prefix("n-"));
        made.is_some_and(|number| number.parse::<u32>().is_ok()) && !self.given.contains(&format!("{text:?}"))
    }
}

/// A signature as it is compared: read and written by us, so that headers have one form, without what is null or only
/// tells a client something.
fn signature(value: &Value) -> Value {
    let read = Signature::read(value.clone()).unwrap_or_else(|error| panic!("{error}: {value}"));
    plain(read.to_value())
}

fn plain(value: Value) -> Value {
    match value {
        Value::Object(mut map) => {
            if map.contains_key("subtask_type")
                && let Some(Value::Object(options)) = map.get_mut("options")
            {
                options.retain(|option, value| {
                    !value.is_null() && option != "reply_to" && option != "add_to_parent"
                });
            }
            let fields = map.into_iter().map(|(key, value)| (key, plain(value)));
            Value::Object(fields.collect())
        }
        Value::Array(items) => items.into_iter().map(plain).collect(),
        other => other,
    }
}

/// A message as it is compared.
fn message(headers: &Value, body: &Value, priority: &Value, queue: &Value) -> Value {
    let list = |value: &Value| {
        value
            .as_array()
            .into_iter()
            .flatten()
            .map(signature)
            .collect::<Value>()
    };
    let embed = &body[2];
    let mut seen: Map<String, Value> = [
        "task",
        "id",
        "group",
        "group_index",
        "root_id",
        "parent_id",
        "retries",
        "replaced_task_nesting",
        "stamps",
        "timelimit",
        "argsrepr",
    ]
    .into_iter()
    .map(|name| (name.to_owned(), headers[name].clone()))
    .collect();
    for (name, value) in [
        ("args", body[0].clone()),
        ("kwargs", plain(body[1].clone())),
        ("callbacks", list(&embed["callbacks"])),
        ("errbacks", list(&embed["errbacks"])),
        ("chain", list(&embed["chain"])),
        ("has chain", json!(embed["chain"].is_null())),
        (
            "chord",
            if embed["chord"].is_null() {
                Value::Null
            } else {
                signature(&embed["chord"])
            },
        ),
        ("priority", json!(priority.as_u64().unwrap_or(0))),
        ("queue", json!(queue.as_str().unwrap_or("celery"))),
    ] {
        seen.insert(name.to_owned(), value);
    }
    Value::Object(seen)
}

fn theirs(step: &Value) -> Value {
    match step.get("publish") {
        Some(sent) => message(&sent["headers"], &sent["body"], &sent["priority"], &sent["queue"]),
        None => step.clone(),
    }
}

fn ours(step: &Step) -> Value {
    match step {
        Step::Publish(publication) => {
            let sent = &publication.outgoing.message;
            let headers = Value::Object(sent.headers.clone().unwrap());
            let body: Value = serde_json::from_slice(&sent.body).unwrap();
            let queue = &publication.outgoing.route.routing_key;
            message(&headers, &body, &json!(sent.properties.priority), &json!(queue))
        }
        Step::ChordSize { group, size } => json!({"size": [group, size]}),
        Step::SaveGroup { group, tuple } => json!({"save": [group, tuple]}),
        Step::ChordGrows { .. } => panic!("{step:?}"),
    }
}

/// What a case comes to, in Celery's words and in ours.
fn both(case: &Value) -> (Value, Value) {
    let defaults = Defaults {
        chords: Chords::Native,
        ..Defaults::default()
    };
    let sender = case["sender"]["id"].as_str().map(|id| Sender {
        id: id.to_owned(),
        root_id: case["sender"]["root_id"].as_str().map(str::to_owned),
        priority: None,
    });
    let mut count = 0;
    let mut context = Context {
        defaults: &defaults,
        sender: sender.clone(),
        now: "2026-11-21T10:00:00Z".parse().unwrap(),
        new_id: &mut || {
            count += 1;
            format!("n-{count}")
        },
    };
    let partial = Partial {
        args: case["args"].as_array().cloned().unwrap(),
        kwargs: Map::new(),
        options: case["options"].as_object().cloned().unwrap(),
    };
    let given = Signature::read(case["signature"].clone()).unwrap();
    let applied = canvas::apply(&given, partial, &mut context).unwrap();
    let input = format!("{}{}{}", case["signature"], case["options"], case["sender"]);
    let seen = |steps: Vec<Value>, result: &Value, children: Value| {
        let mut names = Names {
            given: &input,
            known: BTreeMap::new(),
        };
        names.replaced(&json!([steps, result, children]))
    };
    let steps = case["steps"].as_array().unwrap().iter().map(theirs).collect();
    let theirs = seen(steps, &case["result"], case["children"].clone());
    // A client has no children.
    let children = sender.map_or(Value::Null, |_| json!(applied.children));
    let ours = seen(
        applied.steps.iter().map(ours).collect(),
        &applied.result,
        children,
    );
    (theirs, ours)
}

/// `CELERYBOX_SEED` and `CELERYBOX_SEEDS` choose other workflows, and more of them.
#[test]
fn random_workflows_become_celerys_own_messages() {
    let number = |name: &str, default: &str| std::env::var(name).unwrap_or_else(|_| default.to_owned());
    let (seed, seeds) = (number("CELERYBOX_SEED", "1"), number("CELERYBOX_SEEDS", "150"));
    let cases = python(&Place::files(), "canvas_messages.py", &[&seed, &seeds]);
    let (mut wrong, mut same) = (Vec::new(), 0);
    for case in cases.as_array().unwrap() {
        assert!(case["error"].is_null(), "{case:#}");
        let (theirs, ours) = both(case);
        if theirs == ours {
            same += 1;
        } else {
            wrong.push(json!({"case": case, "theirs": theirs, "ours": ours}));
        }
    }
    if !wrong.is_empty() {
        let file = std::env::temp_dir().join("celerybox-canvas-messages.json");
        std::fs::write(&file, json!(wrong).to_string()).unwrap();
        panic!(
            "{} of {} differ; see {}",
            wrong.len(),
            same + wrong.len(),
            file.display()
        );
    }
    assert!(same > 100, "only {same} cases");
}
