//! The messages of random workflows, sent by Celery's own code and by ours, are the same.

use std::collections::{BTreeMap, BTreeSet};

use celerybox::canvas::{self, Chords, Context, Defaults, Partial, Sender, Signature, Step};
use celerybox_tests::{Place, python};
use serde_json::{Map, Value, json};

/// Which id of ours each of Celery's is. Ids that went in are themselves: what a client was told comes true.
#[derive(Default)]
struct Names {
    ours: BTreeMap<String, String>,
    theirs: BTreeMap<String, String>,
    given: BTreeSet<String>,
    /// Those of groups and chords. Celery makes some of them anew each time it freezes a chord; we keep them.
    given_composites: BTreeSet<String>,
}

impl Names {
    /// For a case with the ids in these values.
    fn given(values: &[&Value]) -> Names {
        let mut names = Names::default();
        values.iter().for_each(|value| names.collect(value));
        names
    }

    fn collect(&mut self, value: &Value) {
        match value {
            Value::Object(map) => {
                if matches!(value["subtask_type"].as_str(), Some("chord" | "group")) {
                    let id = value["options"]["task_id"].as_str();
                    self.given_composites.extend(id.map(str::to_owned));
                }
                map.values().for_each(|part| self.collect(part));
            }
            Value::Array(items) => items.iter().for_each(|item| self.collect(item)),
            Value::String(text) if is_id(text) => {
                self.given.insert(text.clone());
            }
            _ => {}
        }
    }

    /// Whether an id of Celery's may be this one of ours, whatever else is known of the two.
    fn possible(&self, theirs: &str, ours: &str) -> bool {
        if self.given.contains(theirs) {
            return ours == theirs;
        }
        !self.given.contains(ours) || self.given_composites.contains(ours)
    }

    /// Where the two differ; `None` when they are the same but for the names of ids.
    fn difference(&mut self, theirs: &Value, ours: &Value, at: &str) -> Option<String> {
        let differ = || Some(format!("{at}: {theirs} is {ours} here"));
        match (theirs, ours) {
            (Value::Object(left), Value::Object(right)) => {
                if left.len() != right.len() {
                    return differ();
                }
                let mut fields = left.iter();
                fields.find_map(|(key, value)| match right.get(key) {
                    Some(other) => self.difference(value, other, &format!("{at}.{key}")),
                    None => differ(),
                })
            }
            (Value::Array(left), Value::Array(right)) => {
                if left.len() != right.len() {
                    return differ();
                }
                let mut items = left.iter().zip(right).enumerate();
                items.find_map(|(i, (left, right))| self.difference(left, right, &format!("{at}[{i}]")))
            }
            (Value::String(left), Value::String(right)) if is_id(left) && is_id(right) => {
                if !self.possible(left, right) {
                    return differ();
                }
                let ours = self.ours.entry(left.clone()).or_insert_with(|| right.clone());
                let theirs = self.theirs.entry(right.clone()).or_insert_with(|| left.clone());
                (ours != right || theirs != left)
                    .then(|| format!("{at}: {left} and {ours}, {right} and {theirs}"))
            }
            _ if theirs == ours => None,
            _ => differ(),
        }
    }
}

/// Whether Celery (`u-1`) or we (`n-1`) made it.
fn is_id(text: &str) -> bool {
    let made = text.strip_prefix("u-").or(text.strip_prefix("n-"));
    made.is_some_and(|number| number.parse::<u32>().is_ok())
}

/// A result tuple without the ids of groups in it: Celery shows those of an earlier freezing, which nothing has.
fn without_groups(tuple: &Value, is_top: bool) -> Value {
    let members = tuple[1].as_array();
    let members = members.map(|members| {
        members
            .iter()
            .map(|member| without_groups(member, false))
            .collect::<Vec<_>>()
    });
    let id = if members.is_some() && !is_top {
        &Value::Null
    } else {
        &tuple[0][0]
    };
    match tuple {
        Value::Null => Value::Null,
        _ => json!([[id, without_groups(&tuple[0][1], false)], members]),
    }
}

/// A value as it is compared: each signature in it read and written by us, so that headers have one form, and without
/// what is null, tells a client something, or means something within one process only.
fn plain(value: &Value) -> Value {
    match value {
        Value::Object(map) if map.contains_key("subtask_type") => {
            let read = Signature::read(value.clone()).unwrap_or_else(|error| panic!("{error}: {value}"));
            let Value::Object(mut map) = read.to_value() else {
                unreachable!()
            };
            if let Some(Value::Object(options)) = map.get_mut("options") {
                options.retain(|option, value| {
                    !value.is_null() && option != "reply_to" && option != "add_to_parent"
                });
            }
            map.iter()
                .map(|(key, value)| (key.clone(), plain(value)))
                .collect()
        }
        Value::Object(map) => map
            .iter()
            .map(|(key, value)| (key.clone(), plain(value)))
            .collect(),
        Value::Array(items) => items.iter().map(plain).collect(),
        other => other.clone(),
    }
}

/// A message as it is compared.
fn message(headers: &Value, body: &Value, priority: &Value, queue: &Value) -> Value {
    let list = |value: &Value| {
        value
            .as_array()
            .into_iter()
            .flatten()
            .map(plain)
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
    ]
    .into_iter()
    .map(|name| (name.to_owned(), headers[name].clone()))
    .collect();
    for (name, value) in [
        ("args", body[0].clone()),
        ("kwargs", plain(&body[1])),
        ("callbacks", list(&embed["callbacks"])),
        ("errbacks", list(&embed["errbacks"])),
        ("chain", list(&embed["chain"])),
        ("has chain", json!(embed["chain"].is_null())),
        ("chord", plain(&embed["chord"])),
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
        None if step["save"].is_array() => {
            json!({"save": [step["save"][0], without_groups(&step["save"][1], true)]})
        }
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
        Step::SaveGroup { group, tuple } => json!({"save": [group, without_groups(tuple, true)]}),
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
        trace: Map::new(),
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
    let tuples = |all: &[Value]| {
        all.iter()
            .map(|tuple| without_groups(tuple, true))
            .collect::<Value>()
    };
    let steps = case["steps"]
        .as_array()
        .unwrap()
        .iter()
        .map(theirs)
        .collect::<Value>();
    // A client has no children.
    let children = case["children"].as_array().map(Vec::as_slice);
    let theirs = json!([
        steps,
        without_groups(&case["result"], true),
        tuples(children.unwrap_or_default())
    ]);
    let steps = applied.steps.iter().map(ours).collect::<Value>();
    let children = if children.is_some() {
        applied.children
    } else {
        Vec::new()
    };
    let ours = json!([steps, without_groups(&applied.result, true), tuples(&children)]);
    (theirs, ours)
}

/// `CELERYBOX_SEED` and `CELERYBOX_SEEDS` choose other workflows, and more of them.
#[test]
fn random_workflows_become_celerys_own_messages() {
    let number = |name: &str, default: &str| std::env::var(name).unwrap_or_else(|_| default.to_owned());
    let (seed, seeds) = (number("CELERYBOX_SEED", "1"), number("CELERYBOX_SEEDS", "150"));
    let cases = python(&Place::files(), "canvas_messages.py", &[&seed, &seeds]);
    let mut wrong = Vec::new();
    let cases = cases.as_array().unwrap();
    for case in cases {
        assert!(case["error"].is_null(), "{case:#}");
        let (theirs, ours) = both(case);
        let given = [
            &case["signature"],
            &case["args"],
            &case["options"],
            &case["sender"],
        ];
        if let Some(difference) = Names::given(&given).difference(&theirs, &ours, "") {
            wrong.push(format!("{difference}\n  of {}", case["signature"]));
        }
    }
    assert!(
        wrong.is_empty(),
        "{} of {} differ:\n{}",
        wrong.len(),
        cases.len(),
        wrong.join("\n")
    );
    assert!(cases.len() > 100, "only {} cases", cases.len());
}
