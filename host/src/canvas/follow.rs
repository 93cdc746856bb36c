//! What follows a task that ended: callbacks and the rest of its chain, or errbacks (contract sections 4.2 and 4.5).

use serde_json::value::RawValue;
use serde_json::{Value, json};

use super::{Applied, CanvasError, Context, Partial, Sender, Signature, apply};
use crate::document;
use crate::message::{JsonMap, Request, content, envelope};
use crate::outcome::{Failure, Part, State};

impl Sender {
    /// The task of this request.
    pub fn of(request: &Request) -> Self {
        Self {
            id: request.id.clone(),
            root_id: request.root_id.clone(),
            priority: request.message.properties.priority,
            trace: request.trace_headers(),
        }
    }

    /// First task of its workflow, itself where it does not know.
    fn root(&self) -> &str {
        self.root_id.as_deref().unwrap_or(&self.id)
    }

    /// The options of what it calls: where it comes from and, with `task_inherit_parent_priority`, how urgent it is.
    fn options(&self, inherit_priority: bool) -> JsonMap {
        let mut options = JsonMap::new();
        options.insert("parent_id".into(), self.id.clone().into());
        options.insert("root_id".into(), self.root().into());
        let priority = self.priority.filter(|_| inherit_priority);
        options.insert("priority".into(), priority.into());
        options
    }
}

/// An errback that takes `(request, exception, traceback)` and is called by this worker itself.
#[derive(Debug, Clone, PartialEq)]
pub struct Call {
    /// Task name.
    pub task: String,
    /// Its own positional arguments, which come after these three.
    pub args: Vec<Value>,
    /// Its own keyword arguments.
    pub kwargs: JsonMap,
    /// It gets its own arguments only.
    pub immutable: bool,
}

impl Call {
    /// Its positional and keyword arguments as JSON, for the failure of a task that `request` describes.
    pub fn arguments(&self, request: Value, failure: &Failure) -> (String, String) {
        let exception = content::value(document::error_map(failure).get()).unwrap_or_default();
        let mut args = match self.immutable {
            true => Vec::new(),
            false => vec![request, exception, json!(failure.traceback)],
        };
        args.extend(self.args.iter().cloned());
        (
            Value::Array(args).to_string(),
            Value::Object(self.kwargs.clone()).to_string(),
        )
    }
}

/// A request as errbacks see it: what Python's `Context` has.
pub fn described(request: &Request, hostname: &str) -> Value {
    let properties = &request.message.properties;
    let raw = |raw: &RawValue| content::value(raw.get()).unwrap_or_default();
    let link = |link: &Option<Box<RawValue>>| link.as_deref().map(raw);
    let headers = request.custom_headers();
    let time = |name: &str| request.header(name).cloned().unwrap_or_default();
    let body = &request.body;
    json!({
        "id": request.id,
        "task": request.task,
        "args": raw(&body.args),
        "kwargs": raw(&body.kwargs),
        "shadow": request.shadow,
        "retries": request.retries,
        "eta": time("eta"),
        "expires": time("expires"),
        "timelimit": [request.time_limit, request.soft_time_limit],
        "root_id": request.root_id,
        "parent_id": request.parent_id,
        "group": request.group,
        "group_index": request.group_index,
        "origin": request.origin,
        "ignore_result": request.ignore_result,
        "replaced_task_nesting": request.replaced_task_nesting,
        "stamped_headers": request.stamped_headers,
        "stamps": request.stamps(),
        "headers": headers,
        "callbacks": link(&body.callbacks),
        "errbacks": link(&body.errbacks),
        "chain": link(&body.chain),
        "chord": link(&body.chord),
        "hostname": hostname,
        "reply_to": properties.reply_to,
        "correlation_id": properties.correlation_id,
        "properties": envelope::properties_to_json(properties),
        "is_eager": false,
        "called_directly": false,
        "delivery_info": {
            "exchange": request.route.exchange,
            "routing_key": request.route.routing_key,
            "priority": properties.priority,
            "redelivered": request.redelivered,
        },
    })
}

/// A part of a chord's header, and the body that waits for it.
#[derive(Debug, Clone)]
pub struct ChordPart {
    /// The part.
    pub part: Part,
    /// The body, a signature.
    pub chord: Box<RawValue>,
}

/// Two are equal when they are the same text.
impl PartialEq for ChordPart {
    fn eq(&self, other: &Self) -> bool {
        self.part == other.part && self.chord.get() == other.chord.get()
    }
}

impl ChordPart {
    /// Whether a task is in the header of a chord.
    pub fn is_of(request: &Request) -> bool {
        request.body.chord.is_some() && request.group.as_ref().is_some_and(|group| !group.is_empty())
    }

    /// What a task reports to its chord; `None` when it is in none.
    pub fn of(request: &Request, state: State, result: &RawValue) -> Option<Self> {
        Some(Self {
            chord: request.body.chord.clone()?,
            part: Part {
                group: request.group.clone().filter(|group| !group.is_empty())?,
                task_id: request.id.clone(),
                index: request.group_index,
                state,
                result: result.to_owned(),
                redelivered: request.redelivered,
            },
        })
    }
}

/// What a failure is told to.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Errbacks {
    /// Those that this worker calls, first.
    pub calls: Vec<Call>,
    /// The others are sent as one group.
    pub sent: Applied,
}

/// Callbacks, then the next element of the chain, each with the value (JSON) as its first argument.
pub fn succeeded(request: &Request, value: &str, context: &mut Context<'_>) -> Result<Applied, CanvasError> {
    let mut all = Applied::default();
    let (callbacks, chain) = (&request.body.callbacks, &request.body.chain);
    if callbacks.is_none() && chain.is_none() {
        return Ok(all);
    }
    let value = content::value(value)
        .ok_or_else(|| CanvasError::Invalid("the value is nested too deep to be an argument".into()))?;
    let options = Sender::of(request).options(context.defaults.inherit_parent_priority);
    let mut follow = |signature: &Signature, options: &JsonMap, context: &mut Context<'_>| {
        let partial = Partial {
            args: vec![value.clone()],
            kwargs: JsonMap::new(),
            options: options.clone(),
        };
        let applied = apply(signature, partial, context)?;
        all.steps.extend(applied.steps);
        all.children.extend(applied.children);
        Ok(())
    };
    let callbacks = signatures(callbacks.as_deref())?;
    if let [only] = callbacks.as_slice() {
        follow(only, &options, context)?;
    } else {
        let is_group = |callback: &Signature| matches!(callback.kind, super::Kind::Group(_));
        let (groups, others): (Vec<Signature>, Vec<Signature>) = callbacks.into_iter().partition(is_group);
        for group in &groups {
            follow(group, &options, context)?;
        }
        if !others.is_empty() {
            follow(&Signature::group(others), &options, context)?;
        }
    }
    let mut chain = elements(chain.as_deref())?;
    if let Some(next) = chain.pop() {
        let mut options = options;
        options.insert("chain".into(), Value::Array(chain));
        follow(&Signature::read(next)?, &options, context)?;
    }
    Ok(all)
}

/// Whom the failure of a task is told to.
pub fn errbacks(request: &Request, context: &mut Context<'_>) -> Result<Errbacks, CanvasError> {
    let errbacks = signatures(request.body.errbacks.as_deref())?;
    told(errbacks, &Sender::of(request), context)
}

/// Whom the failure of the task `failed` is told to: those that a component of this worker declares as errbacks are
/// called here, the others sent with its id.
pub fn told(
    errbacks: Vec<Signature>,
    failed: &Sender,
    context: &mut Context<'_>,
) -> Result<Errbacks, CanvasError> {
    let mut all = Errbacks::default();
    let mut old = Vec::new();
    for errback in errbacks {
        let definition = context.defaults.definitions.get(&errback.task);
        match definition.filter(|definition| definition.errback) {
            Some(_) => all.calls.push(Call {
                task: errback.task,
                args: errback.args,
                kwargs: errback.kwargs,
                immutable: errback.immutable,
            }),
            None => old.push(errback),
        }
    }
    if !old.is_empty() {
        let mut options = failed.options(false);
        options.remove("priority");
        let partial = Partial {
            args: vec![failed.id.clone().into()],
            kwargs: JsonMap::new(),
            options,
        };
        all.sent = apply(&Signature::group(old), partial, context)?;
    }
    Ok(all)
}

/// A task that cannot run any more because the one before it failed.
#[derive(Debug, Clone, PartialEq)]
pub struct Prevented {
    /// Task name.
    pub task: String,
    /// Its id; without one nothing is stored for it.
    pub id: Option<String>,
    /// Its arguments, a JSON list.
    pub args: Value,
    /// Its keyword arguments, a JSON map.
    pub kwargs: Value,
    /// Its options.
    pub options: JsonMap,
}

impl Prevented {
    /// An option that is a text, unless it is empty.
    pub fn text(&self, option: &str) -> Option<&str> {
        let text = self.options.get(option).and_then(Value::as_str);
        text.filter(|text| !text.is_empty())
    }

    /// What it reports to its chord with the failure of another, the task of this request; `None` when it is in none.
    pub fn part(&self, result: &RawValue, failed: &Request) -> Option<ChordPart> {
        let chord = self.options.get("chord").filter(|chord| chord.is_object())?;
        let index = self.options.get("group_index").and_then(Value::as_u64);
        Some(ChordPart {
            chord: document::raw(chord.to_string()),
            part: Part {
                group: self.text("group_id")?.to_owned(),
                task_id: self.id.clone()?,
                index: index.and_then(|index| u32::try_from(index).ok()),
                state: State::Failure,
                result: result.to_owned(),
                redelivered: failed.redelivered,
            },
        })
    }
}

/// The rest of a chain that failed: every element, the last one first, and then the bodies of chords among them.
pub fn prevented(chain: Option<&RawValue>) -> Result<Vec<Prevented>, CanvasError> {
    let mut waiting: std::collections::VecDeque<Value> = elements(chain)?.into();
    let mut all = Vec::new();
    while let Some(element) = waiting.pop_front() {
        let Value::Object(mut element) = element else {
            continue;
        };
        let mut take = |key: &str| element.remove(key).unwrap_or_default();
        let (options, mut kwargs) = (take("options"), take("kwargs"));
        let options = options.as_object().cloned().unwrap_or_default();
        if take("subtask_type") == "chord"
            && let Some(body) = kwargs.get_mut("body").filter(|body| body.is_object())
        {
            waiting.push_back(body.clone());
        }
        let id = options.get("task_id").and_then(Value::as_str);
        all.push(Prevented {
            task: take("task").as_str().unwrap_or_default().to_owned(),
            id: id.filter(|id| !id.is_empty()).map(str::to_owned),
            args: take("args"),
            kwargs,
            options,
        });
    }
    Ok(all)
}

fn signatures(raw: Option<&RawValue>) -> Result<Vec<Signature>, CanvasError> {
    raw.map_or_else(|| Ok(Vec::new()), |raw| Signature::parse_list(raw.get()))
}

fn elements(raw: Option<&RawValue>) -> Result<Vec<Value>, CanvasError> {
    match raw.map(|raw| content::value(raw.get())) {
        None => Ok(Vec::new()),
        Some(Some(Value::Array(elements))) => Ok(elements),
        Some(_) => Err(CanvasError::Invalid(
            "the rest of the chain is not a list of signatures".into(),
        )),
    }
}
