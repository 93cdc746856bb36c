//! The message of a retry (contract section 3.6).

use jiff::{SignedDuration, Timestamp};
use serde_json::value::RawValue;
use serde_json::{Value, json};

use super::request::{PROTOCOL_HEADERS, format_time};
use super::{Message, Outgoing, Request, Route, repr};
use crate::outcome::{Retry, RetryWhen};

/// The message of a retry: the same id with everything that the task carries (contract section 3.6, steps 3 and 4).
pub fn message(request: &Request, ignore_result: bool, retry: &Retry, now: Timestamp) -> Outgoing {
    let mut headers = request.message.headers.clone().unwrap_or_default();
    headers.retain(|name, _| !is_broker_header(name));
    for name in PROTOCOL_HEADERS {
        if !matches!(name, "redelivered" | "compression" | "meth" | "taskset") {
            headers.entry(name).or_insert(Value::Null);
        }
    }
    let option = |name: &str| retry.options.get(name).filter(|value| !value.is_null()).cloned();
    let mut set = |name: &str, value: Value| {
        headers.insert(name.to_owned(), value);
    };
    set("retries", json!(request.retries.saturating_add(1)));
    set("eta", eta(&retry.when, now).map_or(Value::Null, Value::String));
    if let Some(expires) = &retry.expires {
        set("expires", json!(expires));
    }
    if request.parent_id.is_none() {
        set("parent_id", json!(request.id));
    }
    set("ignore_result", json!(ignore_result));
    let hard = option("time_limit").or(request.time_limit.map(Value::from));
    let soft = option("soft_time_limit").or(request.soft_time_limit.map(Value::from));
    set("timelimit", json!([hard, soft]));
    if let Some(args) = retry
        .args
        .as_deref()
        .and_then(|args| serde_json::from_str::<Vec<Value>>(args).ok())
    {
        set("argsrepr", json!(repr::args(&args)));
    }
    if let Some(kwargs) = retry
        .kwargs
        .as_deref()
        .and_then(|kwargs| serde_json::from_str(kwargs).ok())
    {
        set("kwargsrepr", json!(repr::value(&kwargs)));
    }
    if let Some(Value::Object(own)) = option("headers") {
        own.into_iter()
            .filter(|(name, _)| !PROTOCOL_HEADERS.contains(&name.as_str()))
            .for_each(|(name, value)| {
                headers.insert(name, value);
            });
    }
    let mut properties = request.message.properties.clone();
    properties.expiration = None;
    if let Some(origin) = &request.origin {
        properties.other.insert("origin".into(), json!(origin));
    }
    if let Some(priority) = option("priority")
        .and_then(|p| p.as_u64())
        .and_then(|p| u8::try_from(p).ok())
    {
        properties.priority = Some(priority);
    }
    let route = match option("queue") {
        Some(Value::String(queue)) => Route::to_queue(queue),
        _ => request.route.clone(),
    };
    Outgoing {
        route,
        message: Message {
            headers: Some(headers),
            properties,
            body: body(request, retry),
        },
    }
}

/// RabbitMQ adds these when it dead-letters a message; they are not the sender's (contract section 3.6).
fn is_broker_header(name: &str) -> bool {
    name == "x-death"
        || name == "redelivered"
        || name.starts_with("x-first-death-")
        || name.starts_with("x-last-death-")
}

fn eta(when: &RetryWhen, now: Timestamp) -> Option<String> {
    match when {
        RetryWhen::Eta(eta) => Some(eta.clone()),
        RetryWhen::Countdown(seconds) if *seconds > 0.0 => {
            let pause = SignedDuration::try_from_secs_f64(*seconds).ok()?;
            now.checked_add(pause).ok().map(format_time)
        }
        RetryWhen::Countdown(_) => None,
    }
}

fn body(request: &Request, retry: &Retry) -> Vec<u8> {
    if retry.args.is_none() && retry.kwargs.is_none() {
        return request.message.body.clone();
    }
    let body = &request.body;
    let part = |part: &Option<Box<RawValue>>| {
        part.as_ref()
            .map_or_else(|| "null".to_owned(), |raw| raw.get().to_owned())
    };
    format!(
        r#"[{}, {}, {{"callbacks": {}, "errbacks": {}, "chain": {}, "chord": {}}}]"#,
        retry.args.as_deref().unwrap_or(body.args.get()),
        retry.kwargs.as_deref().unwrap_or(body.kwargs.get()),
        part(&body.callbacks),
        part(&body.errbacks),
        part(&body.chain),
        part(&body.chord),
    )
    .into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::request::fixture::{HEADERS, request};

    fn sent(request: &Request, retry: Retry) -> Outgoing {
        message(request, false, &retry, "2026-11-21T10:00:00Z".parse().unwrap())
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
            options: json!({"queue": "slow", "priority": 9, "time_limit": 5})
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
        assert_eq!(headers["timelimit"], json!([5, null]));
        assert_eq!(outgoing.route, Route::to_queue("slow"));
        assert_eq!(outgoing.message.properties.priority, Some(9));
        let body: Value = serde_json::from_slice(&outgoing.message.body).unwrap();
        assert_eq!(body[0], json!([8, 9]));
        assert_eq!(body[2]["callbacks"], json!([{"task": "cb"}]));
    }
}
