//! Contract sections 3.5 and 3.12.

use std::time::{Duration, Instant};

use celerybox::execution::Options;
use celerybox::policy::autoscale::Autoscale;
use celerybox::policy::rate::Rate;
use serde_json::json;

use super::{ACK, Lab};

#[tokio::test(flavor = "multi_thread")]
async fn tasks_over_their_rate_wait_unacknowledged_without_a_slot_and_in_order() {
    let lab = Lab::new(Options::default()).await;
    assert!(
        lab.worker
            .set_rate_limit("probe.limited", Rate::parse("1/h").unwrap(), "1/h")
    );
    let first = lab.send("limited", json!([0]), json!({}));
    assert_eq!(first.done().await, ACK);
    let waiting: Vec<_> = (1..4)
        .map(|n| lab.send("limited", json!([n]), json!({"id": format!("limited-{n}")})))
        .collect();
    lab.until("they raise the prefetch", || lab.prefetch() == Some(7))
        .await;
    // There is one slot, and it is free.
    let other = lab.send("echo", json!([1]), json!({}));
    assert_eq!(other.done().await, ACK);
    assert!(waiting.iter().all(|sent| sent.verdict().is_none()));
    // Whoever waits sees the new limit.
    let begun = Instant::now();
    let rate = Rate::parse("10/s").unwrap();
    assert!(lab.worker.set_rate_limit("probe.limited", rate, "10/s"));
    for sent in waiting {
        assert_eq!(sent.done().await, ACK);
    }
    assert!(
        begun.elapsed() >= Duration::from_millis(190),
        "{:?}",
        begun.elapsed()
    );
    assert_eq!(lab.prefetch(), Some(4));
}

#[tokio::test(flavor = "multi_thread")]
async fn rate_limits_can_be_switched_off_and_have_a_default() {
    let three = |options, task: &'static str| async move {
        let lab = Lab::new(options).await;
        let begun = Instant::now();
        for _ in 0..3 {
            assert_eq!(lab.send(task, json!([1]), json!({})).done().await, ACK);
        }
        begun.elapsed()
    };
    let defaulted = |text| Options {
        rate_limit: Rate::parse(text).unwrap(),
        ..Options::default()
    };
    // The first token is there. What a task declares counts over the default.
    assert!(three(defaulted("4/s"), "echo").await >= Duration::from_millis(490));
    assert!(three(defaulted("1/h"), "limited").await >= Duration::from_millis(990));
    let off = Options {
        disable_rate_limits: true,
        ..defaulted("1/h")
    };
    // With that limit the second one would wait for an hour.
    three(off.clone(), "echo").await;
    let lab = Lab::new(off).await;
    let rate = Rate::parse("1/h").unwrap();
    assert!(lab.worker.set_rate_limit("probe.echo", rate, "1/h"));
    assert!(!lab.worker.set_rate_limit("no.such.task", rate, "1/h"));
    for _ in 0..3 {
        assert_eq!(lab.send("echo", json!([1]), json!({})).done().await, ACK);
    }
}

/// Contract section 3.4: tasks that wait for their ETA are held unacknowledged and raise the prefetch, up to a limit.
#[tokio::test(flavor = "multi_thread")]
async fn tasks_that_wait_for_their_eta_raise_the_prefetch_up_to_the_limit() {
    let options = Options {
        eta_task_limit: Some(6),
        ..Options::default()
    };
    let lab = Lab::new(options).await;
    let later = || json!({"eta": "2100-01-01T00:00:00+00:00"});
    let held: Vec<_> = (0..4).map(|_| lab.send("echo", json!([1]), later())).collect();
    lab.until("all are held", || lab.worker.active.entries().len() == 4)
        .await;
    lab.until("they raise it", || lab.prefetch() == Some(6)).await;
    assert!(held.iter().all(|sent| sent.verdict().is_none()));
    assert_eq!(lab.send("echo", json!([1]), json!({})).done().await, ACK);
    for sent in held {
        sent.lose_connection();
        assert_eq!(sent.done().await, None);
    }
    assert_eq!(*lab.broker.prefetch.lock().unwrap(), [5, 6, 5, 4]);
}

#[tokio::test(flavor = "multi_thread")]
async fn slots_follow_the_work() {
    let autoscale = Autoscale {
        max: 3,
        min: 1,
        keepalive: Duration::from_millis(1),
    };
    let options = Options {
        autoscale: Some(autoscale),
        ..Options::default()
    };
    let lab = Lab::new(options).await;
    assert_eq!((lab.worker.slots.size(), lab.worker.prefetch.start()), (1, 12));
    let sent: Vec<_> = (0..4)
        .map(|_| lab.send("sleep", json!([600]), json!({})))
        .collect();
    lab.running(3).await;
    assert_eq!(lab.worker.slots.size(), 3);
    // Any of them may be the one that waits.
    for sent in &sent {
        lab.end(&sent.id);
    }
    for sent in sent {
        sent.done().await;
    }
}
