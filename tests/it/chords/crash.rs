//! A worker that is killed between any two of the things that end a chord, or that follow a task.

use std::process::Command;
use std::time::Duration;

use celerybox_tests::{Place, Reply, Worker, eventually, python, within};
use serde_json::{Value, json};

use super::proxy::{Counts, Last, Proxy};

/// What a worker says to one of its servers from the start to the end of a chord.
struct Way {
    /// Of Place.
    server: fn(&Place) -> String,
    counts: Counts,
    /// How many of these requests a worker makes at most.
    requests: u32,
    /// Of `chords.py`.
    sends: &'static str,
    /// Whether the worker has nothing more to say of a chord but its acknowledgement.
    is_over: fn(&Place, &Chord) -> bool,
}

/// Everything that the result backend hears.
const BACKEND: Way = Way {
    server: Place::backend_url,
    counts: |_| true,
    requests: 8,
    sends: "late_chords",
    is_over: is_done,
};

/// The same of chords that fail.
const FAILING: Way = Way {
    requests: 10,
    sends: "late_failures",
    is_over: is_lost,
    ..BACKEND
};

/// Messages of tasks, and acknowledgements.
const BROKER: Way = Way {
    server: Place::broker_url,
    counts: |said| {
        const BASIC_ACK: &[u8] = &[0, 60, 0, 80];
        let has = |bytes: &[u8]| said.windows(bytes.len()).any(|window| window == bytes);
        has(BASIC_ACK) || has(b"argsrepr")
    },
    requests: 9,
    sends: "late_chains",
    is_over: is_done,
};

/// How many workers are there at a time.
const AT_ONCE: usize = 4;

/// The command that starts a worker, with this server behind the proxy.
fn through(place: &Place, server: &str, proxy: &Proxy) -> Command {
    let original = Worker::command(place, &json!({}));
    let mut command = Command::new(original.get_program());
    let proxied = server.replace(&address(server), &format!("127.0.0.1:{}", proxy.port()));
    for argument in original.get_args() {
        if argument == server {
            command.arg(&proxied);
        } else {
            command.arg(argument);
        }
    }
    for (name, value) in original.get_envs() {
        match value {
            Some(value) => command.env(name, value),
            None => command.env_remove(name),
        };
    }
    command.current_dir(place.folder());
    command
}

/// Host and port of a URL.
fn address(url: &str) -> String {
    let authority = url.split('/').nth(2).unwrap();
    authority.rsplit('@').next().unwrap().to_owned()
}

/// A chord, by the queue that its header goes to.
#[derive(Debug, serde::Deserialize)]
struct Chord {
    queue: String,
    group: String,
    body: String,
    /// What else has to come of it.
    also: Vec<String>,
}

/// One chord for each place where a worker can be cut off on its way, each left by a worker that was cut off there and
/// killed. The servers, the chords, and their queues.
fn killed_on(way: &Way) -> (Place, Vec<Chord>) {
    let place = Place::amqp();
    let server = (way.server)(&place);
    let steps = (1..=way.requests).flat_map(|at| [(at, Last::Answered), (at, Last::Dropped)]);
    let steps: Vec<(String, u32, Last)> = steps
        .map(|(at, last)| (format!("at-{at}-{last:?}"), at, last))
        .collect();
    let queues: Vec<&str> = steps.iter().map(|(queue, ..)| queue.as_str()).collect();
    let sent = python(&place, "chords.py", &[&[way.sends], queues.as_slice()].concat());
    let sent: Vec<Chord> = serde_json::from_value(sent).unwrap();

    let mut finished = 0;
    for some in steps.chunks(AT_ONCE) {
        let workers = some.iter().map(|(queue, at, last)| {
            let proxy = Proxy::start(&address(&server), way.counts, *at, *last);
            let mut command = through(&place, &server, &proxy);
            command.args(["-c", "1", "-Q", queue, "-n", &format!("{queue}@h")]);
            (queue, proxy, Worker::run("celerybox worker", &mut command))
        });
        let workers: Vec<_> = workers.collect();
        for (queue, proxy, mut worker) in workers {
            let chord = sent.iter().find(|chord| chord.queue == *queue).unwrap();
            eventually("the worker came to its last request, or to the end", || {
                proxy.reached(Duration::from_millis(20)) || (way.is_over)(&place, chord)
            });
            // The acknowledgement comes after the end.
            finished += u32::from(!proxy.reached(Duration::from_millis(500)));
            worker.kill();
        }
    }
    assert!(
        finished > 0,
        "a worker makes more than {} requests: the last ones are not tested",
        way.requests
    );
    (place, sent)
}

fn is_done(place: &Place, chord: &Chord) -> bool {
    let key = format!("celery-taskset-meta-{}.c", chord.group);
    place.results().command(&["GET", &key]) == Reply::Text("done".into())
}

/// Whether nothing waits for this chord any more.
fn is_lost(place: &Place, chord: &Chord) -> bool {
    let key = format!("celery-taskset-meta-{}.s", chord.group);
    place.results().command(&["EXISTS", &key]) == Reply::Integer(0)
}

/// Waits until all these tasks have a SUCCESS.
fn succeed(place: &Place, worker: &Worker, ids: &[String]) {
    come_to("SUCCESS", place, worker, ids);
}

/// Waits until all these tasks have this state.
fn come_to(state: &str, place: &Place, worker: &Worker, ids: &[String]) {
    let missing = || {
        let stored = place.results().stored(ids);
        let is_there = |id: &String| {
            let mut stored = stored.iter();
            stored.any(|meta| meta["task_id"] == **id && meta["status"] == state)
        };
        ids.iter().filter(|id| !is_there(id)).cloned().collect::<Vec<_>>()
    };
    let deadline = std::time::Instant::now() + Duration::from_secs(90);
    while !missing().is_empty() {
        if std::time::Instant::now() > deadline {
            worker.print_log();
            panic!("these tasks did not come to {state}: {:?}", missing());
        }
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// Each body ran once.
fn ran_once(place: &Place, worker: &Worker, chords: &[Chord]) {
    let lines = worker.lines();
    for Chord { queue, body, .. } in chords {
        let succeeded = format!("[{body}] succeeded");
        let runs = lines.iter().filter(|line| line.contains(&succeeded)).count();
        assert_eq!(runs, 1, "the body of {queue} ran {runs} times");
        let meta: Value = place.results().stored(std::slice::from_ref(body)).pop().unwrap();
        assert_eq!(meta["result"], json!([0.0]), "{queue}");
    }
}

fn bodies(chords: &[Chord]) -> Vec<String> {
    chords.iter().map(|chord| chord.body.clone()).collect()
}

fn queues(chords: &[Chord]) -> String {
    let queues: Vec<&str> = chords.iter().map(|chord| chord.queue.as_str()).collect();
    queues.join(",")
}

/// Contract section 4.6: whatever the last thing is that the result backend hears of the worker, and whether the worker
/// learns what came of it, the chord's body runs, and runs once.
fn survives_any_step(heir: &Value) {
    let (place, sent) = killed_on(&BACKEND);
    let all = format!("{},bodies", queues(&sent));
    let worker = Worker::start(&place, heir, &["-c", "8", "-Q", &all, "-n", "heir@h"]);
    succeed(&place, &worker, &bodies(&sent));
    // What still waits for a claim has to end before anything is counted.
    eventually("every chord is over", || {
        sent.iter().all(|chord| is_done(&place, chord))
    });
    ran_once(&place, &worker, &sent);
}

#[test]
fn a_chord_survives_a_worker_that_is_killed_at_any_step() {
    survives_any_step(&json!({}));
}

/// Contract section 3.9: a task that succeeded is not run again, and counts all the same.
#[test]
fn a_chord_survives_it_when_no_task_is_run_twice() {
    survives_any_step(&json!({"worker_deduplicate_successful_tasks": true}));
}

/// The same of a chord that fails: a chain in its header ends early, its body fails with it, and so does what comes after.
#[test]
fn a_chord_that_fails_does_so_in_full_when_its_worker_is_killed_at_any_step() {
    let (place, sent) = killed_on(&FAILING);
    let all = format!("{},bodies", queues(&sent));
    let worker = Worker::start(&place, &json!({}), &["-c", "8", "-Q", &all, "-n", "heir@h"]);
    let also: Vec<String> = sent.iter().flat_map(|chord| chord.also.clone()).collect();
    come_to("FAILURE", &place, &worker, &[bodies(&sent), also].concat());
    eventually("every chord is over", || {
        sent.iter().all(|chord| is_lost(&place, chord))
    });
    // Neither the bodies nor what comes after them ever ran.
    assert_eq!(worker.count_lines("Task probe.echo"), 0);
}

/// The same of what the broker hears: callbacks, the next task of a chain, bodies, acknowledgements. The bodies wait until
/// their chords are done, so nothing is stored of one that was sent just before its sender died. It is sent again then
/// (as a rule one of them is), and still runs once.
#[test]
fn what_follows_survives_a_worker_that_is_killed_around_a_message() {
    let (place, sent) = killed_on(&BROKER);
    let arguments = ["-c", "8", "-Q", &queues(&sent), "-n", "heir@h"];
    let heir = Worker::start(&place, &json!({}), &arguments);
    within(Duration::from_secs(90), "every chord is over", || {
        sent.iter().all(|chord| is_done(&place, chord)).then_some(())
    });
    drop(heir);
    let worker = Worker::start(&place, &json!({}), &["-c", "8", "-Q", "bodies", "-n", "bodies@h"]);
    let also: Vec<String> = sent.iter().flat_map(|chord| chord.also.clone()).collect();
    succeed(&place, &worker, &[bodies(&sent), also].concat());
    ran_once(&place, &worker, &sent);
}
