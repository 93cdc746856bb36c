//! The span of one run.

use std::borrow::Cow;
use std::time::SystemTime;

use jiff::Timestamp;
use opentelemetry::trace::{Event, SpanKind, Status};
use opentelemetry::{InstrumentationScope, KeyValue, Value};
use opentelemetry_sdk::trace::{SpanData, SpanEvents, SpanLinks};

use super::{SCOPE, Trace};
use crate::happening::{About, Happening};
use crate::message::Request;
use crate::message::request::format_time;
use crate::outcome::{Failure, Outcome, Retry};

/// The longest text of an attribute, bytes.
const LONGEST: usize = 16 * 1024;

/// The span of a run that is over; `None` while it is not, and when there was none.
pub(super) fn ended(
    trace: &Trace,
    about: &About<'_>,
    happening: Happening<'_>,
    system: &'static str,
    hostname: &str,
) -> Option<SpanData> {
    let (outcome, duration) = match happening {
        Happening::Ran(run) => (&run.outcome, Some(run.duration)),
        Happening::Stopped(outcome) => (outcome, None),
        _ => return None,
    };
    let start = SystemTime::from(trace.start()?);
    let end = match duration {
        Some(duration) => start.checked_add(duration).unwrap_or(start),
        None => SystemTime::now().max(start),
    };
    let request = about.request;
    let mut attributes = of_request(request, about.queue, system, hostname);
    let ending = Ending::of(outcome);
    attributes.extend(ending.attributes);
    let mut events = SpanEvents::default();
    if let Some(failure) = &ending.exception {
        events.events.push(exception(failure, end));
    }
    Some(SpanData {
        span_context: trace.context.clone(),
        parent_span_id: trace.parent.span_id(),
        parent_span_is_remote: trace.parent.is_valid(),
        span_kind: SpanKind::Consumer,
        name: Cow::Owned(cut(&format!("run/{}", request.task)).to_owned()),
        start_time: start,
        end_time: end,
        attributes,
        dropped_attributes_count: 0,
        events,
        links: SpanLinks::default(),
        status: ending.status,
        instrumentation_scope: InstrumentationScope::builder(SCOPE)
            .with_version(env!("CARGO_PKG_VERSION"))
            .build(),
    })
}

/// What the message says. The names beginning with `celery.` are those of opentelemetry-instrumentation-celery.
fn of_request(request: &Request, queue: &str, system: &'static str, hostname: &str) -> Vec<KeyValue> {
    let mut attributes = vec![
        KeyValue::new("messaging.system", system),
        KeyValue::new("messaging.operation.type", "process"),
        KeyValue::new("messaging.operation.name", "run"),
        text("messaging.destination.name", queue),
        text("messaging.message.id", &request.id),
        KeyValue::new("celery.action", "run"),
        text("celery.task_name", &request.task),
        text("celery.hostname", hostname),
    ];
    let properties = &request.message.properties;
    let optional = [
        (
            "messaging.message.conversation_id",
            properties.correlation_id.as_deref(),
        ),
        ("celery.reply_to", properties.reply_to.as_deref()),
        ("celery.origin", request.origin.as_deref()),
        (
            "messaging.rabbitmq.destination.routing_key",
            routing_key(request, system),
        ),
    ];
    let given = optional
        .into_iter()
        .filter_map(|(name, value)| Some((name, value?)));
    attributes.extend(
        given
            .filter(|(_, value)| !value.is_empty())
            .map(|(name, value)| text(name, value)),
    );
    if request.retries > 0 {
        attributes.push(KeyValue::new("celery.retries", i64::from(request.retries)));
    }
    let time = |time: Option<Timestamp>| time.map(format_time);
    for (name, time) in [
        ("celery.eta", time(request.eta)),
        ("celery.expires", time(request.expires)),
    ] {
        attributes.extend(time.map(|time| KeyValue::new(name, time)));
    }
    attributes
}

fn routing_key<'a>(request: &'a Request, system: &str) -> Option<&'a str> {
    (system == "rabbitmq").then_some(request.route.routing_key.as_str())
}

/// How a run ended, in the words of a span.
struct Ending<'a> {
    status: Status,
    attributes: Vec<KeyValue>,
    exception: Option<Cow<'a, Failure>>,
}

impl<'a> Ending<'a> {
    fn of(outcome: &'a Outcome) -> Self {
        match outcome {
            Outcome::Success(_) => Self::state("SUCCESS"),
            Outcome::Failure(failure) | Outcome::Refused(failure) => Self::failed(Cow::Borrowed(failure)),
            Outcome::TimeLimit(limit) => Self::failed(Cow::Owned(Failure::time_limit_exceeded(*limit))),
            Outcome::WorkerLost(reason) => {
                let lost = Failure::new("billiard.exceptions", "WorkerLostError", reason.as_str());
                Self::failed(Cow::Owned(lost))
            }
            Outcome::Retry(retry) => Self {
                attributes: vec![
                    KeyValue::new("celery.state", "RETRY"),
                    text("celery.retry.reason", &reason(retry)),
                ],
                ..Self::state("RETRY")
            },
            Outcome::Reject { reason, .. } => {
                let reason = reason
                    .as_deref()
                    .map(|reason| text("celery.rejected.reason", reason));
                let mut ending = Self::state("REJECTED");
                ending.attributes.extend(reason);
                ending
            }
            Outcome::Revoked(_) => Self {
                status: Status::error("terminated"),
                ..Self::state("REVOKED")
            },
            Outcome::Cancelled => Self {
                status: Status::error("cancelled"),
                ..Self::state("CANCELLED")
            },
            Outcome::Ignore | Outcome::Replaced | Outcome::Duplicate | Outcome::Unfollowed { .. } => {
                Self::state("IGNORED")
            }
        }
    }

    fn state(state: &'static str) -> Self {
        Self {
            status: Status::Unset,
            attributes: vec![KeyValue::new("celery.state", state)],
            exception: None,
        }
    }

    fn failed(failure: Cow<'a, Failure>) -> Self {
        Self {
            status: Status::error(cut(&message(&failure)).to_owned()),
            attributes: vec![
                KeyValue::new("celery.state", "FAILURE"),
                text("error.type", &class(&failure)),
            ],
            exception: Some(failure),
        }
    }
}

/// Why a run is to be done again: the error it met, as Python's instrumentation writes it.
fn reason(retry: &Retry) -> String {
    retry.exc.as_ref().map_or_else(|| retry.to_string(), message)
}

/// The class of an exception with its module, as in Python.
fn class(failure: &Failure) -> String {
    match failure.exc_module.as_deref() {
        None | Some("builtins") => failure.exc_type.clone(),
        Some(module) => format!("{module}.{}", failure.exc_type),
    }
}

/// `str()` of an exception.
fn message(failure: &Failure) -> String {
    match failure.exc_args.as_slice() {
        [] => String::new(),
        [serde_json::Value::String(text)] => text.clone(),
        [one] => crate::message::repr::value(one),
        args => crate::message::repr::args(args),
    }
}

fn exception(failure: &Failure, at: SystemTime) -> Event {
    let mut attributes = vec![
        text("exception.type", &class(failure)),
        text("exception.message", &message(failure)),
        KeyValue::new("exception.escaped", "False"),
    ];
    let trace = failure.traceback.as_deref();
    attributes.extend(trace.map(|trace| text("exception.stacktrace", trace)));
    Event::new("exception", at, attributes, 0)
}

fn text(name: &'static str, value: &str) -> KeyValue {
    KeyValue::new(name, Value::from(cut(value).to_owned()))
}

fn cut(text: &str) -> &str {
    text.get(..text.floor_char_boundary(LONGEST)).unwrap_or_default()
}
