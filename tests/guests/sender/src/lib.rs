//! A guest that sends whatever it is told, by the bare functions of the contract. An answer is `["ok", answer]` or
//! `[kind of the error, its text]`.

use celerybox_guest::__private::bindings::celerybox::task::publisher::Message;
use celerybox_guest::__private::bindings::celerybox::task::types::Error;
use celerybox_guest::__private::bindings::celerybox::task::{publisher, results};
use celerybox_guest::{Context, TaskError, task, tasks};
use serde_json::{Value, json};

fn answer(result: Result<Value, Error>) -> Value {
    match result {
        Ok(answer) => json!(["ok", answer]),
        Err(Error::SoftTimeLimitExceeded) => json!(["soft-time-limit-exceeded", ""]),
        Err(Error::NotSupported(text)) => json!(["not-supported", text]),
        Err(Error::Denied(text)) => json!(["denied", text]),
        Err(Error::Invalid(text)) => json!(["invalid", text]),
        Err(Error::LimitExceeded(text)) => json!(["limit-exceeded", text]),
        Err(Error::Unavailable(text)) => json!(["unavailable", text]),
    }
}

fn parsed(text: String) -> Value {
    serde_json::from_str(&text).unwrap_or(Value::String(text))
}

/// `publisher.apply` with these texts, JSON or not.
#[task]
fn apply(
    signature: String,
    #[default("[]".to_owned())] args: String,
    #[default("{}".to_owned())] kwargs: String,
    #[default("{}".to_owned())] options: String,
) -> Value {
    answer(publisher::apply(&signature, &args, &kwargs, &options).map(parsed))
}

/// `publisher.apply` again and again until it fails: how often it did not, and how it failed.
#[task]
fn flood(signature: String, most: u64) -> (u64, Value) {
    for done in 0..most {
        if let Err(error) = publisher::apply(&signature, "[]", "{}", "{}") {
            return (done, answer(Err(error)));
        }
    }
    (most, Value::Null)
}

/// `publisher.apply` of a signature that is so many bytes long, or nested so deep.
#[task]
fn large(bytes: usize, depth: usize) -> Value {
    let args = format!("{}{}", "[".repeat(depth), "]".repeat(depth));
    let text = "x".repeat(bytes);
    let signature = format!(r#"{{"task": "probe.echo", "args": [{args}, "{text}"]}}"#);
    answer(publisher::apply(&signature, "[]", "{}", "{}").map(parsed))
}

/// `publisher.publish`.
#[task]
fn publish(
    exchange: String,
    routing_key: String,
    headers: String,
    body: String,
    content_type: String,
) -> Value {
    let message = Message {
        exchange,
        routing_key,
        headers,
        properties:
            r#"{"correlation_id": "c", "delivery_info": {"exchange": "", "routing_key": "elsewhere"}}"#
                .to_owned(),
        content_type,
        content_encoding: "utf-8".to_owned(),
        body: body.into_bytes(),
    };
    answer(publisher::publish(&message).map(|()| Value::Null))
}

/// `publisher.replace`, and then the end as replaced or the answer.
#[task]
fn replace(ctx: &Context, signature: String, end: String) -> Result<Value, TaskError> {
    if end == "replaced" {
        return Err(ctx.replace(serde_json::from_str(&signature)?));
    }
    let accepted = publisher::replace(&signature);
    match (accepted, end.as_str()) {
        (Ok(()), "trap") => panic!("after a replacement that was accepted"),
        (Ok(()), "twice") => Ok(answer(publisher::replace(&signature).map(|()| Value::Null))),
        (accepted, _) => Ok(answer(accepted.map(|()| Value::Null))),
    }
}

/// `publisher.add-to-chord`.
#[task]
fn add(signature: String) -> Value {
    answer(publisher::add_to_chord(&signature).map(parsed))
}

/// A function of `results`.
#[task]
fn results_of(
    what: String,
    id: String,
    #[default(String::new())] text: String,
    #[default(String::new())] state: String,
) -> Value {
    let none = |()| Value::Null;
    answer(match what.as_str() {
        "get" => results::get(&id).map(|document| document.map_or(Value::Null, parsed)),
        "store" => results::store(&id, &state, &text, None).map(none),
        "forget" => results::forget(&id).map(none),
        "save" => results::save_group(&id, &text).map(none),
        "restore" => results::restore_group(&id).map(|tuple| tuple.map_or(Value::Null, parsed)),
        "size" => results::set_chord_size(&id, 3).map(none),
        other => panic!("{other} is no function"),
    })
}

/// Sends a task, stores a result for it and forgets it.
#[task]
fn own_results(signature: String) -> Result<Vec<Value>, TaskError> {
    let tuple: Value =
        serde_json::from_str(&publisher::apply(&signature, "[]", "{}", "{}").expect("it is sent"))?;
    let id = tuple[0][0].as_str().expect("an id");
    let none = |()| Value::Null;
    Ok(vec![
        answer(results::store(id, "PROGRESS", "[1]", None).map(none)),
        answer(results::get(id).map(|document| document.map_or(Value::Null, parsed))),
        answer(results::store(id, "FAILURE", "[1]", None).map(none)),
        answer(results::forget(id).map(none)),
    ])
}

/// An errback of three arguments: applies a signature to the id of the task that failed and the name of its error as one
/// list, and tries to be replaced by it.
#[task(errback)]
fn pass_on(request: Value, exc: Value, _traceback: Option<String>, #[keyword_only] signature: String) {
    let args = json!([[request["id"], exc["exc_type"]]]).to_string();
    let sent = answer(publisher::apply(&signature, &args, "{}", "{}").map(parsed));
    let replaced = answer(publisher::replace(&signature).map(|()| Value::Null));
    println!("passed on: {}; replaced: {}", sent[0], replaced[0]);
}

tasks![
    apply,
    flood,
    large,
    publish,
    replace,
    add,
    results_of,
    own_results,
    pass_on
];
