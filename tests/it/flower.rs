//! Flower against a fleet of one worker of ours and one of Celery's, its buttons pressed in a browser (contract section 7.6).

use std::time::Duration;

use celerybox_tests::{Place, Worker, flower};
use serde_json::json;

fn looked_at(place: &Place) {
    let _theirs = Worker::python_in_full(
        place,
        &json!({}),
        &["-c", "1", "-n", "theirs@test", "-Q", "theirs"],
    );
    let mut ours = Worker::command_started(place, &json!({}), &["-c", "2", "-n", "ours@test"]);
    flower(place, &["ours@test", "theirs@test"]);
    // The last button was its shutdown.
    let status = ours.wait(Duration::from_secs(60));
    assert!(status.success(), "{status}");
}

#[test]
fn redis_a_worker_is_seen_and_steered() {
    looked_at(&Place::redis());
}

#[test]
fn amqp_a_worker_is_seen_and_steered() {
    looked_at(&Place::amqp());
}
