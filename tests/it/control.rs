//! Remote control, with the real client: `celery inspect` and its relatives see our worker (contract section 6).

use std::time::Duration;

use celerybox_tests::{Place, Worker, python, send};
use serde_json::json;

fn answers(place: &Place) {
    let mut worker = Worker::start(place, &json!({}), &["-c", "1", "-n", "w1@test"]);
    // Each name is a function of the script.
    python(place, "control.py", &["ping", "who_is_meant", "hostile"]);
    send(place, "probe.sleep", 2, &json!([600]), &json!({}));
    python(place, "control.py", &["busy", "command_line"]);
    assert!(worker.runs());
    python(place, "control.py", &["shutdown"]);
    worker.wait(Duration::from_secs(60));
}

#[test]
fn redis() {
    answers(&Place::redis());
}

#[test]
fn amqp() {
    answers(&Place::amqp());
}

#[test]
fn files() {
    answers(&Place::files());
}

/// `worker_enable_remote_control` off: nobody answers.
#[test]
fn a_worker_may_have_no_mailbox() {
    let place = Place::redis();
    let settings = json!({"worker_enable_remote_control": false});
    let _worker = Worker::start(&place, &settings, &["-n", "w1@test"]);
    python(&place, "control.py", &["silence"]);
}
