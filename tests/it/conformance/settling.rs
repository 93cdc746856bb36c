//! What becomes of a message after it was delivered.

use std::collections::BTreeSet;
use std::time::Duration;

use celerybox::broker::Delivery;
use tokio::sync::mpsc::Receiver;

use super::{
    Fixture, close, id, message, next, next_many, next_within, nothing, nothing_is_left, publish, queue,
    until_queued,
};

/// Verdicts given just before `close` are carried out too.
pub(crate) async fn an_acknowledged_message_is_gone(fixture: &dyn Fixture) {
    let queue = queue("ack");
    let broker = fixture.broker().await;
    publish(&*broker, &queue, 20).await;
    let mut deliveries = broker.consume(&[queue.as_str().into()], 0).await.unwrap();
    for delivery in next_many(&mut deliveries, 20).await {
        delivery.receipt.ack();
    }
    close(broker).await;
    nothing_is_left(fixture, &queue).await;
}

/// Once the answer is there the message never comes again, even if the worker is killed in that moment. Who waits for
/// an answer that cannot come is told so.
pub(crate) async fn an_acknowledgement_that_was_answered_is_final(fixture: &dyn Fixture) {
    let queue = queue("answered");
    let broker = fixture.broker().await;
    publish(&*broker, &queue, 40).await;
    let mut deliveries = broker.consume(&[queue.as_str().into()], 20).await.unwrap();
    let mut answers = Vec::new();
    for delivery in next_many(&mut deliveries, 20).await {
        answers.push((id(&delivery), delivery.receipt.ack_told()));
    }
    let mut answered = BTreeSet::new();
    for (id, answer) in answers.drain(..10) {
        answer.await.expect("it is acknowledged");
        answered.insert(id);
    }
    let held = next_many(&mut deliveries, 5).await;
    fixture.kill(broker).await;
    answers.extend(
        held.into_iter()
            .map(|delivery| (id(&delivery), delivery.receipt.ack_told())),
    );
    let mut open = 0;
    for (id, answer) in answers {
        let answer = tokio::time::timeout(super::DEADLINE, answer).await;
        match answer.expect("it is known in the end") {
            Ok(()) => drop(answered.insert(id)),
            Err(_) => open += 1,
        }
    }
    let broker = fixture.broker().await;
    let mut deliveries = broker.consume(&[queue.as_str().into()], 0).await.unwrap();
    let mut seen = BTreeSet::new();
    // An unanswered acknowledgement may have arrived.
    while seen.len() < 40 - answered.len() - open {
        let delivery = next_within(&mut deliveries, fixture.restored_within()).await;
        seen.insert(id(&delivery));
        delivery.receipt.ack();
    }
    take_the_rest(&mut deliveries, &mut seen, open).await;
    assert!(seen.is_disjoint(&answered), "{seen:?} came again");
    close(broker).await;
    nothing_is_left(fixture, &queue).await;
}

/// Takes what comes at once, at most so many.
async fn take_the_rest(deliveries: &mut Receiver<Delivery>, seen: &mut BTreeSet<String>, most: usize) {
    for _ in 0..=most {
        let more = tokio::time::timeout(Duration::from_millis(200), deliveries.recv());
        let Ok(Some(delivery)) = more.await else { return };
        seen.insert(id(&delivery));
        delivery.receipt.ack();
    }
}

/// `reject` without `requeue` drops the message.
pub(crate) async fn a_rejected_message_is_gone(fixture: &dyn Fixture) {
    let queue = queue("reject");
    let broker = fixture.broker().await;
    publish(&*broker, &queue, 2).await;
    let mut deliveries = broker.consume(&[queue.as_str().into()], 1).await.unwrap();
    next(&mut deliveries).await.receipt.reject(false);
    // Its slot is free again.
    let delivery = next(&mut deliveries).await;
    assert_eq!(id(&delivery), "1");
    delivery.receipt.reject(false);
    close(broker).await;
    nothing_is_left(fixture, &queue).await;
}

/// `reject` with `requeue` puts the message back, and whoever gets it sees that it had been delivered.
pub(crate) async fn a_requeued_message_comes_back_as_redelivered(fixture: &dyn Fixture) {
    let queue = queue("requeue");
    let broker = fixture.broker().await;
    let sent = message(&queue, "again");
    broker.publish(sent.clone()).await.unwrap();
    let mut deliveries = broker.consume(&[queue.as_str().into()], 1).await.unwrap();
    let delivery = next(&mut deliveries).await;
    assert!(!delivery.redelivered);
    delivery.receipt.reject(true);
    let delivery = next(&mut deliveries).await;
    assert!(delivery.redelivered);
    assert_eq!(id(&delivery), "again");
    assert_eq!(delivery.message.body, sent.message.body);
    assert_eq!(delivery.message.properties, sent.message.properties);
    assert_eq!(delivery.route, sent.route);
    delivery.receipt.ack();
    close(broker).await;
    nothing_is_left(fixture, &queue).await;
}

/// `close` gives back what was delivered and not settled, received or still in the channel.
pub(crate) async fn closing_gives_back_what_is_not_settled(fixture: &dyn Fixture) {
    let queue = queue("close");
    let broker = fixture.broker().await;
    publish(&*broker, &queue, 6).await;
    let mut deliveries = broker.consume(&[queue.as_str().into()], 4).await.unwrap();
    next(&mut deliveries).await.receipt.ack();
    let held = next(&mut deliveries).await;
    close(broker).await;
    until_queued(fixture, &queue, 5).await;
    // Too late: it went back.
    held.receipt.ack();
    let broker = fixture.broker().await;
    let mut deliveries = broker.consume(&[queue.as_str().into()], 0).await.unwrap();
    let mut seen = Vec::new();
    for delivery in next_many(&mut deliveries, 5).await {
        if id(&delivery) == "1" {
            assert!(delivery.redelivered);
        }
        seen.push(id(&delivery));
        delivery.receipt.ack();
    }
    seen.sort();
    assert_eq!(seen, ["1", "2", "3", "4", "5"]);
    close(broker).await;
    nothing_is_left(fixture, &queue).await;
}

/// What a worker held that was killed is delivered to another one.
pub(crate) async fn a_killed_broker_loses_nothing(fixture: &dyn Fixture) {
    let queue = queue("kill");
    let broker = fixture.broker().await;
    publish(&*broker, &queue, 10).await;
    let mut deliveries = broker.consume(&[queue.as_str().into()], 4).await.unwrap();
    let held = next_many(&mut deliveries, 4).await;
    let survivor = fixture.broker().await;
    let mut others = survivor.consume(&[queue.as_str().into()], 0).await.unwrap();
    for delivery in next_many(&mut others, 6).await {
        assert!(!delivery.redelivered);
        delivery.receipt.ack();
    }
    nothing(&mut others).await;
    fixture.kill(broker).await;
    let mut seen = Vec::new();
    for _ in 0..held.len() {
        let delivery = next_within(&mut others, fixture.restored_within()).await;
        assert!(delivery.redelivered);
        seen.push(id(&delivery));
        delivery.receipt.ack();
    }
    seen.sort();
    assert_eq!(seen, ["0", "1", "2", "3"]);
    close(survivor).await;
    nothing_is_left(fixture, &queue).await;
}

/// Dropping a delivery is no verdict: it keeps its slot, and goes back in the end.
pub(crate) async fn a_dropped_receipt_settles_nothing(fixture: &dyn Fixture) {
    let queue = queue("dropped");
    let broker = fixture.broker().await;
    publish(&*broker, &queue, 2).await;
    let mut deliveries = broker.consume(&[queue.as_str().into()], 1).await.unwrap();
    drop(next(&mut deliveries).await);
    nothing(&mut deliveries).await;
    close(broker).await;
    until_queued(fixture, &queue, 2).await;
}

/// `cancel` ends the stream, not the right to settle.
pub(crate) async fn after_cancel_receipts_still_work(fixture: &dyn Fixture) {
    let queue = queue("cancel");
    let broker = fixture.broker().await;
    publish(&*broker, &queue, 2).await;
    let mut deliveries = broker.consume(&[queue.as_str().into()], 2).await.unwrap();
    let held = next_many(&mut deliveries, 2).await;
    broker.cancel().await;
    broker.publish(message(&queue, "late")).await.unwrap();
    // The channel ends, and nothing more comes through it, although settling frees the slots.
    let mut held = held.into_iter();
    held.next().unwrap().receipt.ack();
    held.next().unwrap().receipt.reject(true);
    let rest = tokio::time::timeout(super::DEADLINE, deliveries.recv()).await;
    assert!(rest.expect("the channel ends").is_none());
    until_queued(fixture, &queue, 2).await;
    close(broker).await;

    let broker = fixture.broker().await;
    let mut deliveries = broker.consume(&[queue.as_str().into()], 0).await.unwrap();
    let mut seen = Vec::new();
    for delivery in next_many(&mut deliveries, 2).await {
        seen.push((id(&delivery), delivery.redelivered));
        delivery.receipt.ack();
    }
    seen.sort();
    assert_eq!(seen, [("1".into(), true), ("late".into(), false)]);
    close(broker).await;
    nothing_is_left(fixture, &queue).await;
}

/// A receipt of a connection that stands is not lost, and closing the broker loses those that were not settled.
pub(crate) async fn receipts_are_not_lost_while_the_broker_has_them(fixture: &dyn Fixture) {
    let queue = queue("receipts");
    let broker = fixture.broker().await;
    publish(&*broker, &queue, 2).await;
    let mut deliveries = broker.consume(&[queue.as_str().into()], 2).await.unwrap();
    let mut held = next_many(&mut deliveries, 2).await;
    assert!(held.iter().all(|delivery| !delivery.receipt.is_lost()));
    held.remove(0).receipt.ack();
    let lost = held[0].receipt.lost();
    assert!(!held[0].receipt.is_lost());
    close(broker).await;
    tokio::time::timeout(super::DEADLINE, lost)
        .await
        .expect("the message went back");
    assert!(held[0].receipt.is_lost());
}

/// A worker that stops gives back what it only held, before its running tasks end: the queue is as if it had not been
/// there.
pub(crate) async fn what_was_never_begun_goes_back_in_order(fixture: &dyn Fixture) {
    let queue = queue("give-back");
    let (one, two) = (fixture.broker().await, fixture.broker().await);
    publish(&*one, &queue, 5).await;
    let mut deliveries = one.consume(&[queue.as_str().into()], 5).await.unwrap();
    let mut held = next_many(&mut deliveries, 5).await;
    one.cancel().await;
    let running = held.remove(0);
    for delivery in held {
        delivery.receipt.give_back();
    }
    until_queued(fixture, &queue, 4).await;
    let mut again = two.consume(&[queue.as_str().into()], 5).await.unwrap();
    for number in 1..5 {
        let delivery = next(&mut again).await;
        assert_eq!(id(&delivery), number.to_string());
        delivery.receipt.ack();
    }
    nothing(&mut again).await;
    running.receipt.ack();
    close(one).await;
    close(two).await;
    nothing_is_left(fixture, &queue).await;
}
