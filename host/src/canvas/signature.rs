//! Signatures (contract section 4.1).

use serde_json::{Value, json};

use super::CanvasError;
use crate::message::JsonMap;
use crate::message::content;

/// The most signatures within one.
const MOST: usize = 100_000;

/// What there is to do: a task, or tasks put together. Read from the JSON map of the messages and written as one;
/// keys that it does not know are kept.
#[derive(Debug, Clone, PartialEq)]
pub struct Signature {
    /// Task name.
    pub task: String,
    /// Positional arguments.
    pub args: Vec<Value>,
    /// Keyword arguments; the parts of a composite are in `kind`.
    pub kwargs: JsonMap,
    /// Options of `apply_async`. Signatures among them (`link`, `chord`, `chain` …) are JSON.
    pub options: JsonMap,
    /// Takes no partial arguments.
    pub immutable: bool,
    /// What kind it is, with its parts.
    pub kind: Kind,
    /// Keys of the map that mean nothing here.
    rest: JsonMap,
}

/// `subtask_type`, with the parts of a composite.
#[derive(Debug, Clone, PartialEq)]
pub enum Kind {
    /// One task.
    Task,
    /// One after the other.
    Chain(Vec<Signature>),
    /// All at the same time.
    Group(Vec<Signature>),
    /// A header, and a body for its results. Once it is frozen, the header's group id is the option `task_id`.
    Chord {
        /// The header.
        header: Vec<Signature>,
        /// The body.
        body: Option<Box<Signature>>,
    },
    /// `celery.map` or `celery.starmap`: one message.
    Map,
    /// A group of starmaps once it is applied.
    Chunks,
}

impl Signature {
    /// One task without options.
    pub fn task(name: impl Into<String>, args: Vec<Value>, kwargs: JsonMap) -> Self {
        Self {
            task: name.into(),
            args,
            kwargs,
            options: JsonMap::new(),
            immutable: false,
            kind: Kind::Task,
            rest: JsonMap::new(),
        }
    }

    /// A group of these.
    pub fn group(tasks: Vec<Signature>) -> Self {
        Self {
            kind: Kind::Group(tasks),
            ..Self::task("celery.group", Vec::new(), JsonMap::new())
        }
    }

    /// A chain of these.
    pub fn chain(tasks: Vec<Signature>) -> Self {
        Self {
            kind: Kind::Chain(tasks),
            ..Self::task("celery.chain", Vec::new(), JsonMap::new())
        }
    }

    /// A chord.
    pub fn chord(header: Vec<Signature>, body: Signature) -> Self {
        let mut kwargs = JsonMap::new();
        kwargs.insert("kwargs".into(), json!({}));
        Self {
            kind: Kind::Chord {
                header,
                body: Some(Box::new(body)),
            },
            ..Self::task("celery.chord", Vec::new(), kwargs)
        }
    }

    /// Reads a signature from JSON text, Python's kind included. Numbers that no JSON value holds keep every digit.
    pub fn parse(text: &str) -> Result<Self, CanvasError> {
        Self::read(parsed(text)?)
    }

    /// Reads a list of signatures; a single one, which hand-made messages have, counts as a list of one.
    pub fn parse_list(text: &str) -> Result<Vec<Self>, CanvasError> {
        let mut left = MOST;
        list(parsed(text)?, &mut left)
    }

    /// Reads a signature from a JSON value.
    pub fn read(value: Value) -> Result<Self, CanvasError> {
        Self::within(value, &mut { MOST })
    }

    fn within(value: Value, left: &mut usize) -> Result<Self, CanvasError> {
        *left = left
            .checked_sub(1)
            .ok_or_else(|| CanvasError::TooLarge(format!("a signature has more than {MOST} parts")))?;
        let Value::Object(mut map) = value else {
            return Err(invalid("a signature is not a map"));
        };
        let task = match map.remove("task") {
            Some(Value::String(task)) if !task.is_empty() => task,
            _ => return Err(invalid("a signature names no task")),
        };
        let wrong = |what: &str| invalid(format!("{what} of the signature of {task} make no sense"));
        let args = match map.remove("args") {
            None | Some(Value::Null) => Vec::new(),
            Some(Value::Array(args)) => args,
            Some(_) => return Err(wrong("args")),
        };
        let mut kwargs = map_of(map.remove("kwargs")).ok_or_else(|| wrong("kwargs"))?;
        let mut options = map_of(map.remove("options")).ok_or_else(|| wrong("options"))?;
        let immutable = map.remove("immutable").as_ref().is_some_and(is_true);
        let kind = match map.remove("subtask_type") {
            None | Some(Value::Null) => Kind::Task,
            Some(Value::String(kind)) => match kind.as_str() {
                "chain" => Kind::Chain(list(take(&mut kwargs, "tasks"), left)?),
                "group" => Kind::Group(list(take(&mut kwargs, "tasks"), left)?),
                "chord" => chord(&mut kwargs, &mut options, left)?,
                "xmap" | "xstarmap" => Kind::Map,
                "chunks" => Kind::Chunks,
                _ => return Err(wrong("the kind")),
            },
            Some(_) => return Err(wrong("the kind")),
        };
        // Celery makes these anew from their parts and options, and forgets it.
        let forgets = matches!(kind, Kind::Chain(_) | Kind::Group(_) | Kind::Chord { .. });
        Ok(Self {
            task,
            args,
            kwargs,
            options,
            immutable: immutable && !forgets,
            kind,
            rest: map,
        })
    }

    /// The JSON map.
    pub fn to_value(&self) -> Value {
        let list = |tasks: &[Signature]| Value::Array(tasks.iter().map(Self::to_value).collect());
        let mut kwargs = self.kwargs.clone();
        let kind = match &self.kind {
            Kind::Task => None,
            Kind::Chain(tasks) => {
                kwargs.insert("tasks".into(), list(tasks));
                Some("chain")
            }
            Kind::Group(tasks) => {
                kwargs.insert("tasks".into(), list(tasks));
                Some("group")
            }
            Kind::Chord { header, body } => {
                let header = match self.text("task_id") {
                    Some(group_id) => json!({
                        "task": "celery.group", "args": [], "kwargs": {"tasks": list(header)},
                        "options": {"task_id": group_id}, "subtask_type": "group", "immutable": false,
                    }),
                    None => list(header),
                };
                kwargs.insert("header".into(), header);
                let body = body.as_ref().map_or(Value::Null, |body| body.to_value());
                kwargs.insert("body".into(), body);
                Some("chord")
            }
            Kind::Map if self.task == "celery.map" => Some("xmap"),
            Kind::Map => Some("xstarmap"),
            Kind::Chunks => Some("chunks"),
        };
        let mut map = self.rest.clone();
        map.insert("task".into(), self.task.clone().into());
        map.insert("args".into(), Value::Array(self.args.clone()));
        map.insert("kwargs".into(), Value::Object(kwargs));
        map.insert("options".into(), Value::Object(self.options.clone()));
        map.insert("subtask_type".into(), kind.into());
        map.insert("immutable".into(), self.immutable.into());
        Value::Object(map)
    }

    /// An option that is a text, unless it is empty.
    pub fn text(&self, option: &str) -> Option<&str> {
        let text = self.options.get(option).and_then(Value::as_str);
        text.filter(|text| !text.is_empty())
    }

    /// Sets an option.
    pub fn set(&mut self, option: &str, value: impl Into<Value>) {
        self.options.insert(option.to_owned(), value.into());
    }

    /// How many parts it reports to the chord it is in the header of (contract section 4.4).
    pub fn parts(&self) -> u64 {
        match &self.kind {
            Kind::Group(tasks) => tasks.iter().map(Self::parts).sum(),
            Kind::Chain(tasks) => tasks.iter().rev().map(Self::parts).find(|n| *n > 0).unwrap_or(0),
            Kind::Chord { body, .. } => body.as_ref().map_or(0, |body| body.parts()),
            Kind::Task | Kind::Map | Kind::Chunks => 1,
        }
    }
}

/// What an option holds that is one thing or a list of things; null is nothing.
pub(super) fn maybe_list(value: Option<&Value>) -> Vec<Value> {
    match value {
        None | Some(Value::Null) => Vec::new(),
        Some(Value::Array(list)) => list.clone(),
        Some(one) => vec![one.clone()],
    }
}

fn parsed(text: &str) -> Result<Value, CanvasError> {
    content::value(text).ok_or_else(|| {
        CanvasError::Invalid("a signature is not JSON, or is nested deeper than 128 levels".into())
    })
}

fn invalid(text: impl Into<String>) -> CanvasError {
    CanvasError::Invalid(text.into())
}

fn take(map: &mut JsonMap, key: &str) -> Value {
    map.remove(key).unwrap_or_default()
}

fn map_of(value: Option<Value>) -> Option<JsonMap> {
    match value {
        None | Some(Value::Null) => Some(JsonMap::new()),
        Some(Value::Object(map)) => Some(map),
        Some(_) => None,
    }
}

fn is_true(value: &Value) -> bool {
    *value == Value::Bool(true)
}

fn list(value: Value, left: &mut usize) -> Result<Vec<Signature>, CanvasError> {
    match value {
        Value::Null => Ok(Vec::new()),
        Value::Array(list) => list
            .into_iter()
            .map(|value| Signature::within(value, left))
            .collect(),
        one @ Value::Object(_) => Ok(vec![Signature::within(one, left)?]),
        _ => Err(invalid("a list of signatures is none")),
    }
}

/// The header is a list, a group, or one signature; the id of a group is the chord's option `task_id` from then on
/// (contract section 4.4, point 1).
fn chord(kwargs: &mut JsonMap, options: &mut JsonMap, left: &mut usize) -> Result<Kind, CanvasError> {
    let header = match take(kwargs, "header") {
        one @ Value::Object(_) => {
            let mut one = Signature::within(one, left)?;
            match one.kind {
                Kind::Group(tasks) | Kind::Chain(tasks) => {
                    if let Some(group_id) = one.options.remove("task_id").filter(Value::is_string) {
                        options.insert("task_id".into(), group_id);
                    }
                    tasks
                }
                _ => vec![one],
            }
        }
        header => list(header, left)?,
    };
    let body = match take(kwargs, "body") {
        Value::Null => None,
        body => Some(Box::new(Signature::within(body, left)?)),
    };
    Ok(Kind::Chord { header, body })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn add() -> Value {
        json!({"task": "proj.add", "args": [3], "kwargs": {"z": 1}, "options": {"queue": "q", "x": 1},
            "subtask_type": null, "immutable": true, "chord_size": 7})
    }

    #[test]
    fn what_was_read_is_written_again() {
        let group = json!({"task": "celery.group", "args": [], "kwargs": {"tasks": [add(), add()]},
            "options": {"task_id": "g1"}, "subtask_type": "group", "immutable": false});
        let chord = json!({"task": "celery.chord", "args": [], "kwargs": {"kwargs": {}, "header": group, "body": add()},
            "options": {"task_id": "g1"}, "subtask_type": "chord", "immutable": false});
        let chain = json!({"task": "celery.chain", "args": [1], "kwargs": {"tasks": [add(), chord]}, "options": {},
            "subtask_type": "chain", "immutable": false});
        let map = json!({"task": "celery.starmap", "args": [], "kwargs": {"task": add(), "it": [[1, 2]]}, "options": {},
            "subtask_type": "xstarmap", "immutable": true});
        for value in [add(), group, chord, chain, map] {
            assert_eq!(Signature::read(value.clone()).unwrap().to_value(), value);
        }
    }

    /// As `_chain.from_dict` and its relatives.
    #[test]
    fn what_has_parts_is_never_immutable_itself() {
        for kind in ["chain", "group", "chord"] {
            let read = Signature::read(json!({"task": "t", "subtask_type": kind, "immutable": true}));
            assert!(!read.unwrap().immutable, "{kind}");
        }
        assert!(Signature::read(add()).unwrap().immutable);
    }

    #[test]
    fn big_numbers_keep_their_digits() {
        let text = r#"{"task": "t", "args": [123456789012345678901234567890, NaN]}"#;
        let value = Signature::parse(text).unwrap().to_value();
        assert_eq!(value["args"][0]["__value__"], "123456789012345678901234567890");
        assert!(content::python(&value.to_string()).contains("[123456789012345678901234567890,NaN]"));
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        let deep = format!("{}{}", r#"{"task":"t","args":["#.repeat(200), "]}".repeat(200));
        for text in [
            "",
            "[]",
            "{}",
            r#"{"task": ""}"#,
            r#"{"task": "t", "args": {}}"#,
            r#"{"task": "t", "kwargs": []}"#,
            r#"{"task": "t", "options": 1}"#,
            r#"{"task": "t", "subtask_type": "mine"}"#,
            &deep,
            r#"{"task": "t", "subtask_type": "chain", "kwargs": {"tasks": [1]}}"#,
        ] {
            assert!(
                matches!(Signature::parse(text), Err(CanvasError::Invalid(_))),
                "{text:.60}"
            );
        }
        let many = json!({"task": "celery.group", "subtask_type": "group",
            "kwargs": {"tasks": vec![json!({"task": "t"}); MOST]}});
        assert!(matches!(Signature::read(many), Err(CanvasError::TooLarge(_))));
    }

    #[test]
    fn one_signature_counts_as_a_list_and_a_group_as_a_header() {
        assert_eq!(Signature::parse_list(r#"{"task": "t"}"#).unwrap().len(), 1);
        let header = json!({"task": "celery.group", "subtask_type": "group", "kwargs": {"tasks": [add(), add()]},
            "options": {"task_id": "g1"}});
        let chord = json!({"task": "celery.chord", "subtask_type": "chord", "kwargs": {"header": header, "body": add()}});
        let chord = Signature::read(chord).unwrap();
        assert_eq!((chord.text("task_id"), chord.parts()), (Some("g1"), 1));
        let Kind::Chord { header, .. } = &chord.kind else {
            panic!("{chord:?}")
        };
        assert_eq!(Signature::group(header.clone()).parts(), 2);
    }
}
