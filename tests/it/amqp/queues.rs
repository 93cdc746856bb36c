//! Queues with exchanges, arguments and priorities of their own.

use std::time::Duration;

use celerybox::broker::Broker;
use celerybox::config::{Settings, connect};
use celerybox::message::{JsonMap, Route};
use celerybox::queue::{Exchange, ExchangeKind, Queue};
use celerybox_tests::{Place, RabbitMq, python_with, within};
use serde_json::{Value, json};

use super::broker;
use crate::conformance::{close, id, message, next, nothing, publish, queue};

fn map(value: Value) -> JsonMap {
    value.as_object().unwrap().clone()
}

/// Settings with every kind of exchange and argument.
fn settings() -> Value {
    json!({
        "task_queues": {
            "plain": {},
            "feeds": {"exchange": "media", "exchange_type": "topic", "routing_key": "feed.#", "max_length": 50},
            "all": {"exchange": "everybody", "exchange_type": "fanout", "durable": false},
            "by_header": {
                "exchange": "kinds", "exchange_type": "headers", "binding_arguments": {"x-match": "all", "kind": "mp4"},
                "exchange_arguments": {"alternate-exchange": "media"},
            },
            "short": {"expires": 600, "message_ttl": 60.5, "max_length_bytes": 5000, "max_priority": 5,
                "consumer_arguments": {"x-priority": 3}},
            "dead": {"queue_arguments": {"x-dead-letter-exchange": "", "x-dead-letter-routing-key": "plain"}},
        },
        "task_default_queue": "plain",
        "task_queue_max_priority": 10,
    })
}

/// Whoever declares first, RabbitMQ finds that the other one says the same.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn python_and_we_declare_the_same() {
    for python_first in [true, false] {
        let place = Place::amqp_rpc();
        let mut ours: Settings = serde_json::from_value(settings()).unwrap();
        ours.broker_url = Some(place.broker_url().as_str().into());
        let python = || {
            tokio::task::block_in_place(|| python_with(&place, &settings(), "declare.py", &[]));
        };
        if python_first {
            python();
        }
        let broker = connect::broker(&ours).unwrap();
        let queues = ours.consumed(&[], &[], "w@h").unwrap();
        let deliveries = broker.consume(&queues, 4).await.unwrap();
        if !python_first {
            python();
        }
        let vhost = place.vhost();
        let found = within(Duration::from_secs(20), "the queue is listed", || {
            vhost.queue("short")
        });
        assert_eq!(
            found["arguments"],
            json!({"x-expires": 600_000, "x-message-ttl": 60_500, "x-max-length-bytes": 5000, "x-max-priority": 5})
        );
        for binding in [
            json!(["media", "feeds", "feed.#", {}]),
            json!(["kinds", "by_header", "by_header", {"x-match": "all", "kind": "mp4"}]),
            json!(["plain", "plain", "plain", {}]),
        ] {
            assert!(vhost.bindings().contains(&binding), "{binding}");
        }
        broker.close().await.unwrap();
        drop(deliveries);
    }
}

/// Messages find their way by their headers.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_headers_exchange_leads_by_headers() {
    let vhost = RabbitMq::vhost();
    let broker = broker(&vhost.url());
    let mut queue = Queue::bound("films", Exchange::new("kinds", ExchangeKind::Headers), "");
    queue.binding_arguments = map(json!({"x-match": "all", "kind": "mp4"}));
    let mut deliveries = broker.consume(&[queue], 4).await.unwrap();
    for kind in ["mp3", "mp4"] {
        let mut sent = message("", kind);
        sent.route = Route {
            exchange: "kinds".into(),
            routing_key: String::new(),
        };
        sent.message
            .headers
            .as_mut()
            .unwrap()
            .insert("kind".into(), kind.into());
        broker.publish(sent).await.unwrap();
    }
    let delivery = next(&mut deliveries).await;
    assert_eq!(id(&delivery), "mp4");
    delivery.receipt.ack();
    nothing(&mut deliveries).await;
    close(Box::new(broker)).await;
}

/// The higher number first, unlike on Redis.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn priorities_are_served_from_the_highest() {
    let vhost = RabbitMq::vhost();
    let broker = broker(&vhost.url());
    let mut queue = Queue::named("urgent");
    queue.max_priority = Some(10);
    broker.declare(&queue).await.unwrap();
    for priority in [1, 9, 0, 5] {
        let mut sent = message("urgent", &priority.to_string());
        sent.message.properties.priority = Some(priority);
        broker.publish(sent).await.unwrap();
    }
    let mut deliveries = broker.consume(&[queue], 1).await.unwrap();
    for expected in ["9", "5", "1", "0"] {
        let delivery = next(&mut deliveries).await;
        assert_eq!(id(&delivery), expected);
        delivery.receipt.ack();
    }
    close(Box::new(broker)).await;
}

/// `x-priority` in `consumer_arguments`: others get messages when this one holds what it may.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_consumer_with_a_priority_is_served_first() {
    let vhost = RabbitMq::vhost();
    let queue = queue("first");
    let (low, high) = (broker(&vhost.url()), broker(&vhost.url()));
    let mut of_low = low.consume(&[queue.as_str().into()], 10).await.unwrap();
    let mut wanted = Queue::named(queue.as_str());
    wanted.consumer_arguments = map(json!({"x-priority": 10}));
    let mut of_high = high.consume(&[wanted], 3).await.unwrap();
    publish(&low, &queue, 4).await;
    for expected in ["0", "1", "2"] {
        let delivery = next(&mut of_high).await;
        assert_eq!(id(&delivery), expected);
        // Kept, so that the fourth goes to the other one.
        std::mem::forget(delivery.receipt);
    }
    let delivery = next(&mut of_low).await;
    assert_eq!(id(&delivery), "3");
    delivery.receipt.ack();
    close(Box::new(high)).await;
    close(Box::new(low)).await;
}

/// Dead-letter settings are the queue's own affair; what the server says about the cause arrives.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rejected_message_goes_to_the_dead_letter_queue_with_its_cause() {
    let vhost = RabbitMq::vhost();
    let broker = broker(&vhost.url());
    let (name, dead) = (queue("letters"), queue("dead"));
    let mut letters = Queue::named(name.as_str());
    letters.queue_arguments = map(json!({"x-dead-letter-exchange": "", "x-dead-letter-routing-key": dead}));
    let mut deliveries = broker.consume(&[letters, dead.as_str().into()], 4).await.unwrap();
    broker.publish(message(&name, "1")).await.unwrap();
    let delivery = next(&mut deliveries).await;
    assert_eq!(delivery.queue, name);
    delivery.receipt.reject(false);
    let buried = next(&mut deliveries).await;
    assert_eq!(
        (buried.queue.as_str(), id(&buried).as_str()),
        (dead.as_str(), "1")
    );
    let headers = buried.message.headers.as_ref().unwrap();
    assert_eq!(headers["x-first-death-reason"], "rejected");
    assert_eq!(headers["x-death"][0]["queue"], name.as_str());
    buried.receipt.ack();
    close(Box::new(broker)).await;
}
