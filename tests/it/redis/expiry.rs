//! Queues that go when nobody uses them, and their bindings.

use std::time::Duration;

use celerybox::broker::redis::Options;
use celerybox::queue::Queue;
use celerybox_tests::{Redis, Reply};

use super::{broker_at, until};
use crate::conformance::{close, next, publish};

fn number(server: &Redis, words: &[&str]) -> i64 {
    match server.command(words) {
        Reply::Integer(number) => number,
        other => other.text().parse().unwrap(),
    }
}

fn expiring(name: &str, seconds: f64) -> Queue {
    let mut queue = Queue::named(name);
    queue.expires = Some(seconds);
    queue
}

/// kombu's `x-expires`: sending renews a list, and so does a worker that consumes it, however long its messages wait.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_queue_goes_when_nobody_uses_it() {
    let server = Redis::start();
    let broker = broker_at(&server.url(), &Options::default());
    let seconds = 1.5;
    let queue = expiring("goes", seconds);
    broker.declare(&queue).await.unwrap();
    broker.declare(&"stays".into()).await.unwrap();
    publish(&*broker, "goes", 1).await;
    let left = number(&server, &["PTTL", "goes"]);
    assert!((1..=1500).contains(&left), "{left}");
    publish(&*broker, "stays", 1).await;
    assert_eq!(number(&server, &["PTTL", "stays"]), -1);
    // Unused, it goes.
    until("the queue is gone", || server.list_length("goes") == 0).await;

    publish(&*broker, "goes", 2).await;
    let mut deliveries = broker.consume(std::slice::from_ref(&queue), 1).await.unwrap();
    let first = next(&mut deliveries).await;
    tokio::time::sleep(Duration::from_secs_f64(2.0 * seconds)).await;
    assert_eq!(server.list_length("goes"), 1, "a queue with a consumer is in use");
    first.receipt.ack();
    next(&mut deliveries).await.receipt.ack();
    // What is there when the worker ends has its time from then on.
    publish(&*broker, "goes", 1).await;
    broker.cancel().await;
    close(broker).await;
    until("the queue is gone again", || server.list_length("goes") == 0).await;
}

/// The bindings of such a queue have a deadline, and whoever consumes one removes those that nobody put off.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bindings_of_queues_that_went_go() {
    let server = Redis::start();
    for exchange in ["gone", "kept"] {
        server.command(&[
            "SADD",
            &format!("_kombu.binding.{exchange}"),
            "k\u{6}\u{16}\u{6}\u{16}q",
        ]);
        server.command(&["ZADD", "_kombu.binding_deadlines", "1000", exchange]);
    }
    server.command(&[
        "SADD",
        "_kombu.binding_permanent.kept",
        "k\u{6}\u{16}\u{6}\u{16}q",
    ]);
    let broker = broker_at(&server.url(), &Options::default());
    let _deliveries = broker.consume(&[expiring("q", 60.0)], 1).await.unwrap();
    until("the bindings are swept", || {
        number(&server, &["EXISTS", "_kombu.binding.gone"]) == 0
    })
    .await;
    assert_eq!(number(&server, &["EXISTS", "_kombu.binding.kept"]), 1);
    assert_eq!(number(&server, &["ZCARD", "_kombu.binding_deadlines"]), 1);
    assert_eq!(number(&server, &["EXISTS", "_kombu.binding_permanent.q"]), 0);
    assert_eq!(number(&server, &["SCARD", "_kombu.binding.q"]), 1);
    let deadline = number(&server, &["ZSCORE", "_kombu.binding_deadlines", "q"]);
    let Reply::List(time) = server.command(&["TIME"]) else {
        panic!("TIME answers a list");
    };
    let hour = deadline / 1000 - time[0].text().parse::<i64>().unwrap();
    assert!((3500..=3601).contains(&hour), "{hour}");
    close(broker).await;
}
