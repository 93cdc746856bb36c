//! What every broker must do, whatever is behind it.
//!
//! A broker's tests give a [`Fixture`] and call [`conformance!`], which makes one test of every rule:
//!
//! ```ignore
//! crate::conformance::conformance!(my_fixture().await);
//! ```
//!
//! Every test uses queues of its own, so one server may serve all of them, and they may run at the same time.

pub(crate) mod exchanges;
pub(crate) mod flow;
pub(crate) mod messages;
pub(crate) mod settling;

use std::time::Duration;

use async_trait::async_trait;
use celerybox::broker::{Broker, Delivery, send};
use celerybox::message::{JsonMap, Message, Outgoing, Properties, Route};
use celerybox::policy::publish::RetryPolicy;
use tokio::sync::mpsc::Receiver;
use uuid::Uuid;

/// No step of a test may take longer.
const DEADLINE: Duration = Duration::from_secs(20);

/// No test may take longer, whatever it waits for.
pub(crate) const LONGEST: Duration = Duration::from_secs(180);

/// What the suite needs of a broker's server.
#[async_trait]
pub(crate) trait Fixture: Send + Sync {
    /// A new broker of the kind under test, on the server of this fixture.
    async fn broker(&self) -> Box<dyn Broker>;

    /// How many messages wait in a queue, not counting the ones that are delivered and not settled. Counted on the
    /// server, without the broker under test.
    async fn queued(&self, queue: &str) -> usize;

    /// Puts things into a queue that no sane sender puts there, without the broker under test: whatever this kind of
    /// server can hold that is no message, or one that cannot be decoded.
    async fn put_garbage(&self, queue: &str);

    /// Ends a broker as if its process were killed.
    async fn kill(&self, broker: Box<dyn Broker>) {
        drop(broker);
    }

    /// How long the unsettled messages of a killed broker may take to come back.
    fn restored_within(&self) -> Duration {
        DEADLINE
    }
}

/// Makes one test of every rule. The argument is evaluated in each test, in an async context, and gives a [`Fixture`].
macro_rules! conformance {
    ($fixture:expr) => {
        $crate::conformance::conformance! { $fixture;
            messages: everything_arrives_as_it_was_sent;
            messages: the_order_is_kept;
            messages: a_queue_that_nobody_consumes_keeps_its_messages;
            messages: a_purged_queue_is_empty;
            messages: several_queues_at_once;
            messages: ten_thousand_messages;
            messages: garbage_does_not_stop_the_stream;
            settling: an_acknowledged_message_is_gone;
            settling: an_acknowledgement_that_was_answered_is_final;
            settling: a_rejected_message_is_gone;
            settling: a_requeued_message_comes_back_as_redelivered;
            settling: closing_gives_back_what_is_not_settled;
            settling: a_killed_broker_loses_nothing;
            settling: a_dropped_receipt_settles_nothing;
            settling: after_cancel_receipts_still_work;
            settling: what_was_never_begun_goes_back_in_order;
            exchanges: a_direct_exchange_leads_to_the_queues_of_its_key;
            exchanges: a_topic_exchange_leads_to_the_queues_that_match;
            exchanges: a_fanout_exchange_leads_to_all_its_queues;
            exchanges: a_queue_may_have_several_bindings;
            settling: receipts_are_not_lost_while_the_broker_has_them;
            flow: a_message_that_comes_later_arrives_soon;
            flow: prefetch_is_respected;
            flow: prefetch_can_be_raised;
            flow: prefetch_can_be_lowered;
            flow: without_a_prefetch_nothing_is_held_back;
            flow: two_consumers_share_without_duplicates;
            flow: queues_come_and_go;
        }
    };
    ($fixture:expr; $($module:ident: $rule:ident;)*) => {
        $(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $rule() {
                let fixture = $fixture;
                let rule = $crate::conformance::$module::$rule(&fixture);
                tokio::time::timeout($crate::conformance::LONGEST, rule).await.expect("the test ends");
            }
        )*
    };
}
pub(crate) use conformance;

/// A queue's name that no other test has.
pub(crate) fn queue(name: &str) -> String {
    format!("conformance.{name}.{}", Uuid::new_v4())
}

/// A message as Celery sends it, with `id` in its headers and properties.
pub(crate) fn message(queue: &str, id: &str) -> Outgoing {
    let mut headers = JsonMap::new();
    for (name, value) in [("lang", "py"), ("task", "proj.add"), ("id", id)] {
        headers.insert(name.into(), value.into());
    }
    Outgoing {
        route: Route::to_queue(queue),
        message: Message {
            headers: Some(headers),
            properties: Properties {
                content_type: Some("application/json".into()),
                content_encoding: Some("utf-8".into()),
                correlation_id: Some(id.into()),
                delivery_mode: Some(2),
                priority: Some(0),
                ..Properties::default()
            },
            body: br#"[[2, 3], {}, {"callbacks": null, "errbacks": null, "chain": null, "chord": null}]"#
                .to_vec(),
        },
    }
}

/// For a server that is away for a while.
pub(crate) const PATIENT: RetryPolicy = RetryPolicy {
    max_retries: Some(100),
    interval_start: 0.0,
    interval_step: 0.1,
    interval_max: 0.2,
};

/// Publishes messages `0` to `count - 1`, one after the other.
pub(crate) async fn publish(broker: &dyn Broker, queue: &str, count: usize) {
    for n in 0..count {
        send(broker, message(queue, &n.to_string()), &PATIENT)
            .await
            .unwrap();
    }
}

/// The `id` of a delivered message.
pub(crate) fn id(delivery: &Delivery) -> String {
    let headers = delivery.message.headers.as_ref().expect("there are headers");
    headers["id"].as_str().expect("the id is text").to_owned()
}

/// The next delivery.
pub(crate) async fn next(deliveries: &mut Receiver<Delivery>) -> Delivery {
    next_within(deliveries, DEADLINE).await
}

/// The next delivery, which must come in time.
pub(crate) async fn next_within(deliveries: &mut Receiver<Delivery>, time: Duration) -> Delivery {
    match tokio::time::timeout(time, deliveries.recv()).await {
        Ok(Some(delivery)) => delivery,
        Ok(None) => panic!("the channel ended"),
        Err(_) => panic!("no message came within {time:?}"),
    }
}

/// The next `count` deliveries.
pub(crate) async fn next_many(deliveries: &mut Receiver<Delivery>, count: usize) -> Vec<Delivery> {
    let mut taken = Vec::new();
    for _ in 0..count {
        taken.push(next(deliveries).await);
    }
    taken
}

/// That nothing is delivered. There is no event for what does not happen, so this takes a moment.
pub(crate) async fn nothing(deliveries: &mut Receiver<Delivery>) {
    let moment = Duration::from_millis(300);
    if let Ok(Some(delivery)) = tokio::time::timeout(moment, deliveries.recv()).await {
        panic!("message {} came, which should not have", id(&delivery));
    }
}

/// Waits until so many messages wait in a queue.
pub(crate) async fn until_queued(fixture: &dyn Fixture, queue: &str, count: usize) {
    let deadline = tokio::time::Instant::now() + DEADLINE;
    loop {
        let queued = fixture.queued(queue).await;
        if queued == count {
            return;
        }
        assert!(
            tokio::time::Instant::now() < deadline,
            "{queued} messages wait in the queue, not {count}"
        );
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Closes a broker, in time.
pub(crate) async fn close(broker: Box<dyn Broker>) {
    let closed = tokio::time::timeout(DEADLINE, broker.close());
    closed.await.expect("close() takes too long").unwrap();
}

/// Consumes a queue with a new broker and sees that its only message, redelivered or not, is a new one: nothing was left.
pub(crate) async fn nothing_is_left(fixture: &dyn Fixture, queue: &str) {
    until_queued(fixture, queue, 0).await;
    let broker = fixture.broker().await;
    let mut deliveries = broker.consume(&[queue.into()], 0).await.unwrap();
    broker.publish(message(queue, "sentinel")).await.unwrap();
    let delivery = next(&mut deliveries).await;
    assert_eq!(id(&delivery), "sentinel", "a message was left in the queue");
    delivery.receipt.ack();
    nothing(&mut deliveries).await;
    close(broker).await;
}
