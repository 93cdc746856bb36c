//! Settings that a whole worker shows, from the file, with the real client. Those that need a look inside are tested where
//! they are decided.

use celerybox_tests::{Place, Worker, eventually, send};
use serde_json::{Value, json};

fn start(place: &Place, settings: Value) -> Worker {
    Worker::start(place, &settings, &[])
}

fn state_is(place: &Place, ids: &[String], state: &str) {
    eventually(state, || place.results().count_state(ids, state) == ids.len());
}

/// Contract section 3.11. A client that says nothing of it leaves it to the worker.
#[test]
fn results_are_ignored_and_errors_stored_all_the_same() {
    let place = Place::redis();
    let settings = json!({"task_ignore_result": true, "task_store_errors_even_if_ignored": true, "task_track_started": true});
    let _worker = start(&place, settings);
    let fine = send(&place, "probe.sleep", 1, &json!([0]), &json!({}));
    let told = send(
        &place,
        "arithmetic.add",
        1,
        &json!([2, 3]),
        &json!({"ignore_result": false}),
    );
    let wrong = send(&place, "probe.fail", 1, &json!(["no"]), &json!({}));
    state_is(&place, &wrong, "FAILURE");
    state_is(&place, &told, "SUCCESS");
    assert_eq!(place.results().stored(&fine), [] as [Value; 0]);
}

#[test]
fn errors_of_ignored_results_are_not_stored() {
    let place = Place::redis();
    let mut worker = start(&place, json!({"task_ignore_result": true}));
    let wrong = send(&place, "probe.fail", 1, &json!(["no"]), &json!({}));
    worker.wait_for_line("raised unexpected");
    let told = send(
        &place,
        "arithmetic.add",
        1,
        &json!([2, 3]),
        &json!({"ignore_result": false}),
    );
    state_is(&place, &told, "SUCCESS");
    assert_eq!(place.results().stored(&wrong), [] as [Value; 0]);
}

/// While a task runs whose acknowledgement is late, its message is not acknowledged.
#[test]
fn acknowledgements_are_late_and_states_tell_of_the_start() {
    let place = Place::redis();
    let _worker = start(
        &place,
        json!({"task_acks_late": true, "task_track_started": true}),
    );
    let ids = send(&place, "probe.sleep", 1, &json!([2]), &json!({}));
    state_is(&place, &ids, "STARTED");
    assert_eq!(place.results().unacked(), 1);
    state_is(&place, &ids, "SUCCESS");
    eventually("it is acknowledged", || place.results().unacked() == 0);
}

#[test]
fn time_limits_hold_for_tasks_that_have_none() {
    let place = Place::redis();
    let settings = json!({"task_time_limit": 2, "task_soft_time_limit": 0.5, "worker_concurrency": 2});
    let _worker = start(&place, settings);
    let soft = send(&place, "probe.soft", 1, &json!([]), &json!({}));
    let hard = send(&place, "spin.forever", 1, &json!([]), &json!({}));
    state_is(&place, &soft, "SUCCESS");
    state_is(&place, &hard, "FAILURE");
    assert_eq!(
        place.results().stored(&hard)[0]["result"]["exc_type"],
        "TimeLimitExceeded"
    );
}

/// Two slots, two messages for each: two run, two more are held, the rest stays in the queue.
#[test]
fn slots_and_prefetch_are_as_they_are_set() {
    let place = Place::redis();
    let settings = json!({"worker_concurrency": 2, "worker_prefetch_multiplier": 2, "task_acks_late": true, "task_track_started": true});
    let _worker = start(&place, settings);
    let ids = send(&place, "probe.sleep", 8, &json!([1.5]), &json!({}));
    eventually("two run", || place.results().count_state(&ids, "STARTED") == 2);
    eventually("four are held", || place.queue() == (4, 4));
    state_is(&place, &ids, "SUCCESS");
}

/// Tasks that wait for their ETA are held beyond the prefetch count, up to this many.
#[test]
fn messages_that_wait_are_limited() {
    let place = Place::redis();
    let settings =
        json!({"worker_concurrency": 1, "worker_prefetch_multiplier": 1, "worker_eta_task_limit": 3});
    let _worker = start(&place, settings);
    send(
        &place,
        "arithmetic.add",
        6,
        &json!([1, 1]),
        &json!({"countdown": 600}),
    );
    eventually("three are held", || place.queue() == (3, 3));
}

/// Results and failures are kept for their own times.
#[test]
fn results_expire() {
    let place = Place::redis();
    let _worker = start(
        &place,
        json!({"result_expires": 5000, "result_failure_expires": 300}),
    );
    let fine = send(&place, "arithmetic.add", 1, &json!([1, 1]), &json!({}));
    let wrong = send(&place, "probe.fail", 1, &json!(["no"]), &json!({}));
    state_is(&place, &fine, "SUCCESS");
    state_is(&place, &wrong, "FAILURE");
    let left = |id: &String| {
        place
            .results()
            .command(&["TTL", &format!("celery-task-meta-{id}")])
            .integer()
    };
    assert!((4900..=5000).contains(&left(&fine[0])), "{}", left(&fine[0]));
    assert!((200..=300).contains(&left(&wrong[0])), "{}", left(&wrong[0]));
}

/// The queue that is consumed when none is named, and sent to by `celerybox call`.
#[test]
fn the_default_queue_has_another_name() {
    let place = Place::redis();
    let _worker = start(&place, json!({"task_default_queue": "mail"}));
    let ids = send(
        &place,
        "arithmetic.add",
        1,
        &json!([1, 1]),
        &json!({"queue": "mail"}),
    );
    state_is(&place, &ids, "SUCCESS");
}
