//! This worker beside a real Celery worker, in one run on one machine: how fast each drains the same queue of small
//! `add` tasks, what that costs, and how long one task alone takes.
//!
//! The queue is filled before the worker starts. The clock runs from the moment a tenth of the results is there until
//! the last one is, so that neither start-up counts. Rounds alternate in their order; the table shows medians.
//! Celery runs prefork with a process for each processor, ours with as many threads; both log warnings only.
//!
//! Then the same tasks as the header of one chord, beside as many plain ones, and plain ones while the worker is watched
//! and steered: how much of the rate is left. The arguments `redis`, `rabbitmq`, `plain`, `chord` and `watched` choose
//! parts of it.

mod chord;
mod drain;
mod servers;
mod watched;

use celerybox_tests::{RabbitMq, Redis};

use crate::drain::{drain, fill, medians};
use crate::servers::{Kind, SLOTS, Servers};

const ROUNDS: usize = 3;
/// What is measured of each broker.
const PARTS: [&str; 3] = ["plain", "chord", "watched"];
/// Tasks in the queue: some seconds of work for each worker.
const OURS: usize = 20_000;
const CELERYS: usize = 5_000;
/// Tasks one after the other for the latency.
const ALONE: &str = "300";

fn main() {
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    println!(
        "{processors} processors; celery -P prefork -c {processors}, prefetch 4 a process; celerybox -c {SLOTS}"
    );
    println!("{ROUNDS} rounds, medians; {OURS} tasks for celerybox, {CELERYS} for celery\n");
    let asked: Vec<String> = std::env::args()
        .skip(1)
        .filter(|argument| !argument.starts_with('-'))
        .collect();
    // Named, or none of its kind is.
    let wanted = |name: &str, kind: &[&str]| {
        let among = |kind: &[&str]| asked.iter().any(|asked| kind.contains(&asked.as_str()));
        among(&[name]) || !among(kind)
    };
    for name in ["redis", "rabbitmq"] {
        if !wanted(name, &["redis", "rabbitmq"]) {
            continue;
        }
        let servers = Servers {
            name,
            redis: Redis::start(),
            rabbitmq: (name == "rabbitmq").then(RabbitMq::start_bare),
        };
        for part in PARTS {
            if wanted(part, &PARTS) {
                match part {
                    "plain" => compare(&servers),
                    "chord" => chord::chord(&servers),
                    _ => watched::watched(&servers),
                }
            }
        }
    }
}

fn compare(servers: &Servers) {
    let (mut ours, mut celerys) = (Vec::new(), Vec::new());
    for round in 0..ROUNDS {
        let mut order = [Kind::Celerybox, Kind::Celery];
        if round % 2 == 1 {
            order.reverse();
        }
        for kind in order {
            let number = if kind == Kind::Celery { CELERYS } else { OURS };
            fill(servers, number);
            let worker = servers.worker(kind, |_| ());
            let drain = drain(servers, &worker, number);
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

/// The median and the 99th percentile, in milliseconds.
fn latency(servers: &Servers, kind: Kind) -> (f64, f64) {
    servers.redis.command(&["FLUSHALL"]);
    let _worker = servers.worker(kind, |_| ());
    let times = servers.python("latency.py", &[ALONE]);
    let times = serde_json::from_str::<Vec<f64>>(&times);
    let mut times = times.expect("latency.py prints a list of numbers");
    times.sort_by(f64::total_cmp);
    let at = |share: f64| times[((times.len() - 1) as f64 * share) as usize];
    (at(0.5), at(0.99))
}
