//! Many at once: sleeping tasks hold no thread, endless ones do not starve their neighbours.

use celerybox_tests::{Place, Worker, against_real_celery, eventually, send};
use serde_json::{Value, json};

/// Seconds since midnight of a stored document's end, `2026-11-21T13:00:00.123456+00:00`; the tests that compare two of
/// them take seconds, and one that runs over midnight sees a negative time and fails once in a blue moon.
fn second_of_day(document: &Value) -> f64 {
    let text = document["date_done"].as_str().expect("a result has its time");
    let part = |range: std::ops::Range<usize>| -> f64 {
        let digits = text.get(range).expect("ISO 8601");
        digits.parse().expect("ISO 8601")
    };
    part(11..13) * 3600.0 + part(14..16) * 60.0 + part(17..26)
}

/// A thousand tasks that each sleep for a second, waiting in the queue when a worker with a thousand slots starts: all
/// end within four seconds of the first end, which is five of the first begin, in less than 1 GiB.
#[test]
fn a_thousand_sleeping_tasks_end_within_five_seconds() {
    if against_real_celery() {
        return; // A thousand processes are not what this machine is for.
    }
    let place = Place::redis();
    let ids = send(&place, "probe.sleep", 1000, &json!([1.0]), &json!({}));
    let worker = Worker::start(&place, &json!({}), &["-c", "1000"]);
    eventually("all slept", || {
        place.results().count_state(&ids, "SUCCESS") == 1000
    });
    let peak = worker.peak_memory();
    let stored = place.results().stored(&ids);
    let ends = || stored.iter().map(second_of_day);
    let spread = ends().fold(0.0, f64::max) - ends().fold(f64::MAX, f64::min);
    println!(
        "last end {spread:.2} s after the first, peak memory {} MiB",
        peak >> 20
    );
    assert!(spread <= 4.0, "the last ended {spread:.2} s after the first");
    assert!(peak < 1 << 30, "{} MiB", peak >> 20);
}

/// Two hundred endless loops, each with a hard limit of a second, beside two hundred additions: every addition is
/// answered with a value and every loop with `TimeLimitExceeded`.
#[test]
fn two_hundred_endless_loops_starve_nobody() {
    if against_real_celery() {
        return; // As above.
    }
    let place = Place::redis();
    let mut worker = Worker::start(&place, &json!({}), &["-c", "400"]);
    let spins = send(&place, "spin.forever", 200, &json!([]), &json!({"time_limit": 1}));
    let adds = send(&place, "arithmetic.add", 200, &json!([2, 3]), &json!({}));
    eventually("every addition is answered", || {
        place.results().count_state(&adds, "SUCCESS") == 200
    });
    assert!(
        place
            .results()
            .stored(&adds)
            .iter()
            .all(|document| document["result"] == 5)
    );
    eventually("every loop is ended", || {
        place.results().count_state(&spins, "FAILURE") == 200
    });
    for document in place.results().stored(&spins) {
        assert_eq!(document["result"]["exc_type"], "TimeLimitExceeded", "{document}");
    }
    assert!(worker.runs());
}
