//! The result document: what clients read of a task (contract section 5.1).

use jiff::Timestamp;
use serde::Serialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};

use crate::canvas::Prevented;
use crate::message::request::{Identity, format_time};
use crate::message::{JsonMap, Message, Request};
use crate::outcome::{Failure, State, StoredResult};

/// What a result document says about the worker, and when.
#[derive(Debug, Clone, Copy)]
pub struct Scene<'a> {
    /// Node name.
    pub hostname: &'a str,
    /// `result_extended`.
    pub extended: bool,
    /// The time of the ending.
    pub now: Timestamp,
}

/// The result document (contract section 5.1), in Python's order of keys.
#[derive(Debug, Serialize)]
struct Meta<'a> {
    /// The state's name.
    status: &'a str,
    /// The value, the error map, or whatever `update_state` was given.
    result: &'a RawValue,
    /// Text for people.
    traceback: Option<&'a str>,
    /// Result tuples of the tasks sent while it ran.
    children: &'a [Value],
    /// When it ended, ISO 8601; null while it has not.
    date_done: Option<String>,
    /// Group, when it is in one.
    #[serde(skip_serializing_if = "Option::is_none")]
    group_id: Option<&'a str>,
    /// Parent, when it has one.
    #[serde(skip_serializing_if = "Option::is_none")]
    parent_id: Option<&'a str>,
    /// With `result_extended`, the request's own fields.
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    extended: Option<Extended<'a>>,
    /// Task id; readers of Redis need it.
    task_id: &'a str,
}

/// What `result_extended` adds to the document; all null for a task that is not registered.
#[derive(Debug, Default, Serialize)]
struct Extended<'a> {
    /// Task name.
    name: Option<&'a str>,
    /// Positional arguments.
    args: Option<&'a RawValue>,
    /// Keyword arguments.
    kwargs: Option<&'a RawValue>,
    /// Node name.
    worker: Option<&'a str>,
    /// How often it was retried.
    retries: Option<u32>,
    /// The delivery's routing key.
    queue: Option<&'a str>,
    /// Names of the stamps, when there are any.
    #[serde(skip_serializing_if = "Option::is_none")]
    stamped_headers: Option<&'a [String]>,
    /// One key for each stamp.
    #[serde(flatten)]
    stamps: JsonMap,
}

/// The error map of a failure (contract section 5.1).
#[derive(Debug, Serialize)]
struct ErrorMap<'a> {
    exc_type: &'a str,
    exc_message: &'a [Value],
    #[serde(skip_serializing_if = "Option::is_none")]
    exc_module: Option<&'a str>,
}

impl<'a> From<&'a Failure> for ErrorMap<'a> {
    fn from(failure: &'a Failure) -> Self {
        Self {
            exc_type: &failure.exc_type,
            exc_message: &failure.exc_args,
            exc_module: failure.exc_module.as_deref(),
        }
    }
}

/// FAILURE of a task that no component has (contract section 1.1). Its body was never decoded, so what
/// `result_extended` adds is null.
pub fn not_registered(identity: &Identity, message: &Message, scene: Scene<'_>) -> StoredResult {
    let failure = Failure::new("celery.exceptions", "NotRegistered", identity.task.clone());
    let result = error_map(&failure);
    let meta = Meta {
        status: State::Failure.as_str(),
        result: &result,
        traceback: None,
        children: &[],
        date_done: Some(format_time(scene.now)),
        group_id: None,
        parent_id: None,
        extended: scene.extended.then(Extended::default),
        task_id: &identity.id,
    };
    StoredResult {
        task_id: identity.id.clone(),
        state: State::Failure,
        meta: to_json(&meta),
        reply_to: message.properties.reply_to.clone(),
        correlation_id: message.properties.correlation_id.clone(),
    }
}

/// The state of a stored document; `None` for one that cannot be read.
pub fn status(document: &str) -> Option<String> {
    #[derive(serde::Deserialize)]
    struct Status {
        status: String,
    }
    serde_json::from_str::<Status>(document)
        .ok()
        .map(|document| document.status)
}

/// The result of a stored document of a task that succeeded, and whether it names children.
pub fn success(document: &str) -> Option<(Box<str>, bool)> {
    #[derive(serde::Deserialize)]
    struct Stored<'a> {
        status: String,
        #[serde(borrow)]
        result: Option<&'a RawValue>,
        children: Option<Vec<serde::de::IgnoredAny>>,
    }
    let stored: Stored<'_> = serde_json::from_str(document).ok()?;
    let result = stored.result.map_or("null", RawValue::get);
    let has_children = stored.children.is_some_and(|children| !children.is_empty());
    (stored.status == State::Success.as_str()).then(|| (result.into(), has_children))
}

/// STARTED, stored when a run begins (contract section 3.1, step 9).
pub fn started(request: &Request, pid: u32, scene: Scene<'_>) -> StoredResult {
    let result = raw(json!({"pid": pid, "hostname": scene.hostname}).to_string());
    stored(request, State::Started, &result, None, &[], scene)
}

/// FAILURE of a task that cannot run any more because one before it in its chain failed (contract section 4.2). It has
/// the times and the extended fields of a task that nobody took. `None` for one without an id.
pub fn prevented(
    task: &Prevented,
    result: &RawValue,
    traceback: Option<&str>,
    scene: Scene<'_>,
) -> Option<StoredResult> {
    let id = task.id.clone()?;
    let (args, kwargs) = (raw(task.args.to_string()), raw(task.kwargs.to_string()));
    let meta = Meta {
        status: State::Failure.as_str(),
        result,
        traceback,
        children: &[],
        date_done: Some(format_time(scene.now)),
        group_id: task.text("group_id"),
        parent_id: task.text("parent_id"),
        extended: scene.extended.then(|| Extended {
            name: Some(&task.task),
            args: Some(&args),
            kwargs: Some(&kwargs),
            retries: Some(0),
            ..Extended::default()
        }),
        task_id: &id,
    };
    Some(StoredResult {
        state: State::Failure,
        meta: to_json(&meta),
        reply_to: task.text("reply_to").map(str::to_owned),
        correlation_id: None,
        task_id: id.clone(),
    })
}

/// A state of a task that this worker does not run, as a task that sent it may store it.
pub fn of_another(
    task_id: &str,
    state: State,
    value: &RawValue,
    traceback: Option<&str>,
    children: &[Value],
    now: Timestamp,
) -> StoredResult {
    let meta = Meta {
        status: state.as_str(),
        result: value,
        traceback,
        children,
        date_done: state.is_ready().then(|| format_time(now)),
        group_id: None,
        parent_id: None,
        extended: None,
        task_id,
    };
    StoredResult {
        task_id: task_id.to_owned(),
        meta: to_json(&meta),
        state,
        reply_to: None,
        correlation_id: None,
    }
}

/// The stored form of one state of a request.
pub fn stored(
    request: &Request,
    state: State,
    result: &RawValue,
    traceback: Option<&str>,
    children: &[Value],
    scene: Scene<'_>,
) -> StoredResult {
    let extended = scene.extended.then(|| Extended {
        name: Some(&request.task),
        args: Some(&request.body.args),
        kwargs: Some(&request.body.kwargs),
        worker: Some(scene.hostname),
        retries: Some(request.retries),
        queue: Some(&request.route.routing_key),
        stamped_headers: (!request.stamped_headers.is_empty()).then_some(&request.stamped_headers),
        stamps: request.stamps(),
    });
    let meta = Meta {
        status: state.as_str(),
        result,
        traceback,
        children,
        date_done: state.is_ready().then(|| format_time(scene.now)),
        group_id: request.group.as_deref(),
        parent_id: request.parent_id.as_deref(),
        extended,
        task_id: &request.id,
    };
    StoredResult {
        task_id: request.id.clone(),
        meta: to_json(&meta),
        state,
        reply_to: request.message.properties.reply_to.clone(),
        correlation_id: request.message.properties.correlation_id.clone(),
    }
}

/// The error map of a failure as JSON.
pub(crate) fn error_map(failure: &Failure) -> Box<RawValue> {
    raw(to_json(&ErrorMap::from(failure)))
}

/// JSON's null.
pub(crate) fn null() -> Box<RawValue> {
    RawValue::NULL.to_owned()
}

/// Text that is JSON already. Text that is not would tear the document, so it becomes null.
pub(crate) fn borrowed(text: &str) -> &RawValue {
    serde_json::from_str(text).unwrap_or(RawValue::NULL)
}

/// As [`borrowed`].
pub(crate) fn raw(text: String) -> Box<RawValue> {
    RawValue::from_string(text).unwrap_or_else(|_| null())
}

/// Maps with text keys and finite numbers always serialize.
fn to_json(value: &impl serde::Serialize) -> String {
    serde_json::to_string(value).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::request::fixture::request;

    #[test]
    fn a_whole_limit_is_written_as_an_integer_like_python_does() {
        let error = serde_json::to_string(&ErrorMap::from(&Failure::time_limit_exceeded(1.0))).unwrap();
        assert_eq!(
            error,
            r#"{"exc_type":"TimeLimitExceeded","exc_message":[1],"exc_module":"billiard.exceptions"}"#
        );
    }

    #[test]
    fn the_document_has_celerys_keys() {
        let request = request(json!({"group": "g1"}));
        let value = RawValue::from_string("12345678901234567890123".into()).unwrap();
        let stored = |extended| {
            let now = "2026-11-21T10:00:00Z".parse().unwrap();
            let scene = Scene {
                hostname: "w1@h",
                extended,
                now,
            };
            stored(&request, State::Success, &value, None, &[], scene).meta
        };
        assert_eq!(
            stored(false),
            r#"{"status":"SUCCESS","result":12345678901234567890123,"traceback":null,"children":[],"date_done":"2026-11-21T10:00:00+00:00","group_id":"g1","task_id":"i1"}"#
        );
        let extended: Value = serde_json::from_str(&stored(true)).unwrap();
        let keys = ["name", "args", "kwargs", "worker", "retries", "queue"];
        assert_eq!(
            keys.map(|key| extended[key].to_string()),
            ["\"proj.add\"", "[7]", "{}", "\"w1@h\"", "0", "\"celery\""]
        );
    }
}
