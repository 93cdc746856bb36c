//! A worker that sends, for tests.

use std::sync::Arc;

use serde_json::Value;

use super::{Applied, CanvasError, Chords, Context, Defaults, Partial, Sender, Signature, Step};
use crate::message::JsonMap;
use crate::task::Definition;

/// Celery's defaults, without tasks of its own.
pub(super) fn defaults() -> Defaults {
    Defaults {
        chords: Chords::Native,
        origin: "gen1@h".into(),
        ..Defaults::default()
    }
}

/// A worker with this one task.
pub(super) fn with_task(definition: Definition) -> Defaults {
    let definitions = [(definition.name.clone(), Arc::new(definition))];
    Defaults {
        definitions: Arc::new(definitions.into()),
        ..defaults()
    }
}

/// The task that sends: `p1` of the workflow `r1`, with priority 7.
pub(super) fn sender() -> Sender {
    Sender {
        id: "p1".into(),
        root_id: Some("r1".into()),
        priority: Some(7),
        trace: crate::message::JsonMap::new(),
    }
}

/// Does something with a context in which the sender's time stands still and ids are `n1`, `n2` ….
pub(super) fn within<T>(
    defaults: &Defaults,
    sender: Option<Sender>,
    act: impl FnOnce(&mut Context<'_>) -> T,
) -> T {
    let mut count = 0;
    let mut new_id = || {
        count += 1;
        format!("n{count}")
    };
    act(&mut Context {
        defaults,
        sender,
        now: "2026-11-21T10:00:00Z".parse().unwrap(),
        new_id: &mut new_id,
    })
}

/// Applies a signature as a worker that runs `p1`.
pub(super) fn apply(signature: Value, partial: Partial) -> Result<Applied, CanvasError> {
    let signature = Signature::read(signature)?;
    within(&defaults(), Some(sender()), |context| {
        super::apply(&signature, partial, context)
    })
}

/// What is done, a line for each step.
pub(super) fn lines(applied: &Applied) -> Vec<String> {
    applied.steps.iter().map(line).collect()
}

fn line(step: &Step) -> String {
    match step {
        Step::Publish(publication) => {
            let headers = headers(step);
            let body = body(step);
            let mut line = format!("{} {} {}", publication.id, publication.task, body[0]);
            for (name, value) in [
                ("group", &headers["group"]),
                ("index", &headers["group_index"]),
                ("parent", &headers["parent_id"]),
                ("root", &headers["root_id"]),
            ] {
                if !value.is_null() {
                    line += &format!(" {name}={}", value.to_string().trim_matches('"'));
                }
            }
            for link in ["callbacks", "errbacks", "chain"] {
                let ids: Vec<String> = body[2][link]
                    .as_array()
                    .into_iter()
                    .flatten()
                    .map(shown)
                    .collect();
                if !ids.is_empty() {
                    line += &format!(" {link}=[{}]", ids.join(" "));
                }
            }
            if !body[2]["chord"].is_null() {
                line += &format!(" chord={}", shown(&body[2]["chord"]));
            }
            line
        }
        Step::ChordSize { group, size } => format!("size {group} {size}"),
        Step::SaveGroup { group, tuple } => format!("save {group} {tuple}"),
        Step::ChordGrows { group } => format!("grow {group}"),
    }
}

/// A signature in a word: its id, or else its name.
fn shown(signature: &Value) -> String {
    let id = signature["options"]["task_id"].as_str();
    let name = signature["task"].as_str().unwrap_or("?");
    let kind = signature["subtask_type"].as_str().map(|kind| format!("{kind}:"));
    format!("{}{}", kind.unwrap_or_default(), id.unwrap_or(name))
}

/// The headers of a message.
pub(super) fn headers(step: &Step) -> JsonMap {
    let Step::Publish(publication) = step else {
        panic!("{step:?}")
    };
    publication.outgoing.message.headers.clone().unwrap()
}

/// The body of a message.
pub(super) fn body(step: &Step) -> Value {
    let Step::Publish(publication) = step else {
        panic!("{step:?}")
    };
    serde_json::from_slice(&publication.outgoing.message.body).unwrap()
}
