//! Which list a message goes to and in which order lists are served.

use celerybox::broker::redis::{Options, QueueOrder};
use celerybox::message::Route;
use celerybox::queue::Queue;
use celerybox_tests::{Redis, Reply};

use super::{broker, broker_at, until};
use crate::conformance::{close, id, message, next, next_many, publish};

fn members(server: &Redis, key: &str) -> Vec<String> {
    let Reply::List(members) = server.command(&["SMEMBERS", key]) else {
        panic!("SMEMBERS answers a list");
    };
    members.iter().map(|member| member.text().to_owned()).collect()
}

/// 0 is served first and 9 last; within one step the oldest first.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn priorities_are_served_in_kombus_order() {
    let server = Redis::start();
    let broker = broker(&server);
    for priority in (0..=9).rev() {
        let mut sent = message("q", &priority.to_string());
        sent.message.properties.priority = Some(priority);
        broker.publish(sent).await.unwrap();
    }
    for (key, length) in [("q", 3), ("q\x06\x163", 3), ("q\x06\x166", 3), ("q\x06\x169", 1)] {
        assert_eq!(server.list_length(key), length, "{key:?}");
    }
    // One at a time, so that each is a choice of its own.
    let mut deliveries = broker.consume(&["q".into()], 1).await.unwrap();
    let mut order = Vec::new();
    for _ in 0..10 {
        let delivery = next(&mut deliveries).await;
        order.push(id(&delivery));
        delivery.receipt.ack();
    }
    assert_eq!(order, ["2", "1", "0", "5", "4", "3", "8", "7", "6", "9"]);
    close(broker).await;
}

/// A worker that waits notices a message on any list of any of its queues.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_waiting_worker_notices_every_priority() {
    let server = Redis::start();
    let broker = broker(&server);
    let queues = ["a", "b"].map(Queue::from);
    let mut deliveries = broker.consume(&queues, 0).await.unwrap();
    for queue in &queues {
        for priority in [9, 0, 6, 3, 9] {
            until("the worker waits", || blocked(&server) >= 8).await;
            let mut sent = message(&queue.name, "1");
            sent.message.properties.priority = Some(priority);
            broker.publish(sent).await.unwrap();
            let second = std::time::Duration::from_secs(1);
            let delivery = crate::conformance::next_within(&mut deliveries, second).await;
            delivery.receipt.ack();
        }
    }
    close(broker).await;
}

fn blocked(server: &Redis) -> usize {
    let info = server.command(&["INFO", "clients"]);
    let line = info
        .text()
        .lines()
        .find_map(|line| line.strip_prefix("blocked_clients:"));
    line.unwrap().trim().parse().unwrap()
}

/// A requeued message is delivered after those that wait, one given back at the end before them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requeued_goes_last_and_given_back_goes_next() {
    let server = Redis::start();
    let first = broker(&server);
    publish(&*first, "q", 5).await;
    let mut deliveries = first.consume(&["q".into()], 3).await.unwrap();
    let mut held = next_many(&mut deliveries, 3).await;
    first.cancel().await;
    held.remove(1).receipt.reject(true);
    close(first).await;
    let second = broker(&server);
    let mut deliveries = second.consume(&["q".into()], 0).await.unwrap();
    let mut order = Vec::new();
    for delivery in next_many(&mut deliveries, 5).await {
        order.push((id(&delivery), delivery.redelivered));
        delivery.receipt.ack();
    }
    let expected = [("0", true), ("2", true), ("3", false), ("4", false), ("1", true)];
    assert_eq!(order, expected.map(|(id, again)| (id.to_owned(), again)));
    close(second).await;
}

/// Round robin gives every queue its turn, however long another one is.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_long_queue_does_not_keep_others_waiting() {
    let server = Redis::start();
    let sender = broker(&server);
    publish(&*sender, "long", 50).await;
    publish(&*sender, "short", 3).await;
    let order = |strategy| {
        let options = Options {
            queue_order_strategy: strategy,
            ..Options::default()
        };
        let url = server.url();
        async move {
            let broker = broker_at(&url, &options);
            let queues = ["short", "long"].map(Queue::from);
            let mut deliveries = broker.consume(&queues, 1).await.unwrap();
            let mut order = Vec::new();
            for _ in 0..6 {
                let delivery = next(&mut deliveries).await;
                order.push(delivery.route.routing_key.clone());
                delivery.receipt.ack();
            }
            close(broker).await;
            order
        }
    };
    let turns = order(QueueOrder::RoundRobin).await;
    assert_eq!(
        turns.iter().filter(|queue| *queue == "short").count(),
        3,
        "{turns:?}"
    );
    assert_ne!(turns[..3], ["short", "short", "short"]);
    publish(&*sender, "short", 3).await;
    assert_eq!(
        order(QueueOrder::Sorted).await,
        ["long"; 6],
        "l is before s, and long is not empty"
    );
    let named = order(QueueOrder::Priority).await;
    assert_eq!(named, ["short", "short", "short", "long", "long", "long"]);
    close(sender).await;
}

/// Consuming makes a queue known under the exchange of its name; publishing follows such bindings.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bindings_are_written_and_followed() {
    let server = Redis::start();
    let broker = broker(&server);
    let mut deliveries = broker.consume(&["q".into()], 0).await.unwrap();
    for set in ["_kombu.binding.q", "_kombu.binding_permanent.q"] {
        assert_eq!(members(&server, set), ["q\x06\x16\x06\x16q"]);
    }
    let to = |exchange: &str, key: &str| {
        let mut sent = message("", &format!("{exchange}/{key}"));
        sent.route = Route {
            exchange: exchange.to_owned(),
            routing_key: key.to_owned(),
        };
        sent
    };
    // Nowhere, as no queue is bound with this key or to this exchange; that is no error.
    broker.publish(to("q", "other")).await.unwrap();
    broker.publish(to("unknown", "q")).await.unwrap();
    server.command(&["SADD", "_kombu.binding.t", "a.#\x06\x16^a\\..*?$\x06\x16q"]);
    broker.publish(to("q", "q")).await.unwrap();
    broker.publish(to("t", "a.b.c")).await.unwrap();
    let mut seen = Vec::new();
    for delivery in next_many(&mut deliveries, 2).await {
        assert_eq!(
            id(&delivery),
            format!("{}/{}", delivery.route.exchange, delivery.route.routing_key)
        );
        seen.push(id(&delivery));
        delivery.receipt.ack();
    }
    assert_eq!(seen, ["q/q", "t/a.b.c"]);
    crate::conformance::nothing(&mut deliveries).await;
    close(broker).await;
}

/// With a prefix nothing is written outside it, and kombu's other key options hold.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_key_has_the_prefix() {
    let server = Redis::start();
    let options = Options {
        global_keyprefix: "app:".into(),
        unacked_key: "taken".into(),
        unacked_index_key: "taken_index".into(),
        ..Options::default()
    };
    let broker = broker_at(&server.url(), &options);
    publish(&*broker, "q", 2).await;
    let mut deliveries = broker.consume(&["q".into()], 1).await.unwrap();
    let held = next(&mut deliveries).await;
    let Reply::List(keys) = server.command(&["KEYS", "*"]) else {
        panic!("KEYS answers a list");
    };
    let mut keys: Vec<&str> = keys.iter().map(Reply::text).collect();
    keys.sort_unstable();
    assert_eq!(
        keys,
        [
            "app:_kombu.binding.q",
            "app:_kombu.binding_permanent.q",
            "app:q",
            "app:taken",
            "app:taken_index"
        ]
    );
    held.receipt.reject(true);
    close(broker).await;
    assert_eq!(server.list_length("app:q"), 2);
}

/// A key of another kind where a list should be is reported, and the other lists are served.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_list_that_is_no_list_does_not_stop_the_others() {
    let server = Redis::start();
    server.command(&["SET", "bad", "not a list"]);
    let broker = broker(&server);
    let queues = ["bad", "good"].map(Queue::from);
    let mut deliveries = broker.consume(&queues, 0).await.unwrap();
    for n in 0..3 {
        broker.publish(message("good", &n.to_string())).await.unwrap();
        let delivery = next(&mut deliveries).await;
        assert_eq!(id(&delivery), n.to_string());
        delivery.receipt.ack();
    }
    assert!(broker.publish(message("bad", "lost")).await.is_err());
    close(broker).await;
    assert_eq!(server.command(&["GET", "bad"]).text(), "not a list");
}

/// When messages cannot be recorded they are not taken.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_recorded_is_not_taken() {
    let server = Redis::start();
    let broker = broker(&server);
    for key in ["unacked", "unacked_index"] {
        server.command(&["FLUSHDB"]);
        server.command(&["SET", key, "in the way"]);
        publish(&*broker, "q", 5).await;
        let mut deliveries = broker.consume(&["q".into()], 0).await.unwrap();
        crate::conformance::nothing(&mut deliveries).await;
        assert_eq!(server.list_length("q"), 5);
        server.command(&["DEL", key]);
        for (n, delivery) in next_many(&mut deliveries, 5).await.into_iter().enumerate() {
            assert_eq!(id(&delivery), n.to_string());
            delivery.receipt.ack();
        }
        broker.cancel().await;
    }
    until("all is acknowledged", || server.unacked() == 0).await;
    close(broker).await;
}
