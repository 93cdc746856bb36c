//! Contract section 3.14, as far as it is about messages.

use std::sync::Arc;
use std::time::Duration;

use celerybox::broker::Verdict;
use celerybox::execution::Options;
use celerybox::queue::Queue;
use celerybox::shutdown::Stage;
use celerybox::worker::{self, Ended};
use serde_json::json;
use tokio::sync::mpsc;

use super::{ACK, Lab};

/// While one task still runs, everything that only waits goes back.
#[tokio::test(flavor = "multi_thread")]
async fn held_messages_go_back_at_once() {
    let lab = Lab::new(Options::default()).await;
    let (deliver, deliveries) = mpsc::channel(10);
    *lab.broker.deliveries.lock().unwrap() = Some(deliveries);
    let running = tokio::spawn({
        let worker = Arc::clone(&lab.worker);
        async move { worker::run(worker, &[Queue::named("celery")], || {}).await }
    });
    let mut sent = Vec::new();
    for (task, args, headers) in [
        ("sleep", json!([4]), json!({"id": "runs"})),
        ("echo", json!([1]), json!({"eta": "2100-01-01T00:00:00+00:00"})),
        ("echo", json!([1]), json!({})),
    ] {
        let (delivery, message) = lab.delivery(task, args, headers);
        deliver.send(delivery).await.expect("the worker takes it");
        sent.push(message);
        if sent.len() == 1 {
            lab.running(1).await;
        }
    }
    lab.until("all are here", || lab.worker.active.entries().len() == 3)
        .await;
    lab.worker.shutdown.advance(Stage::Warm);
    let back = Some(Verdict::GiveBack);
    lab.until("they go back", || {
        sent[1..].iter().all(|sent| sent.verdict() == back)
    })
    .await;
    assert!(lab.states("runs").is_empty(), "the running one ended first");
    let ended = tokio::time::timeout(Duration::from_secs(60), running).await;
    assert!(matches!(
        ended.expect("it ends").expect("no panic"),
        Ok(Ended::Warm)
    ));
    assert_eq!(sent[0].verdict(), ACK);
    assert_eq!(lab.states("runs"), ["SUCCESS"]);
}

/// Late-acked tasks get no state and no verdict: the broker delivers them again. The others are told.
#[tokio::test(flavor = "multi_thread")]
async fn a_cold_end_stops_what_runs() {
    let options = Options {
        concurrency: 2,
        ..Options::default()
    };
    let lab = Lab::new(options).await;
    let early = lab.send("sleep", json!([600]), json!({"id": "early"}));
    let late = lab.send("late", json!([600]), json!({"id": "late"}));
    lab.running(2).await;
    lab.worker.shutdown.advance(Stage::Cold);
    assert_eq!((early.done().await, late.done().await), (ACK, None));
    assert_eq!(lab.stored("early")["status"], "RETRY");
    assert!(lab.states("late").is_empty());
}
