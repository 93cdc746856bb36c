//! What is declared, and what the server has against it.

use celerybox::broker::{Broker, BrokerError};
use celerybox_tests::{RabbitMq, within};
use std::time::Duration;

use super::broker;
use super::raw::{RawClient, table};
use crate::conformance::close;

/// The exchange, the queue and the binding of the contract, section 2.1.1.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn queues_are_declared_as_celery_does() {
    let vhost = RabbitMq::vhost();
    let broker = broker(&vhost.url());
    let _deliveries = broker
        .consume(&["celery".into(), "other".into()], 4)
        .await
        .unwrap();
    for name in ["celery", "other"] {
        let queue = within(Duration::from_secs(20), "the queue is listed", || {
            vhost.queue(name)
        });
        assert_eq!(queue["durable"], true);
        assert_eq!(queue["auto_delete"], false);
        assert_eq!(queue["exclusive"], false);
        assert_eq!(queue["arguments"], serde_json::json!({}));
        let exchanges = vhost.exchanges();
        let exchange = exchanges
            .iter()
            .find(|exchange| exchange["name"] == name)
            .unwrap();
        assert_eq!(exchange["type"], "direct");
        assert_eq!(exchange["durable"], true);
        assert_eq!(exchange["auto_delete"], false);
        assert_eq!(exchange["arguments"], serde_json::json!({}));
    }
    // The binding: through the exchange it arrives.
    let mut sent = crate::conformance::message("celery", "through the exchange");
    sent.route.exchange = "celery".into();
    let mut deliveries = _deliveries;
    broker.publish(sent.clone()).await.unwrap();
    let delivery = crate::conformance::next(&mut deliveries).await;
    assert_eq!(delivery.route, sent.route);
    delivery.receipt.ack();
    close(Box::new(broker)).await;
}

/// Publishing declares nothing: a reply queue that is gone stays gone.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn publishing_declares_nothing() {
    let vhost = RabbitMq::vhost();
    let broker = broker(&vhost.url());
    broker.declare(&"there".into()).await.unwrap();
    broker
        .publish(crate::conformance::message("gone", "1"))
        .await
        .unwrap();
    broker
        .publish(crate::conformance::message("there", "1"))
        .await
        .unwrap();
    within(Duration::from_secs(20), "the queue is listed", || {
        vhost.queue("there")
    });
    assert_eq!(vhost.queue("gone"), None);
    close(Box::new(broker)).await;
}

async fn refused(url: &str, queue: &str) -> String {
    match broker(url).consume(&[queue.into()], 1).await {
        Err(BrokerError::Refused(text)) => text,
        other => panic!("{other:?}"),
    }
}

/// What another attempt would not change is an error with a hint.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_server_refuses_for_good_is_an_error_with_a_hint() {
    let vhost = RabbitMq::vhost();
    let url = vhost.url();
    let arguments = table(b"x-max-priority", b"I\0\0\0\x0a");
    RawClient::connect(&vhost).declare("priorities", &arguments);
    let text = refused(&url, "priorities").await;
    for part in [
        "\"priorities\"",
        "PRECONDITION_FAILED",
        "x-max-priority",
        "hint:",
        "delete_queue",
    ] {
        assert!(text.contains(part), "{text}");
    }
    match broker(&url).declare(&"priorities".into()).await {
        Err(BrokerError::Refused(text)) => assert!(text.contains("hint:"), "{text}"),
        other => panic!("{other:?}"),
    }

    let text = refused(&url.replace("guest:guest", "guest:s3cret"), "q").await;
    assert!(
        text.contains("ACCESS_REFUSED") && text.contains("user and password"),
        "{text}"
    );
    assert!(!text.contains("s3cret"), "{text}");

    let (server, _) = url.rsplit_once('/').unwrap();
    let text = refused(&format!("{server}/nowhere"), "q").await;
    assert!(
        text.contains("\"nowhere\"") && text.contains("virtual host"),
        "{text}"
    );
}
