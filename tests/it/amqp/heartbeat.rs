//! Heartbeats while all processors are busy.

use std::time::Duration;

use celerybox_tests::{Place, Worker, python_with, send};
use serde_json::json;

/// 64 endless tasks for several heartbeats: the connection stays, and the worker takes and runs the next task.
#[test]
fn endless_tasks_do_not_keep_the_heart_from_beating() {
    let place = Place::amqp();
    let settings = json!({"broker_heartbeat": 2, "worker_prefetch_multiplier": 1});
    let worker = Worker::start(&place, &settings, &["-c", "66"]);
    send(&place, "spin.forever", 64, &json!([]), &json!({"time_limit": 60}));
    celerybox_tests::within(Duration::from_secs(60), "all of them run", || {
        (worker.count_lines("] received") == 64).then_some(())
    });
    // RabbitMQ hangs up after two heartbeats without a sign of life.
    std::thread::sleep(Duration::from_secs(8));
    let arguments = ["arithmetic.add", "[2, 3]"];
    assert_eq!(python_with(&place, &json!({}), "call.py", &arguments), json!(5));
    assert_eq!(worker.count_lines("Connection to broker lost"), 0);
    assert_eq!(worker.count_lines("] received"), 65);
}
