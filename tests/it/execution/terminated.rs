//! A task that is terminated ends at once, wherever it is, and its memory is free (contract section 3.8).

use std::net::TcpListener;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use celerybox::config::Settings;
use celerybox::execution::Options;
use celerybox::sandbox::{Limits, Occupancy, Sandbox};
use celerybox_tests::{guests, tasks};
use serde_json::{Value, json};

use super::{ACK, Lab};

/// A machine that does other things may take longer than the milliseconds that it takes.
const AT_ONCE: Duration = Duration::from_secs(1);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_task_ends_at_once_wherever_it_is() {
    // It takes connections and never answers.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = silent.local_addr().unwrap().to_string();
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("config.toml");
    let grants = format!(
        "[component]\nreach.network = ['{address}']\nsender.send_to = {{ queues = ['*'], tasks = ['*'] }}\n"
    );
    std::fs::write(&config, grants).unwrap();
    let settings = Settings::load(Some(&config)).unwrap();
    let sandbox = Sandbox::new(Limits::default(), 4, None).unwrap();
    let sandbox = sandbox.granting(settings.granting().unwrap());
    let files = [
        tasks().join("spin.wasm"),
        guests().join("probe.wasm"),
        guests().join("reach.wasm"),
        guests().join("sender.wasm"),
    ];
    let lab = Lab::of(Options::default(), &sandbox, &files).await;
    lab.broker.hangs.store(true, Ordering::Relaxed);
    let signature = json!({"task": "probe.echo", "args": [1], "kwargs": {}, "options": {"queue": "celery"}});
    let places: [(&str, &str, Value); 4] = [
        ("computing", "spin.forever", json!([])),
        ("in a WASI sleep", "probe.sleep", json!([600])),
        ("in a network wait", "reach.talk", json!([address, "hello"])),
        (
            "in a call of the worker",
            "sender.apply",
            json!([signature.to_string()]),
        ),
    ];
    for (place, task, args) in places {
        let mut slowest = Duration::ZERO;
        for round in 0..5 {
            let id = format!("{task}-{round}");
            let sent = lab.send("", args.clone(), json!({"task": task, "id": id}));
            lab.until(place, || sandbox.occupancy().memories > 0).await;
            // So that it is where it is said to be.
            tokio::time::sleep(Duration::from_millis(20)).await;
            assert!(
                sent.verdict() != Some(celerybox::broker::Verdict::Reject { requeue: false }),
                "{place}"
            );
            let begun = Instant::now();
            assert!(lab.end(&id), "{place}: {}", lab.stored(&id));
            assert_eq!(sent.done().await, ACK, "{place}");
            slowest = slowest.max(begun.elapsed());
            assert_eq!(lab.stored(&id)["status"], "REVOKED", "{place}");
            assert_eq!(
                lab.stored(&id)["result"]["exc_message"],
                json!(["terminated"]),
                "{place}"
            );
            let freed = || sandbox.occupancy() == Occupancy::default();
            lab.until(&format!("{place}: its memory is free"), freed).await;
        }
        println!("terminated while {place}: within {slowest:?}");
        assert!(slowest < AT_ONCE, "{place}: {slowest:?}");
    }
}
