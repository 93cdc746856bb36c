//! Queues behind exchanges of every type, with the same settings on both sides: Python sends and we run, we send and
//! Python runs.

use std::process::Command;

use celerybox_tests::{Place, Worker, celerybox, python_with};
use serde_json::{Value, json};

fn settings() -> Value {
    json!({
        "task_queues": {
            "plain": {},
            "feeds": {"exchange": "media", "exchange_type": "topic", "routing_key": "feed.#"},
            "clips": {"exchange": "media2", "exchange_type": "direct", "routing_key": "clip"},
            "everybody": {"exchange": "all", "exchange_type": "fanout"},
        },
        "task_default_queue": "plain",
        "task_routes": {"arithmetic.mul": {"queue": "feeds", "routing_key": "feed.sport"}},
    })
}

/// Sends a task to each queue, with the options that lead there, and sees its result.
fn every_way(place: &Place) {
    for options in [
        json!({}),
        json!({"queue": "feeds", "routing_key": "feed.news"}),
        json!({"exchange": "media2", "routing_key": "clip"}),
        json!({"queue": "clips"}),
        json!({"queue": "everybody"}),
    ] {
        let arguments = ["arithmetic.add", "[2, 3]", &options.to_string()];
        assert_eq!(
            python_with(place, &settings(), "call.py", &arguments),
            json!(5),
            "{options}"
        );
    }
    assert_eq!(
        python_with(place, &settings(), "call.py", &["arithmetic.mul", "[2, 3]"]),
        json!(6)
    );
}

#[test]
fn python_sends_and_we_run_on_redis() {
    let place = Place::redis();
    let _worker = Worker::start(&place, &settings(), &["-c", "2"]);
    every_way(&place);
}

#[test]
fn python_sends_and_we_run_on_rabbitmq() {
    let place = Place::amqp();
    let _worker = Worker::start(&place, &settings(), &["-c", "2"]);
    every_way(&place);
    // Elsewhere a client has to declare the exchange before it knows its type.
    let options = r#"{"exchange": "media", "exchange_type": "topic", "routing_key": "feed.a.b"}"#;
    let arguments = ["arithmetic.add", "[2, 3]", options];
    assert_eq!(python_with(&place, &settings(), "call.py", &arguments), json!(5));
}

#[test]
fn python_sends_and_we_run_with_files() {
    let place = Place::files();
    let _worker = Worker::start(&place, &settings(), &["-c", "2"]);
    every_way(&place);
}

/// `celerybox call` with settings that are not a table of names in alphabetical order.
fn we_send_and_python_runs(place: &Place) {
    let file = place.folder().join("call.toml");
    std::fs::write(
        &file,
        r#"
        task_default_queue = "plain"
        task_routes = { "arithmetic.m*" = { queue = "feeds", routing_key = "feed.sport" }, "*" = "everybody" }
        [task_queues]
        plain = {}
        feeds = { exchange = "media", exchange_type = "topic", routing_key = "feed.#" }
        everybody = { exchange = "all", exchange_type = "fanout" }
        "#,
    )
    .unwrap();
    let run = |command: &str, arguments: &[&str]| {
        let mut process = Command::new(celerybox());
        process.arg(command).args(arguments).arg("--config").arg(&file);
        let output = process.args(place.arguments()).output().unwrap();
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    };
    let _worker = Worker::python(place, &settings(), &["-c", "2", "--pool", "threads"]);
    for (task, sum) in [("arithmetic.mul", "6"), ("arithmetic.add", "5")] {
        let id = run("call", &[task, "-a", "[2, 3]"]);
        assert_eq!(run("result", &[&id]), sum, "{task}");
    }
}

#[test]
fn we_send_and_python_runs_on_redis() {
    we_send_and_python_runs(&Place::redis());
}

#[test]
fn we_send_and_python_runs_on_rabbitmq() {
    we_send_and_python_runs(&Place::amqp());
}

#[test]
fn we_send_and_python_runs_with_files() {
    we_send_and_python_runs(&Place::files());
}
