//! Contract section 3.9: a message that comes again does not run its task again.

use celerybox::broker::Verdict;
use celerybox::execution::Options;
use serde_json::json;

use super::{ACK, Lab};

fn deduplicating() -> Options {
    Options {
        deduplicate: true,
        ..Options::default()
    }
}

fn again(id: &str) -> serde_json::Value {
    json!({"id": id, "redelivered": true})
}

#[tokio::test(flavor = "multi_thread")]
async fn a_late_acked_task_that_succeeded_is_only_acknowledged() {
    let lab = Lab::new(deduplicating()).await;
    assert_eq!(lab.send("late", json!([0]), json!({"id": "a"})).done().await, ACK);
    // Remembered, whatever is stored.
    lab.memory.0.lock().unwrap().clear();
    assert_eq!(lab.send("late", json!([600]), again("a")).done().await, ACK);
    assert!(lab.states("a").is_empty(), "it ran again");
    // Stored by another worker.
    let stored = json!({"status": "SUCCESS", "result": 1}).to_string();
    lab.memory.0.lock().unwrap().insert("b".into(), vec![stored]);
    assert_eq!(lab.send("late", json!([600]), again("b")).done().await, ACK);
    assert_eq!(lab.states("b"), ["SUCCESS"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_not_delivered_before_or_did_not_succeed_runs() {
    let lab = Lab::new(deduplicating()).await;
    for _ in 0..2 {
        assert_eq!(lab.send("late", json!([0]), json!({"id": "a"})).done().await, ACK);
    }
    assert_eq!(lab.states("a"), ["SUCCESS", "SUCCESS"]);
    let stored = json!({"status": "STARTED"}).to_string();
    lab.memory.0.lock().unwrap().insert("b".into(), vec![stored]);
    assert_eq!(lab.send("late", json!([0]), again("b")).done().await, ACK);
    assert_eq!(lab.states("b"), ["STARTED", "SUCCESS"]);
    let off = Lab::new(Options::default()).await;
    assert_eq!(off.send("late", json!([0]), json!({"id": "a"})).done().await, ACK);
    assert_eq!(off.send("late", json!([0]), again("a")).done().await, ACK);
    assert_eq!(off.states("a"), ["SUCCESS", "SUCCESS"]);
}

/// Contract section 3.6, step 5.
#[tokio::test(flavor = "multi_thread")]
async fn a_retry_that_cannot_be_sent_is_a_failure() {
    let lab = Lab::new(Options::default()).await;
    lab.broker
        .refuses
        .store(true, std::sync::atomic::Ordering::Relaxed);
    let sent = lab.send("retry", json!([3, 0]), json!({"id": "a"}));
    assert_eq!(sent.done().await, ACK);
    assert_eq!(lab.states("a"), ["FAILURE"]);
    let stored = lab.stored("a");
    assert_eq!(stored["result"]["exc_type"], "Reject", "{stored}");
    assert!(
        stored["result"]["exc_message"][0]
            .as_str()
            .unwrap()
            .contains("nobody may send")
    );
}

/// Contract section 3.2.
#[tokio::test(flavor = "multi_thread")]
async fn a_late_acked_failure_is_refused_when_it_asks_for_that() {
    let lab = Lab::new(Options::default()).await;
    let sent = lab.send("late_fail", json!([]), json!({"id": "a"}));
    assert_eq!(sent.done().await, Some(Verdict::Reject { requeue: false }));
    assert_eq!(lab.states("a"), ["FAILURE"]);
}
