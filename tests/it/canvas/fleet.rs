//! Workflows whose tasks our worker and a real Celery worker take as they come.

use std::panic::AssertUnwindSafe;

use celerybox_tests::{Place, Worker, check, python, python_of};
use serde_json::json;

/// Each check of these, until both workers had enough of it.
const CHECKS: [&str; 7] = [
    "link",
    "link_error",
    "chain_of_three",
    "chain_fails",
    "chain_ends_in_group",
    "lineage",
    "stamps",
];

fn both_take_part(place: &Place) {
    let settings = json!({"result_extended": true, "worker_prefetch_multiplier": 1});
    let ours = Worker::start(place, &settings, &["-c", "2", "-n", "ours@test"]);
    let theirs = Worker::python(place, &settings, &["-c", "2", "-n", "theirs@test"]);
    for name in CHECKS {
        check(place, name);
    }
    let shares = python(place, "canvas.py", &["shares", "ours@test", "theirs@test"]);
    let share = |worker: usize| shares[worker].as_u64().unwrap();
    assert!(share(0) > 10 && share(1) > 10, "{shares}");
    drop((ours, theirs));
}

#[test]
fn both_take_part_on_redis() {
    both_take_part(&Place::redis());
}

#[test]
fn both_take_part_on_rabbitmq() {
    both_take_part(&Place::amqp());
}

/// Workflows that go back and forth between our worker and one of an old line of Celery, from clients old and new.
fn with_a_worker_of(line: &str, place: &Place) {
    let ours = Worker::start(place, &json!({}), &["-c", "8", "-Q", "ours", "-n", "ours@test"]);
    let arguments = ["-c", "4", "-Q", "theirs", "-n", "theirs@test"];
    let theirs = Worker::python_of(line, place, &json!({}), &arguments);
    let held = std::panic::catch_unwind(AssertUnwindSafe(|| {
        python(place, "mixed.py", &["ours", "theirs"]);
        python_of(line, place, "mixed.py", &["ours", "theirs"]);
    }));
    if let Err(panic) = held {
        ours.print_log();
        theirs.print_log();
        std::panic::resume_unwind(panic);
    }
}

#[test]
fn workers_of_celery_5_2_take_part_on_redis() {
    with_a_worker_of("5.2", &Place::redis());
}

#[test]
fn workers_of_celery_5_2_take_part_on_rabbitmq() {
    with_a_worker_of("5.2", &Place::amqp());
}

#[test]
#[ignore = "an environment for each line: make fleets"]
fn workers_of_the_lines_since_take_part() {
    let lines = std::env::var("CELERYBOX_LINES").expect("make fleets sets it");
    for line in lines.split_whitespace() {
        println!("Celery {line}");
        with_a_worker_of(line, &Place::redis());
        with_a_worker_of(line, &Place::amqp());
    }
}

/// Contract section 4.5: an errback that a component of this worker declares is called here, without a message.
#[test]
fn an_errback_of_three_arguments_is_called_by_the_worker_itself() {
    let place = Place::redis();
    let mut worker = Worker::start(&place, &json!({}), &["-c", "1"]);
    check(&place, "link_error_called");
    worker.wait_for_line("ValueError\" true noted");
    assert_eq!(worker.count_lines("Task probe.told"), 0);
}
