//! From a delivered message to a request: protocols 1 and 2 of Celery (contract section 1).

use jiff::Timestamp;
use serde_json::Value;

use super::body::{self, Parsed};
use super::content::{ContentError, Reader, Serializer, Writer};
use super::{JsonMap, Message, Route};

pub use super::body::Body;
pub use super::iso8601::{format_time, parse_time, time_overflows};

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

/// Headers of OpenTelemetry: where in a trace a task is, and what goes with the trace.
const TRACE_HEADERS: [&str; 3] = ["traceparent", "tracestate", "baggage"];

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
    /// The body is larger than it may be once it is inflated, or nested too deep.
    #[error("Refusing to decode message body: {0}")]
    TooLarge(String),
}

/// The headers alone, enough to look the task up (contract section 1.1: an unknown task's body is never decoded).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// Task id.
    pub id: String,
    /// Task name.
    pub task: String,
}

/// A task message of which it is known who it is for.
#[derive(Debug)]
pub struct Recognized {
    /// Who it is for.
    pub identity: Identity,
    /// The message; one of protocol 1 has become one of protocol 2 with a JSON body.
    pub message: Message,
    /// The body, where it had to be decoded to find that out.
    body: Option<Body>,
}

/// Finds out who a message is for (contract section 1.1). `now` decides which certificates have expired.
pub fn recognize(mut message: Message, reader: &Reader, now: Timestamp) -> Result<Recognized, Unusable> {
    let headers = message
        .headers
        .as_ref()
        .ok_or_else(|| Unusable::UnknownFormat("the headers are not a map".into()))?;
    let mut body = None;
    if !headers.contains_key("task") {
        let unknown = || Unusable::UnknownFormat("neither headers nor body name a task".into());
        match decode_body(&message, reader, now) {
            Ok(Parsed::Map {
                body: parsed,
                headers,
                ..
            }) if headers.contains_key("task") => {
                // In protocol 1 the body says everything; headers are the caller's own.
                let mut all = message.headers.take().unwrap_or_default();
                all.extend(headers);
                upgrade(&mut message, &parsed, all);
                body = Some(parsed);
            }
            // A list, or a map that is something else's.
            Ok(_) => return Err(unknown()),
            Err(Unusable::Invalid(_)) => return Err(unknown()),
            Err(error) => return Err(error),
        }
    }
    let none = JsonMap::new();
    let headers = message.headers.as_ref().unwrap_or(&none);
    let task = match headers.get("task") {
        Some(Value::String(task)) if !task.is_empty() => task.clone(),
        _ => return Err(Unusable::Invalid("the header 'task' is not a name".into())),
    };
    match headers.get("id") {
        Some(Value::String(id)) if !id.is_empty() => Ok(Recognized {
            identity: Identity { id: id.clone(), task },
            message,
            body,
        }),
        _ => Err(Unusable::Invalid("the header 'id' is missing".into())),
    }
}

/// Makes a message one of protocol 2, which is what a retry sends.
fn upgrade(message: &mut Message, body: &Body, headers: JsonMap) {
    message.headers = Some(headers);
    // JSON is always written.
    let _ = Writer::default().fill(message, &body.to_json(None, None));
}

/// Decodes a message of protocol 1 or 2. `accept` are the content types this worker takes.
pub fn decode(
    message: Message,
    route: Route,
    redelivered: bool,
    accept: &[String],
) -> Result<Request, Unusable> {
    let reader = Reader {
        accept: accept.iter().filter_map(|name| Serializer::named(name)).collect(),
        ..Reader::default()
    };
    // Nothing is signed where nobody is trusted.
    let now = Timestamp::MAX;
    recognize(message, &reader, now)?.decode(route, redelivered, &reader, now)
}

impl Recognized {
    /// Decodes the rest of the message.
    pub fn decode(
        self,
        route: Route,
        redelivered: bool,
        reader: &Reader,
        now: Timestamp,
    ) -> Result<Request, Unusable> {
        let Self {
            identity: Identity { id, task },
            mut message,
            body,
        } = self;
        let body = match body.map_or_else(
            || decode_body(&message, reader, now),
            |body| Ok(Parsed::List(body)),
        )? {
            Parsed::List(body) => body,
            // The hybrid: what protocol 1 says, where the headers do not say otherwise.
            Parsed::Map {
                body,
                mut headers,
                has_args: true,
            } => {
                headers.extend(message.headers.take().unwrap_or_default());
                upgrade(&mut message, &body, headers);
                body
            }
            Parsed::Map { .. } => return Err(Unusable::Invalid("the body has no arguments".into())),
        };
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

    /// The headers that say which trace the task belongs to, as opentelemetry-instrumentation-celery writes them.
    pub fn trace_headers(&self) -> JsonMap {
        let given = TRACE_HEADERS
            .iter()
            .filter_map(|name| Some((*name, self.header(name)?)));
        given
            .filter(|(_, value)| value.is_string())
            .map(|(name, value)| (name.to_owned(), value.clone()))
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

fn decode_body(message: &Message, reader: &Reader, now: Timestamp) -> Result<Parsed, Unusable> {
    let undecodable = |error: &dyn std::fmt::Display| {
        let start = message.body.get(..SHOWN_BODY).unwrap_or(&message.body);
        let shown = String::from_utf8_lossy(start);
        Unusable::Undecodable(format!("{error}; {} bytes: {shown:?}", message.body.len()))
    };
    let text = reader.body(message, now).map_err(|error| match error {
        ContentError::Disallowed(what) => Unusable::ContentDisallowed(what),
        ContentError::Refused(what) => {
            let content_type = message.properties.content_type.as_deref().unwrap_or_default();
            Unusable::ContentDisallowed(format!("{content_type}: {what}"))
        }
        ContentError::TooLarge(what) => Unusable::TooLarge(what),
        error @ ContentError::Malformed(_) => undecodable(&error),
    })?;
    match body::parse(&text) {
        Ok(parsed) => parsed,
        Err(error) => Err(undecodable(&error)),
    }
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
        Some(Value::String(text)) if text.is_empty() => Ok(None),
        Some(Value::String(text)) => parse_time(text)
            .map(Some)
            .ok_or_else(|| Unusable::Invalid(format!("invalid {name} value {text:?}"))),
        Some(other) => Err(Unusable::Invalid(format!("invalid {name} value {other}"))),
    }
}

#[cfg(test)]
pub(crate) mod fixture;

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const BODY: &str =
        r#"[[2, 3], {"z": 4}, {"callbacks": null, "errbacks": null, "chain": null, "chord": null}]"#;

    fn message(headers: Value, body: &str) -> Message {
        Message {
            headers: headers.as_object().cloned(),
            properties: crate::message::Properties {
                content_type: Some("application/json".into()),
                content_encoding: Some("utf-8".into()),
                ..Default::default()
            },
            body: body.into(),
        }
    }

    fn try_decode(message: Message) -> Result<Request, Unusable> {
        decode(
            message,
            Route::to_queue("q"),
            false,
            &["application/json".to_owned()],
        )
    }

    /// Decodes a message with these headers beside `task` and `id`.
    fn with(headers: Value) -> Result<Request, Unusable> {
        let mut all = json!({"task": "t", "id": "i"});
        for (name, value) in headers.as_object().unwrap() {
            all[name] = value.clone();
        }
        try_decode(message(all, BODY))
    }

    fn with_body(body: &str) -> Result<Request, Unusable> {
        try_decode(message(json!({"task": "t", "id": "i"}), body))
    }

    #[test]
    fn a_message_with_nothing_but_a_name_and_an_id_has_defaults() {
        let request = with(json!({})).unwrap();
        assert_eq!((request.task.as_str(), request.id.as_str()), ("t", "i"));
        assert_eq!((request.retries, request.replaced_task_nesting), (0, 0));
        assert_eq!((request.eta, request.expires), (None, None));
        assert_eq!((request.time_limit, request.soft_time_limit), (None, None));
        assert_eq!((request.ignore_result, request.group_index), (None, None));
        assert_eq!(
            (&request.root_id, &request.group, &request.shadow),
            (&None, &None, &None)
        );
        assert!(request.stamps().is_empty() && request.custom_headers().is_empty());
        assert_eq!(request.arguments_repr(), ("?", "?"));
        assert_eq!(
            (request.body.args.get(), request.body.kwargs.get()),
            ("[2, 3]", r#"{"z": 4}"#)
        );
        assert!(!request.redelivered);
    }

    #[test]
    fn what_is_no_task_message_is_an_unknown_format() {
        for headers in [
            Value::Null,
            json!([]),
            json!("task"),
            json!({}),
            json!({"id": "i"}),
        ] {
            let error = try_decode(message(headers.clone(), BODY)).unwrap_err();
            assert!(matches!(error, Unusable::UnknownFormat(_)), "{headers}: {error}");
        }
    }

    #[test]
    fn headers_that_make_no_sense_are_invalid() {
        for headers in [
            json!({"task": null}),
            json!({"task": ""}),
            json!({"task": 7}),
            json!({"id": null}),
            json!({"id": ""}),
            json!({"id": 7}),
            json!({"eta": "tomorrow"}),
            json!({"eta": 1_700_000_000}),
            json!({"expires": "2030-02-30"}),
            json!({"expires": ["2030-01-01"]}),
            json!({"timelimit": 30}),
            json!({"timelimit": {"hard": 30}}),
        ] {
            let error = with(headers.clone()).unwrap_err();
            assert!(matches!(error, Unusable::Invalid(_)), "{headers}: {error}");
        }
    }

    #[test]
    fn headers_that_python_tolerates() {
        let request = with(json!({
            "eta": "", "expires": null, "shadow": "", "retries": -1, "timelimit": [0, null], "stamps": [],
            "stamped_headers": "x", "group_index": -1, "ignore_result": null, "root_id": null, "redelivered": true,
        }))
        .unwrap();
        assert_eq!(
            (request.eta, request.expires, &request.shadow),
            (None, None, &None)
        );
        assert_eq!((request.time_limit, request.soft_time_limit), (None, None));
        assert_eq!((request.retries, request.group_index), (0, None));
        assert!(request.redelivered, "the Redis transport says so in a header");
        assert_eq!(with(json!({"retries": u64::MAX})).unwrap().retries, u32::MAX);
        let limits = with(json!({"timelimit": [1.5, "soon"]})).unwrap();
        assert_eq!((limits.time_limit, limits.soft_time_limit), (Some(1.5), None));
        assert_eq!(with(json!({"timelimit": [30]})).unwrap().time_limit, Some(30.0));
    }

    #[test]
    fn hard_comes_before_soft() {
        let request = with(json!({"timelimit": [30, 20]})).unwrap();
        assert_eq!(
            (request.time_limit, request.soft_time_limit),
            (Some(30.0), Some(20.0))
        );
    }

    #[test]
    fn only_stamps_with_a_name_count_and_only_other_headers_are_custom() {
        let request = with(json!({
            "stamped_headers": ["a", "missing"], "stamps": {"a": [1], "b": 2}, "x-mine": {"deep": null}, "lang": "py",
        }))
        .unwrap();
        assert_eq!(Value::Object(request.stamps()), json!({"a": [1]}));
        assert_eq!(
            Value::Object(request.custom_headers()),
            json!({"x-mine": {"deep": null}})
        );
    }

    #[test]
    fn bodies_that_are_json_and_make_no_sense_are_invalid() {
        for body in [
            "{}",
            "7",
            "null",
            r#""text""#,
            "[]",
            "[[]]",
            "[[], {}]",
            "[[], {}, {}, {}]",
            "[{}, {}, {}]",
            "[null, {}, {}]",
            "[[], [], {}]",
            "[[], null, {}]",
            "[[], {}, []]",
            "[[], {}, 7]",
            r#"{"kwargs": {}}"#,
            r#"{"args": {}, "kwargs": {}}"#,
            r#"{"args": [], "kwargs": []}"#,
            "",
        ] {
            let error = with_body(body).unwrap_err();
            assert!(matches!(error, Unusable::Invalid(_)), "{body}: {error}");
        }
    }

    #[test]
    fn bodies_that_are_not_json_are_undecodable() {
        for body in [
            "[",
            "[[], {}, {}",
            "[[], {}, {}] x",
            "{",
            "[[nan], {}, {}]",
            "[[NaN, {}, {}]",
            "\u{feff}[[], {}, {}]",
        ] {
            let error = with_body(body).unwrap_err();
            assert!(matches!(error, Unusable::Undecodable(_)), "{body}: {error}");
        }
        let mut sent = message(json!({"task": "t", "id": "i"}), "");
        sent.body = b"[[\"\xff\"], {}, {}]".to_vec();
        assert!(matches!(try_decode(sent), Err(Unusable::Undecodable(_))));
    }

    #[test]
    fn a_third_part_may_be_missing_its_keys() {
        for body in [
            "[[], {}, null]",
            "[[], {}, {}]",
            r#"[[], {}, {"chain": null, "other": 1}]"#,
        ] {
            let body = with_body(body).unwrap().body;
            assert!(body.callbacks.is_none() && body.errbacks.is_none());
            assert!(body.chain.is_none() && body.chord.is_none());
        }
    }

    /// Whatever is in the arguments goes through as it is, and costs no stack.
    #[test]
    fn arguments_are_not_touched() {
        for args in [
            r#"[1e999, -0.0, 123456789012345678901234567890, 1.10, "\ud800", {"a": 1, "a": 2}]"#.to_owned(),
            format!("{}{}", "[".repeat(100_000), "]".repeat(100_000)),
        ] {
            let request = with_body(&format!("  [ {args} , {{ }},null]")).unwrap();
            assert_eq!(request.body.args.get(), args);
            assert_eq!(request.body.kwargs.get(), "{ }");
        }
    }

    #[test]
    fn content_that_is_not_accepted_is_refused_before_it_is_read() {
        let mut sent = message(json!({"task": "t", "id": "i"}), "not JSON");
        for content_type in [
            None,
            Some("application/x-python-serialize"),
            Some("text/plain"),
            Some(""),
        ] {
            sent.properties.content_type = content_type.map(str::to_owned);
            let error = try_decode(sent.clone()).unwrap_err();
            assert!(
                matches!(error, Unusable::ContentDisallowed(_)),
                "{content_type:?}: {error}"
            );
        }
        let json = message(json!({"task": "t", "id": "i"}), BODY);
        let error = decode(json, Route::default(), false, &["application/x-yaml".to_owned()]).unwrap_err();
        assert!(matches!(error, Unusable::ContentDisallowed(_)), "{error}");
        let compressed = with(json!({"compression": "zlib"})).unwrap_err();
        assert!(matches!(compressed, Unusable::Undecodable(_)), "{compressed}");
    }

    #[test]
    fn pythons_nan_becomes_kombus_form() {
        let request = with_body(r#"[[NaN, "NaN"], {"k": -Infinity}, null]"#).unwrap();
        let nan = r#"{"__type__": "float", "__value__": "NaN"}"#;
        assert_eq!(request.body.args.get(), format!(r#"[{nan}, "NaN"]"#));
        assert_eq!(
            request.body.kwargs.get(),
            r#"{"k": {"__type__": "float", "__value__": "-Infinity"}}"#
        );
    }

    /// Contract section 1.3: the whole body becomes the request.
    #[test]
    fn protocol_1_becomes_protocol_2() {
        let body = r#"{"task": "t", "id": "i", "args": [1, NaN], "kwargs": {"k": 2}, "group": "g0", "taskset": "g1",
            "retries": 2, "eta": "2030-01-02T03:04:05", "expires": null, "utc": true, "callbacks": [{"task": "cb"}],
            "timelimit": [30, null], "chord": null, "mine": "x", "chain": [1]}"#;
        let request = try_decode(message(json!({"mine-too": 1, "retries": 7}), body)).unwrap();
        assert_eq!(
            (request.id.as_str(), request.task.as_str(), request.retries),
            ("i", "t", 2)
        );
        assert_eq!(request.group.as_deref(), Some("g1"));
        assert_eq!(
            request.eta.map(format_time).as_deref(),
            Some("2030-01-02T03:04:05+00:00")
        );
        assert_eq!(request.time_limit, Some(30.0));
        assert!(request.body.callbacks.is_some() && request.body.chain.is_none());
        assert_eq!(
            request.arguments_repr(),
            ("(1, {'__type__': 'float', '__value__': 'NaN'})", "{'k': 2}")
        );
        let custom = json!({"mine": "x", "mine-too": 1});
        assert_eq!(Value::Object(request.custom_headers()), custom);
        // What a retry sends is protocol 2, and means the same.
        let again = try_decode(request.message).unwrap();
        assert_eq!(again.body.args.get(), request.body.args.get());
        assert_eq!((again.retries, again.group.as_deref()), (2, Some("g1")));
        for none in [
            r#"{"args": [], "kwargs": {}}"#,
            "[[], {}, {}]",
            r#"{"task": "t", "args": 1}"#,
            "7",
        ] {
            let error = try_decode(message(json!({}), none)).unwrap_err();
            assert!(matches!(error, Unusable::UnknownFormat(_)), "{none}: {error}");
        }
        let torn = try_decode(message(json!({}), "{")).unwrap_err();
        assert!(matches!(torn, Unusable::Undecodable(_)), "{torn}");
    }

    /// Contract section 1.1, case 4.
    #[test]
    fn the_hybrid_takes_arguments_from_the_body_and_the_rest_from_the_headers() {
        let body = r#"{"task": "old", "id": "old", "args": [1], "kwargs": {}, "retries": 5, "expires": "2030-01-01",
            "errbacks": [{"task": "eb"}], "chain": [{"task": "c"}]}"#;
        let request = try_decode(message(json!({"task": "t", "id": "i", "retries": 1}), body)).unwrap();
        assert_eq!(
            (request.task.as_str(), request.id.as_str(), request.retries),
            ("t", "i", 1)
        );
        assert!(request.expires.is_some());
        assert_eq!(request.body.args.get(), "[1]");
        assert!(request.body.errbacks.is_some() && request.body.chain.is_none());
    }
}
