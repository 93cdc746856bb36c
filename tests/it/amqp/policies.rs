//! Servers with rules of their own: how to log in, how long a message may be held.

use std::sync::OnceLock;
use std::time::Duration;

use celerybox::broker::Broker;
use celerybox::broker::amqp::{AmqpBroker, Login, Options};
use celerybox::tls::{Check, Tls};
use celerybox_tests::RabbitMq;

use super::broker;
use crate::conformance::{close, id, next, next_within, publish, queue};

/// One node for these tests. It takes a certificate instead of a password, and waits two seconds for an
/// acknowledgement. The user is called as the certificate.
fn node() -> &'static RabbitMq {
    static NODE: OnceLock<RabbitMq> = OnceLock::new();
    NODE.get_or_init(|| {
        RabbitMq::start_configured(
            "[rabbitmq_auth_mechanism_ssl].",
            "default_user = localhost\ndefault_pass = secret\nconsumer_timeout = 2000\n\
             auth_mechanisms.1 = PLAIN\nauth_mechanisms.2 = AMQPLAIN\n\
             auth_mechanisms.3 = EXTERNAL\nssl_cert_login_from = common_name\n",
            "[{rabbit, [{channel_tick_interval, 1000}]}].",
        )
    })
}

async fn works(url: &str, options: Options) {
    let broker = AmqpBroker::new(url, &options).unwrap();
    let queue = queue("login");
    let mut deliveries = broker.consume(&[queue.as_str().into()], 1).await.unwrap();
    publish(&broker, &queue, 1).await;
    next(&mut deliveries).await.receipt.ack();
    close(Box::new(broker)).await;
}

/// `broker_login_method`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_way_to_log_in() {
    let node = tokio::task::spawn_blocking(node).await.unwrap();
    let url = node.url().replace("guest:guest", "localhost:secret");
    let certificate = node.certificate();
    let tls = Tls {
        ca: Some(certificate.authority.clone()),
        certificate: Some(certificate.certificate.clone()),
        key: Some(certificate.key.clone()),
        check: Check::Required,
    };
    for login in [Login::Plain, Login::AmqPlain] {
        let options = Options {
            login,
            ..Options::default()
        };
        works(&url, options).await;
    }
    for check in [Check::Required, Check::None] {
        let options = Options {
            login: Login::External,
            tls: Some(Tls { check, ..tls.clone() }),
            ..Options::default()
        };
        works(&node.tls_url(), options).await;
    }
}

/// A task that takes longer than the server's patience: the message comes again, and the worker goes on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_that_is_held_too_long_is_lost_and_comes_again() {
    let node = tokio::task::spawn_blocking(node).await.unwrap();
    let broker = broker(&node.url().replace("guest:guest", "localhost:secret"));
    let queue = queue("patience");
    let mut deliveries = broker.consume(&[queue.as_str().into()], 1).await.unwrap();
    publish(&broker, &queue, 2).await;
    let held = next(&mut deliveries).await;
    assert!(!held.receipt.is_lost());
    let lost = tokio::time::timeout(Duration::from_secs(60), held.receipt.lost());
    lost.await.expect("the server hangs up");
    assert!(held.receipt.is_lost());
    let again = next_within(&mut deliveries, Duration::from_secs(60)).await;
    assert!(again.redelivered);
    assert_eq!(id(&again), id(&held));
    held.receipt.ack();
    again.receipt.ack();
    let second = next(&mut deliveries).await;
    assert_eq!(id(&second), "1");
    second.receipt.ack();
    close(Box::new(broker)).await;
}
