//! Several servers, sentinels, and messages that are somebody else's now.

use std::time::Duration;

use celerybox::backend::redis::{self as backend, RedisBackend};
use celerybox::backend::{ResultBackend, StoredResult};
use celerybox::broker::redis::{Options, RedisBroker};
use celerybox::broker::{Broker, BrokerError, Reconnect, send};
use celerybox::outcome::State;
use celerybox::redis_url::{Connecting, Keepalive};
use celerybox::tls::{Check, Tls};
use celerybox_tests::{Place, Redis, Sentinel, Worker, python_with};
use serde_json::json;

use super::{broker, broker_at, redis_cli, until, visibility};
use crate::conformance::{PATIENT, close, id, message, next, next_within, nothing, publish};

/// Nobody listens there.
const NOBODY: &str = "redis://127.0.0.1:1/0";

fn result(id: &str) -> StoredResult {
    StoredResult {
        task_id: id.into(),
        state: State::Success,
        meta: format!(r#"{{"task_id": "{id}", "status": "SUCCESS", "result": 5}}"#),
        reply_to: None,
        correlation_id: None,
    }
}

/// A server that dies is replaced by the next one, for taking, sending and settling alike; what was held of the first
/// one is lost.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_next_server_stands_in_for_one_that_is_gone() {
    let (mut first, second) = (Redis::start(), Redis::start());
    let urls = format!("{NOBODY};{};{}", first.url(), second.url());
    let broker = broker_at(&urls, &Options::default());
    let mut deliveries = broker.consume(&["q".into()], 2).await.unwrap();
    publish(&*broker, "q", 1).await;
    let held = next(&mut deliveries).await;
    assert_eq!(first.unacked(), 1);
    assert!(!held.receipt.is_lost());
    first.kill();
    send(&*broker, message("q", "second"), &PATIENT).await.unwrap();
    let delivery = next_within(&mut deliveries, Duration::from_secs(60)).await;
    assert_eq!(id(&delivery), "second");
    assert!(!delivery.receipt.is_lost());
    let lost = tokio::time::timeout(Duration::from_secs(20), held.receipt.lost());
    lost.await.expect("its server is gone");
    delivery.receipt.ack();
    held.receipt.ack();
    until("the message is done", || second.unacked() == 0).await;
    close(broker).await;
}

/// Sentinels say where the server is, and where it is after its replica took over. Broker and result backend.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_takes_over_and_its_sentinels_say_so() {
    let mut master = Redis::start();
    let replica = Redis::replica_of(&master);
    let sentinel = Sentinel::watch(&master);
    let connecting = Connecting {
        master_name: Some("main".into()),
        ..Connecting::default()
    };
    let found = connecting.found.clone();
    let is_known = |redis: &Redis| {
        let port = redis
            .url()
            .rsplit(':')
            .next()
            .and_then(|port| port.trim_end_matches("/0").parse().ok());
        !found.at(port.unwrap()).is_empty()
    };
    let options = Options {
        connecting: connecting.clone(),
        ..Options::default()
    };
    // One that does not answer, and one that does.
    let url = format!("sentinel://127.0.0.1:1;{}/0", sentinel.url());
    let broker = broker_at(&url, &options);
    let results = backend::Options {
        connecting,
        ..backend::Options::default()
    };
    let results = RedisBackend::new(&url, results).unwrap();
    let mut deliveries = broker.consume(&["q".into()], 2).await.unwrap();
    // Closed to components, though no setting names them (T20).
    assert!(is_known(&master) && !is_known(&replica));
    publish(&*broker, "q", 1).await;
    let held = next(&mut deliveries).await;
    results.store(result("before")).await.unwrap();
    // Replication is not waited for by anybody else.
    until("the replica has it all", || {
        replica.unacked() == 1 && replica.stored(&["before".into()]).len() == 1
    })
    .await;
    master.kill();
    send(&*broker, message("q", "after"), &PATIENT_FAILOVER)
        .await
        .unwrap();
    let delivery = next_within(&mut deliveries, Duration::from_secs(60)).await;
    assert_eq!(id(&delivery), "after");
    assert!(is_known(&replica));
    results.store(result("after")).await.unwrap();
    assert!(results.fetch("before").await.unwrap().is_some());
    // The replica has the record of what was held, so it is held still.
    assert!(!held.receipt.is_lost());
    held.receipt.ack();
    delivery.receipt.ack();
    until("both are done", || replica.unacked() == 0).await;
    assert_eq!(replica.stored(&["after".into()]).len(), 1);
    close(broker).await;
}

/// A failover takes some seconds.
const PATIENT_FAILOVER: celerybox::policy::publish::RetryPolicy = celerybox::policy::publish::RetryPolicy {
    max_retries: Some(300),
    ..PATIENT
};

/// With retries off, or used up, `consume` fails and a worker that lost its connection ends.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn attempts_end_where_the_settings_say() {
    let never = Reconnect {
        on_startup: false,
        after_loss: false,
        max_retries: None,
    };
    let few = Reconnect {
        max_retries: Some(1),
        ..Reconnect::default()
    };
    let options = |reconnect| Options {
        reconnect,
        ..Options::default()
    };
    for reconnect in [never, few] {
        let broker = broker_at(NOBODY, &options(reconnect));
        let queues = ["q".into()];
        let consuming = tokio::time::timeout(Duration::from_secs(60), broker.consume(&queues, 1));
        match consuming.await.expect("no more attempts are made") {
            Err(BrokerError::Connection(text)) => assert!(text.contains("127.0.0.1:1"), "{text}"),
            other => panic!("{other:?}"),
        }
    }
    let mut server = Redis::start();
    let broker = broker_at(&server.url(), &options(never));
    let mut deliveries = broker.consume(&["q".into()], 1).await.unwrap();
    server.kill();
    let ended = tokio::time::timeout(Duration::from_secs(30), deliveries.recv()).await;
    assert!(matches!(ended, Ok(None)), "the channel ends");
}

/// Somebody restored a message of ours (this worker was stopped for too long, say): its receipt learns of it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_that_somebody_restored_is_lost() {
    let server = Redis::start();
    let broker = broker_at(&server.url(), &visibility(Duration::from_secs(1)));
    publish(&*broker, "q", 2).await;
    let mut deliveries = broker.consume(&["q".into()], 2).await.unwrap();
    let one = next(&mut deliveries).await;
    let two = next(&mut deliveries).await;
    // As kombu does it: out of both records, and back into the list.
    let script = "local tag = redis.call('ZRANGE', 'unacked_index', 0, -1)\n\
                  for _, t in ipairs(tag) do\n\
                    if string.find(redis.call('HGET', 'unacked', t), '\"id\": *\"0\"') then\n\
                      redis.call('ZREM', 'unacked_index', t); redis.call('HDEL', 'unacked', t)\n\
                    end\n\
                  end\n\
                  return redis.call('HLEN', 'unacked')";
    assert_eq!(server.command(&["EVAL", script, "0"]).integer(), 1);
    let lost = tokio::time::timeout(Duration::from_secs(20), one.receipt.lost());
    lost.await.expect("the next refresh notices");
    assert!(one.receipt.is_lost() && !two.receipt.is_lost());
    // What is settled late does no harm.
    one.receipt.ack();
    two.receipt.ack();
    until("the other one is done", || server.unacked() == 0).await;
    nothing(&mut deliveries).await;
    close(broker).await;
}

/// The queue is where a message was, whatever its sender says.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_cannot_lie_about_its_queue() {
    let server = Redis::start();
    let broker = broker(&server);
    let lie = r#"{"body": "", "headers": {"id": "1"}, "properties": {"delivery_info":
        {"exchange": "", "routing_key": "other"}, "delivery_tag": "x", "priority": 9}}"#;
    server.command(&["LPUSH", "q\x06\x166", lie]);
    let mut deliveries = broker.consume(&["a".into(), "q".into()], 2).await.unwrap();
    let delivery = next(&mut deliveries).await;
    assert_eq!(delivery.queue, "q");
    assert_eq!(delivery.route.routing_key, "other");
    delivery.receipt.reject(true);
    // And that is where it goes back to.
    let again = next(&mut deliveries).await;
    assert_eq!((again.queue.as_str(), again.redelivered), ("q", true));
    again.receipt.ack();
    close(broker).await;
}

/// `deadletter_queue` and `client_name`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_nobody_is_bound_for_goes_to_the_deadletter_queue() {
    let server = Redis::start();
    let options = Options {
        deadletter_queue: Some("dead".into()),
        connecting: Connecting {
            client_name: Some("our-worker".into()),
            keepalive: Some(Keepalive {
                idle: Some(Duration::from_secs(60)),
                interval: Some(Duration::from_secs(10)),
                count: Some(3),
            }),
            ..Connecting::default()
        },
        ..Options::default()
    };
    let broker = broker_at(&server.url(), &options);
    let mut sent = message("", "1");
    sent.route.exchange = "nowhere".into();
    broker.publish(sent).await.unwrap();
    assert_eq!(server.list_length("dead"), 1);
    let clients = server.command(&["CLIENT", "LIST"]);
    assert!(clients.text().contains("name=our-worker"), "{clients:?}");
    close(broker).await;
}

/// TLS: a certificate of ours where the server wants one, and a server's that nobody checks.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tls_with_a_certificate_of_ours_and_without_checks() {
    let server = Redis::start();
    redis_cli(&server.url(), &["CONFIG", "SET", "tls-auth-clients", "yes"]);
    let url = server.tls_url();
    let url = url.split_once('?').unwrap().0;
    let certificate = server.certificate();
    let tls = |check, own: bool| Tls {
        ca: None,
        certificate: own.then(|| certificate.certificate.clone()),
        key: own.then(|| certificate.key.clone()),
        check,
    };
    let connect = async |tls: Tls| {
        let options = Options {
            connecting: Connecting {
                tls: Some(tls),
                ..Connecting::default()
            },
            ..Options::default()
        };
        let broker = RedisBroker::new(url, &options).unwrap();
        let sent = broker.publish(message("q", "1")).await;
        broker.close().await.unwrap();
        sent
    };
    connect(tls(Check::None, true)).await.unwrap();
    assert!(
        connect(tls(Check::None, false)).await.is_err(),
        "no certificate of ours"
    );
    assert!(
        connect(tls(Check::Required, true)).await.is_err(),
        "an authority nobody knows"
    );
    let known = Tls {
        ca: Some(certificate.authority.clone()),
        ..tls(Check::Required, true)
    };
    connect(known).await.unwrap();
}

/// A task that waits for its ETA longer than the visibility timeout runs once, with another worker beside it.
#[test]
fn an_eta_beyond_the_visibility_timeout_runs_once() {
    let place = Place::redis();
    let settings = json!({"broker_transport_options": {"visibility_timeout": 1}});
    let mut one = Worker::start(&place, &settings, &["-c", "1", "-n", "one"]);
    let mut two = Worker::start(&place, &settings, &["-c", "1", "-n", "two"]);
    let arguments = ["arithmetic.add", "[2, 3]", r#"{"countdown": 5}"#];
    assert_eq!(python_with(&place, &settings, "call.py", &arguments), json!(5));
    // A last one behind it: both workers have seen what there was to see.
    assert_eq!(
        python_with(&place, &settings, "call.py", &arguments[..2]),
        json!(5)
    );
    let count = |text: &str| one.count_lines(text) + two.count_lines(text);
    assert_eq!(count("] received"), 2);
    for worker in [&mut one, &mut two] {
        worker.signal(celerybox_tests::Signal::TERM);
        worker.wait(Duration::from_secs(30));
    }
    assert_eq!(one.count_lines("succeeded") + two.count_lines("succeeded"), 2);
}
