//! Which queues a message comes to that is sent to an exchange.

use std::collections::BTreeSet;

use celerybox::broker::{Broker, Delivery};
use celerybox::message::{JsonMap, Route};
use celerybox::queue::{Binding, Exchange, ExchangeKind, Queue};
use tokio::sync::mpsc::Receiver;

use super::{Fixture, close, id, message, next, nothing, queue};

/// Sends a message to an exchange; its id is the routing key.
async fn send(broker: &dyn Broker, exchange: &Exchange, routing_key: &str) {
    let mut sent = message("", routing_key);
    sent.route = Route {
        exchange: exchange.name.clone(),
        routing_key: routing_key.to_owned(),
    };
    broker.publish(sent).await.unwrap();
}

/// Takes so many messages, and says which came from which queue. Their routes are those they were sent to.
async fn taken(
    deliveries: &mut Receiver<Delivery>,
    exchange: &Exchange,
    count: usize,
) -> BTreeSet<(String, String)> {
    let mut taken = BTreeSet::new();
    for _ in 0..count {
        let delivery = next(deliveries).await;
        assert_eq!(delivery.route.exchange, exchange.name);
        assert_eq!(delivery.route.routing_key, id(&delivery));
        taken.insert((delivery.queue.clone(), id(&delivery)));
        delivery.receipt.ack();
    }
    nothing(deliveries).await;
    taken
}

fn expected(pairs: &[(&Queue, &str)]) -> BTreeSet<(String, String)> {
    let pairs = pairs.iter();
    pairs
        .map(|(queue, key)| (queue.name.clone(), (*key).to_owned()))
        .collect()
}

/// An exchange of this type and two queues that are bound to it with these keys.
fn two_queues(kind: ExchangeKind, one: &str, two: &str) -> (Exchange, [Queue; 2]) {
    let exchange = Exchange::new(queue("exchange"), kind);
    let bound = |key: &str| Queue::bound(queue("bound"), exchange.clone(), key);
    (exchange.clone(), [bound(one), bound(two)])
}

pub(crate) async fn a_direct_exchange_leads_to_the_queues_of_its_key(fixture: &dyn Fixture) {
    let (exchange, [one, two]) = two_queues(ExchangeKind::Direct, "k", "other");
    let broker = fixture.broker().await;
    let mut deliveries = broker.consume(&[one.clone(), two.clone()], 10).await.unwrap();
    send(&*broker, &exchange, "k").await;
    send(&*broker, &exchange, "other").await;
    assert_eq!(
        taken(&mut deliveries, &exchange, 2).await,
        expected(&[(&one, "k"), (&two, "other")])
    );
    close(broker).await;
}

/// Declared by one who sends and consumed by another.
pub(crate) async fn a_topic_exchange_leads_to_the_queues_that_match(fixture: &dyn Fixture) {
    let (exchange, [one, two]) = two_queues(ExchangeKind::Topic, "video.#", "*.cut");
    let sender = fixture.broker().await;
    for queue in [&one, &two] {
        sender.declare(queue).await.unwrap();
    }
    for key in ["video.cut", "video.a.b", "audio.cut"] {
        send(&*sender, &exchange, key).await;
    }
    close(sender).await;
    let broker = fixture.broker().await;
    let mut deliveries = broker.consume(&[one.clone(), two.clone()], 10).await.unwrap();
    assert_eq!(
        taken(&mut deliveries, &exchange, 4).await,
        expected(&[
            (&one, "video.cut"),
            (&two, "video.cut"),
            (&one, "video.a.b"),
            (&two, "audio.cut")
        ])
    );
    close(broker).await;
}

/// Two workers with a queue each get a copy each. (kombu's Redis channels end in the routing key, so both have the
/// same one here.)
pub(crate) async fn a_fanout_exchange_leads_to_all_its_queues(fixture: &dyn Fixture) {
    let (exchange, [one, two]) = two_queues(ExchangeKind::Fanout, "k", "k");
    let brokers = [fixture.broker().await, fixture.broker().await];
    let mut of_one = brokers[0].consume(std::slice::from_ref(&one), 10).await.unwrap();
    let mut of_two = brokers[1].consume(std::slice::from_ref(&two), 10).await.unwrap();
    let sender = fixture.broker().await;
    sender.declare(&one).await.unwrap();
    // A subscription stands a moment after `consume` returns.
    let mut first = None;
    for _ in 0..100 {
        send(&*sender, &exchange, "k").await;
        let (a, b) = tokio::join!(soon(&mut of_one), soon(&mut of_two));
        if let (Some(a), Some(b)) = (a, b) {
            first = Some([a, b]);
            break;
        }
    }
    let [a, b] = first.expect("both get the same message");
    assert_eq!(
        (a.queue.as_str(), b.queue.as_str()),
        (one.name.as_str(), two.name.as_str())
    );
    // What is put back comes again, to the one who put it back.
    b.receipt.ack();
    a.receipt.reject(true);
    let again = next(&mut of_one).await;
    assert!(again.redelivered);
    assert_eq!(
        (again.queue.as_str(), id(&again).as_str()),
        (one.name.as_str(), "k")
    );
    again.receipt.ack();
    nothing(&mut of_two).await;
    close(sender).await;
    for broker in brokers {
        close(broker).await;
    }
}

async fn soon(deliveries: &mut Receiver<Delivery>) -> Option<Delivery> {
    let moment = std::time::Duration::from_millis(500);
    tokio::time::timeout(moment, deliveries.recv())
        .await
        .ok()
        .flatten()
}

pub(crate) async fn a_queue_may_have_several_bindings(fixture: &dyn Fixture) {
    let (exchange, [mut one, _]) = two_queues(ExchangeKind::Direct, "a", "");
    let more = Exchange::new(queue("exchange"), ExchangeKind::Topic);
    for key in ["x.#", "y"] {
        one.bindings.push(Binding {
            exchange: more.clone(),
            routing_key: key.into(),
            arguments: JsonMap::new(),
        });
    }
    let broker = fixture.broker().await;
    let mut deliveries = broker.consume(std::slice::from_ref(&one), 10).await.unwrap();
    send(&*broker, &exchange, "a").await;
    assert_eq!(
        taken(&mut deliveries, &exchange, 1).await,
        expected(&[(&one, "a")])
    );
    send(&*broker, &more, "x.1").await;
    send(&*broker, &more, "y").await;
    assert_eq!(
        taken(&mut deliveries, &more, 2).await,
        expected(&[(&one, "x.1"), (&one, "y")])
    );
    close(broker).await;
}
