//! Tasks that send tasks: what a component is granted, what it is refused, and what becomes of what it sends.

mod cli;
mod hostile;
mod sdk;
mod workflows;

use celerybox_tests::{Place, Worker, python};
use serde_json::{Value, json};

/// A worker in which `sender` may send to some queues, and `workflow` to its own.
fn worker(place: &Place, settings: Value) -> Worker {
    let mut all = json!({
        "component": {
            "sender": {
                "send_to": {"queues": ["celery", "python", "granted-*"], "tasks": ["probe.*", "arithmetic.*", "sender.*"]},
                "results": true,
            },
            "workflow": {"send_to": {"queues": ["celery"], "tasks": ["workflow.*"]}, "results": true},
        },
    });
    for (name, value) in settings.as_object().into_iter().flatten() {
        all[name] = value.clone();
    }
    Worker::command_started(place, &all, &["-c", "4", "-Q", "celery,granted-1"])
}

/// Calls a task from Python and waits for its value.
fn call(place: &Place, task: &str, args: Value) -> Value {
    python(place, "sending.py", &["call", task, &args.to_string()])
}

/// Waits for results from Python: a value, or `["FAILURE", "repr"]`.
fn results(place: &Place, ids: &[&str]) -> Vec<Value> {
    let ids = json!(ids).to_string();
    let found = python(place, "sending.py", &["results", &ids]);
    found.as_array().expect("a list").clone()
}

/// Applies a signature through the guest `sender`: the result tuple, or `[kind, text]`.
fn apply(place: &Place, signature: &Value) -> Result<Value, (String, String)> {
    answer(call(place, "sender.apply", json!([signature.to_string()])))
}

fn answer(answered: Value) -> Result<Value, (String, String)> {
    match answered[0].as_str() {
        Some("ok") => Ok(answered[1].clone()),
        Some(kind) => Err((
            kind.to_owned(),
            answered[1].as_str().unwrap_or_default().to_owned(),
        )),
        None => panic!("{answered} is no answer"),
    }
}

fn task(name: &str, args: Value) -> Value {
    json!({"task": name, "args": args, "kwargs": {}, "options": {}, "subtask_type": null, "immutable": false})
}

/// The same with options.
fn with(mut signature: Value, options: Value) -> Value {
    signature["options"] = options;
    signature
}

fn composite(kind: &str, tasks: Vec<Value>) -> Value {
    json!({"task": format!("celery.{kind}"), "args": [], "kwargs": {"tasks": tasks}, "options": {}, "subtask_type": kind,
        "immutable": false})
}

fn chord(header: Vec<Value>, body: Value) -> Value {
    json!({"task": "celery.chord", "args": [], "kwargs": {"kwargs": {}, "header": header, "body": body}, "options": {},
        "subtask_type": "chord", "immutable": false})
}
