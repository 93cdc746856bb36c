//! Contract sections 3.3 and 3.8.

use celerybox::execution::Options;
use serde_json::json;

use super::{ACK, Lab};

fn revocation(why: &str) -> serde_json::Value {
    json!({"exc_type": "TaskRevokedError", "exc_message": [why], "exc_module": "celery.exceptions"})
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revoked_task_does_not_run_and_is_acknowledged() {
    let lab = Lab::new(Options::default()).await;
    lab.worker.revoke(&["called-off"]);
    let sent = lab.send("echo", json!([1]), json!({"id": "called-off"}));
    assert_eq!(sent.done().await, ACK);
    // Once when it was revoked, as nobody had begun it, and once when it came.
    assert!(lab.states("called-off").iter().all(|state| state == "REVOKED"));
    assert_eq!(lab.stored("called-off")["result"], revocation("revoked"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_is_revoked_while_it_waits_for_a_slot() {
    let lab = Lab::new(Options::default()).await;
    let running = lab.send("sleep", json!([600]), json!({"id": "long"}));
    lab.running(1).await;
    let waiting = lab.send("echo", json!([1]), json!({"id": "waiting"}));
    lab.until("it waits", || lab.worker.active.reserved() == 2).await;
    assert!(lab.end("waiting"), "it is here");
    assert!(lab.end("long"), "it runs");
    assert!(!lab.end("nowhere"));
    assert_eq!(running.done().await, ACK);
    assert_eq!(waiting.done().await, ACK);
    assert_eq!(lab.stored("long")["result"], revocation("terminated"));
    assert_eq!(lab.stored("waiting")["result"], revocation("revoked"));
    assert!(lab.worker.active.entries().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn stamps_revoke_by_their_type() {
    let lab = Lab::new(Options::default()).await;
    lab.worker.known.revoke_by_stamp("customer", &[&json!(4242)]);
    let stamped = |value| json!({"stamps": {"customer": value}, "stamped_headers": ["customer"]});
    let revoked = lab.send("echo", json!([1]), stamped(json!([1, 4242])));
    let other = lab.send("echo", json!([1]), stamped(json!("4242")));
    let (revoked_id, other_id) = (revoked.id.clone(), other.id.clone());
    assert_eq!((revoked.done().await, other.done().await), (ACK, ACK));
    assert_eq!(lab.states(&revoked_id), ["REVOKED"]);
    assert_eq!(lab.states(&other_id), ["SUCCESS"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_expired_task_stays_revoked() {
    let lab = Lab::new(Options::default()).await;
    let past = json!({"id": "late", "expires": "2020-01-01T00:00:00+00:00"});
    assert_eq!(lab.send("echo", json!([1]), past).done().await, ACK);
    assert_eq!(lab.stored("late")["result"], revocation("expired"));
    assert_eq!(lab.worker.known.revoked(), ["late"]);
    let again = lab.send("echo", json!([1]), json!({"id": "late"}));
    assert_eq!(again.done().await, ACK);
    assert_eq!(lab.stored("late")["result"], revocation("revoked"));
}

/// Whenever a revocation comes while a task gets its slot: it does not go on.
#[tokio::test(flavor = "multi_thread")]
async fn a_revocation_with_terminate_is_never_missed() {
    let options = Options {
        concurrency: 1,
        ..Options::default()
    };
    let lab = Lab::new(options).await;
    for round in 0..300 {
        let running = lab.send("sleep", json!([600]), json!({}));
        lab.running(1).await;
        let waiting = lab.send("sleep", json!([600]), json!({}));
        lab.until("it waits", || lab.worker.active.reserved() == 2).await;
        lab.end(&running.id);
        for _ in 0..round * 100 {
            std::hint::spin_loop();
        }
        lab.end(&waiting.id);
        assert_eq!((running.done().await, waiting.done().await), (ACK, ACK));
    }
}
