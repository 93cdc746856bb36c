//! What becomes of a task when what follows it cannot be done (contract sections 3.10 and 4.5).

use std::sync::atomic::Ordering;

use celerybox::broker::Verdict;
use celerybox::execution::Options;
use serde_json::{Value, json};

use super::{ACK, Lab};

const BACK: Option<Verdict> = Some(Verdict::Reject { requeue: true });

/// A message with these links, of a task that is acknowledged late (`late`, seconds) or early (`echo`).
fn linked(id: &str, embed: &Value) -> Value {
    json!({"id": id, "root_id": id, "embed": embed})
}

/// The tasks that were sent, with their first argument.
fn sent(lab: &Lab) -> Vec<(String, Value)> {
    let published = lab.broker.published.lock().unwrap();
    let task = |message: &celerybox::message::Message| {
        let headers = message.headers.as_ref().unwrap();
        let body: Value = serde_json::from_slice(&message.body).unwrap();
        (headers["task"].as_str().unwrap().to_owned(), body[0][0].clone())
    };
    published.iter().map(|outgoing| task(&outgoing.message)).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_whose_callback_cannot_be_sent_has_failed() {
    let lab = Lab::new(Options::default()).await;
    lab.broker.refuses.store(true, Ordering::Relaxed);
    let next = json!({"task": "next", "options": {"task_id": "n"}});
    for (task, id) in [("late", "a"), ("echo", "b")] {
        let embed = json!({"callbacks": [{"task": "cb"}], "chain": [next]});
        let way = lab.send(task, json!([0.01]), linked(id, &embed));
        assert_eq!(way.done().await, ACK);
        assert_eq!(lab.states(id), ["FAILURE"]);
        let error = lab.stored(id)["result"].clone();
        assert_eq!(
            (&error["exc_type"], &error["exc_module"]),
            (&json!("OperationalError"), &json!("kombu.exceptions"))
        );
        assert_eq!(lab.stored("n")["result"], error);
    }
}

/// The errback must not be lost: the task runs once more.
#[tokio::test(flavor = "multi_thread")]
async fn a_late_message_goes_back_when_its_errback_cannot_be_sent() {
    let lab = Lab::new(Options::default()).await;
    lab.broker.refuses.store(true, Ordering::Relaxed);
    let embed = json!({"errbacks": [{"task": "told"}]});
    assert_eq!(
        lab.send("late", json!(["x"]), linked("a", &embed)).done().await,
        BACK
    );
    assert_eq!(
        lab.send("fail", json!(["x"]), linked("b", &embed)).done().await,
        ACK
    );
    assert_eq!(
        (lab.states("a"), lab.states("b")),
        (vec!["FAILURE".into()], vec!["FAILURE".into()])
    );
    lab.broker.refuses.store(false, Ordering::Relaxed);
    assert_eq!(
        lab.send("late", json!(["x"]), linked("c", &embed)).done().await,
        ACK
    );
    assert_eq!(sent(&lab), [("told".to_owned(), json!("c"))]);
}

/// Callbacks go before the result: they are sent, and then the result cannot be stored.
#[tokio::test(flavor = "multi_thread")]
async fn a_late_message_goes_back_when_the_backend_is_away() {
    let lab = Lab::new(Options::default()).await;
    lab.memory.1.store(true, Ordering::Relaxed);
    let embed = json!({"callbacks": [{"task": "cb"}], "errbacks": [{"task": "told"}]});
    assert_eq!(
        lab.send("late", json!([0.01]), linked("a", &embed)).done().await,
        BACK
    );
    assert_eq!(sent(&lab), [("cb".to_owned(), json!(0.01))]);
    // Nothing is told of a failure that is not stored, as the task runs again.
    assert_eq!(
        lab.send("late", json!(["x"]), linked("a", &embed)).done().await,
        BACK
    );
    assert_eq!(sent(&lab).len(), 1);
    // Of a task that was acknowledged early the rest is done.
    assert_eq!(
        lab.send("fail", json!(["x"]), linked("a", &embed)).done().await,
        ACK
    );
    assert_eq!(sent(&lab).last().unwrap().0, "told");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_signature_that_makes_no_sense_fails_its_task_and_is_named() {
    let lab = Lab::new(Options::default()).await;
    let embed = json!({"callbacks": [{"task": "cb", "options": {"countdown": "soon"}}]});
    assert_eq!(
        lab.send("late", json!([0.01]), linked("a", &embed)).done().await,
        ACK
    );
    let error = lab.stored("a")["result"].to_string();
    assert!(error.contains("countdown of cb"), "{error}");
}

/// Contract section 3.9: a message that comes again of a task that succeeded, whose callbacks were not sent.
#[tokio::test(flavor = "multi_thread")]
async fn what_follows_a_task_that_was_done_before_is_sent_once() {
    let lab = Lab::new(Options {
        deduplicate: true,
        ..Options::default()
    })
    .await;
    let store = |id: &str, children: Value| {
        let stored = json!({"status": "SUCCESS", "result": 7, "children": children}).to_string();
        lab.memory.0.lock().unwrap().insert(id.into(), vec![stored]);
    };
    let again = |id: &str| {
        let mut headers = linked(id, &json!({"callbacks": [{"task": "cb"}]}));
        headers["redelivered"] = json!(true);
        lab.send("late", json!([600]), headers)
    };
    store("a", json!([]));
    lab.broker.refuses.store(true, Ordering::Relaxed);
    assert_eq!(again("a").done().await, BACK);
    lab.broker.refuses.store(false, Ordering::Relaxed);
    for _ in 0..2 {
        assert_eq!(again("a").done().await, ACK);
        assert_eq!(sent(&lab), [("cb".to_owned(), json!(7))]);
    }
    // Its children were sent before its result was stored.
    store("b", json!([[["c", null], null]]));
    assert_eq!(again("b").done().await, ACK);
    assert_eq!(sent(&lab).len(), 1);
}
