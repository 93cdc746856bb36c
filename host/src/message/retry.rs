//! The message of a retry (contract section 3.6).

use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

use super::content::compression::Compression;
use super::content::{Serializer, Writer};
use super::request::{PROTOCOL_HEADERS, SENT_AGAIN, format_time};
use super::{JsonMap, Message, Outgoing, Request, repr};
use crate::outcome::{Retry, RetryWhen};
use crate::policy::admit::Plan;

/// The same id once more, with everything that the task carries (contract section 3.6, steps 3 and 4).
pub fn message(request: &Request, plan: &Plan, retry: &Retry, now: Timestamp) -> Outgoing {
    let mut properties = request.message.properties.clone();
    properties.expiration = None;
    if let Some(origin) = &request.origin {
        properties.other.insert("origin".into(), json!(origin));
    }
    if let Some(priority) = option(retry, "priority").and_then(Value::as_u64) {
        properties.priority = u8::try_from(priority).ok().or(properties.priority);
    }
    let mut message = Message {
        headers: Some(headers(request, plan, retry, now)),
        properties,
        body: request.message.body.clone(),
    };
    // A body with nothing new in it is sent as it came; nothing can be lost on the way.
    if is_changed(retry) {
        let writer = writer(plan, retry);
        let text = request
            .body
            .to_json(retry.args.as_deref(), retry.kwargs.as_deref());
        if writer.fill(&mut message, &text).is_err() {
            // JSON is always written, and a retry is better than none.
            let _ = Writer::default().fill(&mut message, &text);
        }
    }
    Outgoing {
        route: request.route.clone(),
        message,
    }
}

/// Whether the body has to be written anew.
fn is_changed(retry: &Retry) -> bool {
    let asked = ["serializer", "compression"]
        .iter()
        .any(|name| option(retry, name).is_some());
    asked || retry.args.is_some() || retry.kwargs.is_some()
}

/// How a new body is written: as this retry asks, else as the task, else as the worker's settings say. As in Celery,
/// it does not matter how the message came.
fn writer(plan: &Plan, retry: &Retry) -> Writer {
    let named = |name: &str| option(retry, name).and_then(Value::as_str);
    let mut writer = plan.writer.clone();
    if let Some(serializer) = named("serializer").and_then(Serializer::named) {
        writer.serializer = serializer;
    }
    if let Some(compression) = named("compression").and_then(Compression::named) {
        writer.compression = Some(compression);
    }
    writer
}

fn headers(request: &Request, plan: &Plan, retry: &Retry, now: Timestamp) -> JsonMap {
    let mut headers = request.message.headers.clone().unwrap_or_default();
    headers.retain(|name, _| !is_broker_header(name));
    for name in PROTOCOL_HEADERS {
        if !matches!(name, "redelivered" | "compression" | "meth" | "taskset") {
            headers.entry(name).or_insert(Value::Null);
        }
    }
    if let Some(Value::Object(own)) = option(retry, "headers") {
        let own = own
            .iter()
            .filter(|(name, _)| !PROTOCOL_HEADERS.contains(&name.as_str()));
        headers.extend(own.map(|(name, value)| (name.clone(), value.clone())));
    }
    let mut set = |name: &str, value: Option<Value>| {
        if let Some(value) = value {
            headers.insert(name.to_owned(), value);
        }
    };
    let hard = limit(retry, "time_limit", request.time_limit, plan.time_limit);
    let soft = limit(
        retry,
        "soft_time_limit",
        request.soft_time_limit,
        plan.soft_time_limit,
    );
    set("retries", Some(json!(request.retries.saturating_add(1))));
    set("eta", Some(json!(eta(&retry.when, now))));
    set("expires", expires(retry, now).map(Value::from));
    set(
        "parent_id",
        request.parent_id.is_none().then(|| json!(request.id)),
    );
    let ignored = option(retry, "ignore_result").cloned();
    set("ignore_result", ignored.or(Some(json!(plan.ignore_result))));
    set("timelimit", Some(json!([hard, soft])));
    set("shadow", option(retry, "shadow").cloned());
    set(
        "argsrepr",
        parsed(&retry.args).map(|args: Vec<Value>| json!(repr::args(&args))),
    );
    set(
        "kwargsrepr",
        parsed(&retry.kwargs).map(|kwargs: Value| json!(repr::value(&kwargs))),
    );
    headers
}

/// An option of the retry; null counts as not given.
fn option<'a>(retry: &'a Retry, name: &str) -> Option<&'a Value> {
    retry.options.get(name).filter(|value| !value.is_null())
}

/// The limit that the retried message carries. A task may lower its limit, never raise it above the one it ran with.
fn limit(retry: &Retry, name: &str, carried: Option<f64>, held: Option<f64>) -> Option<f64> {
    match option(retry, name).and_then(Value::as_f64) {
        Some(asked) => Some(held.map_or(asked, |held| asked.min(held))),
        None => carried,
    }
}

fn parsed<T: serde::de::DeserializeOwned>(text: &Option<Box<str>>) -> Option<T> {
    serde_json::from_str(text.as_deref()?).ok()
}

/// RabbitMQ adds these when it dead-letters a message, and others tell how a message came; they are not the sender's
/// (contract section 3.6).
fn is_broker_header(name: &str) -> bool {
    name == "x-death"
        || name == "redelivered"
        || name == SENT_AGAIN
        || name.starts_with("x-first-death-")
        || name.starts_with("x-last-death-")
}

fn eta(when: &RetryWhen, now: Timestamp) -> Option<String> {
    match when {
        RetryWhen::Eta(eta) => Some(eta.clone()),
        RetryWhen::Countdown(seconds) if *seconds > 0.0 => after(*seconds, now),
        RetryWhen::Countdown(_) => None,
    }
}

/// A new expiry: a time, or as an option seconds from now.
fn expires(retry: &Retry, now: Timestamp) -> Option<String> {
    let seconds = || option(retry, "expires").and_then(Value::as_f64);
    retry.expires.clone().or_else(|| after(seconds()?, now))
}

fn after(seconds: f64, now: Timestamp) -> Option<String> {
    let pause = SignedDuration::try_from_secs_f64(seconds).ok()?;
    now.checked_add(pause).ok().map(format_time)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::Route;
    use crate::message::request::fixture::{HEADERS, request};
    use crate::policy::admit;
    use crate::task::Definition;

    fn plan(request: &Request) -> Plan {
        admit::plan(request, &Definition::default(), &admit::Defaults::default())
    }

    fn sent(request: &Request, retry: Retry) -> Outgoing {
        message(
            request,
            &plan(request),
            &retry,
            "2026-11-21T10:00:00Z".parse().unwrap(),
        )
    }

    /// Contract section 3.6, step 3, and the sample result-retry.
    #[test]
    fn a_retry_is_the_same_message_once_more() {
        let request = request(json!({}));
        let retry = Retry {
            when: RetryWhen::Countdown(1.5),
            ..Retry::default()
        };
        let outgoing = sent(&request, retry);
        let mut expected: Value = serde_json::from_str(HEADERS).unwrap();
        expected["retries"] = json!(1);
        expected["eta"] = json!("2026-11-21T10:00:01.500000+00:00");
        expected["parent_id"] = json!("i1");
        expected["timelimit"] = json!([30.0, null]);
        expected
            .as_object_mut()
            .unwrap()
            .retain(|name, _| name != "redelivered" && name != "x-death");
        assert_eq!(Value::Object(outgoing.message.headers.unwrap()), expected);
        assert_eq!(outgoing.message.body, request.message.body);
        assert_eq!(outgoing.route, Route::to_queue("celery"));
        assert_eq!(outgoing.message.properties.priority, Some(3));
        assert_eq!(outgoing.message.properties.reply_to.as_deref(), Some("r1"));
        assert_eq!(outgoing.message.properties.other["origin"], json!("gen1@c"));
    }

    #[test]
    fn a_retry_may_change_arguments_and_options_and_keeps_its_links() {
        let request = request(json!({"parent_id": "p1"}));
        let retry = Retry {
            args: Some("[8, 9]".into()),
            options:
                json!({"priority": 9, "time_limit": 5, "soft_time_limit": 99, "shadow": "s", "expires": 60})
                    .as_object()
                    .cloned()
                    .unwrap(),
            ..Retry::default()
        };
        let outgoing = sent(&request, retry);
        let headers = outgoing.message.headers.unwrap();
        assert_eq!(headers["eta"], Value::Null);
        assert_eq!(headers["parent_id"], json!("p1"));
        assert_eq!(headers["argsrepr"], json!("(8, 9)"));
        assert_eq!(headers["timelimit"], json!([5.0, 99.0]));
        assert_eq!(headers["shadow"], json!("s"));
        assert_eq!(headers["expires"], json!("2026-11-21T10:01:00+00:00"));
        assert_eq!(outgoing.message.properties.priority, Some(9));
        let body: Value = serde_json::from_slice(&outgoing.message.body).unwrap();
        assert_eq!(body[0], json!([8, 9]));
        assert_eq!(body[2]["callbacks"], json!([{"task": "cb"}]));
    }

    /// As Celery does, in the serializer of the task or the settings, however the message came.
    #[test]
    fn new_arguments_are_written_as_the_task_or_the_retry_says() {
        let mut request = request(json!({}));
        let headers = request.message.headers.get_or_insert_default();
        headers.insert("compression".into(), json!("application/zstd"));
        let definition = Definition {
            serializer: Some("yaml".into()),
            ..Definition::default()
        };
        let plan = admit::plan(&request, &definition, &admit::Defaults::default());
        let now = "2026-11-21T10:00:00Z".parse().unwrap();
        let sent = |retry: Retry| message(&request, &plan, &retry, now).message;
        let unchanged = sent(Retry::default());
        assert_eq!(unchanged.body, request.message.body);
        assert_eq!(unchanged.headers.unwrap()["compression"], "application/zstd");
        let yaml = sent(Retry {
            args: Some(r#"[{"__type__": "date", "__value__": "2026-11-21"}]"#.into()),
            ..Retry::default()
        });
        assert_eq!(
            yaml.properties.content_type.as_deref(),
            Some("application/x-yaml")
        );
        assert!(!yaml.headers.unwrap().contains_key("compression"));
        assert!(
            yaml.body.starts_with(br#"[[!!timestamp "2026-11-21"], {}, {"#),
            "{yaml:?}",
            yaml = yaml.body
        );
        let asked = sent(Retry {
            options: json!({"serializer": "msgpack", "compression": "gzip"})
                .as_object()
                .cloned()
                .unwrap(),
            ..Retry::default()
        });
        assert_eq!(asked.properties.content_encoding.as_deref(), Some("binary"));
        assert_eq!(asked.headers.unwrap()["compression"], "application/x-gzip");
        // There is no key to sign with.
        let unsigned = sent(Retry {
            options: json!({"serializer": "auth"}).as_object().cloned().unwrap(),
            ..Retry::default()
        });
        assert_eq!(
            unsigned.properties.content_type.as_deref(),
            Some("application/json")
        );
    }

    #[test]
    fn a_task_may_lower_its_limit_but_not_raise_it() {
        let request = request(json!({"timelimit": [30, 10]}));
        let asked = |limit: Value| {
            let retry = Retry {
                options: json!({"time_limit": limit}).as_object().cloned().unwrap(),
                ..Retry::default()
            };
            sent(&request, retry).message.headers.unwrap()["timelimit"].clone()
        };
        assert_eq!(asked(json!(1e9)), json!([30.0, 10.0]));
        assert_eq!(asked(json!(5)), json!([5.0, 10.0]));
        assert_eq!(asked(json!(null)), json!([30.0, 10.0]));
    }
}
