//! Settings of section 3 that a whole worker shows.

use std::process::Stdio;
use std::time::Duration;

use celerybox_tests::{Place, Signal, Worker, against_real_celery, eventually, send};
use serde_json::json;

#[test]
fn annotations_change_what_components_declare() {
    if against_real_celery() {
        return; // The tasks are other ones there.
    }
    let place = Place::redis();
    let settings = json!({"task_annotations": {
        "*": {"time_limit": 60, "track_started": true},
        "probe.sleep": {"time_limit": 1},
    }});
    let _worker = Worker::start(&place, &settings, &["-c", "2"]);
    let limited = send(&place, "probe.sleep", 1, &json!([600]), &json!({}));
    let other = send(&place, "probe.late", 1, &json!([2]), &json!({}));
    eventually("the other one is started", || {
        place.results().count_state(&other, "STARTED") == 1
    });
    eventually("its limit ends it", || {
        place.results().count_state(&limited, "FAILURE") == 1
    });
    let failure = &place.results().stored(&limited)[0]["result"];
    assert_eq!(failure["exc_type"], "TimeLimitExceeded", "{failure}");
    eventually("the other one ends", || {
        place.results().count_state(&other, "SUCCESS") == 1
    });
}

#[test]
fn an_unknown_annotation_is_an_error_at_start() {
    let place = Place::redis();
    let settings = json!({"task_annotations": {"*": {"rate_limt": "1/s"}}});
    let output = Worker::command(&place, &settings)
        .stdin(Stdio::null())
        .output()
        .expect("it starts");
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(
        !output.status.success() && text.contains("did you mean rate_limit?"),
        "{text}"
    );
}

/// What is revoked (here: what came too late) is known to the next worker with the same file.
#[test]
fn revoked_tasks_outlive_the_worker() {
    if against_real_celery() {
        return; // Its file is another one.
    }
    let place = Place::redis();
    let settings = json!({"worker_state_db": place.folder().join("worker.state")});
    let mut worker = Worker::start(&place, &settings, &["-c", "1"]);
    let ids = send(
        &place,
        "arithmetic.add",
        1,
        &json!([1, 1]),
        &json!({"expires": -10}),
    );
    eventually("it is revoked", || {
        place.results().count_state(&ids, "REVOKED") == 1
    });
    worker.signal(Signal::TERM);
    assert!(worker.wait(Duration::from_secs(30)).success());
    let state = std::fs::read_to_string(place.folder().join("worker.state")).expect("it was written");
    assert!(state.contains(&ids[0]), "{state}");
    let mut next = Worker::start(&place, &settings, &["-c", "1"]);
    let options = json!({"task_id": ids[0]});
    send(&place, "arithmetic.add", 1, &json!([1, 1]), &options);
    next.wait_for_line(&format!("Discarding revoked task: arithmetic.add[{}]", ids[0]));
}

/// A line that a task prints without ending it is not lost.
#[test]
fn a_last_line_without_an_end_is_logged() {
    if against_real_celery() {
        return; // It has no such task.
    }
    let place = Place::redis();
    let mut worker = Worker::start(&place, &json!({}), &["-c", "1"]);
    send(&place, "probe.print", 1, &json!(["without an end"]), &json!({}));
    worker.wait_for_line("] without an end");
}

/// `worker_disable_prefetch`: what no slot is free for stays in the queue.
#[test]
fn without_prefetch_messages_stay_in_the_queue() {
    let place = Place::redis();
    let settings = json!({"worker_disable_prefetch": true, "task_track_started": true});
    let _worker = Worker::start(&place, &settings, &["-c", "2"]);
    let early = send(&place, "probe.sleep", 4, &json!([4]), &json!({}));
    eventually("two run", || place.results().count_state(&early, "STARTED") == 2);
    eventually("two wait in the queue", || place.queue() == (2, 0));
    eventually("all end", || place.results().count_state(&early, "SUCCESS") == 4);
}

/// Numbers that are in the environment only, as in Celery.
#[test]
fn what_has_no_setting_comes_from_the_environment() {
    if against_real_celery() {
        return; // Its file is another one.
    }
    let place = Place::redis();
    let file = place.folder().join("worker.state");
    let settings = json!({"worker_state_db": file});
    let mut command = Worker::command(&place, &settings);
    command.env("CELERY_WORKER_REVOKES_MAX", "2");
    let mut worker = Worker::run("celerybox worker", &mut command);
    let ids = send(
        &place,
        "arithmetic.add",
        3,
        &json!([1, 1]),
        &json!({"expires": -10}),
    );
    eventually("all are revoked", || {
        place.results().count_state(&ids, "REVOKED") == 3
    });
    worker.signal(Signal::TERM);
    assert!(worker.wait(Duration::from_secs(30)).success());
    let state = std::fs::read_to_string(&file).expect("it was written");
    let kept = ids.iter().filter(|id| state.contains(id.as_str()));
    assert_eq!(kept.count(), 2, "{state}");
    for name in [
        "CELERY_WORKER_REVOKES_MAX",
        "CELERY_WORKER_REVOKE_EXPIRES",
        "CELERY_WORKER_SUCCESSFUL_MAX",
        "CELERY_WORKER_SUCCESSFUL_EXPIRES",
        "AUTOSCALE_KEEPALIVE",
    ] {
        let mut command = Worker::command(&place, &settings);
        let output = command
            .env(name, "many")
            .stdin(Stdio::null())
            .output()
            .expect("it starts");
        let text = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && text.contains(name), "{name}: {text}");
    }
}

/// The worker's settings count where neither message nor task says otherwise.
#[test]
fn settings_count_for_tasks_that_say_nothing() {
    let place = Place::redis();
    let settings = json!({
        "task_acks_late": true,
        "task_track_started": true,
        "task_time_limit": 6,
        "task_soft_time_limit": 2,
        "task_ignore_result": false,
    });
    let mut worker = Worker::start(&place, &settings, &["-c", "3"]);
    let hard = send(&place, "spin.forever", 1, &json!([]), &json!({}));
    eventually("its acknowledgement is late", || place.queue() == (0, 1));
    let soft = send(&place, "probe.soft", 1, &json!([]), &json!({}));
    let own = send(&place, "probe.sleep", 1, &json!([600]), &json!({"time_limit": 1}));
    let ended = |ids: &[String], state| place.results().count_state(ids, state) == 1;
    eventually("the soft limit is seen", || ended(&soft, "SUCCESS"));
    eventually("the hard limits hold", || {
        ended(&hard, "FAILURE") && ended(&own, "FAILURE")
    });
    let limits = [&hard, &own].map(|ids| place.results().stored(ids)[0]["result"]["exc_message"].clone());
    if !against_real_celery() {
        // Python is told of its soft limit also where it does not listen for it.
        assert_eq!(limits, [json!([6]), json!([1])]);
    }
    eventually("all are acknowledged", || place.queue() == (0, 0));
    let late = send(
        &place,
        "probe.sleep",
        1,
        &json!([600]),
        &json!({"time_limit": 600}),
    );
    eventually("it runs", || place.results().count_state(&late, "STARTED") == 1);
    worker.kill();
    assert_eq!(place.queue(), (0, 1), "it was acknowledged before its end");
}

/// Tasks whose results are ignored store nothing, and their errors only on request.
#[test]
fn results_are_ignored_by_setting() {
    for store_errors in [false, true] {
        let place = Place::redis();
        let settings = json!({
            "task_ignore_result": true,
            "task_store_errors_even_if_ignored": store_errors,
        });
        let _worker = Worker::start(&place, &settings, &["-c", "1"]);
        // `send_task` leaves it to the worker.
        let value = send(
            &place,
            "arithmetic.add",
            1,
            &json!([1, 1]),
            &json!({"ignore_result": null}),
        );
        let error = send(
            &place,
            "probe.fail",
            1,
            &json!(["x"]),
            &json!({"ignore_result": null}),
        );
        let kept = send(
            &place,
            "arithmetic.add",
            1,
            &json!([1, 1]),
            &json!({"ignore_result": false}),
        );
        eventually("the last one is stored", || {
            place.results().count_state(&kept, "SUCCESS") == 1
        });
        assert!(place.results().stored(&value).is_empty());
        assert_eq!(
            place.results().count_state(&error, "FAILURE"),
            usize::from(store_errors)
        );
    }
}
