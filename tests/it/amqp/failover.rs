//! Several servers, and how long to try them.

use std::process::Command;
use std::time::Duration;

use celerybox::broker::amqp::{AmqpBroker, Options};
use celerybox::broker::{Broker, BrokerError, Reconnect, Strategy, send};
use celerybox::policy::publish::RetryPolicy;
use celerybox_tests::{RabbitMq, celerybox, tasks};

use super::connections::Network;
use super::raw::RawClient;
use crate::conformance::{close, id, message, next, publish, queue};

/// Nobody listens there.
const NOBODY: &str = "amqp://guest:guest@127.0.0.1:1//";

/// The second of two servers is used when the first is not there, and the first again when it is back.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_next_server_stands_in_for_one_that_is_gone() {
    let (first, second) = (RabbitMq::vhost(), RabbitMq::vhost());
    let (mut network, url) = Network::to(&first.url()).await;
    for failover in [Strategy::RoundRobin, Strategy::Shuffle] {
        let options = Options {
            failover,
            ..Options::default()
        };
        let queue = queue("failover");
        let urls = format!("{NOBODY}; {url}");
        let broker = AmqpBroker::new(&urls, &options).unwrap();
        let mut deliveries = broker.consume(&[queue.as_str().into()], 1).await.unwrap();
        publish(&broker, &queue, 1).await;
        next(&mut deliveries).await.receipt.ack();
        close(Box::new(broker)).await;
    }
    let queue = queue("failover");
    let urls = format!("{url};{}", second.url());
    let broker = AmqpBroker::new(&urls, &Options::default()).unwrap();
    let mut deliveries = broker.consume(&[queue.as_str().into()], 1).await.unwrap();
    network.tear().await;
    let mut other = RawClient::connect(&second);
    // Declared there, so the worker consumes there.
    let deadline = tokio::time::Instant::now() + Duration::from_secs(30);
    while second.queue(&queue).is_none() {
        assert!(
            tokio::time::Instant::now() < deadline,
            "the second server is not used"
        );
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    other.publish(&queue, b"\0\0", b"from the second");
    let delivery = next(&mut deliveries).await;
    assert_eq!(delivery.message.body, b"from the second");
    delivery.receipt.ack();
    close(Box::new(broker)).await;
}

/// `broker_read_url` and `broker_write_url`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_are_taken_from_one_server_and_sent_to_another() {
    let (read, write) = (RabbitMq::vhost(), RabbitMq::vhost());
    let broker = AmqpBroker::between(&read.url(), &write.url(), &Options::default()).unwrap();
    let queue = queue("split");
    let mut deliveries = broker.consume(&[queue.as_str().into()], 1).await.unwrap();
    broker.declare(&queue.as_str().into()).await.unwrap();
    broker.publish(message(&queue, "there")).await.unwrap();
    assert_eq!(RawClient::connect(&write).counts(&queue).ready, 1);
    let reader = super::broker(&read.url());
    reader.publish(message(&queue, "here")).await.unwrap();
    let delivery = next(&mut deliveries).await;
    assert_eq!(id(&delivery), "here");
    delivery.receipt.ack();
    close(Box::new(reader)).await;
    close(Box::new(broker)).await;
}

/// With retries off, or used up, `consume` fails and a worker that lost its connection ends.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn attempts_end_where_the_settings_say() {
    let vhost = RabbitMq::vhost();
    let options = |reconnect| Options {
        reconnect,
        ..Options::default()
    };
    let never = Reconnect {
        on_startup: false,
        after_loss: false,
        max_retries: None,
    };
    let few = Reconnect {
        max_retries: Some(1),
        ..Reconnect::default()
    };
    for reconnect in [never, few] {
        let broker = AmqpBroker::new(NOBODY, &options(reconnect)).unwrap();
        let queues = ["q".into()];
        let consuming = tokio::time::timeout(Duration::from_secs(60), broker.consume(&queues, 1));
        match consuming.await.expect("no more attempts are made") {
            Err(BrokerError::Connection(text)) => assert!(text.contains("127.0.0.1:1"), "{text}"),
            other => panic!("{other:?}"),
        }
    }
    let (mut network, url) = Network::to(&vhost.url()).await;
    let broker = AmqpBroker::new(&url, &options(never)).unwrap();
    let mut deliveries = broker.consume(&["q".into()], 1).await.unwrap();
    network.tear().await;
    let ended = tokio::time::timeout(Duration::from_secs(20), deliveries.recv()).await;
    assert!(matches!(ended, Ok(None)), "the channel ends");
    close(Box::new(broker)).await;
}

/// The same from outside: status 1.
#[test]
fn a_worker_without_a_broker_ends_with_status_1() {
    let folder = tempfile::tempdir().unwrap();
    let settings = folder.path().join("settings.toml");
    std::fs::write(&settings, "broker_connection_retry = false\n").unwrap();
    let mut command = Command::new(celerybox());
    command.arg("worker").arg("--tasks").arg(tasks());
    command.arg("--config").arg(settings);
    command.args(["--broker", NOBODY]);
    let output = command.output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("127.0.0.1:1"), "{said}");
}

/// `task_publish_retry_policy`: so many more attempts, and one that works ends it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sending_is_tried_as_often_as_the_policy_says() {
    let vhost = RabbitMq::vhost();
    let (mut network, url) = Network::to(&vhost.url()).await;
    let broker = super::broker(&url);
    broker.declare(&"q".into()).await.unwrap();
    network.tear().await;
    let policy = |max_retries| RetryPolicy {
        max_retries: Some(max_retries),
        interval_start: 0.05,
        interval_step: 0.0,
        interval_max: 1.0,
    };
    match send(&broker, message("q", "1"), &policy(2)).await {
        Err(BrokerError::Connection(_)) => {}
        other => panic!("{other:?}"),
    }
    let patient = policy(1000);
    let (sent, ()) = tokio::join!(send(&broker, message("q", "2"), &patient), async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        network.mend().await;
    });
    sent.unwrap();
    assert_eq!(RawClient::connect(&vhost).counts("q").ready, 1);
    close(Box::new(broker)).await;
}
