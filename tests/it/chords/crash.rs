//! A worker that is killed between any two of the things that end a chord.

use std::process::Command;
use std::time::Duration;

use celerybox_tests::{Place, Reply, Worker, eventually, python};
use serde_json::{Value, json};

use super::proxy::{Last, Proxy};

/// Requests of a worker to its result backend, from the first one to the end of a chord of one task.
const REQUESTS: u32 = 8;

/// How many workers are there at a time.
const AT_ONCE: usize = 4;

/// The command that starts a worker, with another result backend.
fn through(place: &Place, proxy: &Proxy) -> Command {
    let original = Worker::command(place, &json!({}));
    let mut command = Command::new(original.get_program());
    let backend = place.backend_url();
    let proxied = format!("redis://127.0.0.1:{}/0", proxy.port());
    for argument in original.get_args() {
        if argument == backend.as_str() {
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

/// Contract section 4.6: whatever the last thing is that the result backend hears of the worker, and whether the worker
/// learns what came of it, the chord's body runs, and runs once.
#[test]
fn a_chord_survives_a_worker_that_is_killed_at_any_step() {
    let place = Place::amqp();
    let results = place.results();
    let server = place.backend_url();
    let server = server
        .trim_start_matches("redis://")
        .split('/')
        .next()
        .unwrap()
        .to_owned();
    let steps = (1..=REQUESTS).flat_map(|at| [(at, Last::Answered), (at, Last::Dropped)]);
    let steps: Vec<(String, u32, Last)> = steps
        .map(|(at, last)| (format!("at-{at}-{last:?}"), at, last))
        .collect();
    let queues: Vec<&str> = steps.iter().map(|(queue, ..)| queue.as_str()).collect();
    let sent = python(
        &place,
        "chords.py",
        &[&["late_chords"], queues.as_slice()].concat(),
    );
    let sent: Vec<[String; 3]> = serde_json::from_value(sent).unwrap();
    let is_done = |group: &str| {
        let key = format!("celery-taskset-meta-{group}.c");
        results.command(&["GET", &key]) == Reply::Text("done".into())
    };

    let mut finished = 0;
    for some in steps.chunks(AT_ONCE) {
        let workers = some.iter().map(|(queue, at, last)| {
            let proxy = Proxy::start(&server, *at, *last);
            let mut command = through(&place, &proxy);
            command.args(["-c", "1", "-Q", queue, "-n", &format!("{queue}@h")]);
            (queue, proxy, Worker::run("celerybox worker", &mut command))
        });
        let workers: Vec<_> = workers.collect();
        for (queue, proxy, mut worker) in workers {
            let group = &sent.iter().find(|[name, ..]| name == queue).unwrap()[1];
            eventually("the worker came to its last request, or to the end", || {
                proxy.reached(Duration::from_millis(20)) || is_done(group)
            });
            finished += u32::from(!proxy.reached(Duration::ZERO));
            worker.kill();
        }
    }
    assert!(
        finished > 0,
        "a worker makes more than {REQUESTS} requests: the last ones are not tested"
    );

    let all = [queues.as_slice(), &["bodies"]].concat().join(",");
    let worker = Worker::start(&place, &json!({}), &["-c", "8", "-Q", &all, "-n", "heir@h"]);
    let bodies: Vec<String> = sent.iter().map(|[_, _, body]| body.clone()).collect();
    let missing = || {
        let stored = results.stored(&bodies);
        let state = |id: &String| {
            stored
                .iter()
                .any(|meta| meta["task_id"] == **id && meta["status"] == "SUCCESS")
        };
        let missing = sent.iter().filter(|[_, _, body]| !state(body));
        missing.map(|[queue, ..]| queue.clone()).collect::<Vec<_>>()
    };
    let deadline = std::time::Instant::now() + Duration::from_secs(90);
    while !missing().is_empty() {
        if std::time::Instant::now() > deadline {
            worker.print_log();
            panic!("chords were lost: {:?}", missing());
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    // What still waits for a claim has to end before anything is counted.
    eventually("every chord is over", || {
        sent.iter().all(|[_, group, _]| is_done(group))
    });
    let lines = worker.lines();
    for [queue, _, body] in &sent {
        let runs = lines
            .iter()
            .filter(|line| line.contains(&format!("[{body}] succeeded")))
            .count();
        assert_eq!(runs, 1, "the body of {queue} ran {runs} times");
        let meta: Value = results.stored(std::slice::from_ref(body)).pop().unwrap();
        assert_eq!(meta["result"], json!([0.0]), "{queue}");
    }
}
