//! Signatures, and how they are put together: what Celery's `canvas.py` does before anything is sent.

use std::ops::BitOr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::{Map, Value, json};

use super::AsyncResult;
use crate::context::Context;
use crate::error::TaskError;
use crate::task::to_json;

/// What there is to do: one task with its arguments and options, or tasks put together. Celery's `Signature`.
///
/// A macro makes one of a task of this crate (`add::s((2, 2))`), [`signature`] of any other.
#[derive(Debug, Clone, PartialEq)]
pub struct Signature {
    task: String,
    args: Vec<Value>,
    kwargs: Map<String, Value>,
    options: Map<String, Value>,
    immutable: bool,
    kind: Kind,
    /// An argument or option that cannot be JSON; told when the signature is applied.
    fault: Option<String>,
}

#[derive(Debug, Clone, PartialEq)]
enum Kind {
    Task,
    Chain(Vec<Signature>),
    Group(Vec<Signature>),
    Chord(Vec<Signature>, Option<Box<Signature>>),
}

/// Positional arguments: a tuple, a list, or one value that is neither (`add::s(4)` is `add.s(4)`). A list that is *one*
/// argument is written `(list,)`.
pub trait Arguments {
    /// As a JSON list.
    ///
    /// # Errors
    ///
    /// What cannot be JSON.
    fn to_list(&self) -> Result<Vec<Value>, String>;
}

impl<T: Serialize + ?Sized> Arguments for T {
    fn to_list(&self) -> Result<Vec<Value>, String> {
        match serde_json::to_value(self) {
            Ok(Value::Array(list)) => Ok(list),
            // `()`
            Ok(Value::Null) => Ok(Vec::new()),
            Ok(one) => Ok(vec![one]),
            Err(error) => Err(error.to_string()),
        }
    }
}

/// A task by its name, of whatever component or Python worker: Celery's `signature("proj.add")`.
#[must_use]
pub fn signature(task: impl Into<String>) -> Signature {
    Signature {
        task: task.into(),
        args: Vec::new(),
        kwargs: Map::new(),
        options: Map::new(),
        immutable: false,
        kind: Kind::Task,
        fault: None,
    }
}

/// One after the other; each result is the first argument of the next. As with `|`, a group with something behind it
/// becomes a chord.
#[must_use]
pub fn chain(tasks: impl IntoIterator<Item = Signature>) -> Signature {
    let (mut steps, mut tasks) = (Vec::new(), tasks.into_iter());
    while let Some(task) = tasks.next() {
        add_step(&mut steps, task);
        // An empty chain with a group behind it is that group.
        if matches!(steps.as_slice(), [only] if matches!(only.kind, Kind::Group(_))) {
            return tasks.fold(steps.remove(0), |all, next| all | next);
        }
    }
    composite("celery.chain", Kind::Chain(steps))
}

/// All at the same time.
#[must_use]
pub fn group(tasks: impl IntoIterator<Item = Signature>) -> Signature {
    composite("celery.group", Kind::Group(tasks.into_iter().collect()))
}

/// All of the header at the same time, and then the body with the list of their results. A header that is a group
/// gives its tasks.
#[must_use]
pub fn chord(header: impl IntoIterator<Item = Signature>, body: Signature) -> Signature {
    let mut header: Vec<Signature> = header.into_iter().collect();
    if let [
        Signature {
            kind: Kind::Group(tasks),
            ..
        },
    ] = header.as_mut_slice()
    {
        header = std::mem::take(tasks);
    }
    composite("celery.chord", Kind::Chord(header, Some(Box::new(body))))
}

fn composite(task: &str, kind: Kind) -> Signature {
    Signature {
        kind,
        ..signature(task)
    }
}

/// The rules of Celery's `chain | other`.
fn add_step(steps: &mut Vec<Signature>, other: Signature) {
    let other = match other.kind {
        Kind::Group(tasks) if tasks.is_empty() => return,
        Kind::Group(ref tasks) if tasks.len() == 1 => return add_step(steps, other.unrolled()),
        Kind::Chain(_) => {
            for task in other.unchained() {
                add_step(steps, task);
            }
            return;
        }
        kind => Signature { kind, ..other },
    };
    let is_group = matches!(other.kind, Kind::Group(_));
    let is_chord = matches!(other.kind, Kind::Chord(..));
    match steps.last_mut() {
        Some(last) if matches!(last.kind, Kind::Chord(..)) && !is_chord => {
            let chord = std::mem::replace(last, signature(""));
            *last = chord.with_behind(other);
        }
        Some(last) if matches!(last.kind, Kind::Group(_)) && !is_group => {
            let header = std::mem::replace(last, signature(""));
            *last = chord([header], other);
        }
        _ => steps.push(other),
    }
}

impl BitOr for Signature {
    type Output = Signature;

    /// `a | b` is `chain([a, b])`; something behind a group makes a chord, and a task behind a chord goes to its body.
    fn bitor(self, other: Signature) -> Signature {
        let alone = matches!(&other.kind, Kind::Group(tasks) if tasks.len() == 1);
        match (&self.kind, &other.kind) {
            (Kind::Group(_), Kind::Group(tasks)) if tasks.is_empty() => self,
            (Kind::Group(_), _) => chord([self], other),
            (Kind::Chain(_), _) => chain([self, other]),
            (Kind::Chord(..), Kind::Task | Kind::Chord(..)) => self.with_behind(other),
            (Kind::Chord(..), Kind::Group(_)) if alone => self.with_behind(other.unrolled()),
            (_, Kind::Chain(_)) => {
                let tasks = std::iter::once(self).chain(other.unchained()).collect();
                composite("celery.chain", Kind::Chain(tasks))
            }
            _ => composite("celery.chain", Kind::Chain(vec![self, other.unrolled()])),
        }
    }
}

impl IntoIterator for Signature {
    type Item = Signature;
    type IntoIter = std::iter::Once<Signature>;

    /// Itself, so that a group can be a header: `chord(group(…), body)`.
    fn into_iter(self) -> Self::IntoIter {
        std::iter::once(self)
    }
}

impl Signature {
    pub(crate) fn is_empty_chain(&self) -> bool {
        matches!(&self.kind, Kind::Chain(tasks) if tasks.is_empty())
    }

    /// Positional arguments, behind those that are there.
    #[must_use]
    pub fn args(mut self, args: impl Arguments) -> Self {
        match args.to_list() {
            Ok(list) => self.args.extend(list),
            Err(reason) => self.fault = Some(format!("arguments of {}: {reason}", self.task)),
        }
        self
    }

    /// One keyword argument.
    #[must_use]
    pub fn kwarg(mut self, name: &str, value: impl Serialize) -> Self {
        match serde_json::to_value(value) {
            Ok(value) => {
                self.kwargs.insert(name.to_owned(), value);
            }
            Err(error) => self.fault = Some(format!("{name} of {}: {error}", self.task)),
        }
        self
    }

    /// Takes no argument from the task before it: `.si(…)` instead of `.s(…)`.
    #[must_use]
    pub fn immutable(mut self, immutable: bool) -> Self {
        self.immutable = immutable;
        self
    }

    /// Any option of `apply_async`: Celery's `.set(name=value)`.
    #[must_use]
    pub fn set(mut self, option: &str, value: impl Serialize) -> Self {
        match serde_json::to_value(value) {
            Ok(value) => {
                self.options.insert(option.to_owned(), value);
            }
            Err(error) => self.fault = Some(format!("{option} of {}: {error}", self.task)),
        }
        self
    }

    /// Not before so many seconds from now.
    #[must_use]
    pub fn countdown(self, seconds: f64) -> Self {
        self.set("countdown", number(seconds))
    }

    /// Not before this time, ISO 8601.
    #[must_use]
    pub fn eta(self, time: &str) -> Self {
        self.set("eta", time)
    }

    /// Not after so many seconds from now.
    #[must_use]
    pub fn expires(self, seconds: f64) -> Self {
        self.set("expires", number(seconds))
    }

    /// The queue.
    #[must_use]
    pub fn queue(self, name: &str) -> Self {
        self.set("queue", name)
    }

    /// The exchange, instead of the queue's.
    #[must_use]
    pub fn exchange(self, name: &str) -> Self {
        self.set("exchange", name)
    }

    /// The routing key, instead of the queue's.
    #[must_use]
    pub fn routing_key(self, key: &str) -> Self {
        self.set("routing_key", key)
    }

    /// 0 to 9.
    #[must_use]
    pub fn priority(self, priority: u8) -> Self {
        self.set("priority", priority)
    }

    /// Hard time limit, seconds.
    #[must_use]
    pub fn time_limit(self, seconds: f64) -> Self {
        self.set("time_limit", number(seconds))
    }

    /// Soft time limit, seconds.
    #[must_use]
    pub fn soft_time_limit(self, seconds: f64) -> Self {
        self.set("soft_time_limit", number(seconds))
    }

    /// The id, instead of a random one.
    #[must_use]
    pub fn task_id(self, id: &str) -> Self {
        self.set("task_id", id)
    }

    /// Called with the result when it succeeds. Of a group this is linked to the first task and gets no result, of a chord
    /// to the body.
    #[must_use]
    pub fn link(mut self, callback: Signature) -> Self {
        self.fault = self.fault.or_else(|| callback.first_fault());
        self.add_callback(callback.to_value());
        self
    }

    /// Called with the id of the failed task when it fails. Of a group this is linked to each task, of a chord to the body.
    #[must_use]
    pub fn link_error(mut self, errback: Signature) -> Self {
        self.fault = self.fault.or_else(|| errback.first_fault());
        self.add_errback(&errback.to_value());
        self
    }

    fn add_callback(&mut self, mut callback: Value) {
        match &mut self.kind {
            Kind::Group(tasks) => {
                if let (Some(first), Value::Object(map)) = (tasks.first_mut(), &mut callback) {
                    map.insert("immutable".to_owned(), true.into());
                    first.add_callback(callback);
                }
            }
            Kind::Chord(_, Some(body)) => body.add_callback(callback),
            _ => self.add_linked("link", callback),
        }
    }

    fn add_errback(&mut self, errback: &Value) {
        match &mut self.kind {
            Kind::Group(tasks) => tasks.iter_mut().for_each(|task| task.add_errback(errback)),
            Kind::Chord(header, Some(body)) => {
                let chords = header
                    .iter_mut()
                    .filter(|task| matches!(task.kind, Kind::Chord(..)));
                chords.for_each(|task| task.add_errback(errback));
                body.add_errback(errback);
            }
            _ => self.add_linked("link_error", errback.clone()),
        }
    }

    /// The tasks of a chain: its callbacks are those of the last one, its errbacks those of all.
    fn unchained(self) -> Vec<Signature> {
        let Kind::Chain(mut tasks) = self.kind else {
            return vec![self];
        };
        let linked = |option: &str| match self.options.get(option) {
            Some(Value::Array(list)) => list.clone(),
            _ => Vec::new(),
        };
        for callback in linked("link") {
            if let Some(last) = tasks.last_mut() {
                last.add_callback(callback);
            }
        }
        for errback in linked("link_error") {
            tasks.iter_mut().for_each(|task| task.add_errback(&errback));
        }
        tasks
    }

    /// The only task of a group of one; anything else is itself.
    fn unrolled(mut self) -> Signature {
        match &mut self.kind {
            Kind::Group(tasks) if tasks.len() == 1 => tasks.remove(0),
            _ => self,
        }
    }

    /// A chord with something more behind its body.
    fn with_behind(mut self, other: Signature) -> Signature {
        if let Kind::Chord(_, body) = &mut self.kind {
            *body = Some(Box::new(match body.take() {
                Some(body) => *body | other,
                None => other,
            }));
        }
        self
    }

    fn add_linked(&mut self, option: &str, linked: Value) {
        let list = self.options.entry(option).or_insert_with(|| json!([]));
        if let Value::Array(list) = list
            && !list.contains(&linked)
        {
            list.push(linked);
        }
    }

    /// `[task(item) for item in items]`, in one run: Celery's `.map`.
    #[must_use]
    pub fn map(self, items: impl Serialize) -> Self {
        self.mapped("celery.map", items)
    }

    /// `[task(*item) for item in items]`, in one run: Celery's `.starmap`.
    #[must_use]
    pub fn starmap(self, items: impl Serialize) -> Self {
        self.mapped("celery.starmap", items)
    }

    /// A group of starmaps of so many items each: Celery's `.chunks`.
    #[must_use]
    pub fn chunks(self, items: impl Serialize, size: u32) -> Self {
        self.mapped("celery.chunks", items).kwarg("n", size)
    }

    fn mapped(self, task: &str, items: impl Serialize) -> Self {
        let mut mapped = signature(task).immutable(true).kwarg("it", items);
        mapped.fault = mapped.fault.or_else(|| self.first_fault());
        mapped.kwargs.insert("task".to_owned(), self.to_value());
        mapped
    }

    /// The JSON map that Celery's clients and workers exchange.
    #[must_use]
    pub fn to_value(&self) -> Value {
        let list = |tasks: &[Signature]| Value::Array(tasks.iter().map(Self::to_value).collect());
        let mut kwargs = self.kwargs.clone();
        let kind = match &self.kind {
            Kind::Task => None,
            Kind::Chain(tasks) => {
                kwargs.insert("tasks".to_owned(), list(tasks));
                Some("chain")
            }
            Kind::Group(tasks) => {
                kwargs.insert("tasks".to_owned(), list(tasks));
                Some("group")
            }
            Kind::Chord(header, body) => {
                kwargs.insert("kwargs".to_owned(), json!({}));
                kwargs.insert("header".to_owned(), list(header));
                kwargs.insert(
                    "body".to_owned(),
                    body.as_ref().map_or(Value::Null, |body| body.to_value()),
                );
                Some("chord")
            }
        };
        json!({
            "task": self.task, "args": self.args, "kwargs": kwargs, "options": self.options, "subtask_type": kind,
            "immutable": self.immutable,
        })
    }

    /// Reads what [`to_value`](Self::to_value) and Celery's clients write.
    fn from_value(value: Value) -> Result<Self, String> {
        let Value::Object(mut map) = value else {
            return Err("a signature is a map".to_owned());
        };
        let Some(Value::String(task)) = map.remove("task") else {
            return Err("a signature names its task".to_owned());
        };
        let object = |value: Option<Value>| match value {
            Some(Value::Object(map)) => map,
            _ => Map::new(),
        };
        let list = |value: Option<Value>| -> Result<Vec<Signature>, String> {
            match value {
                Some(Value::Array(tasks)) => tasks.into_iter().map(Self::from_value).collect(),
                Some(group @ Value::Object(_)) => match Self::from_value(group)? {
                    Signature {
                        kind: Kind::Group(tasks),
                        ..
                    } => Ok(tasks),
                    one => Ok(vec![one]),
                },
                _ => Ok(Vec::new()),
            }
        };
        let mut kwargs = object(map.remove("kwargs"));
        let kind = match map.get("subtask_type").and_then(Value::as_str) {
            Some("chain") => Kind::Chain(list(kwargs.remove("tasks"))?),
            Some("group") => Kind::Group(list(kwargs.remove("tasks"))?),
            Some("chord") => {
                let header = list(kwargs.remove("header"))?;
                kwargs.remove("kwargs");
                let body = kwargs.remove("body").filter(|body| !body.is_null());
                Kind::Chord(header, body.map(Self::from_value).transpose()?.map(Box::new))
            }
            _ => Kind::Task,
        };
        Ok(Self {
            task,
            args: match map.remove("args") {
                Some(Value::Array(args)) => args,
                _ => Vec::new(),
            },
            kwargs,
            options: object(map.remove("options")),
            immutable: map.remove("immutable") == Some(Value::Bool(true)),
            kind,
            fault: None,
        })
    }

    fn first_fault(&self) -> Option<String> {
        let parts: &[Signature] = match &self.kind {
            Kind::Task => &[],
            Kind::Chain(tasks) | Kind::Group(tasks) | Kind::Chord(tasks, None) => tasks,
            Kind::Chord(tasks, Some(body)) => {
                if let Some(fault) = body.first_fault() {
                    return Some(fault);
                }
                tasks
            }
        };
        self.fault
            .clone()
            .or_else(|| parts.iter().find_map(Self::first_fault))
    }

    /// The JSON text, or why there is none.
    pub(crate) fn json(&self) -> Result<String, TaskError> {
        match self.first_fault() {
            Some(fault) => Err(TaskError::new("EncodeError", fault)),
            None => to_json(&self.to_value()),
        }
    }

    /// Sends it: Celery's `.apply_async()`.
    ///
    /// # Errors
    ///
    /// `PermissionError` where the component is not granted to send this, `ValueError` for options that make no sense,
    /// `RuntimeError` at a limit, `ConnectionError` when the broker is away, `SoftTimeLimitExceeded` once that limit has
    /// passed.
    #[track_caller]
    pub fn apply_async(&self, ctx: &Context) -> Result<AsyncResult, TaskError> {
        ctx.apply(self, &[])
    }

    /// Sends it with these arguments in front: Celery's `.delay(…)`.
    ///
    /// # Errors
    ///
    /// As [`apply_async`](Self::apply_async).
    #[track_caller]
    pub fn delay(&self, ctx: &Context, args: impl Arguments) -> Result<AsyncResult, TaskError> {
        let args = args
            .to_list()
            .map_err(|reason| TaskError::new("EncodeError", reason))?;
        ctx.apply(self, &args)
    }
}

/// A signature can be an argument: it travels as Celery's map.
impl Serialize for Signature {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.first_fault() {
            Some(fault) => Err(serde::ser::Error::custom(fault)),
            None => self.to_value().serialize(serializer),
        }
    }
}

/// So can a task take one, whoever made it.
impl<'de> Deserialize<'de> for Signature {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::from_value(Value::deserialize(deserializer)?).map_err(serde::de::Error::custom)
    }
}

/// A whole number of seconds is written as one, as Python does.
fn number(seconds: f64) -> Value {
    if seconds.fract() == 0.0 && seconds.abs() < 1e15 {
        Value::from(seconds as i64)
    } else {
        Value::from(seconds)
    }
}
