//! An unmodified kombu on the same server: each side gives back what the other one left.

use std::collections::BTreeSet;
use std::time::Duration;

use celerybox::broker::Broker;
use celerybox_tests::{Place, python};
use serde_json::{Value, json};

use super::{broker_at, until, visibility};
use crate::conformance::{close, id, next_many, publish};

/// Runs a command of `tests/interop/redis_kombu.py`.
fn kombu(place: &Place, arguments: &[&str]) -> Value {
    tokio::task::block_in_place(|| python(place, "redis_kombu.py", arguments))
}

fn broker(place: &Place, timeout: Duration) -> Box<dyn Broker> {
    broker_at(&place.broker_url(), &visibility(timeout))
}

const HOUR: Duration = Duration::from_secs(3600);
const SECOND: Duration = Duration::from_secs(1);

/// We die with messages in hand; a Python worker restores and runs them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kombu_restores_what_we_left() {
    let mut place = Place::redis();
    let broker = broker(&place, HOUR);
    publish(&*broker, "q", 3).await;
    let mut sent = crate::conformance::message("q", "3");
    sent.message.properties.priority = Some(6);
    broker.publish(sent).await.unwrap();
    let mut deliveries = broker.consume(&["q".into()], 0).await.unwrap();
    next_many(&mut deliveries, 4).await;
    drop(broker);
    assert_eq!(place.redis_broker().unacked(), 4);
    assert_eq!(kombu(&place, &["restore", "1", "4"]), 4);
    assert_eq!(place.redis_broker().list_length("q\x06\x166"), 1);
    let taken = kombu(&place, &["take", "q", "4", "ack"]);
    let mut ids = BTreeSet::new();
    for message in taken.as_array().unwrap() {
        ids.insert(message["id"].as_str().unwrap());
        assert_eq!(message["redelivered"], true);
        assert_eq!(message["info"]["routing_key"], "q");
        assert_eq!(message["body"][0], json!([2, 3]));
    }
    assert_eq!(ids, ["0", "1", "2", "3"].into());
    assert_eq!(place.redis_broker().unacked(), 0);
}

/// A Python worker dies with messages in hand; we restore and run them, each in the list of its priority.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn we_restore_what_kombu_left() {
    let mut place = Place::redis();
    kombu(&place, &["publish", "q", "0", "3", "9"]);
    kombu(&place, &["take", "q", "3", "die"]);
    let sweeper = broker(&place, SECOND);
    let elsewhere = sweeper.consume(&["other".into()], 1).await.unwrap();
    until("each is in the list of its priority", || {
        ["q", "q\x06\x163", "q\x06\x169"].map(|list| place.redis_broker().list_length(list)) == [1, 1, 1]
    })
    .await;
    close(sweeper).await;
    drop(elsewhere);
    let broker = broker(&place, HOUR);
    let mut deliveries = broker.consume(&["q".into()], 0).await.unwrap();
    let mut ids = BTreeSet::new();
    for delivery in next_many(&mut deliveries, 3).await {
        assert!(delivery.redelivered);
        let n: u64 = id(&delivery).parse().unwrap();
        assert_eq!(delivery.message.body, format!("[[{n}], {{}}, {{}}]").into_bytes());
        ids.insert(n);
        delivery.receipt.ack();
    }
    assert_eq!(ids, [0, 1, 2].into());
    close(broker).await;
    assert_eq!(place.redis_broker().unacked(), 0);
}

/// Records of messages that were published to a named exchange name that exchange: its bindings lead them back.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn we_restore_to_the_queue_behind_an_exchange() {
    let place = Place::redis();
    for (kind, binding, key) in [
        ("direct", "clip=media", "clip"),
        ("topic", "video.*=video", "video.mp4"),
    ] {
        let queue = binding.split('=').nth(1).unwrap();
        kombu(&place, &["bind", kind, kind, binding]);
        kombu(&place, &["publish_to", kind, kind, key, "2"]);
        kombu(&place, &["take", queue, "2", "die"]);
        let broker = broker(&place, SECOND);
        let mut deliveries = broker.consume(&[queue.into()], 0).await.unwrap();
        for delivery in next_many(&mut deliveries, 2).await {
            assert_eq!(
                (
                    delivery.route.exchange.as_str(),
                    delivery.route.routing_key.as_str()
                ),
                (kind, key)
            );
            assert!(delivery.redelivered);
            delivery.receipt.ack();
        }
        close(broker).await;
    }
}

/// What we still work on is left alone by a Python worker's sweep.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kombu_leaves_alone_what_we_work_on() {
    let mut place = Place::redis();
    let broker = broker(&place, SECOND);
    publish(&*broker, "q", 2).await;
    let mut deliveries = broker.consume(&["q".into()], 0).await.unwrap();
    let held = next_many(&mut deliveries, 2).await;
    assert_eq!(kombu(&place, &["sweep", "1", "3"]), 0);
    for delivery in held {
        delivery.receipt.ack();
    }
    close(broker).await;
    assert_eq!(place.redis_broker().unacked(), 0);
    assert_eq!(place.redis_broker().list_length("q"), 0);
}

/// What kombu sends with a priority we take in kombu's order, and the other way round.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn priorities_mean_the_same() {
    let place = Place::redis();
    kombu(&place, &["publish", "q", "9", "5", "0", "7", "3"]);
    let broker = broker(&place, HOUR);
    let mut deliveries = broker.consume(&["q".into()], 0).await.unwrap();
    let mut order = Vec::new();
    for delivery in next_many(&mut deliveries, 5).await {
        order.push(id(&delivery));
        delivery.receipt.ack();
    }
    assert_eq!(order, ["2", "1", "4", "3", "0"]);
    broker.cancel().await;
    for (n, priority) in [9, 5, 0, 7, 3].into_iter().enumerate() {
        let mut sent = crate::conformance::message("q", &n.to_string());
        sent.message.properties.priority = Some(priority);
        broker.publish(sent).await.unwrap();
    }
    let taken = kombu(&place, &["take", "q", "5", "ack"]);
    let order: Vec<&str> = taken
        .as_array()
        .unwrap()
        .iter()
        .map(|message| message["id"].as_str().unwrap())
        .collect();
    assert_eq!(order, ["2", "1", "4", "3", "0"]);
    close(broker).await;
}
