//! Contract section 3.13: the connection goes while tasks wait and run.

use celerybox::broker::Verdict;
use celerybox::execution::Options;
use serde_json::json;

use super::{ACK, Lab, Sent};

fn two_slots() -> Options {
    Options {
        concurrency: 2,
        ..Options::default()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn tasks_that_wait_are_forgotten() {
    let lab = Lab::new(two_slots()).await;
    let eta = lab.send(
        "echo",
        json!([1]),
        json!({"id": "eta", "eta": "2100-01-01T00:00:00+00:00"}),
    );
    lab.until("its ETA raises the prefetch", || lab.prefetch() == Some(9))
        .await;
    let running = [0, 1].map(|_| lab.send("late", json!([600]), json!({})));
    lab.running(2).await;
    let waiting = lab.send("echo", json!([1]), json!({"id": "slot"}));
    lab.until("it waits", || lab.worker.active.reserved() == 3).await;
    eta.lose_connection();
    waiting.lose_connection();
    // Nothing is settled: the broker sends both again.
    assert_eq!((eta.done().await, waiting.done().await), (None, None));
    assert_eq!(lab.prefetch(), Some(8));
    assert!(lab.states("eta").is_empty() && lab.states("slot").is_empty());
    for running in running {
        lab.end(&running.id);
        running.done().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_that_runs_goes_on_and_does_not_run_again() {
    let lab = Lab::new(two_slots()).await;
    let sent = lab.send("late", json!([1.5]), json!({"id": "a"}));
    lab.running(1).await;
    sent.lose_connection();
    // The broker reports whatever is done with a message of a lost connection as done.
    assert_eq!(sent.done().await, ACK);
    assert_eq!(lab.states("a"), ["SUCCESS"]);
    let again = lab.send("late", json!([600]), json!({"id": "a", "redelivered": true}));
    assert_eq!(again.done().await, ACK);
    assert_eq!(lab.states("a"), ["SUCCESS"], "it ran again");
    // A retry of it is another run.
    let retried = lab.send(
        "late",
        json!([0]),
        json!({"id": "a", "redelivered": true, "retries": 1}),
    );
    assert_eq!(retried.done().await, ACK);
    assert_eq!(lab.states("a"), ["SUCCESS", "SUCCESS"]);
}

/// Its acknowledgement may have been lost with the connection; it began here, and that is what was acknowledged.
#[tokio::test(flavor = "multi_thread")]
async fn an_early_acked_task_does_not_begin_again_while_it_runs() {
    let lab = Lab::new(two_slots()).await;
    let sent = lab.send("sleep", json!([600]), json!({"id": "a"}));
    lab.running(1).await;
    sent.lose_connection();
    lab.until("the loss is seen", || lab.prefetch() == Some(4)).await;
    let again = lab.send("sleep", json!([600]), json!({"id": "a", "redelivered": true}));
    assert_eq!(again.done().await, ACK);
    assert!(lab.states("a").is_empty(), "it ran again");
    lab.end("a");
    sent.done().await;
}

/// The message comes again while its task still runs: it waits without a slot, and needs nothing but its ack.
#[tokio::test(flavor = "multi_thread")]
async fn a_message_that_comes_again_waits_for_the_run_that_goes_on() {
    let lab = Lab::new(two_slots()).await;
    let first = lab.send("late", json!([2]), json!({"id": "a"}));
    lab.running(1).await;
    first.lose_connection();
    let again = lab.send("late", json!([600]), json!({"id": "a", "redelivered": true}));
    lab.until("it is here", || lab.worker.active.entries().len() == 2)
        .await;
    assert_eq!(lab.worker.active.reserved(), 1, "it waits for no slot");
    assert_eq!((first.done().await, again.done().await), (ACK, ACK));
    assert_eq!(lab.states("a"), ["SUCCESS"]);
    // What the first run put back is run again.
    let first = lab.send("late_timeout", json!([]), json!({"id": "b"}));
    lab.running(1).await;
    let again = lab.send("late_timeout", json!([]), json!({"id": "b", "redelivered": true}));
    assert_eq!(first.done().await, Some(Verdict::Reject { requeue: true }));
    assert_eq!(again.done().await, ACK);
    assert_eq!(lab.states("b"), ["FAILURE", "SUCCESS"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_prefetch_grows_back_as_tasks_end() {
    let lab = Lab::new(two_slots()).await;
    let early = lab.send("sleep", json!([600]), json!({}));
    let late = lab.send("late", json!([600]), json!({}));
    lab.running(2).await;
    early.lose_connection();
    lab.until("one is counted", || lab.prefetch() == Some(4)).await;
    late.lose_connection();
    for sent in [early, late] {
        lab.end(&sent.id);
        sent.done().await;
    }
    let numbers = lab.broker.prefetch.lock().unwrap().clone();
    assert_eq!(numbers.iter().min(), Some(&4), "{numbers:?}");
    assert_eq!(numbers.last(), Some(&8), "{numbers:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn late_acked_tasks_can_be_ended_with_their_connection() {
    let options = Options {
        cancel_on_connection_loss: true,
        ..two_slots()
    };
    let lab = Lab::new(options).await;
    let early = lab.send("sleep", json!([1]), json!({"id": "early"}));
    let late = lab.send("late", json!([600]), json!({"id": "late"}));
    lab.running(2).await;
    early.lose_connection();
    late.lose_connection();
    assert_eq!(late.done().await, None);
    assert_eq!(lab.states("late"), ["RETRY"]);
    assert_eq!(early.done().await, ACK);
    assert_eq!(lab.states("early"), ["SUCCESS"]);
}

/// A broker forgets a message that was acknowledged, which is no lost connection.
#[tokio::test(flavor = "multi_thread")]
async fn an_acknowledged_message_is_not_a_lost_one() {
    let lab = Lab::new(two_slots()).await;
    let sent = lab.send("sleep", json!([600]), json!({}));
    lab.running(1).await;
    let Sent {
        id, connection, way, ..
    } = sent;
    drop(connection);
    let other = lab.send("sleep", json!([0.2]), json!({}));
    assert_eq!(other.done().await, ACK);
    lab.end(&id);
    way.await.expect("no panic");
    assert!(
        lab.broker.prefetch.lock().unwrap().is_empty(),
        "{:?}",
        lab.prefetch()
    );
}
