//! Events, gossip and mingle beside real Celery workers and before Celery's own monitors (contract section 7).

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use celerybox_tests::{
    Place, Process, Worker, celerybox, eventually, interpreter, python, python_with, send,
};
use serde_json::json;

const BEATS: [&str; 2] = ["--heartbeat-interval", "1"];

/// A Python worker and ours tell the same of the same tasks.
fn alike(place: &Place) {
    let common = [
        "-E",
        "-c",
        "1",
        "--without-gossip",
        "--without-mingle",
        BEATS[0],
        BEATS[1],
    ];
    let with = |own: [&'static str; 4]| [&common[..], &own].concat();
    let mut theirs = Worker::python_in_full(place, &json!({}), &with(["-n", "theirs@test", "-Q", "theirs"]));
    let mut ours = Worker::sociable(place, &json!({}), &with(["-n", "ours@test", "-Q", "ours"]));
    let mut compare = interpreter(place);
    compare.args(["events.py", "compare"]);
    if place.broker_url().starts_with("filesystem") {
        let folder = place.data_dir();
        let monitor = json!([celerybox(), "events", "--json", "--data-dir", folder]);
        compare.env("TEST_MONITOR", monitor.to_string());
    }
    let mut compare = Process::start("the comparison", &mut compare, None);
    let compared = compare.wait(Duration::from_secs(300));
    assert!(compared.success(), "{}", compare.lines().join("\n"));
    ours.wait(Duration::from_secs(60));
    theirs.wait(Duration::from_secs(60));
}

#[test]
fn the_same_events_as_celery_on_redis() {
    alike(&Place::redis());
}

#[test]
fn the_same_events_as_celery_on_amqp() {
    alike(&Place::amqp());
}

/// Kombu makes a file under its final name, writes it afterwards, and reads without waiting for who writes: its own monitor
/// loses events, or fails. So ours listens.
#[test]
fn the_same_events_as_celery_in_a_folder() {
    alike(&Place::files());
}

/// `enable_events` and `disable_events`.
#[test]
fn events_of_tasks_are_switched_on_and_off() {
    let place = Place::redis();
    let _worker = Worker::start(&place, &json!({}), &["-n", "ours@test", BEATS[0], BEATS[1]]);
    python(&place, "events.py", &["switched"]);
}

/// `worker_send_task_events` and `task_send_sent_event`; `celery events --dump` shows it.
#[test]
fn events_of_tasks_are_sent_when_they_are_wanted() {
    let place = Place::redis();
    let settings = json!({"worker_send_task_events": true, "task_send_sent_event": true});
    let _worker = Worker::start(&place, &settings, &["-n", "ours@test", BEATS[0], BEATS[1]]);
    python(&place, "events.py", &["sent"]);
    let mut command = interpreter(&place);
    command.args(["-m", "celery", "-A", "proj", "events", "--dump"]);
    let mut dump = Process::start("celery events", &mut command, None);
    dump.wait_for_line("ours@test");
    send(&place, "arithmetic.add", 1, &json!([20, 3]), &json!({}));
    dump.wait_for_line("task received: arithmetic.add");
    dump.wait_for_line("task succeeded: arithmetic.add");
    // Who calls a task without Python tells it too.
    let config = place.folder().join("call.toml");
    std::fs::write(&config, "task_send_sent_event = true").unwrap();
    for given in [&["arithmetic.mul", "-a", "[2, 3]"][..], &["--signature", "-"]] {
        let mut call = Command::new(celerybox());
        call.arg("call").args(given).arg("--config").arg(&config);
        call.args(place.arguments())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        let mut call = call.spawn().unwrap();
        let signature = br#"{"task": "probe.echo", "args": [5], "options": {}}"#;
        call.stdin.take().unwrap().write_all(signature).unwrap();
        assert!(call.wait_with_output().unwrap().status.success());
    }
    dump.wait_for_line("task sent: arithmetic.mul");
    dump.wait_for_line("task sent: probe.echo");
}

/// Without heartbeats and gossip only what is asked for; exchange and serializer are settings.
#[test]
fn what_is_not_wanted_is_not_sent() {
    let place = Place::redis();
    let settings = json!({"event_exchange": "mine", "event_serializer": "yaml"});
    let quiet = [
        "-n",
        "quiet@test",
        "-Q",
        "quiet",
        "--without-gossip",
        "--without-heartbeat",
    ];
    let _quiet = Worker::start(&place, &settings, &quiet);
    // Who listens to neighbours has one pattern more than the mailbox.
    let patterns = || place.results().command(&["PUBSUB", "NUMPAT"]).integer();
    assert_eq!(patterns(), 1);
    let loud = ["-n", "ours@test", "-Q", "ours", "-E", BEATS[0], BEATS[1]];
    let _loud = Worker::start(&place, &settings, &loud);
    eventually("it listens to its neighbours", || patterns() == 2);
    python_with(&place, &settings, "events.py", &["unwanted"]);
}

/// A worker that greets has heard of one other.
fn greets(worker: &mut Worker) {
    worker.wait_for_line("mingle: sync with 1 nodes");
    worker.wait_for_line("mingle: sync complete");
}

/// What a Python worker has revoked, ours knows when it starts.
fn ours_learns(place: &Place) {
    let _first = Worker::python_in_full(place, &json!({}), &["-n", "first@test", "-Q", "nothing"]);
    python(place, "events.py", &["revoke", "by-python"]);
    python(place, "events.py", &["revoked", "first@test", "by-python"]);
    let mut ours = Worker::sociable(place, &json!({}), &["-n", "ours@test"]);
    greets(&mut ours);
    python(
        place,
        "events.py",
        &["send", "arithmetic.add", "[1, 2]", "by-python"],
    );
    ours.wait_for_line("Discarding revoked task: arithmetic.add[by-python]");
}

/// What ours has revoked, a Python worker and another of ours know when they start.
fn ours_teaches(place: &Place) {
    let mut first = Worker::start(place, &json!({}), &["-n", "ours@test"]);
    python(place, "events.py", &["revoke", "by-ours"]);
    python(place, "events.py", &["revoked", "ours@test", "by-ours"]);
    let mut second = Worker::python_in_full(place, &json!({}), &["-n", "second@test", "-Q", "other"]);
    greets(&mut second);
    python(place, "events.py", &["revoked", "second@test", "by-ours"]);
    drop(second);
    let mut third = Worker::sociable(place, &json!({}), &["-n", "third@test", "-Q", "third"]);
    greets(&mut third);
    python(place, "events.py", &["revoked", "third@test", "by-ours"]);
    assert!(first.runs());
}

#[test]
fn what_others_revoked_is_known_from_the_start_on_redis() {
    ours_learns(&Place::redis());
}

#[test]
fn what_others_revoked_is_known_from_the_start_on_amqp() {
    ours_learns(&Place::amqp());
}

#[test]
fn others_learn_what_is_revoked_here_on_redis() {
    ours_teaches(&Place::redis());
}

#[test]
fn others_learn_what_is_revoked_here_on_amqp() {
    ours_teaches(&Place::amqp());
}

/// A worker that dies is missed by its neighbours of both kinds, and hostile events harm none.
fn gossip(place: &Place) {
    let with = |name: &'static str| ["-n", name, "-Q", name, BEATS[0], BEATS[1]];
    let mut ours = Worker::start(place, &json!({}), &with("ours@test"));
    let mut victim = Worker::start(place, &json!({}), &with("victim@test"));
    let mut theirs = Worker::python_in_full(place, &json!({}), &with("theirs@test"));
    python(
        place,
        "events.py",
        &["heard", "ours@test", "victim@test", "theirs@test"],
    );
    victim.kill();
    ours.wait_for_line("missed heartbeat from victim@test");
    theirs.wait_for_line("missed heartbeat from victim@test");
    theirs.kill();
    ours.wait_for_line("missed heartbeat from theirs@test");
    python(place, "events.py", &["hostile"]);
    assert!(ours.runs());
    assert!(ours.peak_memory() < 1 << 30, "{}", ours.peak_memory());
}

#[test]
fn a_neighbour_that_dies_is_missed_on_redis() {
    gossip(&Place::redis());
}

#[test]
fn a_neighbour_that_dies_is_missed_on_amqp() {
    gossip(&Place::amqp());
}

/// Workers choose the same one of them, and it alone does what was to be done. Without a Python worker: Celery 5.7 counts
/// only its neighbours, decides before it knows all candidates, and the worker ends (contract section 7.5).
#[test]
fn workers_elect_one_of_them() {
    const ELECTIONS: usize = 5;
    let place = Place::redis();
    let with = |name: &'static str| ["-n", name, "-Q", name, BEATS[0], BEATS[1]];
    let ours = Worker::start(&place, &json!({}), &with("ours@test"));
    let other = Worker::start(&place, &json!({}), &with("other@test"));
    // Each has heard of the other: an election waits for all that are known.
    python(&place, "events.py", &["heard", "ours@test", "other@test"]);
    python(&place, "events.py", &["elect", &ELECTIONS.to_string()]);
    let said = |worker: &Worker, number: usize| {
        let won = worker.count_lines(&format!("I won the election 'e{number}'"));
        let lost = worker.count_lines(&format!(" elected for 'e{number}'"));
        (won, lost)
    };
    for number in 0..ELECTIONS {
        eventually("both have decided", || {
            said(&ours, number) != (0, 0) && said(&other, number) != (0, 0)
        });
        let (ours, other) = (said(&ours, number), said(&other, number));
        assert!((ours, other) == ((1, 0), (0, 1)) || (ours, other) == ((0, 1), (1, 0)));
    }
    eventually("the winners have sent the task", || {
        ours.count_lines("Task probe.echo[") >= 2 * ELECTIONS
    });
    assert_eq!(ours.count_lines("received"), ELECTIONS);
}

/// A task whose callback makes no sense has failed, and everybody is told so.
#[test]
fn a_task_that_cannot_go_on_is_told_as_failed() {
    let place = Place::redis();
    let settings = json!({"worker_send_task_events": true});
    let mut worker = Worker::start(&place, &settings, &["-n", "ours@test", BEATS[0], BEATS[1]]);
    python(&place, "events.py", &["cannot_go_on"]);
    worker.wait_for_line("raised unexpected: ValueError");
    assert_eq!(worker.count_lines("succeeded"), 0);
}

/// A way to a server that can be closed.
pub(crate) struct Way {
    port: u16,
    open: Arc<Mutex<(bool, Vec<TcpStream>)>>,
}

impl Way {
    fn to(server: String) -> Way {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let open = Arc::new(Mutex::new((true, Vec::new())));
        let state = Arc::clone(&open);
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let mut state = state.lock().unwrap();
                if !state.0 {
                    continue;
                }
                let Ok(server) = TcpStream::connect(&server) else {
                    return;
                };
                for (from, to) in [(&client, &server), (&server, &client)] {
                    let (mut from, mut to) = (from.try_clone().unwrap(), to.try_clone().unwrap());
                    thread::spawn(move || {
                        let mut buffer = [0; 65536];
                        while let Ok(size @ 1..) = from.read(&mut buffer) {
                            if to.write_all(&buffer[..size]).is_err() {
                                break;
                            }
                        }
                        let _ = to.shutdown(Shutdown::Both);
                    });
                }
                state.1.extend([client, server]);
            }
        });
        Way { port, open }
    }

    pub(crate) fn set_open(&self, open: bool) {
        let mut state = self.open.lock().unwrap();
        state.0 = open;
        for stream in state.1.drain(..).filter(|_| !open) {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}

/// A way to the broker of a place, and its URL that way.
pub(crate) fn way_to(place: &Place) -> (Way, String) {
    let url = place.broker_url();
    let authority = url.rsplit_once('@').map_or(&url[..], |(_, rest)| rest);
    let authority = authority.split("://").last().unwrap().split('/').next().unwrap();
    let way = Way::to(authority.to_owned());
    let through = url.replace(authority, &format!("127.0.0.1:{}", way.port));
    (way, through)
}

/// What was revoked while the connection was gone is learned from the neighbours once it is back.
fn learns_again(place: &Place) {
    let (way, through) = way_to(place);
    let mut command = Worker::sociable_through(place, &through, &json!({}));
    let mut cut_off = Worker::run("celerybox worker", command.args(["-n", "cut-off@test"]));
    cut_off.wait_for_line("mingle: all alone");
    let _other = Worker::start(place, &json!({}), &["-n", "other@test", "-Q", "other"]);
    way.set_open(false);
    python(place, "events.py", &["revoke", "meanwhile"]);
    python(place, "events.py", &["revoked", "other@test", "meanwhile"]);
    way.set_open(true);
    greets(&mut cut_off);
    python(place, "events.py", &["revoked", "cut-off@test", "meanwhile"]);
}

#[test]
fn what_was_revoked_while_the_broker_was_away_is_learned_on_redis() {
    learns_again(&Place::redis());
}

#[test]
fn what_was_revoked_while_the_broker_was_away_is_learned_on_amqp() {
    learns_again(&Place::amqp());
}

/// Tasks end while the broker is away for so long: no event of them is lost.
fn outage(place: &Place, seconds: u64) {
    const TASKS: usize = 8;
    let (way, through) = way_to(place);
    let count = TASKS.to_string();
    let arguments = [
        "-E",
        "-n",
        "ours@test",
        "-c",
        &count,
        "--prefetch-multiplier",
        "1",
    ];
    let mut command = Worker::command_through(place, &through, &json!({}));
    command.args(arguments).args(BEATS);
    let mut worker = Worker::run("celerybox worker", &mut command);
    let file = place.folder().join("listening");
    let mut collect = interpreter(place);
    collect.args(["events.py", "collect", file.to_str().unwrap(), &count]);
    let mut collect = Process::start("the monitor", &mut collect, None);
    eventually("it listens", || {
        std::fs::read_to_string(&file).is_ok_and(|text| !text.is_empty())
    });
    let ids = send(place, "probe.sleep", TASKS, &json!([2]), &json!({}));
    eventually("all began", || worker.count_lines("received") == TASKS);
    // Early acknowledgements have to arrive; who acknowledges late would run again.
    eventually("nothing is held", || place.queue() == (0, 0));
    way.set_open(false);
    eventually("all ended while the broker is away", || {
        place.results().count_state(&ids, "SUCCESS") == TASKS
    });
    worker.wait_for_line("Events of tasks wait until the broker is back");
    thread::sleep(Duration::from_secs(seconds));
    way.set_open(true);
    let status = collect.wait(Duration::from_secs(180));
    assert!(status.success(), "{}", collect.lines().join("\n"));
    worker.wait_for_line("Events are sent again");
}

#[test]
fn a_broker_that_is_away_loses_no_event_of_a_task_on_redis() {
    outage(&Place::redis_durable(), 1);
}

#[test]
fn a_broker_that_is_away_loses_no_event_of_a_task_on_amqp() {
    outage(&Place::amqp(), 1);
}

#[test]
#[ignore = "takes more than a minute"]
fn a_broker_that_is_away_for_a_minute_loses_no_event_of_a_task() {
    outage(&Place::redis_durable(), 60);
}
