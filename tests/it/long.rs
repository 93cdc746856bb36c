//! The long test, run by hand: many tasks with random options through a mixed fleet, ours and Python's, while workers are
//! killed and brokers restarted.
//!
//! ```console
//! $ CELERYBOX_LONG=100000 cargo test -p celerybox -p celerybox-tests --test it -- --ignored --nocapture long::redis
//! ```
//!
//! What must hold: every late-acked task ends as it should, whatever was killed. An early-acked task may only be missing
//! where a worker that was killed had begun it (its message was acknowledged before), or where Celery itself loses messages
//! (what a Python worker had popped from Redis and not recorded, contract section 2.2.4; what it read from a folder while it
//! was being written): such a message nobody received. No early-acked task ends twice where a worker of ours ended it first.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use celerybox_tests::{Place, Process, Signal, Worker, interpreter};
use serde::Deserialize;
use serde_json::{Value, json};

/// How often something is killed or restarted.
const DISTURB_EVERY: Duration = Duration::from_secs(8);
/// How long nothing may happen before the test gives up waiting.
const PATIENCE: Duration = Duration::from_secs(180);

/// One task that was sent.
#[derive(Debug, Deserialize)]
struct Sent {
    id: String,
    #[expect(dead_code, reason = "shown where a task is lost")]
    task: String,
    state: Option<String>,
    late: bool,
}

/// A place in the fleet: the worker that runs there, and those before it.
struct Member {
    name: &'static str,
    python: bool,
    lives: Vec<Life>,
}

struct Life {
    worker: Worker,
    killed: bool,
}

impl Member {
    fn start(place: &Place, name: &'static str, python: bool) -> Member {
        let mut member = Member {
            name,
            python,
            lives: Vec::new(),
        };
        member.live(place);
        member
    }

    fn live(&mut self, place: &Place) {
        // A retry is sent when the broker is back, however long its restart takes.
        let mut settings = json!({"task_publish_retry_policy": {"max_retries": 60, "interval_max": 1}});
        if place.broker_url().starts_with("redis") {
            settings["broker_transport_options"] = json!({"visibility_timeout": 20});
        }
        let worker = if self.python {
            Worker::python(place, &settings, &["-n", self.name, "-c", "2"])
        } else {
            Worker::start(place, &settings, &["-n", self.name, "-c", "8"])
        };
        self.lives.push(Life {
            worker,
            killed: false,
        });
    }

    fn again(&mut self, place: &Place, killed: bool) {
        if let Some(last) = self.lives.last_mut() {
            last.killed = killed;
            if killed {
                last.worker.kill();
            } else {
                last.worker.signal(Signal::TERM);
                last.worker.wait(Duration::from_secs(120));
            }
        }
        self.live(place);
    }
}

/// The end of a run: when, where, and whether the task ended with it (or is tried again).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Run {
    when: String,
    member: &'static str,
    last: bool,
}

/// What the logs say of each task: whether anybody received it, how often it ended, and whether a worker that was killed
/// had received it.
#[derive(Debug, Default)]
struct Traces {
    received: BTreeSet<String>,
    runs: BTreeMap<String, Vec<Run>>,
    with_the_dead: BTreeSet<String>,
}

fn traces(fleet: &[Member]) -> Traces {
    let mut traces = Traces::default();
    let lives = fleet
        .iter()
        .flat_map(|member| member.lives.iter().map(|life| (member.name, life)));
    for (name, life) in lives {
        for line in life.worker.lines() {
            let Some((_, rest)) = line.split_once(": Task ").or_else(|| line.split_once("] Task ")) else {
                continue;
            };
            let Some((id, what)) = rest.split_once('[').and_then(|(_, rest)| rest.split_once("] ")) else {
                continue;
            };
            let last = what.starts_with("succeeded") || what.starts_with("raised");
            if last || what.starts_with("retry") {
                traces.runs.entry(id.to_owned()).or_default().push(Run {
                    when: line.get(1..24).unwrap_or_default().to_owned(),
                    member: name,
                    last,
                });
            } else if what.starts_with("received") {
                traces.received.insert(id.to_owned());
                if life.killed {
                    traces.with_the_dead.insert(id.to_owned());
                }
            }
        }
    }
    traces
}

fn number() -> usize {
    std::env::var("CELERYBOX_LONG")
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(5000)
}

fn sent(path: &std::path::Path) -> Vec<Sent> {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    text.lines()
        .filter_map(|line| serde_json::from_str(line).ok())
        .collect()
}

/// Those of `waiting` whose stored state is not the one they have to end in.
fn open(place: &Place, waiting: Vec<Sent>) -> Vec<Sent> {
    if place.broker_url().starts_with("filesystem") {
        let ended = |sent: &Sent| place.file_result(&sent.id)["status"].as_str() == sent.state.as_deref();
        return waiting.into_iter().filter(|sent| !ended(sent)).collect();
    }
    let mut open = Vec::new();
    for part in waiting.chunks(5000) {
        let ids: Vec<String> = part.iter().map(|sent| sent.id.clone()).collect();
        let stored = place.results().stored(&ids);
        let states: BTreeMap<&str, &Value> = stored
            .iter()
            .filter_map(|document| Some((document["task_id"].as_str()?, &document["status"])))
            .collect();
        let ended = |sent: &Sent| {
            states.get(sent.id.as_str()).and_then(|state| state.as_str()) == sent.state.as_deref()
        };
        open.extend(
            part.iter()
                .filter(|sent| !ended(sent))
                .map(|sent| sent.id.clone()),
        );
    }
    let open: BTreeSet<String> = open.into_iter().collect();
    waiting
        .into_iter()
        .filter(|sent| open.contains(&sent.id))
        .collect()
}

/// The fleet has a Python worker among its three, or only ours: then nothing excuses a message that nobody received.
fn long(mut place: Place, mixed: bool) {
    let number = number();
    let list = place.folder().join("sent.jsonl");
    let mut fleet = vec![
        Member::start(&place, "ours-1@test", false),
        Member::start(&place, "ours-2@test", false),
        match mixed {
            true => Member::start(&place, "theirs@test", true),
            false => Member::start(&place, "ours-3@test", false),
        },
    ];
    let mut command = interpreter(&place);
    command.arg("long.py").args([&number.to_string(), "1"]).arg(&list);
    let mut sender = Process::start("long.py", &mut command, None);

    let start = Instant::now();
    let (mut step, mut disturbed) = (0usize, Instant::now());
    let (mut left, mut changed) = (usize::MAX, Instant::now());
    let open = loop {
        std::thread::sleep(Duration::from_secs(2));
        let all_sent = sender.exit_status().is_some();
        if !all_sent && disturbed.elapsed() > DISTURB_EVERY {
            step += 1;
            match step % 6 {
                0 => place.restart_broker(),
                // kombu keeps what it took from a folder in memory: a Python worker that is killed there loses it all.
                n => {
                    let member = &mut fleet[n % 3];
                    let loses = member.python && place.broker_url().starts_with("filesystem");
                    member.again(&place, n != 4 && !loses);
                }
            }
            disturbed = Instant::now();
        }
        let expected: Vec<Sent> = sent(&list)
            .into_iter()
            .filter(|sent| sent.state.is_some())
            .collect();
        let of = expected.len();
        let open = open(&place, expected);
        eprintln!(
            "{:>6} s: {:>6} of {of} ended",
            start.elapsed().as_secs(),
            of - open.len()
        );
        if open.len() != left {
            (left, changed) = (open.len(), Instant::now());
        }
        let explained = || {
            let traces = traces(&fleet);
            let begun = |sent: &Sent| !sent.late && traces.with_the_dead.contains(&sent.id);
            open.iter()
                .all(|sent| begun(sent) || !traces.received.contains(&sent.id))
        };
        let still = changed.elapsed();
        if all_sent && (open.is_empty() || still > PATIENCE || (still > PATIENCE / 4 && explained())) {
            break open;
        }
    };
    assert!(
        sender.exit_status().is_some_and(|status| status.success()),
        "{:?}",
        sender.lines()
    );
    let all = sent(&list);
    assert_eq!(all.len(), number);
    let traces = traces(&fleet);
    let (received, unseen): (Vec<&Sent>, Vec<&Sent>) =
        open.iter().partition(|sent| traces.received.contains(&sent.id));
    let (begun, lost): (Vec<&Sent>, Vec<&Sent>) = received
        .into_iter()
        .partition(|sent| !sent.late && traces.with_the_dead.contains(&sent.id));
    let early: BTreeSet<&str> = all
        .iter()
        .filter(|sent| !sent.late)
        .map(|sent| sent.id.as_str())
        .collect();
    let is_twice = |runs: &[Run]| runs.iter().filter(|run| run.last).count() > 1;
    let mut again: Vec<(&String, Vec<Run>)> = traces
        .runs
        .iter()
        .filter(|(id, runs)| early.contains(id.as_str()) && is_twice(runs))
        .map(|(id, runs)| (id, runs.clone()))
        .collect();
    again.iter_mut().for_each(|(_, runs)| runs.sort());
    // Celery sends an acknowledgement and does not wait for it: one that its broker or its end swallowed is its own.
    let (theirs, twice): (Vec<_>, Vec<_>) = again
        .into_iter()
        .partition(|(_, runs)| runs.iter().rev().skip(1).any(|run| run.member == "theirs@test"));
    eprintln!(
        "{number} tasks in {} s, {step} disturbances. Not ended: {} early-acked that a killed worker had begun, {} that \
         nobody received, {} others. Early-acked that ended twice: {}, and {} that the Python worker had run before",
        start.elapsed().as_secs(),
        begun.len(),
        unseen.len(),
        lost.len(),
        twice.len(),
        theirs.len(),
    );
    for (id, runs) in twice.iter().chain(&theirs) {
        eprintln!("twice: {id} {runs:?}");
    }
    for sent in lost.iter().chain(&unseen) {
        for life in fleet.iter().flat_map(|member| &member.lives) {
            let lines = life.worker.lines();
            let about: Vec<&String> = lines.iter().filter(|line| line.contains(&sent.id)).collect();
            eprintln!("open: {} (a worker, killed: {}): {about:?}", sent.id, life.killed);
        }
    }
    assert!(lost.is_empty(), "tasks are lost: {lost:?}");
    assert!(twice.is_empty(), "early-acked tasks ended twice: {twice:?}");
    let pythons = fleet.iter().filter(|member| member.python);
    let excused = match place.broker_url().split(':').next() {
        // What a Python worker had popped and not recorded goes with its connection.
        Some("redis") => pythons.map(|member| kills(member) + step / 6).sum(),
        // A Python worker that reads a message while it is being written ends, and the message is gone.
        Some("filesystem") => pythons.map(torn).sum(),
        _ => 0,
    };
    assert!(unseen.len() <= excused, "nobody received {unseen:?}");
}

fn torn(member: &Member) -> usize {
    let lives = member.lives.iter();
    lives
        .flat_map(|life| life.worker.lines())
        .filter(|line| line.contains("Unrecoverable error: JSONDecodeError"))
        .count()
}

fn kills(member: &Member) -> usize {
    member.lives.iter().filter(|life| life.killed).count()
}

#[test]
#[ignore = "long: run by hand"]
fn redis() {
    long(Place::redis_durable(), true);
}

#[test]
#[ignore = "long: run by hand"]
fn redis_ours() {
    long(Place::redis_durable(), false);
}

#[test]
#[ignore = "long: run by hand"]
fn amqp() {
    long(Place::amqp_own(), true);
}

#[test]
#[ignore = "long: run by hand"]
fn files() {
    long(Place::files(), true);
}
