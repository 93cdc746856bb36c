//! This worker beside a real Celery worker, in one run on one machine: how fast each drains the same queue of small
//! `add` tasks, what that costs, and how long one task alone takes.
//!
//! The queue is filled before the worker starts. The clock runs from the moment a tenth of the results is there until
//! the last one is, so that neither start-up counts. Rounds alternate in their order; the table shows medians.
//! Celery runs prefork with a process for each processor, ours with as many threads; both log warnings only.
//!
//! Then the same tasks as the header of one chord, beside as many plain ones: how much of the rate is left. The
//! argument `redis`, `rabbitmq` or `chord` runs a part of it.

use std::process::Command;
use std::time::{Duration, Instant};

use celerybox_tests::{
    Process, RabbitMq, Redis, RedisConnection, Reply, against_real_celery, celerybox, interpreter_for, root,
    tasks,
};

const ROUNDS: usize = 3;
/// Tasks in the queue: some seconds of work for each worker.
const OURS: usize = 20_000;
const CELERYS: usize = 5_000;
/// Tasks in the header of the chord.
const HEADER: usize = 10_000;
/// Tasks one after the other for the latency.
const ALONE: &str = "300";
/// Slots of this worker: tasks in flight, not threads.
const SLOTS: &str = "64";
/// Database of the results; messages are in database 0 (or in RabbitMQ).
const RESULTS: u8 = 1;

#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Celerybox,
    Celery,
}

/// Where messages and results are.
struct Servers {
    name: &'static str,
    redis: Redis,
    rabbitmq: Option<RabbitMq>,
}

/// What one drain took.
#[derive(Clone, Copy)]
struct Drain {
    tasks_per_second: f64,
    cpu_seconds_per_thousand: f64,
    peak_mebibytes: f64,
}

fn main() {
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    println!(
        "{processors} processors; celery -P prefork -c {processors}, prefetch 4 a process; celerybox -c {SLOTS}"
    );
    println!("{ROUNDS} rounds, medians; {OURS} tasks for celerybox, {CELERYS} for celery\n");
    let only = std::env::args()
        .skip(1)
        .find(|argument| !argument.starts_with('-'));
    for name in ["redis", "rabbitmq"] {
        if only
            .as_deref()
            .is_some_and(|only| only != name && only != "chord")
        {
            continue;
        }
        let servers = Servers {
            name,
            redis: Redis::start(),
            rabbitmq: (name == "rabbitmq").then(RabbitMq::start_bare),
        };
        if only.as_deref() != Some("chord") {
            compare(&servers);
        }
        chord(&servers);
    }
}

/// This worker alone: a chord, and as many tasks that are in none.
fn chord(servers: &Servers) {
    let rounds = (0..ROUNDS).map(|_| (plain_rate(servers), chord_rate(servers)));
    let (plain, chord): (Vec<f64>, Vec<f64>) = rounds.unzip();
    let (plain, chord) = (median(plain), median(chord));
    println!(
        "celerybox, from {}: {HEADER} tasks, {plain:.0} a second; the same as one chord, {chord:.0} a second, {:.2} of it\n",
        servers.name,
        chord / plain
    );
}

/// Tasks a second, once a tenth is done.
fn plain_rate(servers: &Servers) -> f64 {
    servers.redis.command(&["FLUSHALL"]);
    servers.python("preload.py", &["arithmetic.add", &HEADER.to_string(), "[2, 3]"]);
    let mut results = servers.redis.connect(RESULTS);
    let worker = servers.worker(Kind::Celerybox);
    let begun = wait_for(&mut results, HEADER / 10, &worker, &mut 0);
    let ended = wait_for(&mut results, HEADER, &worker, &mut 0);
    begun.1.abs_diff(ended.1) as f64 / (ended.0 - begun.0).as_secs_f64()
}

/// The same of a chord, until the result of its body is there.
fn chord_rate(servers: &Servers) -> f64 {
    servers.redis.command(&["FLUSHALL"]);
    let body = servers.python("preload_chord.py", &[&HEADER.to_string()]);
    let body: String = serde_json::from_str(&body).expect("preload_chord.py prints an id");
    let mut results = servers.redis.connect(RESULTS);
    let worker = servers.worker(Kind::Celerybox);
    let begun = wait_for(&mut results, HEADER / 10, &worker, &mut 0);
    let key = format!("celery-task-meta-{body}");
    let end = Instant::now() + Duration::from_secs(120);
    while results.command(&["EXISTS", &key]) != Reply::Integer(1) {
        let said = || worker.lines().join("\n");
        assert!(
            Instant::now() < end,
            "no body after two minutes; the worker said:\n{}",
            said()
        );
        std::thread::sleep(Duration::from_millis(2));
    }
    let (seconds, tasks) = (begun.0.elapsed().as_secs_f64(), HEADER.saturating_sub(begun.1));
    let stored = results.command(&["GET", &key]);
    assert!(
        stored.text().contains(&format!("{}", HEADER * 5)),
        "the body's result is {stored:?}"
    );
    tasks as f64 / seconds
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn compare(servers: &Servers) {
    let (mut ours, mut celerys) = (Vec::new(), Vec::new());
    for round in 0..ROUNDS {
        let mut order = [Kind::Celerybox, Kind::Celery];
        if round % 2 == 1 {
            order.reverse();
        }
        for kind in order {
            let drain = drain(servers, kind);
            eprintln!(
                "{} {}: {:.0} tasks/s",
                servers.name,
                kind.name(),
                drain.tasks_per_second
            );
            match kind {
                Kind::Celerybox => ours.push(drain),
                Kind::Celery => celerys.push(drain),
            }
        }
    }
    let latency = [Kind::Celerybox, Kind::Celery].map(|kind| latency(servers, kind));

    println!(
        "{:<22}{:>10}{:>17}{:>14}{:>10}{:>10}",
        format!("from {}", servers.name),
        "tasks/s",
        "CPU s/1000 tasks",
        "memory MiB",
        "p50 ms",
        "p99 ms"
    );
    let (ours, celerys) = (medians(&ours), medians(&celerys));
    for (kind, drain, (p50, p99)) in [
        (Kind::Celerybox, ours, latency[0]),
        (Kind::Celery, celerys, latency[1]),
    ] {
        println!(
            "{:<22}{:>10.0}{:>17.3}{:>14.1}{:>10.2}{:>10.2}",
            kind.name(),
            drain.tasks_per_second,
            drain.cpu_seconds_per_thousand,
            drain.peak_mebibytes,
            p50,
            p99
        );
    }
    println!(
        "{:<22}{:>9.1}x{:>16.2}x{:>13.2}x{:>9.2}x{:>9.2}x\n",
        "celerybox / celery",
        ours.tasks_per_second / celerys.tasks_per_second,
        ours.cpu_seconds_per_thousand / celerys.cpu_seconds_per_thousand,
        ours.peak_mebibytes / celerys.peak_mebibytes,
        latency[0].0 / latency[1].0,
        latency[0].1 / latency[1].1
    );
}

fn drain(servers: &Servers, kind: Kind) -> Drain {
    let number = if kind == Kind::Celery { CELERYS } else { OURS };
    servers.redis.command(&["FLUSHALL"]);
    servers.python("preload.py", &["arithmetic.add", &number.to_string(), "[2, 3]"]);
    let mut results = servers.redis.connect(RESULTS);
    let worker = servers.worker(kind);

    let begun = wait_for(&mut results, number / 10, &worker, &mut 0);
    let cpu = worker.cpu_seconds();
    let mut peak = 0;
    let ended = wait_for(&mut results, number, &worker, &mut peak);
    let cpu = worker.cpu_seconds() - cpu;
    peak = peak.max(worker.memory());

    let (tasks, seconds) = (
        begun.1.abs_diff(ended.1) as f64,
        (ended.0 - begun.0).as_secs_f64(),
    );
    Drain {
        tasks_per_second: tasks / seconds,
        cpu_seconds_per_thousand: cpu / tasks * 1000.0,
        peak_mebibytes: peak as f64 / f64::from(1 << 20),
    }
}

/// Waits until there are `number` results; returns when that was and how many there were. Looks at the worker's memory
/// now and then, seldom enough not to disturb it.
fn wait_for(
    results: &mut RedisConnection,
    number: usize,
    worker: &Process,
    peak: &mut u64,
) -> (Instant, usize) {
    let end = Instant::now() + Duration::from_secs(120);
    let mut look = Instant::now();
    loop {
        let there = match results.command(&["DBSIZE"]) {
            Reply::Integer(there) => usize::try_from(there).unwrap_or(0),
            other => panic!("DBSIZE answered {other:?}"),
        };
        if there >= number {
            return (Instant::now(), there);
        }
        assert!(
            Instant::now() < end,
            "{there} of {number} results after two minutes; the worker said:\n{}",
            worker.lines().join("\n")
        );
        if look.elapsed() > Duration::from_millis(500) {
            *peak = (*peak).max(worker.memory());
            look = Instant::now();
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// The median and the 99th percentile, in milliseconds.
fn latency(servers: &Servers, kind: Kind) -> (f64, f64) {
    servers.redis.command(&["FLUSHALL"]);
    let _worker = servers.worker(kind);
    let times = servers.python("latency.py", &[ALONE]);
    let times = serde_json::from_str::<Vec<f64>>(&times);
    let mut times = times.expect("latency.py prints a list of numbers");
    times.sort_by(f64::total_cmp);
    let at = |share: f64| times[((times.len() - 1) as f64 * share) as usize];
    (at(0.5), at(0.99))
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Kind::Celerybox => "celerybox",
            Kind::Celery => "celery (prefork)",
        }
    }
}

impl Servers {
    fn broker(&self) -> String {
        self.rabbitmq
            .as_ref()
            .map_or_else(|| self.redis.url(), RabbitMq::url)
    }

    fn results(&self) -> String {
        self.redis.database_url(RESULTS)
    }

    fn worker(&self, kind: Kind) -> Process {
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        let mut command = match kind {
            Kind::Celerybox if !against_real_celery() => {
                let mut command = Command::new(celerybox());
                command
                    .arg("worker")
                    .arg("--tasks")
                    .arg(tasks().join("arithmetic.wasm"));
                command.args([
                    "-b",
                    &self.broker(),
                    "--result-backend",
                    &self.results(),
                    "-c",
                    SLOTS,
                ]);
                command.current_dir(root().join(".build"));
                command
            }
            _ => {
                let mut command = interpreter_for(&self.broker(), &self.results());
                command.args(["-m", "celery", "-A", "proj", "worker", "-P", "prefork"]);
                command.args(["-c", &processors.to_string()]);
                command.args(["--without-gossip", "--without-mingle", "--without-heartbeat"]);
                command
            }
        };
        command.args(["-l", "warning"]);
        Process::start(kind.name(), &mut command, None)
    }

    /// Runs a script of this folder and returns its last output line.
    fn python(&self, script: &str, arguments: &[&str]) -> String {
        let mut command = interpreter_for(&self.broker(), &self.results());
        let interop = root().join("tests/interop");
        command
            .env("PYTHONPATH", interop)
            .arg(root().join("tests/bench").join(script));
        let output = command.args(arguments).output().expect("the interpreter starts");
        let stdout = String::from_utf8_lossy(&output.stdout);
        assert!(
            output.status.success(),
            "{script}:\n{stdout}{}",
            String::from_utf8_lossy(&output.stderr)
        );
        stdout.lines().last().unwrap_or_default().to_owned()
    }
}

fn medians(drains: &[Drain]) -> Drain {
    let median = |value: fn(&Drain) -> f64| median(drains.iter().map(value).collect());
    Drain {
        tasks_per_second: median(|drain| drain.tasks_per_second),
        cpu_seconds_per_thousand: median(|drain| drain.cpu_seconds_per_thousand),
        peak_mebibytes: median(|drain| drain.peak_mebibytes),
    }
}
