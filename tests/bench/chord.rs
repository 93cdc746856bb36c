//! One chord, beside as many tasks that are in none.

use std::time::{Duration, Instant};

use celerybox_tests::Reply;

use crate::ROUNDS;
use crate::drain::{drain, fill, median, wait_for};
use crate::servers::{Kind, RESULTS, Servers};

/// Tasks in the header.
const HEADER: usize = 10_000;

/// This worker alone: a chord, and as many tasks that are in none.
pub(crate) fn chord(servers: &Servers) {
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
    fill(servers, HEADER);
    let worker = servers.worker(Kind::Celerybox, |_| ());
    drain(servers, &worker, HEADER).tasks_per_second
}

/// The same of a chord, until the result of its body is there.
fn chord_rate(servers: &Servers) -> f64 {
    servers.redis.command(&["FLUSHALL"]);
    let body = servers.python("preload_chord.py", &[&HEADER.to_string()]);
    let body: String = serde_json::from_str(&body).expect("preload_chord.py prints an id");
    let mut results = servers.redis.connect(RESULTS);
    let worker = servers.worker(Kind::Celerybox, |_| ());
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
