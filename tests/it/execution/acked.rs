//! Contract section 3.2: a task that is acknowledged before it runs is never seen to run twice.

use std::time::Duration;

use celerybox::execution::Options;
use celerybox::policy::grants::{Folder, Grants};
use serde_json::json;

use super::{ACK, Lab, Sent};

async fn holding(options: Options) -> Lab {
    Lab {
        holds_acks: true,
        ..Lab::new(options).await
    }
}

impl Lab {
    /// Waits until the acknowledgement of a message is on its way and another task has run from its start to its end.
    async fn meanwhile(&self, sent: &Sent) {
        self.until("it is acknowledged", || sent.verdict() == ACK).await;
        assert_eq!(self.send("late", json!([0.2]), json!({})).done().await, ACK);
    }
}

fn slots(concurrency: u32) -> Options {
    Options {
        concurrency,
        ..Options::default()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_of_a_run_is_seen_before_its_ack_arrives() {
    let lab = holding(slots(1)).await;
    let sent = lab.send("echo", json!([1]), json!({"id": "a"}));
    // It holds the only slot no more.
    lab.meanwhile(&sent).await;
    assert!(lab.states("a").is_empty(), "its result was stored");
    sent.ack_arrives();
    assert_eq!(sent.done().await, ACK);
    assert_eq!(lab.states("a"), ["SUCCESS"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn states_of_its_own_wait_for_the_ack_too() {
    let lab = holding(slots(2)).await;
    let sent = lab.send("progress", json!([2, 0.0]), json!({"id": "a"}));
    lab.meanwhile(&sent).await;
    assert!(lab.states("a").is_empty(), "{:?}", lab.states("a"));
    sent.ack_arrives();
    assert_eq!(sent.done().await, ACK);
    assert_eq!(lab.states("a"), ["PROGRESS", "PROGRESS", "SUCCESS"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_whose_ack_is_lost_never_happened() {
    let mut options = slots(1);
    options.defaults.track_started = true;
    for (task, args) in [
        ("echo", json!([1])),
        ("fail", json!(["no"])),
        ("progress", json!([1, 0.0])),
        ("retry", json!([3, 0])),
    ] {
        let lab = holding(options.clone()).await;
        let sent = lab.send(task, args, json!({"id": "a"}));
        lab.until("it is acknowledged", || sent.verdict() == ACK).await;
        sent.ack_is_lost();
        sent.done().await;
        assert!(lab.states("a").is_empty(), "{task}: {:?}", lab.states("a"));
        assert!(
            lab.broker.published.lock().unwrap().is_empty(),
            "{task}: a retry was sent"
        );
    }
}

/// The broker sends its message again, so there is no reason to go on.
#[tokio::test(flavor = "multi_thread")]
async fn a_run_ends_when_its_ack_is_lost_with_its_connection() {
    let lab = holding(slots(1)).await;
    let sent = lab.send("sleep", json!([600]), json!({"id": "a"}));
    lab.running(1).await;
    sent.lose_connection();
    sent.ack_is_lost();
    sent.done().await;
    assert!(lab.states("a").is_empty());
    // It was not done: the message that comes again runs.
    let again = lab.send("echo", json!([1]), json!({"id": "a", "redelivered": true}));
    lab.until("it is acknowledged", || again.verdict() == ACK).await;
    again.ack_arrives();
    again.done().await;
    assert_eq!(lab.states("a"), ["SUCCESS"]);
}

/// A file that is written cannot be unwritten.
#[tokio::test(flavor = "multi_thread")]
async fn a_component_that_reaches_out_begins_after_its_ack() {
    let folder = tempfile::tempdir().unwrap();
    for writable in [true, false] {
        let data = Folder {
            path: folder.path().into(),
            writable,
        };
        let grants = Grants {
            files: [("/data".to_owned(), data)].into(),
            ..Grants::none("probe")
        };
        let lab = Lab {
            holds_acks: true,
            ..Lab::granting(slots(1), grants).await
        };
        let sent = lab.send("echo", json!([1]), json!({"id": "a"}));
        lab.until("it is acknowledged", || sent.verdict() == ACK).await;
        let mut other = lab.send("late", json!([0]), json!({}));
        // What must not happen has no event.
        let patience = Duration::from_millis(if writable { 500 } else { 60_000 });
        let ended = tokio::time::timeout(patience, &mut other.way).await.is_ok();
        assert_eq!(ended, !writable, "who only reads does not wait");
        sent.ack_arrives();
        assert_eq!(sent.done().await, ACK);
    }
}
