//! One event: what its fields say (contract sections 7.1 and 7.3).

use std::sync::{Arc, OnceLock};

use jiff::Timestamp;
use jiff::tz::TimeZone;
use serde_json::{Value, json};

use crate::happening::{About, Happening, Refused, Settled};
use crate::message::request::format_time;
use crate::message::{JsonMap, Outgoing, Route, repr};
use crate::outcome::{Failure, Outcome, Revocation};

/// An event, ready to be sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// Its type.
    pub kind: &'static str,
    /// Who tells it.
    pub hostname: Arc<str>,
    /// All of it as JSON.
    pub json: String,
}

impl Event {
    /// An event that happens now, at this time of the logical clock; `fields` are those of its type.
    pub(super) fn new(kind: &'static str, hostname: &Arc<str>, clock: u64, fields: JsonMap) -> Self {
        let now = Timestamp::now();
        let mut event = fields;
        event.insert("hostname".into(), hostname.as_ref().into());
        event.insert("utcoffset".into(), utcoffset(now).into());
        event.insert("pid".into(), std::process::id().into());
        event.insert("clock".into(), clock.into());
        event.entry("timestamp").or_insert_with(|| seconds(now).into());
        event.insert("type".into(), kind.into());
        Self {
            kind,
            hostname: Arc::clone(hostname),
            json: Value::Object(event).to_string(),
        }
    }

    pub(super) fn is_of_a_task(&self) -> bool {
        self.kind.starts_with("task-")
    }

    /// Celery's senders tell of each message by itself.
    pub(super) fn goes_alone(&self) -> bool {
        self.kind == "task-sent"
    }
}

/// What happens to a task, as events.
pub(super) fn of(about: &About<'_>, happening: Happening<'_>) -> Vec<(&'static str, JsonMap)> {
    let uuid = &about.request.id;
    match happening {
        Happening::Accepted => vec![received(about)],
        Happening::Started { at } => vec![event(
            "task-started",
            json!({"uuid": uuid, "timestamp": seconds(at)}),
        )],
        Happening::Ended {
            outcome,
            runtime,
            settled,
        } => {
            let runtime = runtime.map(|runtime| runtime.as_secs_f64());
            let mut events: Vec<_> = ended(uuid, outcome, runtime, settled).into_iter().collect();
            events.extend(settled.rejected.map(|requeue| rejected(uuid, requeue)));
            events
        }
        Happening::PutBack => vec![rejected(uuid, true)],
        Happening::Received
        | Happening::Discarded { .. }
        | Happening::Overflow
        | Happening::DoneBefore(_)
        | Happening::Ran(_)
        | Happening::Stopped(_)
        | Happening::Forgotten => Vec::new(),
    }
}

/// A refused message, as an event.
pub(super) fn of_refused(refused: Refused<'_>) -> Option<(&'static str, JsonMap)> {
    let Refused::Unregistered(identity) = refused else {
        return None;
    };
    let name = repr::value(&identity.task.as_str().into());
    let fields = json!({"uuid": identity.id, "exception": format!("NotRegistered({name})")});
    Some(event("task-failed", fields))
}

/// A message that this worker sent, as fields of `task-sent`; `None` when it is no task. `queue` is what it is
/// known to go to.
pub(super) fn of_sent(outgoing: &Outgoing, queue: Option<&str>) -> Option<JsonMap> {
    let headers = outgoing.message.headers.as_ref()?;
    headers.get("task")?;
    let Route {
        exchange,
        routing_key,
    } = &outgoing.route;
    let queue = queue.or_else(|| exchange.is_empty().then_some(routing_key));
    let mut fields = JsonMap::new();
    for (name, header) in [
        ("uuid", "id"),
        ("root_id", "root_id"),
        ("parent_id", "parent_id"),
        ("name", "task"),
        ("args", "argsrepr"),
        ("kwargs", "kwargsrepr"),
        ("retries", "retries"),
        ("eta", "eta"),
        ("expires", "expires"),
    ] {
        fields.insert(name.into(), headers.get(header).cloned().unwrap_or_default());
    }
    fields.insert("queue".into(), queue.into());
    fields.insert("exchange".into(), exchange.as_str().into());
    fields.insert("routing_key".into(), routing_key.as_str().into());
    Some(fields)
}

fn received(about: &About<'_>) -> (&'static str, JsonMap) {
    let request = about.request;
    let shown = |header: &str| request.header(header).and_then(Value::as_str).unwrap_or_default();
    let fields = json!({
        "uuid": request.id,
        "name": request.shown_name(),
        "args": shown("argsrepr"),
        "kwargs": shown("kwargsrepr"),
        "root_id": request.root_id,
        "parent_id": request.parent_id,
        "retries": request.retries,
        "eta": request.eta.map(format_time),
        "expires": request.expires.map(format_time),
    });
    event("task-received", fields)
}

/// The end of a task, before what became of its message.
fn ended(
    uuid: &str,
    outcome: &Outcome,
    runtime: Option<f64>,
    settled: Settled,
) -> Option<(&'static str, JsonMap)> {
    let failed = |kind: &'static str, failure: &Failure| {
        let fields = json!({"uuid": uuid, "exception": failure.repr(), "traceback": failure.traceback});
        Some(event(kind, fields))
    };
    match outcome {
        Outcome::Success(value) => {
            let shown = serde_json::from_str(value).map(|value: Value| repr::value(&value));
            let fields = json!({"uuid": uuid, "result": shown.unwrap_or_default(), "runtime": runtime});
            Some(event("task-succeeded", fields))
        }
        Outcome::Failure(failure) => failed("task-failed", failure),
        Outcome::TimeLimit(limit) => failed("task-failed", &Failure::time_limit_exceeded(*limit)),
        Outcome::Retry(retry) => match &retry.exc {
            Some(exc) => failed("task-retried", exc),
            None => Some(event(
                "task-retried",
                json!({"uuid": uuid, "exception": "None", "traceback": retry.to_string()}),
            )),
        },
        // With requeue, and when it was never begun, only that it is rejected.
        Outcome::Reject { requeue: true, .. } | Outcome::Refused(_) => None,
        Outcome::Reject { reason, .. } => {
            let reason = reason.as_deref().unwrap_or("None");
            let exception = format!("reject requeue=False: {reason}");
            Some(event(
                "task-failed",
                json!({"uuid": uuid, "exception": exception, "traceback": null}),
            ))
        }
        Outcome::Revoked(why) => {
            let signum = match why {
                Revocation::Terminated(signal) => Some(signal),
                Revocation::Expired | Revocation::Revoked => None,
            };
            Some(event(
                "task-revoked",
                json!({"uuid": uuid, "terminated": signum.is_some(), "signum": signum,
                    "expired": *why == Revocation::Expired}),
            ))
        }
        Outcome::Cancelled => Some(event("task-cancelled", json!({"uuid": uuid}))),
        Outcome::WorkerLost(reason) => {
            let failure = Failure::new("billiard.exceptions", "WorkerLostError", reason.as_str());
            match settled {
                Settled { retried: true, .. } => failed("task-retried", &failure),
                Settled {
                    rejected: Some(true), ..
                } => None,
                _ => failed("task-failed", &failure),
            }
        }
        Outcome::Ignore | Outcome::Replaced | Outcome::Duplicate | Outcome::Unfollowed(_) => None,
    }
}

fn rejected(uuid: &str, requeue: bool) -> (&'static str, JsonMap) {
    event("task-rejected", json!({"uuid": uuid, "requeue": requeue}))
}

fn event(kind: &'static str, fields: Value) -> (&'static str, JsonMap) {
    match fields {
        Value::Object(fields) => (kind, fields),
        _ => (kind, JsonMap::new()),
    }
}

/// Unix time.
fn seconds(time: Timestamp) -> f64 {
    time.as_microsecond() as f64 / 1e6
}

/// Hours west of UTC: monitors shift times by the difference to their own.
fn utcoffset(now: Timestamp) -> f64 {
    static ZONE: OnceLock<TimeZone> = OnceLock::new();
    let offset = ZONE.get_or_init(zone).to_offset(now);
    // Not -0.0 in UTC.
    f64::from(-offset.seconds()) / 3600.0
}

/// This machine's time zone, as libc finds it: `TZ`, or `/etc/localtime`.
fn zone() -> TimeZone {
    let file = match std::env::var("TZ") {
        Err(_) => "/etc/localtime".into(),
        Ok(name) => {
            let name = name.trim_start_matches(':');
            if let Ok(zone) = TimeZone::posix(name) {
                return zone;
            }
            std::path::Path::new("/usr/share/zoneinfo").join(name)
        }
    };
    let read = std::fs::read(file).ok();
    let zone = read.and_then(|data| TimeZone::tzif("local", &data).ok());
    zone.unwrap_or(TimeZone::UTC)
}
