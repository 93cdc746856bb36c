//! What is sent arrives.

use std::collections::BTreeSet;

use celerybox::message::Properties;
use celerybox::queue::Queue;
use futures_util::stream::{self, StreamExt, TryStreamExt};
use serde_json::{Value, json};

use super::{Fixture, close, id, message, next, next_many, publish, queue, until_queued};

/// Headers, properties, route and body come out as they went in.
pub(crate) async fn everything_arrives_as_it_was_sent(fixture: &dyn Fixture) {
    let queue = queue("everything");
    let mut sent = message(&queue, "1");
    let headers = sent.message.headers.as_mut().unwrap();
    for (name, value) in [
        ("null", Value::Null),
        ("true", json!(true)),
        ("zero", json!(0)),
        ("small", json!(i64::MIN)),
        ("big", json!(i64::MAX)),
        ("exact", json!((1_u64 << 53) + 1)),
        ("float", json!(0.1)),
        ("text", json!("schöne Grüße, 東京 🦀 \"\\\n\u{1}")),
        ("empty", json!(["", {}, []])),
        (
            "nested",
            json!({"a": [{"b": [null, [1, {"c": "d"}]]}], "e": {"f": {}}}),
        ),
        ("timelimit", json!([30, null])),
        ("stamps", json!({"tag": ["a", "b"]})),
    ] {
        headers.insert(name.into(), value);
    }
    let other = [("app_id", json!("an app")), ("message_id", json!("m-1"))];
    sent.message.properties = Properties {
        content_type: Some("application/x-unknown".into()),
        content_encoding: Some("binary".into()),
        correlation_id: Some("an id".into()),
        reply_to: Some("11111111-1111-3111-8111-111111111111".into()),
        priority: Some(5),
        delivery_mode: Some(1),
        expiration: Some("600000".into()),
        other: other
            .map(|(name, value)| (name.to_owned(), value))
            .into_iter()
            .collect(),
    };
    sent.message.body = (0..=255).cycle().take(5000).collect();

    let broker = fixture.broker().await;
    broker.publish(sent.clone()).await.unwrap();
    let mut deliveries = broker.consume(&[queue.as_str().into()], 1).await.unwrap();
    let delivery = next(&mut deliveries).await;
    let (headers, expected) = (delivery.message.headers.unwrap(), sent.message.headers.unwrap());
    for (name, value) in &expected {
        assert_eq!(headers.get(name), Some(value), "header {name}");
    }
    assert_eq!(headers.len(), expected.len(), "{headers:?}");
    assert_eq!(delivery.message.properties, sent.message.properties);
    assert_eq!(delivery.message.body, sent.message.body);
    assert_eq!(delivery.route, sent.route);
    assert!(!delivery.redelivered);

    // No headers, no properties to speak of, an empty body.
    delivery.receipt.ack();
    sent.message = celerybox::message::Message {
        headers: Some([("id".to_owned(), json!("bare"))].into_iter().collect()),
        ..Default::default()
    };
    broker.publish(sent).await.unwrap();
    let delivery = next(&mut deliveries).await;
    assert_eq!(id(&delivery), "bare");
    assert_eq!(delivery.message.body, b"");
    assert_eq!(delivery.message.properties.content_type, None);
    assert_eq!(delivery.message.properties.correlation_id, None);
    delivery.receipt.ack();
    close(broker).await;
}

/// First in, first out.
pub(crate) async fn the_order_is_kept(fixture: &dyn Fixture) {
    let queue = queue("order");
    let broker = fixture.broker().await;
    publish(&*broker, &queue, 200).await;
    let mut deliveries = broker.consume(&[queue.as_str().into()], 7).await.unwrap();
    for n in 0..200 {
        let delivery = next(&mut deliveries).await;
        assert_eq!(id(&delivery), n.to_string());
        delivery.receipt.ack();
    }
    close(broker).await;
}

/// A message waits for its consumer, also when its sender has left.
pub(crate) async fn a_queue_that_nobody_consumes_keeps_its_messages(fixture: &dyn Fixture) {
    let queue = queue("kept");
    let sender = fixture.broker().await;
    publish(&*sender, &queue, 3).await;
    close(sender).await;
    until_queued(fixture, &queue, 3).await;
    let broker = fixture.broker().await;
    let mut deliveries = broker.consume(&[queue.as_str().into()], 10).await.unwrap();
    for (n, delivery) in next_many(&mut deliveries, 3).await.into_iter().enumerate() {
        assert_eq!(id(&delivery), n.to_string());
        assert!(!delivery.redelivered);
        delivery.receipt.ack();
    }
    close(broker).await;
}

/// `--purge`: what waits is thrown away, of this queue only, whatever its priority.
pub(crate) async fn a_purged_queue_is_empty(fixture: &dyn Fixture) {
    let (queue, other) = (queue("purged"), queue("other"));
    let broker = fixture.broker().await;
    for priority in [0, 4, 9] {
        let mut outgoing = message(&queue, "1");
        outgoing.message.properties.priority = Some(priority);
        broker.publish(outgoing).await.unwrap();
    }
    publish(&*broker, &other, 1).await;
    until_queued(fixture, &other, 1).await;
    let purged = Queue::from(queue.as_str());
    assert_eq!(broker.purge(&purged).await.unwrap(), 3);
    assert_eq!(broker.purge(&purged).await.unwrap(), 0);
    assert_eq!(fixture.queued(&other).await, 1);
    broker.purge(&other.as_str().into()).await.unwrap();
    close(broker).await;
}

/// One consumer, three queues; a fourth is left alone.
pub(crate) async fn several_queues_at_once(fixture: &dyn Fixture) {
    let queues = ["a", "b", "c"].map(queue);
    // Names that start or end like one of them.
    let others = [format!("{}.x", queues[0]), format!("x.{}", queues[0])];
    let broker = fixture.broker().await;
    let consumed: Vec<Queue> = queues.iter().map(|queue| queue.as_str().into()).collect();
    let mut deliveries = broker.consume(&consumed, 100).await.unwrap();
    for queue in queues.iter().chain(&others) {
        broker.publish(message(queue, queue)).await.unwrap();
    }
    let mut taken = BTreeSet::new();
    for delivery in next_many(&mut deliveries, queues.len()).await {
        assert_eq!(delivery.route.routing_key, id(&delivery));
        assert_eq!(delivery.queue, id(&delivery));
        taken.insert(id(&delivery));
        delivery.receipt.ack();
    }
    assert_eq!(taken, BTreeSet::from(queues.clone()));
    super::nothing(&mut deliveries).await;
    for other in &others {
        assert_eq!(fixture.queued(other).await, 1);
    }
    close(broker).await;
}

/// None is lost, none comes twice.
pub(crate) async fn ten_thousand_messages(fixture: &dyn Fixture) {
    const COUNT: usize = 10_000;
    let queue = queue("many");
    let broker = fixture.broker().await;
    let mut deliveries = broker.consume(&[queue.as_str().into()], 100).await.unwrap();
    let publishing = stream::iter(0..COUNT)
        .map(|n| broker.publish(message(&queue, &n.to_string())))
        .buffer_unordered(64)
        .try_collect::<Vec<()>>();
    let taking = async {
        let mut taken = BTreeSet::new();
        for _ in 0..COUNT {
            let delivery = next(&mut deliveries).await;
            assert!(taken.insert(id(&delivery)), "{} came twice", id(&delivery));
            delivery.receipt.ack();
        }
    };
    let (published, ()) = tokio::join!(publishing, taking);
    published.unwrap();
    close(broker).await;
    super::nothing_is_left(fixture, &queue).await;
}

/// What is no message, or one that makes no sense, harms nobody.
pub(crate) async fn garbage_does_not_stop_the_stream(fixture: &dyn Fixture) {
    let queue = queue("garbage");
    let broker = fixture.broker().await;
    publish(&*broker, &queue, 1).await;
    fixture.put_garbage(&queue).await;
    let mut sent = message(&queue, "not JSON");
    sent.message.body = b"\xff\xfe{{{".to_vec();
    broker.publish(sent).await.unwrap();
    let mut sent = message(&queue, "huge header");
    let headers = sent.message.headers.as_mut().unwrap();
    headers.insert("huge".into(), "x".repeat(60_000).into());
    broker.publish(sent).await.unwrap();
    let mut sent = message(&queue, "no task");
    sent.message.headers.as_mut().unwrap().remove("task");
    broker.publish(sent).await.unwrap();
    broker.publish(message(&queue, "last")).await.unwrap();

    let mut deliveries = broker.consume(&[queue.as_str().into()], 1).await.unwrap();
    let mut seen = BTreeSet::new();
    while !seen.contains("last") {
        let delivery = next(&mut deliveries).await;
        // Garbage may be delivered or dropped; what we sent must come.
        let id = delivery
            .message
            .headers
            .as_ref()
            .and_then(|headers| headers.get("id")?.as_str());
        seen.extend(id.map(str::to_owned));
        delivery.receipt.reject(false);
    }
    for id in ["0", "not JSON", "huge header", "no task"] {
        assert!(seen.contains(id), "{id} did not come");
    }
    // What was not delivered is removed sooner or later.
    let draining = async {
        while let Some(delivery) = deliveries.recv().await {
            delivery.receipt.reject(false);
        }
    };
    tokio::select! {
        () = until_queued(fixture, &queue, 0) => {}
        () = draining => panic!("the channel ended"),
    }
    close(broker).await;
}
