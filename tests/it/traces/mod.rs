//! OpenTelemetry: a task's run is a span of the trace that its client began, and so is what it sends.

use std::process::Command;
use std::time::{Duration, Instant};

use celerybox_tests::{Collector, Place, Signal, Span, Worker, eventually, send, within};
use serde_json::{Value, json};

use crate::golden;

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const CLIENT: &str = "b7ad6b7169203331";

/// What an instrumented client's message has (`tests/cases/wire/task-v2-opentelemetry.json`).
fn instrumented() -> Value {
    json!({
        "traceparent": format!("00-{TRACE}-{CLIENT}-01"),
        "tracestate": "vendor=opaque",
        "baggage": "tenant=blue",
    })
}

fn worker(place: &Place, settings: &Value, prepare: impl FnOnce(&mut Command)) -> Worker {
    let mut command = Worker::command(place, settings);
    command
        .args(["-c", "2", "-n", "w@test"])
        .env("OTEL_BSP_SCHEDULE_DELAY", "50");
    for name in [
        "OTEL_EXPORTER_OTLP_ENDPOINT",
        "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT",
        "OTEL_SERVICE_NAME",
    ] {
        command.env_remove(name);
    }
    prepare(&mut command);
    Worker::run("celerybox worker", &mut command)
}

fn spans(collector: &Collector, number: usize) -> Vec<Span> {
    let mut spans = within(Duration::from_secs(60), &format!("{number} spans"), || {
        let spans = collector.spans();
        (spans.len() >= number).then_some(spans)
    });
    spans.sort_by_key(|span| span.start);
    spans
}

#[test]
fn a_client_writes_the_headers_that_are_read_here() {
    let samples = golden::of("task-v2-opentelemetry");
    let headers = samples[0].headers();
    assert!(
        headers["traceparent"]
            .as_str()
            .unwrap()
            .starts_with(&format!("00-{TRACE}-"))
    );
    assert_eq!(headers["tracestate"], "vendor=opaque");
    let trace = samples[0].decode().unwrap().trace_headers();
    assert_eq!(trace.len(), 3, "{trace:?}");
    assert_eq!(trace["baggage"], "tenant=blue");
}

fn run_and_chain(place: &Place, system: &str) {
    let collector = Collector::start();
    let endpoint = format!("http://{}/v1/traces", collector.address());
    let settings = json!({"traces": {"endpoint": endpoint, "headers": {"x-token": "secret"}}});
    let _worker = worker(place, &settings, |command| {
        command.env("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment=test");
    });
    let next =
        json!({"task": "arithmetic.add", "args": [4], "kwargs": {}, "options": {}, "immutable": false});
    let options = json!({"headers": instrumented(), "chain": [next]});
    let ids = send(place, "arithmetic.add", 1, &json!([2, 3]), &options);
    let found = spans(&collector, 2);
    let (first, second) = (&found[0], &found[1]);
    assert_eq!((first.name.as_str(), first.kind), ("run/arithmetic.add", 5));
    assert_eq!((first.trace.as_str(), first.parent.as_str()), (TRACE, CLIENT));
    assert_eq!((&second.trace, &second.parent), (&first.trace, &first.id));
    assert_ne!(first.id, second.id);
    assert!(first.start < first.end && first.end <= second.start, "{found:?}");
    for (name, expected) in [
        ("messaging.system", system),
        ("messaging.destination.name", "celery"),
        ("messaging.operation.type", "process"),
        ("messaging.operation.name", "run"),
        ("messaging.message.id", &ids[0]),
        ("messaging.message.conversation_id", &ids[0]),
        ("celery.action", "run"),
        ("celery.task_name", "arithmetic.add"),
        ("celery.state", "SUCCESS"),
        ("celery.hostname", "w@test"),
    ] {
        assert_eq!(
            first.attributes.get(name).map(String::as_str),
            Some(expected),
            "{name}"
        );
    }
    for (name, expected) in [
        ("service.name", "celerybox"),
        ("service.instance.id", "w@test"),
        ("deployment.environment", "test"),
    ] {
        assert_eq!(
            first.resource.get(name).map(String::as_str),
            Some(expected),
            "{name}"
        );
    }
    let head = collector.heads().remove(0).to_lowercase();
    assert!(
        head.starts_with("post /v1/traces ") && head.contains("x-token: secret"),
        "{head}"
    );
}

#[test]
fn redis_a_run_and_its_chain_are_in_the_trace_of_the_client() {
    run_and_chain(&Place::redis(), "redis");
}

#[test]
fn amqp_a_run_and_its_chain_are_in_the_trace_of_the_client() {
    run_and_chain(&Place::amqp(), "rabbitmq");
}

/// The standard variables; failures and retries; a task that sends another.
#[test]
fn failures_and_retries_are_told() {
    let place = Place::redis();
    let collector = Collector::start();
    let mut worker = worker(&place, &json!({}), |command| {
        command
            .env(
                "OTEL_EXPORTER_OTLP_ENDPOINT",
                format!("http://{}", collector.address()),
            )
            .env("OTEL_EXPORTER_OTLP_HEADERS", "authorization=Bearer%20t")
            .env("OTEL_SERVICE_NAME", "shop");
    });
    send(
        &place,
        "probe.fail",
        1,
        &json!(["no funds"]),
        &json!({"headers": instrumented()}),
    );
    let failed = &spans(&collector, 1)[0];
    assert_eq!(
        (failed.status, failed.status_message.as_str()),
        (2, "('no funds', 7)")
    );
    assert_eq!(failed.attributes["celery.state"], "FAILURE");
    let (event, said) = &failed.events[0];
    assert_eq!(event, "exception");
    assert_eq!(said["exception.message"], failed.status_message);
    assert!(said["exception.stacktrace"].contains("no funds"));
    assert_eq!(said["exception.type"], failed.attributes["error.type"]);
    assert_eq!(failed.resource["service.name"], "shop");
    assert!(
        collector.heads()[0]
            .to_lowercase()
            .contains("authorization: bearer t")
    );

    send(
        &place,
        "probe.retry",
        1,
        &json!([1, 0.0]),
        &json!({"headers": instrumented()}),
    );
    let found = spans(&collector, 3);
    let (first, second) = (&found[1], &found[2]);
    assert_eq!(
        (first.attributes["celery.state"].as_str(), first.status),
        ("RETRY", 0)
    );
    assert!(first.attributes.contains_key("celery.retry.reason"));
    assert_eq!((&second.trace, &second.parent), (&first.trace, &first.id));
    assert_eq!(second.attributes["celery.retries"], "1");

    // Without headers it is a trace of its own.
    send(&place, "arithmetic.add", 1, &json!([1, 1]), &json!({}));
    let own = &spans(&collector, 4)[3];
    assert!(own.parent.is_empty() && own.trace != TRACE, "{own:?}");
    // What is left is sent at the end.
    worker.signal(Signal::TERM);
    assert!(worker.wait(Duration::from_secs(60)).success());
}

/// A task sends others in two ways; what it replaces itself with is a third.
#[test]
fn what_a_task_sends_is_its_child() {
    let place = Place::redis();
    let collector = Collector::start();
    let endpoint = format!("http://{}/v1/traces", collector.address());
    let grants = json!({"sender": {"send_to": {"queues": ["celery"], "tasks": ["arithmetic.*"]}}});
    let worker = worker(
        &place,
        &json!({"traces": {"endpoint": endpoint}, "component": grants}),
        |_| {},
    );
    let signature = json!({"task": "arithmetic.add", "args": [1, 2]}).to_string();
    let headers = json!({"task": "arithmetic.add", "id": "raw-1"}).to_string();
    let body = "[[1, 2], {}, null]";
    for (task, args) in [
        ("sender.apply", json!([signature])),
        (
            "sender.publish",
            json!(["", "celery", headers, body, "application/json"]),
        ),
        ("sender.replace", json!([signature, "replaced"])),
    ] {
        send(&place, task, 1, &args, &json!({"headers": instrumented()}));
    }
    eventually("all are done", || worker.count_lines("Task arithmetic.add") == 6);
    let found = spans(&collector, 6);
    for sender in found.iter().filter(|span| span.name.starts_with("run/sender.")) {
        assert_eq!((sender.trace.as_str(), sender.parent.as_str()), (TRACE, CLIENT));
        let children = found.iter().filter(|span| span.parent == sender.id);
        let names: Vec<&str> = children.map(|span| span.name.as_str()).collect();
        assert_eq!(names, ["run/arithmetic.add"], "{}", sender.name);
    }
}

/// What the client does not sample is not sent, and neither is anything with the sampler that says so.
#[test]
fn what_is_not_sampled_is_not_sent() {
    let place = Place::redis();
    let collector = Collector::start();
    let settings = json!({"traces": {"endpoint": format!("http://{}/v1/traces", collector.address())}});
    let mut worker = worker(&place, &settings, |_| {});
    let unsampled = json!({"traceparent": format!("00-{TRACE}-{CLIENT}-00")});
    send(
        &place,
        "arithmetic.add",
        1,
        &json!([1, 1]),
        &json!({"headers": unsampled}),
    );
    send(
        &place,
        "arithmetic.mul",
        1,
        &json!([1, 1]),
        &json!({"headers": instrumented()}),
    );
    eventually("both are done", || worker.count_lines("succeeded") == 2);
    worker.signal(Signal::TERM);
    assert!(worker.wait(Duration::from_secs(60)).success());
    let names: Vec<String> = collector.spans().into_iter().map(|span| span.name).collect();
    assert_eq!(names, ["run/arithmetic.mul"]);

    let mut worker = self::worker(&place, &settings, |command| {
        command.env("OTEL_TRACES_SAMPLER", "always_off");
    });
    send(
        &place,
        "arithmetic.mul",
        1,
        &json!([1, 1]),
        &json!({"headers": instrumented()}),
    );
    eventually("it is done", || worker.count_lines("succeeded") == 1);
    worker.signal(Signal::TERM);
    assert!(worker.wait(Duration::from_secs(60)).success());
    assert_eq!(collector.spans().len(), 1);
}

/// A collector that is away, or never answers, disturbs neither tasks nor the end of the worker.
#[test]
fn a_collector_that_is_away_disturbs_nothing() {
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let place = Place::redis();
    for endpoint in [
        "http://127.0.0.1:9/v1/traces".to_owned(),
        format!("http://{}/v1/traces", silent.local_addr().unwrap()),
    ] {
        let settings = json!({"traces": {"endpoint": endpoint}});
        let mut worker = worker(&place, &settings, |command| {
            command
                .env("OTEL_BSP_MAX_QUEUE_SIZE", "10")
                .env("OTEL_EXPORTER_OTLP_TIMEOUT", "500");
        });
        send(
            &place,
            "arithmetic.add",
            100,
            &json!([1, 1]),
            &json!({"headers": instrumented()}),
        );
        eventually("all are done", || worker.count_lines("succeeded") == 100);
        worker.wait_for_line("takes no spans");
        let begun = Instant::now();
        worker.signal(Signal::TERM);
        assert!(worker.wait(Duration::from_secs(60)).success());
        assert!(begun.elapsed() < Duration::from_secs(40), "{:?}", begun.elapsed());
        assert_eq!(worker.count_lines("takes no spans"), 1, "once is enough");
    }
}
