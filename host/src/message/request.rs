//! From a delivered message to a request: protocol 2 of Celery (contract section 1).

use jiff::Timestamp;
use serde_json::Value;
use serde_json::value::RawValue;

use super::{JsonMap, Message, Route};

/// Headers that belong to the protocol. Every other header is the sender's own and is kept (contract section 1.2).
pub const PROTOCOL_HEADERS: [&str; 23] = [
    "lang",
    "task",
    "id",
    "shadow",
    "eta",
    "expires",
    "group",
    "group_index",
    "retries",
    "timelimit",
    "root_id",
    "parent_id",
    "argsrepr",
    "kwargsrepr",
    "origin",
    "ignore_result",
    "replaced_task_nesting",
    "stamped_headers",
    "stamps",
    "compression",
    "redelivered",
    "meth",
    "taskset",
];

/// The most of a body that cannot be decoded that an error shows, bytes.
const SHOWN_BODY: usize = 1024;

/// A task message that was understood.
#[derive(Debug, Clone)]
pub struct Request {
    /// Task id; any text.
    pub id: String,
    /// Task name.
    pub task: String,
    /// The name to show instead of `task`.
    pub shadow: Option<String>,
    /// How often it was retried before.
    pub retries: u32,
    /// Not before.
    pub eta: Option<Timestamp>,
    /// Not after.
    pub expires: Option<Timestamp>,
    /// The message's own hard time limit, seconds.
    pub time_limit: Option<f64>,
    /// The message's own soft time limit, seconds.
    pub soft_time_limit: Option<f64>,
    /// First task of the workflow.
    pub root_id: Option<String>,
    /// The task that sent this one.
    pub parent_id: Option<String>,
    /// Group.
    pub group: Option<String>,
    /// Position in the group.
    pub group_index: Option<u32>,
    /// Sender.
    pub origin: Option<String>,
    /// `None`: the task's own setting decides.
    pub ignore_result: Option<bool>,
    /// How often a task of this identity was replaced.
    pub replaced_task_nesting: u32,
    /// Names of the stamps.
    pub stamped_headers: Vec<String>,
    /// The message as it came, its body included: what a retry sends again.
    pub message: Message,
    /// Where it was published to.
    pub route: Route,
    /// Whether it had been delivered before.
    pub redelivered: bool,
    /// The decoded body.
    pub body: Body,
}

/// The three elements of a protocol 2 body, as raw JSON text.
#[derive(Debug, Clone)]
pub struct Body {
    /// Positional arguments, a JSON list.
    pub args: Box<RawValue>,
    /// Keyword arguments, a JSON map.
    pub kwargs: Box<RawValue>,
    /// Signatures called on success.
    pub callbacks: Option<Box<RawValue>>,
    /// Signatures called on failure.
    pub errbacks: Option<Box<RawValue>>,
    /// The rest of the chain, in reverse order.
    pub chain: Option<Box<RawValue>>,
    /// The chord's body.
    pub chord: Option<Box<RawValue>>,
}

/// Why a message cannot be run (the table of contract section 1.1).
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unusable {
    /// Not a task message.
    #[error("Received and deleted unknown message. Wrong destination?!? {0}")]
    UnknownFormat(String),
    /// A task message with a part that makes no sense.
    #[error("Received invalid task message: {0}")]
    Invalid(String),
    /// A content type that is not accepted.
    #[error("Refusing to deserialize disabled content of type {0}")]
    ContentDisallowed(String),
    /// The body is not what its content type says.
    #[error("Can't decode message body: {0}")]
    Undecodable(String),
}

/// The headers alone, enough to look the task up (contract section 1.1: an unknown task's body is never decoded).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// Task id.
    pub id: String,
    /// Task name.
    pub task: String,
}

/// Reads who a message is for. Protocol 2 only: the headers are a map with `task` and `id`.
pub fn identify(message: &Message) -> Result<Identity, Unusable> {
    let headers = message
        .headers
        .as_ref()
        .ok_or_else(|| Unusable::UnknownFormat("the headers are not a map".into()))?;
    let task = match headers.get("task") {
        Some(Value::String(task)) if !task.is_empty() => task.clone(),
        Some(_) => return Err(Unusable::Invalid("the header 'task' is not a name".into())),
        None => return Err(Unusable::UnknownFormat("there is no header 'task'".into())),
    };
    match headers.get("id") {
        Some(Value::String(id)) if !id.is_empty() => Ok(Identity { id: id.clone(), task }),
        _ => Err(Unusable::Invalid("the header 'id' is missing".into())),
    }
}

/// Decodes a message of protocol 2 with a JSON body. `accept` are the content types this worker takes.
pub fn decode(
    message: Message,
    route: Route,
    redelivered: bool,
    accept: &[String],
) -> Result<Request, Unusable> {
    let Identity { id, task } = identify(&message)?;
    let body = decode_body(&message, accept)?;
    let none = JsonMap::new();
    let headers = message.headers.as_ref().unwrap_or(&none);
    let (time_limit, soft_time_limit) = time_limits(headers)?;
    Ok(Request {
        id,
        task,
        shadow: text(headers, "shadow").filter(|shadow| !shadow.is_empty()),
        retries: count(headers, "retries"),
        eta: time(headers, "eta")?,
        expires: time(headers, "expires")?,
        time_limit,
        soft_time_limit,
        root_id: text(headers, "root_id"),
        parent_id: text(headers, "parent_id"),
        group: text(headers, "group"),
        group_index: headers
            .get("group_index")
            .and_then(Value::as_u64)
            .and_then(|n| u32::try_from(n).ok()),
        origin: text(headers, "origin"),
        ignore_result: headers.get("ignore_result").and_then(Value::as_bool),
        replaced_task_nesting: count(headers, "replaced_task_nesting"),
        stamped_headers: names(headers, "stamped_headers"),
        redelivered: redelivered || headers.get("redelivered").and_then(Value::as_bool) == Some(true),
        message,
        route,
        body,
    })
}

impl Request {
    /// The name to show.
    pub fn shown_name(&self) -> &str {
        self.shadow.as_deref().unwrap_or(&self.task)
    }

    /// A header of the message.
    pub fn header(&self, name: &str) -> Option<&Value> {
        self.message
            .headers
            .as_ref()
            .and_then(|headers| headers.get(name))
    }

    /// The sender's own headers: all that the protocol does not define (contract section 1.2).
    pub fn custom_headers(&self) -> JsonMap {
        self.message
            .headers
            .iter()
            .flatten()
            .filter(|(name, _)| !PROTOCOL_HEADERS.contains(&name.as_str()))
            .map(|(name, value)| (name.clone(), value.clone()))
            .collect()
    }

    /// The stamps that the message names (contract section 1.2: only names in `stamped_headers` count).
    pub fn stamps(&self) -> JsonMap {
        let all = self.header("stamps").and_then(Value::as_object);
        self.stamped_headers
            .iter()
            .filter_map(|name| Some((name.clone(), all?.get(name)?.clone())))
            .collect()
    }

    /// `argsrepr` and `kwargsrepr` as the sender wrote them, for logs.
    pub fn arguments_repr(&self) -> (&str, &str) {
        let shown = |name| self.header(name).and_then(Value::as_str).unwrap_or("?");
        (shown("argsrepr"), shown("kwargsrepr"))
    }
}

fn decode_body(message: &Message, accept: &[String]) -> Result<Body, Unusable> {
    let content_type = message
        .properties
        .content_type
        .as_deref()
        .unwrap_or("application/data");
    if content_type != "application/json" || !accept.iter().any(|accepted| accepted == content_type) {
        return Err(Unusable::ContentDisallowed(format!(
            "{content_type} (accepted: {}; the setting is accept_content)",
            accept.join(", ")
        )));
    }
    if let Some(compression) = message
        .headers
        .iter()
        .flatten()
        .find(|(name, _)| *name == "compression")
    {
        return Err(Unusable::ContentDisallowed(format!(
            "{content_type} compressed as {}: compressed messages are not supported yet",
            compression.1
        )));
    }
    let undecodable = |error: serde_json::Error| {
        let start = message.body.get(..SHOWN_BODY).unwrap_or(&message.body);
        let shown = String::from_utf8_lossy(start);
        Unusable::Undecodable(format!("{error}; {} bytes: {shown}", message.body.len()))
    };
    let parts: Vec<&RawValue> = serde_json::from_slice(&message.body).map_err(undecodable)?;
    let [args, kwargs, embed] = parts.as_slice() else {
        return Err(Unusable::Invalid(format!(
            "the body has {} parts instead of 3",
            parts.len()
        )));
    };
    if !args.get().starts_with('[') {
        return Err(Unusable::Invalid(
            "the positional arguments are not a list".into(),
        ));
    }
    if !kwargs.get().starts_with('{') {
        return Err(Unusable::Invalid("the keyword arguments are not a map".into()));
    }
    let embed: Option<Embed> = serde_json::from_str(embed.get())
        .map_err(|error| Unusable::Invalid(format!("the third part of the body: {error}")))?;
    let embed = embed.unwrap_or_default();
    Ok(Body {
        args: (*args).to_owned(),
        kwargs: (*kwargs).to_owned(),
        callbacks: embed.callbacks,
        errbacks: embed.errbacks,
        chain: embed.chain,
        chord: embed.chord,
    })
}

#[derive(serde::Deserialize, Default)]
struct Embed {
    #[serde(default)]
    callbacks: Option<Box<RawValue>>,
    #[serde(default)]
    errbacks: Option<Box<RawValue>>,
    #[serde(default)]
    chain: Option<Box<RawValue>>,
    #[serde(default)]
    chord: Option<Box<RawValue>>,
}

fn text(headers: &JsonMap, name: &str) -> Option<String> {
    headers.get(name).and_then(Value::as_str).map(str::to_owned)
}

fn count(headers: &JsonMap, name: &str) -> u32 {
    let n = headers.get(name).and_then(Value::as_u64).unwrap_or(0);
    u32::try_from(n).unwrap_or(u32::MAX)
}

fn names(headers: &JsonMap, name: &str) -> Vec<String> {
    let list = headers.get(name).and_then(Value::as_array);
    list.into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .map(str::to_owned)
        .collect()
}

/// `timelimit` is `[hard, soft]`, in this order (contract section 1.2).
fn time_limits(headers: &JsonMap) -> Result<(Option<f64>, Option<f64>), Unusable> {
    let limits = match headers.get("timelimit") {
        None | Some(Value::Null) => return Ok((None, None)),
        Some(Value::Array(limits)) => limits,
        Some(_) => {
            return Err(Unusable::Invalid("the header 'timelimit' is not a list".into()));
        }
    };
    // A limit of 0 means none, as in Python, where it is false.
    let seconds = |i: usize| {
        limits
            .get(i)
            .and_then(Value::as_f64)
            .filter(|s| s.is_finite() && *s > 0.0)
    };
    Ok((seconds(0), seconds(1)))
}

fn time(headers: &JsonMap, name: &str) -> Result<Option<Timestamp>, Unusable> {
    match headers.get(name) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => parse_time(text)
            .map(Some)
            .ok_or_else(|| Unusable::Invalid(format!("invalid {name} value {text:?}"))),
        Some(other) => Err(Unusable::Invalid(format!("invalid {name} value {other}"))),
    }
}

/// Reads ISO 8601 as Python writes it; a time without an offset is UTC (contract section 1.4).
pub fn parse_time(text: &str) -> Option<Timestamp> {
    if let Ok(timestamp) = text.parse::<Timestamp>() {
        return Some(timestamp);
    }
    let naive: jiff::civil::DateTime = text.parse().ok()?;
    naive
        .to_zoned(jiff::tz::TimeZone::UTC)
        .ok()
        .map(|zoned| zoned.timestamp())
}

/// A time as Python prints it: microseconds unless they are zero, offset `+00:00` (contract section 1.4).
pub fn format_time(time: Timestamp) -> String {
    let format = if time.subsec_nanosecond() / 1000 == 0 {
        "%Y-%m-%dT%H:%M:%S"
    } else {
        "%Y-%m-%dT%H:%M:%S.%6f"
    };
    format!("{}+00:00", time.strftime(format))
}
