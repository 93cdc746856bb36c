//! The tasks that every worker has (contract section 4.8): their names, options and arguments.

use std::collections::BTreeMap;

use serde_json::Value;
use serde_json::value::RawValue;

use crate::message::content;
use crate::message::request::Body;
use crate::outcome::Failure;
use crate::task::{Definition, RetryLimit};

/// A task of the worker itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Builtin {
    /// Returns its arguments, or one of them.
    Accumulate,
    /// Calls a task with each item.
    Map,
    /// Calls a task with the arguments that each item is.
    Starmap,
    /// Sends starmaps of so many items each.
    Chunks,
    /// Looks whether all results of a chord's header are there, and sends its body.
    ChordUnlock,
    /// Removes expired results.
    BackendCleanup,
    /// Sends the tasks of a group, for old clients.
    Group,
    /// Begins a chord, for old clients.
    Chord,
    /// Nothing: it is a mistake to send it.
    Chain,
    /// Says `pong`.
    Ping,
}

const ALL: [(&str, Builtin); 10] = [
    ("celery.accumulate", Builtin::Accumulate),
    ("celery.backend_cleanup", Builtin::BackendCleanup),
    ("celery.chain", Builtin::Chain),
    ("celery.chord", Builtin::Chord),
    ("celery.chord_unlock", Builtin::ChordUnlock),
    ("celery.chunks", Builtin::Chunks),
    ("celery.group", Builtin::Group),
    ("celery.map", Builtin::Map),
    ("celery.ping", Builtin::Ping),
    ("celery.starmap", Builtin::Starmap),
];

impl Builtin {
    /// All of them, with their options. `interval` is `result_chord_retry_interval`, seconds.
    pub fn all(interval: f64) -> impl Iterator<Item = (Self, Definition)> {
        ALL.into_iter().map(move |(name, builtin)| {
            let plain = Definition {
                name: name.to_owned(),
                ..Definition::default()
            };
            let definition = match builtin {
                // Its message is all that is left of a chord that waits: it is kept until the next one is sent.
                Builtin::ChordUnlock => Definition {
                    max_retries: Some(RetryLimit::Unlimited),
                    default_retry_delay: Some(interval),
                    ignore_result: Some(true),
                    acks_late: Some(true),
                    ..plain
                },
                Builtin::Chord => Definition {
                    ignore_result: Some(false),
                    ..plain
                },
                _ => plain,
            };
            (builtin, definition)
        })
    }

    /// Its name.
    pub fn name(self) -> &'static str {
        let found = ALL.iter().find(|(_, builtin)| *builtin == self);
        found.map_or("", |(name, _)| name)
    }
}

/// The arguments of a built-in task, which may be given by position or by name.
#[derive(Debug)]
pub struct Arguments {
    task: &'static str,
    args: Vec<Box<RawValue>>,
    kwargs: BTreeMap<String, Box<RawValue>>,
}

impl Arguments {
    /// Those of a message for this task.
    pub fn of(task: Builtin, body: &Body) -> Result<Self, Failure> {
        let wrong = |error: serde_json::Error| Failure::new("builtins", "ValueError", error.to_string());
        Ok(Self {
            task: task.name(),
            args: serde_json::from_str(body.args.get()).map_err(wrong)?,
            kwargs: serde_json::from_str(body.kwargs.get()).map_err(wrong)?,
        })
    }

    /// The positional ones.
    pub fn positional(&self) -> &[Box<RawValue>] {
        &self.args
    }

    /// The argument of this position or name; null counts as not given.
    pub fn get(&self, position: usize, name: &str) -> Option<&RawValue> {
        let found = self.args.get(position).or_else(|| self.kwargs.get(name));
        found.map(|raw| &**raw).filter(|raw| raw.get() != "null")
    }

    /// The argument of this position or name, read; a `TypeError` where it is missing or something else.
    pub fn read<T: serde::de::DeserializeOwned>(&self, position: usize, name: &str) -> Result<T, Failure> {
        let raw = self.get(position, name).ok_or_else(|| {
            let task = self.task;
            type_error(format!(
                "{task}() missing 1 required positional argument: '{name}'"
            ))
        })?;
        serde_json::from_str(raw.get())
            .map_err(|error| type_error(format!("{}(): the argument '{name}': {error}", self.task)))
    }

    /// The argument of this position or name as a value; its numbers keep every digit.
    pub fn value(&self, position: usize, name: &str) -> Result<Value, Failure> {
        let raw: Box<RawValue> = self.read(position, name)?;
        content::value(raw.get()).ok_or_else(|| {
            type_error(format!(
                "{}(): the argument '{name}' is nested too deep",
                self.task
            ))
        })
    }

    /// The same of an argument that may be missing.
    pub fn read_optional<T: serde::de::DeserializeOwned>(
        &self,
        position: usize,
        name: &str,
    ) -> Result<Option<T>, Failure> {
        match self.get(position, name) {
            Some(_) => self.read(position, name).map(Some),
            None => Ok(None),
        }
    }
}

/// Python's `TypeError`.
pub fn type_error(text: impl Into<String>) -> Failure {
    Failure::new("builtins", "TypeError", text)
}

/// `celery.accumulate(*args, index=None)`: the list of its arguments, or one of them, as JSON.
pub fn accumulate(body: &Body) -> Result<String, Failure> {
    let arguments = Arguments::of(Builtin::Accumulate, body)?;
    let args = arguments.positional();
    let Some(index) = arguments.get(usize::MAX, "index") else {
        return Ok(body.args.get().to_owned());
    };
    let index: i64 = serde_json::from_str(index.get())
        .map_err(|_| type_error("tuple indices must be integers or slices"))?;
    // Python counts negative ones from the end.
    let place = match usize::try_from(index) {
        Ok(place) => Some(place),
        Err(_) => usize::try_from(index.unsigned_abs())
            .ok()
            .and_then(|back| args.len().checked_sub(back)),
    };
    let found = place.and_then(|place| args.get(place));
    found
        .map(|arg| arg.get().to_owned())
        .ok_or_else(|| Failure::new("builtins", "IndexError", "tuple index out of range"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn body(args: serde_json::Value, kwargs: serde_json::Value) -> Body {
        let raw = |value: serde_json::Value| RawValue::from_string(value.to_string()).unwrap();
        Body {
            args: raw(args),
            kwargs: raw(kwargs),
            callbacks: None,
            errbacks: None,
            chain: None,
            chord: None,
        }
    }

    #[test]
    fn accumulate_returns_all_its_arguments_or_one() {
        let table = [
            (json!([1, [2]]), json!({}), Ok("[1,[2]]")),
            (json!([]), json!({"index": null}), Ok("[]")),
            (json!([[1, 2], 3]), json!({"index": 0}), Ok("[1,2]")),
            (json!([1, 2]), json!({"index": -1}), Ok("2")),
            (json!([1, 2]), json!({"index": 2}), Err("IndexError")),
            (json!([1, 2]), json!({"index": -3}), Err("IndexError")),
            (json!([1]), json!({"index": "0"}), Err("TypeError")),
        ];
        for (args, kwargs, expected) in table {
            let returned = accumulate(&body(args, kwargs)).map_err(|failure| failure.exc_type);
            assert_eq!(returned.as_deref().map_err(String::as_str), expected);
        }
    }

    #[test]
    fn arguments_are_given_by_position_or_by_name() {
        let arguments = Arguments::of(Builtin::Map, &body(json!(["t"]), json!({"it": [1]}))).unwrap();
        assert_eq!(arguments.read::<String>(0, "task").unwrap(), "t");
        assert_eq!(arguments.read::<Vec<u8>>(1, "it").unwrap(), [1]);
        assert_eq!(arguments.read_optional::<u8>(2, "n").unwrap(), None);
        let missing = arguments.read::<u8>(2, "n").unwrap_err();
        assert_eq!(
            missing.repr(),
            "TypeError(\"celery.map() missing 1 required positional argument: 'n'\")"
        );
        assert_eq!(arguments.read::<u8>(0, "task").unwrap_err().exc_type, "TypeError");
    }
}
