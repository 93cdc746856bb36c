//! Remote control, with the real client: `celery inspect` and its relatives see our worker (contract section 6).

use std::time::Duration;

use celerybox_tests::{Place, Signal, Worker, eventually, guests, python, root, send, tasks};
use serde_json::json;

fn answers(place: &Place) {
    let mut worker = Worker::start(place, &json!({}), &["-c", "1", "-n", "w1@test"]);
    // Each name is a function of the script.
    python(place, "control.py", &["ping", "who_is_meant", "hostile"]);
    assert!(worker.peak_memory() < 1 << 30, "{}", worker.peak_memory());
    worker.wait_for_line("pidbox command error: KeyError('no_such_command')");
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

/// In a folder a mailbox outlives its worker: what was asked of one that was killed is not asked of the next of this name,
/// and one that ends leaves nothing behind.
#[test]
fn what_was_asked_of_a_predecessor_is_not_obeyed() {
    let place = Place::files();
    let start = || Worker::start(&place, &json!({}), &["-c", "1", "-n", "w1@test"]);
    let mut killed = start();
    python(&place, "control.py", &["ping"]);
    killed.kill();
    python(&place, "control.py", &["shutdown"]);
    assert_eq!(pidbox_files(&place), 1, "the killed one's mailbox is still bound");
    let mut worker = start();
    python(&place, "control.py", &["ping"]);
    worker.signal(Signal::TERM);
    assert!(worker.wait(Duration::from_secs(60)).success());
    let bound = std::fs::read_to_string(place.data_dir().join("control/celery.pidbox.exchange"));
    assert_eq!(bound.unwrap(), "[]");
    python(&place, "control.py", &["shutdown"]);
    assert_eq!(pidbox_files(&place), 0);
}

/// How many requests wait for the worker.
fn pidbox_files(place: &Place) -> usize {
    let entries = std::fs::read_dir(place.data_dir().join("queue"))
        .unwrap()
        .flatten();
    let names = entries.map(|entry| entry.file_name());
    names
        .filter(|name| name.to_string_lossy().ends_with(".w1@test.celery.pidbox.msg"))
        .count()
}

/// `worker_enable_remote_control` off: nobody answers.
#[test]
fn a_worker_may_have_no_mailbox() {
    let place = Place::redis();
    let settings = json!({"worker_enable_remote_control": false});
    let _worker = Worker::start(&place, &settings, &["-n", "w1@test"]);
    python(&place, "control.py", &["silence"]);
}

/// Every command, sent by the real client to a Python worker and to one of ours: what differs has a reason in
/// `cases/control.json`.
fn like_python(place: &Place) {
    let settings = json!({"worker_prefetch_multiplier": 4, "result_extended": true});
    let options = |name, queue| ["-c", "1", "-n", name, "-Q", queue];
    let mut ours = Worker::start(place, &settings, &options("ours@test", "ours"));
    let mut theirs = Worker::python_in_full(place, &settings, &options("theirs@test", "theirs"));
    let cases = root().join("tests/cases/control.json");
    python(place, "fleet_control.py", &[&cases.to_string_lossy()]);
    ours.wait(Duration::from_secs(60));
    theirs.wait(Duration::from_secs(60));
}

#[test]
fn redis_like_python() {
    like_python(&Place::redis());
}

#[test]
fn amqp_like_python() {
    like_python(&Place::amqp());
}

/// Who may only look and tune neither revokes nor stops, and the pool has a bound.
#[test]
fn only_the_groups_of_the_settings_are_obeyed() {
    let place = Place::redis();
    let settings = json!({"control_groups": ["inspect", "tune"], "worker_max_concurrency": 3});
    let mut worker = Worker::command_started(&place, &settings, &["-c", "1", "-n", "w1@test"]);
    python(&place, "control.py", &["groups"]);
    assert!(worker.runs());
}

/// `pool_restart`: the components are read again; what runs goes on, and one that is broken now stays as it was.
#[test]
fn components_are_loaded_again() {
    let place = Place::redis();
    let folder = place.folder().join("components");
    std::fs::create_dir(&folder).unwrap();
    let file = folder.join("changing.wasm");
    std::fs::copy(guests().join("probe.wasm"), &file).unwrap();
    let settings = json!({"worker_pool_restarts": true, "tasks": [folder]});
    let mut command = Worker::bare(&place, &settings);
    let worker = Worker::run("celerybox worker", command.args(["-c", "2", "-n", "w1@test"]));
    let [long] = &send(&place, "probe.sleep", 1, &json!([8]), &json!({}))[..] else {
        panic!("one was sent")
    };
    python(&place, "control.py", &["runs"]);
    let restart = |times| {
        python(&place, "control.py", &["restart"]);
        let loaded = || worker.count_lines("The components are loaded again") == times;
        eventually("the components are loaded", loaded);
        python(&place, "control.py", &["has", "arithmetic.add"]);
    };
    std::fs::copy(tasks().join("arithmetic.wasm"), &file).unwrap();
    restart(1);
    std::fs::write(&file, "broken").unwrap();
    restart(2);
    let document = || place.results().stored(std::slice::from_ref(long)).pop();
    eventually("what ran has ended well", || {
        document().is_some_and(|document| document["status"] == "SUCCESS")
    });
}
