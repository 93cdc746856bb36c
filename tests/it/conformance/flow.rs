//! How many messages a worker has, and when.

use std::collections::BTreeSet;
use std::time::Duration;

use celerybox::broker::Delivery;
use tokio::sync::mpsc::Receiver;

use super::{
    Fixture, close, id, message, next, next_many, next_within, nothing, nothing_is_left, publish, queue,
    until_queued,
};

/// A consumer that waits gets a message without delay, and so it does after a while without any.
pub(crate) async fn a_message_that_comes_later_arrives_soon(fixture: &dyn Fixture) {
    let queue = queue("later");
    let broker = fixture.broker().await;
    let sender = fixture.broker().await;
    let mut deliveries = broker.consume(&[queue.as_str().into()], 1).await.unwrap();
    nothing(&mut deliveries).await;
    for n in 0..5 {
        sender.publish(message(&queue, &n.to_string())).await.unwrap();
        // Far more than it takes, and far less than a missed wake-up costs.
        let delivery = next_within(&mut deliveries, Duration::from_secs(3)).await;
        delivery.receipt.ack();
    }
    close(sender).await;
    close(broker).await;
}

/// No more unsettled messages than asked for; settling one makes room for one.
pub(crate) async fn prefetch_is_respected(fixture: &dyn Fixture) {
    let queue = queue("prefetch");
    let broker = fixture.broker().await;
    publish(&*broker, &queue, 10).await;
    let mut deliveries = broker.consume(&[queue.as_str().into()], 3).await.unwrap();
    let mut held = next_many(&mut deliveries, 3).await;
    nothing(&mut deliveries).await;
    until_queued(fixture, &queue, 7).await;
    held.remove(1).receipt.ack();
    held.push(next(&mut deliveries).await);
    nothing(&mut deliveries).await;
    held.remove(0).receipt.reject(false);
    held.push(next(&mut deliveries).await);
    nothing(&mut deliveries).await;
    until_queued(fixture, &queue, 5).await;
    let ids: Vec<String> = held.iter().map(id).collect();
    assert_eq!(ids, ["2", "3", "4"]);
    close(broker).await;
}

/// A higher prefetch takes effect at once.
pub(crate) async fn prefetch_can_be_raised(fixture: &dyn Fixture) {
    let queue = queue("raised");
    let broker = fixture.broker().await;
    publish(&*broker, &queue, 10).await;
    let mut deliveries = broker.consume(&[queue.as_str().into()], 2).await.unwrap();
    let mut held = next_many(&mut deliveries, 2).await;
    nothing(&mut deliveries).await;
    broker.set_prefetch(5);
    held.extend(next_many(&mut deliveries, 3).await);
    nothing(&mut deliveries).await;
    broker.set_prefetch(0);
    held.extend(next_many(&mut deliveries, 5).await);
    close(broker).await;
}

/// A lower prefetch takes effect on what is taken next.
pub(crate) async fn prefetch_can_be_lowered(fixture: &dyn Fixture) {
    let queue = queue("lowered");
    let broker = fixture.broker().await;
    let mut deliveries = broker.consume(&[queue.as_str().into()], 10).await.unwrap();
    broker.set_prefetch(2);
    // The change is not acknowledged, so the first rounds may still see the old number.
    for _ in 0..10 {
        publish(&*broker, &queue, 5).await;
        let held = held_at_once(&mut deliveries).await;
        let count = held.len();
        settle_all(held, &mut deliveries, 5 - count).await;
        if count == 2 {
            close(broker).await;
            return;
        }
    }
    panic!("the prefetch stayed as it was");
}

async fn held_at_once(deliveries: &mut Receiver<Delivery>) -> Vec<Delivery> {
    let mut held = vec![next(deliveries).await];
    while let Ok(Some(delivery)) = tokio::time::timeout(Duration::from_millis(300), deliveries.recv()).await {
        held.push(delivery);
    }
    held
}

async fn settle_all(held: Vec<Delivery>, deliveries: &mut Receiver<Delivery>, more: usize) {
    for delivery in held {
        delivery.receipt.ack();
    }
    for _ in 0..more {
        next(deliveries).await.receipt.ack();
    }
}

/// A prefetch of 0 is no limit, and a receiver that does not look is no reason to stop for good.
pub(crate) async fn without_a_prefetch_nothing_is_held_back(fixture: &dyn Fixture) {
    let queue = queue("unlimited");
    let broker = fixture.broker().await;
    publish(&*broker, &queue, 1000).await;
    let mut deliveries = broker.consume(&[queue.as_str().into()], 0).await.unwrap();
    let held = next_many(&mut deliveries, 1000).await;
    until_queued(fixture, &queue, 0).await;
    let ids: BTreeSet<String> = held.iter().map(id).collect();
    assert_eq!(ids.len(), 1000);
    for delivery in held {
        delivery.receipt.ack();
    }
    close(broker).await;
    nothing_is_left(fixture, &queue).await;
}

/// Two workers on one queue: every message goes to exactly one of them.
pub(crate) async fn two_consumers_share_without_duplicates(fixture: &dyn Fixture) {
    const COUNT: usize = 500;
    let queue = queue("shared");
    let brokers = [fixture.broker().await, fixture.broker().await];
    let mut streams = [
        brokers[0].consume(&[queue.as_str().into()], 5).await.unwrap(),
        brokers[1].consume(&[queue.as_str().into()], 5).await.unwrap(),
    ];
    let taking = async {
        let mut seen = BTreeSet::new();
        let [one, two] = &mut streams;
        // Both hold what they may, so both must get some.
        let held = [next_many(one, 5).await, next_many(two, 5).await];
        for delivery in held.into_iter().flatten() {
            assert!(seen.insert(id(&delivery)), "{} came twice", id(&delivery));
            delivery.receipt.ack();
        }
        while seen.len() < COUNT {
            let delivery = tokio::time::timeout(super::DEADLINE, async {
                tokio::select! {
                    delivery = one.recv() => delivery,
                    delivery = two.recv() => delivery,
                }
            });
            let delivery = delivery
                .await
                .expect("a message comes")
                .expect("the channel is open");
            assert!(seen.insert(id(&delivery)), "{} came twice", id(&delivery));
            assert!(!delivery.redelivered);
            delivery.receipt.ack();
        }
    };
    let sender = fixture.broker().await;
    tokio::join!(publish(&*sender, &queue, COUNT), taking);
    close(sender).await;
    for broker in brokers {
        close(broker).await;
    }
    nothing_is_left(fixture, &queue).await;
}

/// Queues are added and left out while others are consumed. What was delivered before that can be settled as ever.
pub(crate) async fn queues_come_and_go(fixture: &dyn Fixture) {
    let [one, two] = [queue("stays"), queue("comes")];
    let broker = fixture.broker().await;
    let sender = fixture.broker().await;
    for queue in [&one, &two] {
        publish(&*sender, queue, 1).await;
    }
    let mut deliveries = broker.consume(&[one.as_str().into()], 10).await.unwrap();
    let held = next(&mut deliveries).await;
    assert_eq!(held.queue, one);
    nothing(&mut deliveries).await;
    let both = [one.as_str().into(), two.as_str().into()];
    broker.set_queues(&both).await.unwrap();
    let added = next(&mut deliveries).await;
    assert_eq!(added.queue, two);
    // The same once more changes nothing.
    broker.set_queues(&both).await.unwrap();
    broker.set_queues(&both[..1]).await.unwrap();
    publish(&*sender, &two, 1).await;
    nothing(&mut deliveries).await;
    until_queued(fixture, &two, 1).await;
    added.receipt.ack();
    held.receipt.ack();
    publish(&*sender, &one, 1).await;
    next(&mut deliveries).await.receipt.ack();
    // None at all, and back again.
    broker.set_queues(&[]).await.unwrap();
    publish(&*sender, &one, 1).await;
    nothing(&mut deliveries).await;
    broker.set_queues(&both).await.unwrap();
    for delivery in next_many(&mut deliveries, 2).await {
        assert!(!delivery.redelivered, "it was left in its queue");
        delivery.receipt.ack();
    }
    close(sender).await;
    close(broker).await;
    nothing_is_left(fixture, &one).await;
    nothing_is_left(fixture, &two).await;
}
