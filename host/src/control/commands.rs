//! The commands (contract section 6.3). One more is one more line of [`COMMANDS`] and its function.

use serde::Serialize;
use serde_json::value::{RawValue, to_raw_value};
use serde_json::{Value, json};

use super::info::{Scheduled, TaskInfo};
use crate::execution::Execution;
use crate::execution::active::{Entry, Progress};
use crate::message::{JsonMap, repr};
use crate::shutdown::Stage;

/// What a command may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Group {
    /// It only looks.
    Inspect,
    /// It changes something.
    Control,
}

/// What commands look at.
pub struct State<'a> {
    /// The worker.
    pub execution: &'a Execution,
    /// The time of its logical clock.
    pub clock: u64,
}

/// What goes back to the client.
pub enum Answer {
    /// This, as JSON.
    Value(Box<RawValue>),
    /// Nothing, whatever the client wants.
    Silence,
}

/// A command could not be obeyed: Python's text of the exception.
struct Refused(String);

type Done = Result<Answer, Refused>;

struct Command {
    name: &'static str,
    alias: Option<&'static str>,
    group: Group,
    obey: fn(&State<'_>, &JsonMap) -> Done,
}

const fn inspect(
    name: &'static str,
    alias: Option<&'static str>,
    obey: fn(&State<'_>, &JsonMap) -> Done,
) -> Command {
    Command {
        name,
        alias,
        group: Group::Inspect,
        obey,
    }
}

const fn control(name: &'static str, obey: fn(&State<'_>, &JsonMap) -> Done) -> Command {
    Command {
        name,
        alias: None,
        group: Group::Control,
        obey,
    }
}

/// Every command.
const COMMANDS: &[Command] = &[
    inspect("ping", None, |_, _| value(json!({"ok": "pong"}))),
    inspect("clock", None, |state, _| value(json!({"clock": state.clock}))),
    inspect("active", Some("dump_active"), active),
    inspect("reserved", Some("dump_reserved"), reserved),
    inspect("scheduled", Some("dump_schedule"), scheduled),
    inspect("query_task", None, query_task),
    inspect("revoked", Some("dump_revoked"), |state, _| {
        value(state.execution.known.revoked())
    }),
    control("revoke", revoke),
    control("shutdown", |state, _| {
        state.execution.shutdown.advance(Stage::Warm);
        Ok(Answer::Silence)
    }),
];

/// Obeys a command, if it is one of the `obeyed` groups; what cannot be done is said as Python says it.
pub fn obey(state: &State<'_>, obeyed: &[Group], method: &str, arguments: &JsonMap) -> Answer {
    let mut known = COMMANDS.iter().filter(|command| obeyed.contains(&command.group));
    let done = match known.find(|command| command.name == method || command.alias == Some(method)) {
        Some(command) => (command.obey)(state, arguments),
        None => Err(Refused(format!("KeyError({})", repr::value(&method.into())))),
    };
    done.or_else(|Refused(error)| value(json!({"error": error})))
        .unwrap_or(Answer::Silence)
}

fn value(value: impl Serialize) -> Done {
    let raw = to_raw_value(&value).map_err(|error| Refused(format!("ValueError({error})")))?;
    Ok(Answer::Value(raw))
}

/// The argument that a command cannot do without.
fn required<'a>(command: &str, arguments: &'a JsonMap, name: &str) -> Result<&'a Value, Refused> {
    arguments.get(name).ok_or_else(|| {
        let text = format!("{command}() missing 1 required positional argument: '{name}'");
        Refused(format!("TypeError({})", repr::value(&text.into())))
    })
}

/// Ids, as one or as a list.
fn ids(value: &Value) -> Vec<&str> {
    match value {
        Value::Array(ids) => ids.iter().filter_map(Value::as_str).collect(),
        Value::String(id) => vec![id],
        _ => Vec::new(),
    }
}

fn entries(state: &State<'_>, wanted: impl Fn(&Entry) -> bool) -> Vec<Entry> {
    let mut entries = state.execution.active.entries();
    entries.retain(|entry| wanted(entry));
    entries
}

fn info<'a>(state: &'a State<'_>, entry: &'a Entry, safe: bool) -> TaskInfo<'a> {
    TaskInfo::new(entry, &state.execution.options.hostname, safe)
}

fn infos(state: &State<'_>, entries: &[Entry], safe: bool) -> Done {
    value(
        entries
            .iter()
            .map(|entry| info(state, entry, safe))
            .collect::<Vec<_>>(),
    )
}

fn active(state: &State<'_>, arguments: &JsonMap) -> Done {
    let safe = arguments.get("safe").and_then(Value::as_bool).unwrap_or(false);
    infos(
        state,
        &entries(state, |entry| entry.progress == Progress::Active),
        safe,
    )
}

fn reserved(state: &State<'_>, _: &JsonMap) -> Done {
    infos(
        state,
        &entries(state, |entry| entry.progress != Progress::Active),
        false,
    )
}

fn scheduled(state: &State<'_>, _: &JsonMap) -> Done {
    let entries = entries(state, |entry| entry.progress == Progress::Scheduled);
    let all = entries
        .iter()
        .map(|entry| Scheduled::new(entry, info(state, entry, false)));
    value(all.collect::<Vec<_>>())
}

fn query_task(state: &State<'_>, arguments: &JsonMap) -> Done {
    let ids = ids(required("query_task", arguments, "ids")?);
    let found = entries(state, |entry| ids.contains(&entry.request.id.as_str()));
    let found = found.iter().map(|entry| {
        let progress = match entry.progress {
            Progress::Active => "active",
            Progress::Scheduled => "scheduled",
            Progress::Reserved | Progress::Received => "reserved",
        };
        (entry.request.id.as_str(), (progress, info(state, entry, false)))
    });
    value(found.collect::<std::collections::BTreeMap<_, _>>())
}

/// The answers are Python's texts of a set and of a list.
fn revoke(state: &State<'_>, arguments: &JsonMap) -> Done {
    let ids = ids(required("revoke", arguments, "task_id")?);
    let terminate = arguments
        .get("terminate")
        .and_then(Value::as_bool)
        .unwrap_or(false);
    let mut ended = ids.clone();
    ended.retain(|id| state.execution.revoke(id, terminate));
    let text = match (terminate, ended.is_empty()) {
        (true, true) => "terminate: tasks unknown".to_owned(),
        (true, false) => format!("terminate: {}", ended.join(", ")),
        (false, _) if ids.is_empty() => "tasks set() flagged as revoked".to_owned(),
        (false, _) => {
            let ids: Vec<String> = ids.iter().map(|id| repr::value(&Value::from(*id))).collect();
            format!("tasks {{{}}} flagged as revoked", ids.join(", "))
        }
    };
    value(json!({"ok": text}))
}
