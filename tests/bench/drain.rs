//! How fast a worker empties a queue.

use std::time::{Duration, Instant};

use celerybox_tests::{Process, RedisConnection, Reply};

use crate::servers::{RESULTS, Servers};

/// What one drain took.
#[derive(Clone, Copy)]
pub(crate) struct Drain {
    pub(crate) tasks_per_second: f64,
    pub(crate) cpu_seconds_per_thousand: f64,
    pub(crate) peak_mebibytes: f64,
}

/// Empties the servers, and puts so many small tasks into the queue.
pub(crate) fn fill(servers: &Servers, number: usize) {
    servers.redis.command(&["FLUSHALL"]);
    servers.python("preload.py", &["arithmetic.add", &number.to_string(), "[2, 3]"]);
}

/// Watches a worker empty the queue of so many tasks.
pub(crate) fn drain(servers: &Servers, worker: &Process, number: usize) -> Drain {
    let mut results = servers.redis.connect(RESULTS);

    let begun = wait_for(&mut results, number / 10, worker, &mut 0);
    let cpu = worker.cpu_seconds();
    let mut peak = 0;
    let ended = wait_for(&mut results, number, worker, &mut peak);
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
pub(crate) fn wait_for(
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

/// The medians of what several drains took.
pub(crate) fn medians(drains: &[Drain]) -> Drain {
    let median = |value: fn(&Drain) -> f64| median(drains.iter().map(value).collect());
    Drain {
        tasks_per_second: median(|drain| drain.tasks_per_second),
        cpu_seconds_per_thousand: median(|drain| drain.cpu_seconds_per_thousand),
        peak_mebibytes: median(|drain| drain.peak_mebibytes),
    }
}

/// The middle one.
pub(crate) fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
