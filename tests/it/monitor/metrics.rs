//! What Prometheus is told of tasks, sandboxes and the worker.

use std::net::SocketAddr;

use celerybox_tests::{Place, Worker, eventually, send};
use serde_json::json;

use super::{get, value, watched};

/// Sends one of everything that is counted, and waits until all of it is.
pub(super) fn one_of_everything(place: &Place, address: SocketAddr) -> String {
    let sent = [
        ("arithmetic.add", 3, json!([2, 3]), json!({})),
        ("probe.fail", 2, json!(["no"]), json!({})),
        ("probe.retry", 1, json!([1, 0.0]), json!({})),
        ("probe.reject", 1, json!(["no"]), json!({})),
        ("probe.ignore", 1, json!([]), json!({})),
        (
            "arithmetic.add",
            1,
            json!([2, 3]),
            json!({"expires": "2020-01-01T00:00:00Z"}),
        ),
        (
            "spin.forever",
            1,
            json!([]),
            json!({"time_limit": 1, "soft_time_limit": 0.5}),
        ),
        ("hog.memory", 1, json!([null]), json!({})),
        ("hog.print", 1, json!([1_000_000]), json!({})),
        ("no.such.task", 1, json!([]), json!({})),
    ];
    for (task, number, args, options) in &sent {
        send(place, task, *number, args, options);
    }
    let mut text = String::new();
    eventually("everything is counted", || {
        text = get(address, "/metrics").1;
        let sum = |name: &str, labels: &[(&str, &str)]| value(&text, name, labels).unwrap_or(0.0);
        let ended: f64 = ["succeeded", "failed", "retried", "rejected", "revoked"]
            .iter()
            .map(|state| sum(&format!("celery_task_{state}_total"), &[]))
            .sum();
        let ended = ended + sum("celerybox_task_set_aside_total", &[]);
        sum("celery_task_received_total", &[]) == 13.0
            && ended == 13.0
            && sum("celerybox_messages_refused_total", &[("reason", "unregistered")]) == 1.0
    });
    text
}

fn tells_everything(place: &Place) {
    let (_worker, address) = watched(
        place,
        json!({"worker_prefetch_multiplier": 4}),
        &["-c", "2", "-n", "w@test"],
    );
    let text = one_of_everything(place, address);
    let of = |name: &str, task: &str| {
        let labels = [("name", task), ("queue_name", "celery"), ("hostname", "w@test")];
        value(&text, name, &labels)
    };
    let memory_limit = [("name", "hog.memory"), ("limit", "memory")];
    for (found, expected) in [
        (of("celery_task_received_total", "arithmetic.add"), 4.0),
        (of("celery_task_started_total", "arithmetic.add"), 3.0),
        (of("celery_task_succeeded_total", "arithmetic.add"), 3.0),
        (of("celery_task_failed_total", "arithmetic.add"), 0.0),
        (of("celery_task_revoked_total", "arithmetic.add"), 1.0),
        (of("celery_task_failed_total", "probe.fail"), 2.0),
        (of("celery_task_retried_total", "probe.retry"), 1.0),
        (of("celery_task_succeeded_total", "probe.retry"), 1.0),
        (of("celery_task_rejected_total", "probe.reject"), 1.0),
        (of("celerybox_task_set_aside_total", "probe.ignore"), 1.0),
        (of("celery_task_failed_total", "spin.forever"), 1.0),
        (of("celery_task_runtime_count", "arithmetic.add"), 3.0),
        (of("celerybox_task_wait_seconds_count", "arithmetic.add"), 3.0),
        (
            value(
                &text,
                "celerybox_sandbox_starts_total",
                &[("name", "arithmetic.add")],
            ),
            3.0,
        ),
        (
            value(&text, "celerybox_sandbox_instantiation_seconds_count", &[]),
            12.0,
        ),
        (
            value(&text, "celerybox_limits_hit_total", &[("limit", "time_limit")]),
            1.0,
        ),
        (
            value(
                &text,
                "celerybox_limits_hit_total",
                &[("limit", "soft_time_limit")],
            ),
            1.0,
        ),
        (
            value(&text, "celerybox_limits_hit_total", &[("limit", "output")]),
            1.0,
        ),
        (value(&text, "celerybox_limits_hit_total", &memory_limit), 1.0),
        (value(&text, "celerybox_pool_slots", &[]), 2.0),
        (value(&text, "celerybox_pool_slots_used", &[]), 0.0),
        (value(&text, "celerybox_prefetch_count", &[]), 8.0),
        (value(&text, "celerybox_broker_up", &[]), 1.0),
        (value(&text, "celerybox_backend_up", &[]), 1.0),
        (value(&text, "celerybox_broker_reconnects_total", &[]), 0.0),
        (value(&text, "celery_worker_up", &[("hostname", "w@test")]), 1.0),
        // No sender makes a label of its own.
        (
            value(&text, "celery_task_received_total", &[("name", "no.such.task")]).or(Some(0.0)),
            0.0,
        ),
    ] {
        assert_eq!(found, Some(expected), "{text}");
    }
    let runtime = of("celery_task_runtime_sum", "spin.forever").unwrap();
    assert!((1.0..30.0).contains(&runtime), "{runtime}");
    let most = value(
        &text,
        "celerybox_sandbox_memory_high_water_bytes",
        &[("name", "hog.memory")],
    )
    .unwrap();
    assert!((64.0 * 1e6..=128.0 * 1024.0 * 1024.0).contains(&most), "{most}");
    assert!(value(&text, "process_resident_memory_bytes", &[]).unwrap() > 1e6);
}

#[test]
fn redis_tells_what_became_of_tasks() {
    tells_everything(&Place::redis());
}

#[test]
fn amqp_tells_what_became_of_tasks() {
    tells_everything(&Place::amqp());
}

/// Nothing listens unless it is asked for.
#[test]
fn nothing_listens_by_default() {
    let place = Place::files();
    let worker = Worker::command_started(&place, &json!({}), &[]);
    assert_eq!(worker.count_lines("Metrics at"), 0);
}

#[test]
fn options_name_port_and_address() {
    let place = Place::files();
    let arguments = ["--metrics-port", "0", "--metrics-address", "127.0.0.2"];
    let mut worker = Worker::command_started(&place, &json!({}), &arguments);
    let line = worker.wait_for_line("Metrics at http://127.0.0.2:");
    let (_, rest) = line.split_once("http://").unwrap();
    let address = rest.strip_suffix("/metrics").unwrap().parse().unwrap();
    assert_eq!(get(address, "/health/live").0, 200);
}
