//! Two workers on one queue: ours beside a real Celery worker, and what one leaves behind when it is killed.

use std::time::Duration;

use celerybox_tests::{Place, Reply, Worker, eventually, send, within};
use serde_json::{Value, json};

/// Late acknowledgements are the task's own option. A short visibility timeout, so that Redis gives back soon what a
/// killed worker held; RabbitMQ sees the connection close.
fn settings(place: &Place) -> Value {
    let mut settings = json!({"result_extended": true, "worker_prefetch_multiplier": 4});
    if place.broker_url().starts_with("redis") {
        settings["broker_transport_options"] = json!({"visibility_timeout": 3});
    }
    settings
}

/// The node names that the stored results of these tasks name, each with its number of tasks.
fn share(place: &Place, ids: &[String], node: &str) -> usize {
    let stored = place.results().stored(ids);
    let of_node = |document: &&Value| document["worker"] == node;
    stored.iter().filter(of_node).count()
}

/// Celery gives back what a killed worker held on Redis in portions of ten messages every ten seconds: it may take long.
fn all_succeed(place: &Place, ids: &[String]) {
    within(Duration::from_secs(150), "every task has a SUCCESS", || {
        (place.results().count_state(ids, "SUCCESS") == ids.len()).then_some(())
    });
}

/// Both get messages from the same queue, and all are answered.
fn both_take_part(place: &Place) {
    let ours = Worker::start(place, &settings(place), &["-c", "2", "-n", "ours@test"]);
    let theirs = Worker::python(place, &settings(place), &["-c", "2", "-n", "theirs@test"]);
    let ids = send(place, "probe.late", 200, &json!([0.02]), &json!({}));
    all_succeed(place, &ids);
    let (left, right) = (share(place, &ids, "ours@test"), share(place, &ids, "theirs@test"));
    assert_eq!(left + right, 200);
    assert!(left >= 20 && right >= 20, "ours did {left}, theirs {right}");
    drop((ours, theirs));
    eventually("nothing waits, nothing is unacknowledged", || {
        place.queue() == (0, 0)
    });
}

/// One is killed while it holds messages; the other one gets and does them.
fn one_inherits(place: &Place, mut killed: Worker, heir: impl FnOnce() -> Worker, name: &str) {
    let ids = send(place, "probe.late", 60, &json!([0.3]), &json!({}));
    eventually("the first has done some", || share(place, &ids, name) >= 3);
    killed.kill();
    let before = place.results().count_state(&ids, "SUCCESS");
    assert!(before < 60, "the first was killed too late to show anything");
    let ids = if name == "theirs@test" {
        not_lost_by_celery(place, ids)
    } else {
        ids
    };
    let _heir = heir();
    all_succeed(place, &ids);
}

/// Celery pops a message from Redis and then records it: what it had popped and not recorded when it was killed is lost
/// to everybody (contract section 2.2.4). That is one message at most, and none of it is ours to inherit.
fn not_lost_by_celery(place: &Place, ids: Vec<String>) -> Vec<String> {
    if !place.broker_url().starts_with("redis") {
        return ids;
    }
    let server = place.results();
    let mut there = String::new();
    for words in [&["LRANGE", "celery", "0", "-1"][..], &["HVALS", "unacked"]] {
        if let Reply::List(replies) = server.command(words) {
            there.extend(replies.iter().map(Reply::text));
        }
    }
    let exists = |id: &String| {
        there.contains(id.as_str()) || server.count_state(std::slice::from_ref(id), "SUCCESS") == 1
    };
    let left: Vec<String> = ids.iter().filter(|id| exists(id)).cloned().collect();
    assert!(
        left.len() + 1 >= ids.len(),
        "{} of {} are left",
        left.len(),
        ids.len()
    );
    left
}

fn ours_is_killed(place: &Place) {
    let ours = Worker::start(place, &settings(place), &["-c", "2", "-n", "ours@test"]);
    let heir = || Worker::python(place, &settings(place), &["-c", "4", "-n", "theirs@test"]);
    one_inherits(place, ours, heir, "ours@test");
}

fn theirs_is_killed(place: &Place) {
    let theirs = Worker::python(place, &settings(place), &["-c", "2", "-n", "theirs@test"]);
    let heir = || Worker::start(place, &settings(place), &["-c", "4", "-n", "ours@test"]);
    one_inherits(place, theirs, heir, "theirs@test");
}

#[test]
fn redis_both_take_part() {
    both_take_part(&Place::redis());
}

#[test]
fn amqp_both_take_part() {
    both_take_part(&Place::amqp());
}

#[test]
fn redis_ours_is_killed_and_theirs_finishes() {
    ours_is_killed(&Place::redis());
}

#[test]
fn amqp_ours_is_killed_and_theirs_finishes() {
    ours_is_killed(&Place::amqp());
}

#[test]
fn redis_theirs_is_killed_and_ours_finishes() {
    theirs_is_killed(&Place::redis());
}

#[test]
fn amqp_theirs_is_killed_and_ours_finishes() {
    theirs_is_killed(&Place::amqp());
}

/// A folder has no unacknowledged messages that survive a kill, for Celery neither; sharing works.
#[test]
fn files_both_take_part() {
    let place = Place::files();
    let ours = Worker::start(&place, &json!({}), &["-c", "2", "-n", "ours@test"]);
    let theirs = Worker::python(&place, &json!({}), &["-c", "2", "-n", "theirs@test"]);
    let ids = send(&place, "probe.late", 60, &json!([0.1]), &json!({}));
    eventually("both have done some", || {
        ours.count_lines("succeeded") >= 5 && theirs.count_lines("succeeded") >= 5
    });
    eventually("every task has a SUCCESS", || {
        ids.iter().all(|id| place.file_result(id)["status"] == "SUCCESS")
    });
    assert_eq!(place.queue(), (0, 0));
}

/// The kill drill: a thousand late-acked tasks, the worker is killed in the middle, another one finishes.
fn kill_drill(place: &Place) {
    // Sent before: on a busy machine sending may take as long as the tasks do.
    let ids = send(place, "probe.late", 1000, &json!([0.05]), &json!({}));
    let mut first = Worker::start(place, &settings(place), &["-c", "8", "-n", "first@test"]);
    eventually("a part is done", || share(place, &ids, "first@test") >= 200);
    first.kill();
    let before = place.results().count_state(&ids, "SUCCESS");
    assert!(before < 1000, "the first was killed too late to show anything");
    let second = Worker::start(place, &settings(place), &["-c", "8", "-n", "second@test"]);
    all_succeed(place, &ids);
    assert!(share(place, &ids, "second@test") >= 1000 - before);
    drop(second);
}

#[test]
fn redis_a_thousand_tasks_survive_a_kill() {
    kill_drill(&Place::redis());
}

#[test]
fn amqp_a_thousand_tasks_survive_a_kill() {
    kill_drill(&Place::amqp());
}
