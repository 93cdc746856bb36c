//! What a command says of a task (contract section 6.5).

use serde::Serialize;
use serde_json::Value;
use serde_json::value::RawValue;

use crate::execution::active::{Entry, Progress};
use crate::message::request::format_time;

/// A task that is here.
#[derive(Serialize)]
pub(super) struct TaskInfo<'a> {
    id: &'a str,
    name: &'a str,
    args: Arguments<'a>,
    kwargs: Arguments<'a>,
    r#type: &'a str,
    hostname: &'a str,
    /// Unix time, seconds.
    time_start: Option<f64>,
    acknowledged: bool,
    delivery_info: DeliveryInfo<'a>,
    worker_pid: Option<u32>,
}

/// What a task was called with: as it was, or as a text.
#[derive(Serialize)]
#[serde(untagged)]
enum Arguments<'a> {
    Json(&'a RawValue),
    Text(&'a str),
}

#[derive(Serialize)]
struct DeliveryInfo<'a> {
    exchange: &'a str,
    routing_key: &'a str,
    priority: Option<u8>,
    redelivered: bool,
}

impl<'a> TaskInfo<'a> {
    /// With `safe` the arguments are texts.
    pub(super) fn new(entry: &'a Entry, hostname: &'a str, safe: bool) -> Self {
        let request = &*entry.request;
        let shown = |name: &str, value: &'a RawValue| {
            let headers = request.message.headers.as_ref();
            let text = headers
                .and_then(|headers| headers.get(name))
                .and_then(Value::as_str);
            match safe {
                true => Arguments::Text(text.unwrap_or(value.get())),
                false => Arguments::Json(value),
            }
        };
        let runs = entry.progress == Progress::Active;
        Self {
            id: &request.id,
            name: request.shown_name(),
            args: shown("argsrepr", &request.body.args),
            kwargs: shown("kwargsrepr", &request.body.kwargs),
            r#type: &request.task,
            hostname,
            time_start: entry.started.map(|time| time.as_microsecond() as f64 / 1e6),
            acknowledged: entry.is_acknowledged(),
            delivery_info: DeliveryInfo {
                exchange: &request.route.exchange,
                routing_key: &request.route.routing_key,
                priority: request.message.properties.priority,
                redelivered: request.redelivered,
            },
            worker_pid: runs.then(std::process::id),
        }
    }
}

/// A task that waits for its time.
#[derive(Serialize)]
pub(super) struct Scheduled<'a> {
    eta: Option<String>,
    /// Of Celery's timer, not of the message.
    priority: u8,
    request: TaskInfo<'a>,
}

impl<'a> Scheduled<'a> {
    pub(super) fn new(entry: &Entry, request: TaskInfo<'a>) -> Self {
        Self {
            eta: entry.request.eta.map(format_time),
            priority: 6,
            request,
        }
    }
}
