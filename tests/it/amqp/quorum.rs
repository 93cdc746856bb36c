//! Quorum queues, and RabbitMQ's own delay of messages with an ETA (contract sections 2.1.3 and 2.1.4).

use std::time::{Duration, Instant, SystemTime};

use celerybox::broker::Broker;
use celerybox::config::{Settings, connect};
use celerybox::message::request::{format_time, parse_time};
use celerybox::queue::Queue;
use celerybox_tests::{Place, RabbitMq, Worker, python_with};
use serde_json::{Value, json};

use super::broker;
use super::raw::{RawClient, table};
use crate::conformance::{close, id, message, next, next_many, next_within, nothing, publish};

/// A queue that the settings do not call a quorum queue, but the server does.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_quorum_queue_that_only_the_server_knows_of_is_consumed() {
    let vhost = RabbitMq::vhost();
    RawClient::connect(&vhost).declare("replicated", &table(b"x-queue-type", b"S\0\0\0\x06quorum"));
    let broker = broker(&vhost.url());
    let mut queue = Queue::named("replicated");
    queue.no_declare = true;
    let mut deliveries = broker.consume(&[queue], 2).await.unwrap();
    publish(&broker, "replicated", 3).await;
    let held = next_many(&mut deliveries, 2).await;
    nothing(&mut deliveries).await;
    for delivery in held {
        delivery.receipt.ack();
    }
    next(&mut deliveries).await.receipt.ack();
    close(Box::new(broker)).await;
}

/// A worker that stops costs a message one delivery of its `x-delivery-limit`, whether it gives the message back while
/// others still run or its connection ends first. RabbitMQ 3 counts both the same.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stop_costs_one_delivery_of_the_limit() {
    let vhost = RabbitMq::vhost();
    let mut queue = Queue::named("limited");
    queue
        .queue_arguments
        .insert("x-queue-type".into(), "quorum".into());
    queue.queue_arguments.insert("x-delivery-limit".into(), 2.into());
    let sender = broker(&vhost.url());
    sender.declare(&queue).await.unwrap();
    publish(&sender, "limited", 3).await;
    close(Box::new(sender)).await;
    for stops in 0..=2 {
        let broker = broker(&vhost.url());
        let mut deliveries = broker.consume(std::slice::from_ref(&queue), 5).await.unwrap();
        let mut held = next_many(&mut deliveries, 3).await;
        for delivery in &held {
            let count = delivery.message.headers.as_ref().unwrap().get("x-delivery-count");
            assert_eq!(count.and_then(Value::as_u64).unwrap_or(0), stops);
        }
        broker.cancel().await;
        held.remove(0).receipt.give_back();
        close(Box::new(broker)).await;
    }
}

fn in_three_seconds() -> String {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
    format_time(parse_time("1970-01-01T00:00:00+00:00").unwrap() + since + Duration::from_secs(3))
}

/// A message with an ETA waits in RabbitMQ, comes when its time has come, says where it was sent to before, and can
/// wait once more; Python finds everything declared as it would declare it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_with_an_eta_waits_in_rabbitmq() {
    let place = Place::amqp_rpc();
    let settings = json!({
        "task_queues": {"later": {
            "exchange": "later", "exchange_type": "topic", "routing_key": "later.#",
            "queue_arguments": {"x-queue-type": "quorum"},
        }},
        "task_default_queue": "later",
    });
    let mut ours: Settings = serde_json::from_value(settings.clone()).unwrap();
    ours.broker_url = Some(place.broker_url().as_str().into());
    let broker = connect::broker(&ours).unwrap();
    let queues = ours.consumed(&[], &[], "w@h").unwrap();
    let mut deliveries = broker.consume(&queues, 4).await.unwrap();
    tokio::task::block_in_place(|| python_with(&place, &settings, "declare.py", &["delays"]));
    let mut sent = message("", "1");
    sent.route.exchange = "later".into();
    sent.route.routing_key = "later.a".into();
    for round in 0..2 {
        let before = Instant::now();
        let headers = sent.message.headers.as_mut().unwrap();
        headers.insert("eta".into(), in_three_seconds().into());
        broker.publish(sent.clone()).await.unwrap();
        nothing(&mut deliveries).await;
        let delivery = next_within(&mut deliveries, Duration::from_secs(60)).await;
        // Whole seconds of what was left when it was sent.
        assert!(before.elapsed() >= Duration::from_millis(1900), "round {round}");
        assert_eq!(id(&delivery), "1");
        assert_eq!(delivery.queue, "later");
        assert_eq!(delivery.route, sent.route, "round {round}");
        sent.route = delivery.route.clone();
        delivery.receipt.ack();
    }
    broker.close().await.unwrap();
}

/// The real client sends it into the delay, and so does our retry.
#[test]
fn a_delayed_task_of_python_runs_and_is_retried_with_a_delay() {
    let place = Place::amqp_rpc();
    let settings = json!({"task_default_queue_type": "quorum", "task_default_exchange_type": "topic"});
    let mut worker = Worker::start(&place, &settings, &["-c", "2"]);
    let start = Instant::now();
    let arguments = ["flaky.until", "[1, 2.5]", r#"{"countdown": 2.5}"#];
    let ran = python_with(&place, &settings, "call.py", &arguments);
    assert_eq!(ran, json!(1));
    assert!(start.elapsed() >= Duration::from_secs(4));
    worker.wait_for_line("succeeded");
    assert_eq!(worker.count_lines("Native delayed delivery is not available"), 0);
    // Delivered twice, and each time through the delay.
    assert_eq!(worker.count_lines("received"), 2);
    let vhost = place.vhost();
    assert!(vhost.queue("celery_delayed_27").is_some());
}
