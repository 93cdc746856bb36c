//! One event: what its fields say (contract sections 7.1 and 7.3).

use std::sync::{Arc, OnceLock};

use jiff::Timestamp;
use jiff::tz::TimeZone;
use serde_json::{Value, json};

use crate::happening::{About, Happening, Refused, Settled};
use crate::message::request::format_time;
use crate::message::{JsonMap, Outgoing, Route, repr, saferepr};
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
            let ended = ended(uuid, outcome, runtime, settled);
            let rejected = settled.rejected.map(|requeue| rejected(uuid, requeue));
            // Celery settles the message of a task that failed before it tells of the failure.
            let pair = match outcome {
                Outcome::Failure(_) | Outcome::WorkerLost(_) => [rejected, ended],
                _ => [ended, rejected],
            };
            pair.into_iter().flatten().collect()
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
            let fields = json!({"uuid": uuid, "result": saferepr::of_json(value), "runtime": runtime});
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
        Outcome::Ignore | Outcome::Replaced | Outcome::Duplicate | Outcome::Unfollowed { .. } => None,
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
    let zone = ZONE.get_or_init(|| zone(std::env::var("TZ").ok().as_deref()));
    west(zone, now)
}

fn west(zone: &TimeZone, now: Timestamp) -> f64 {
    f64::from(-zone.to_offset(now).seconds()) / 3600.0
}

/// This machine's time zone, as libc finds it: what `TZ` says, or `/etc/localtime`.
fn zone(name: Option<&str>) -> TimeZone {
    let file = match name {
        None => "/etc/localtime".into(),
        Some(name) => {
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

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::time::{Duration, Instant};

    use super::*;
    use crate::message::Message;
    use crate::message::request::Identity;
    use crate::message::request::fixture::request;
    use crate::outcome::Retry;
    use crate::task::Definition;

    /// The events that a real worker sent, by the name of their file.
    fn samples(kind: &str) -> Vec<JsonMap> {
        let file = format!(
            "{}/../tests/cases/wire/event-{kind}.json",
            env!("CARGO_MANIFEST_DIR")
        );
        let text = std::fs::read_to_string(file).unwrap();
        let sample: Value = serde_json::from_str(&text).unwrap();
        let samples = sample["samples"].as_array().unwrap().iter();
        let bodies = samples.flat_map(|sample| match &sample["body_json"] {
            Value::Array(events) => events.clone(),
            event => vec![event.clone()],
        });
        bodies.map(|event| event.as_object().unwrap().clone()).collect()
    }

    fn told(happening: Happening<'_>) -> Vec<JsonMap> {
        let (request, definition) = (request(json!({})), Definition::default());
        let about = About {
            request: &request,
            definition: &definition,
            queue: "celery",
            received: Instant::now(),
        };
        let events = of(&about, happening).into_iter();
        events.map(|(kind, fields)| whole(kind, fields)).collect()
    }

    fn whole(kind: &'static str, fields: JsonMap) -> JsonMap {
        let event = Event::new(kind, &"w1@h".into(), 7, fields);
        serde_json::from_str(&event.json).unwrap()
    }

    fn ended(outcome: &Outcome, rejected: Option<bool>) -> Vec<JsonMap> {
        told(Happening::Ended {
            outcome,
            runtime: Some(Duration::from_millis(1500)),
            settled: Settled {
                rejected,
                retried: false,
            },
        })
    }

    fn fields(event: &JsonMap) -> BTreeSet<&String> {
        event.keys().collect()
    }

    #[test]
    fn every_event_of_a_task_has_celerys_fields() {
        let failure = Failure {
            exc_args: vec![json!("boom"), json!(42)],
            ..Failure::new("builtins", "ValueError", "")
        };
        let reject = Outcome::Reject {
            reason: Some("no thanks".into()),
            requeue: false,
        };
        let retry = Outcome::Retry(Box::new(Retry {
            exc: Some(failure.clone()),
            ..Retry::default()
        }));
        let started = Happening::Started { at: Timestamp::now() };
        let publication = Outgoing {
            route: Route::to_queue("celery"),
            message: Message {
                headers: request(json!({})).message.headers,
                ..Message::default()
            },
        };
        let sent = whole("task-sent", of_sent(&publication, None).unwrap());
        assert_eq!(
            (&sent["queue"], &sent["args"]),
            (&json!("celery"), &json!("(7,)"))
        );
        for (kind, events) in [
            ("task-received", told(Happening::Accepted)),
            ("task-started", told(started)),
            ("task-succeeded", ended(&Outcome::Success("5".into()), None)),
            ("task-failed", ended(&Outcome::Failure(failure.clone()), None)),
            ("task-retried", ended(&retry, None)),
            ("task-rejected", ended(&reject, Some(false))),
            (
                "task-revoked",
                ended(&Outcome::Revoked(Revocation::Expired), None),
            ),
            ("task-sent", vec![sent]),
        ] {
            let samples = samples(kind);
            assert!(!events.is_empty(), "{kind}");
            for (event, sample) in events.iter().zip(&samples) {
                assert_eq!(event["type"], sample["type"]);
                assert_eq!(fields(event), fields(sample), "{kind}");
                for name in ["exception", "requeue", "terminated", "signum", "expired"] {
                    if kind != "task-retried" {
                        assert_eq!(event.get(name), sample.get(name), "{kind} {name}");
                    }
                }
            }
        }
    }

    #[test]
    fn what_becomes_of_the_message_is_told_in_celerys_order() {
        let failure = Failure::new("builtins", "ValueError", "boom");
        let types = |events: Vec<JsonMap>| -> Vec<String> {
            let types = events.iter().map(|event| event["type"].as_str().unwrap());
            types
                .map(|kind| kind.trim_start_matches("task-").to_owned())
                .collect()
        };
        let lost = Outcome::WorkerLost("x".into());
        let reject = |requeue| Outcome::Reject {
            reason: None,
            requeue,
        };
        for (outcome, rejected, expected) in [
            (
                Outcome::Failure(failure.clone()),
                Some(false),
                vec!["rejected", "failed"],
            ),
            (Outcome::TimeLimit(1.0), Some(true), vec!["failed", "rejected"]),
            (reject(false), Some(false), vec!["failed", "rejected"]),
            (reject(false), None, vec!["failed"]),
            (reject(true), Some(true), vec!["rejected"]),
            (lost.clone(), Some(true), vec!["rejected"]),
            (lost, None, vec!["failed"]),
            (Outcome::Refused(failure), Some(false), vec!["rejected"]),
            (Outcome::Cancelled, None, vec!["cancelled"]),
            (Outcome::Ignore, None, vec![]),
            (Outcome::Duplicate, None, vec![]),
        ] {
            assert_eq!(types(ended(&outcome, rejected)), expected, "{outcome:?}");
        }
        assert_eq!(types(told(Happening::PutBack)), ["rejected"]);
        assert!(told(Happening::Received).is_empty() && told(Happening::Forgotten).is_empty());
    }

    #[test]
    fn an_unknown_task_has_failed() {
        let identity = Identity {
            id: "i1".into(),
            task: "no.such.task".into(),
        };
        let (kind, fields) = of_refused(Refused::Unregistered(&identity)).unwrap();
        assert_eq!(
            (kind, &fields["exception"]),
            ("task-failed", &json!("NotRegistered('no.such.task')"))
        );
        let sample = samples("task-failed").remove(1);
        assert_eq!(
            whole(kind, fields).keys().collect::<BTreeSet<_>>(),
            sample.keys().collect()
        );
    }

    #[test]
    fn a_result_is_cut_as_celery_cuts_it_and_times_are_those_of_this_place() {
        let long = format!("{:?}", "x".repeat(2000));
        let event = ended(&Outcome::Success(long.into()), None).remove(0);
        let shown = event["result"].as_str().unwrap();
        assert!(shown.len() == 1029 && shown.ends_with("x...'"), "{}", shown.len());
        assert_eq!((&event["runtime"], &event["clock"]), (&json!(1.5), &json!(7)));
        let now = Timestamp::now();
        for (name, hours) in [
            ("XXX-2", -2.0),
            ("XXX5:30", 5.5),
            ("UTC0", 0.0),
            ("no such zone", 0.0),
        ] {
            assert_eq!(west(&zone(Some(name)), now), hours, "{name}");
        }
        assert!(west(&zone(Some("UTC0")), now).is_sign_positive());
    }
}
