//! Connections that end, and what becomes of the messages.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use celerybox::broker::amqp::{AmqpBroker, Options};
use celerybox::broker::{Broker, BrokerError};
use celerybox_tests::RabbitMq;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::broker;
use super::raw::RawClient;
use crate::conformance::{close, id, message, next, next_many, nothing, publish, queue, until_queued};

/// A network between a broker and its server that can be torn and mended.
pub(super) struct Network {
    port: u16,
    server: String,
    carrying: Option<JoinHandle<()>>,
    stalls: watch::Sender<u32>,
    /// How many connections there are, and how many there were at most.
    connected: Arc<(AtomicUsize, AtomicUsize)>,
}

impl Network {
    pub(super) async fn to(url: &str) -> (Self, String) {
        let (credentials, place) = url.split_once('@').unwrap();
        let (server, vhost) = place.split_once('/').unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let mut network = Self {
            port,
            server: server.to_owned(),
            carrying: None,
            stalls: watch::Sender::new(0),
            connected: Arc::default(),
        };
        network.carry(listener);
        (network, format!("{credentials}@127.0.0.1:{port}/{vhost}"))
    }

    fn carry(&mut self, listener: TcpListener) {
        let server = self.server.clone();
        let stalls = self.stalls.clone();
        let connected = Arc::clone(&self.connected);
        self.carrying = Some(tokio::spawn(async move {
            let mut connections = tokio::task::JoinSet::new();
            loop {
                let (mut client, _) = listener.accept().await.unwrap();
                let server = server.clone();
                let mut stalls = stalls.subscribe();
                let connected = Arc::clone(&connected);
                let (now, most) = &*connected;
                most.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                connections.spawn(async move {
                    let mut server = TcpStream::connect(server).await?;
                    let carried = tokio::select! {
                        carried = tokio::io::copy_bidirectional(&mut client, &mut server) => carried.map(|_| ()),
                        _ = stalls.changed() => std::future::pending().await,
                    };
                    connected.0.fetch_sub(1, Ordering::SeqCst);
                    carried
                });
            }
        }));
    }

    /// All connections end, and no new ones are accepted.
    pub(super) async fn tear(&mut self) {
        if let Some(carrying) = self.carrying.take() {
            carrying.abort();
            let _ = carrying.await;
        }
    }

    /// Nothing more goes through the connections there are, and nobody is told.
    fn stall(&self) {
        self.stalls.send_modify(|stalls| *stalls += 1);
    }

    pub(super) async fn mend(&mut self) {
        let listener = TcpListener::bind(("127.0.0.1", self.port)).await.unwrap();
        self.carry(listener);
    }
}

/// What was not settled comes again over the next connection, marked; a verdict over the old one does nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_connection_is_made_again_and_unsettled_messages_come_back() {
    let vhost = RabbitMq::vhost();
    let (mut network, url) = Network::to(&vhost.url()).await;
    let queue = queue("lost");
    let broker = broker(&url);
    let mut deliveries = broker.consume(&[queue.as_str().into()], 3).await.unwrap();
    publish(&broker, &queue, 4).await;
    let mut held = next_many(&mut deliveries, 3).await;
    held.remove(0).receipt.ack();
    // The fourth comes when the server has seen the ack.
    held.push(next(&mut deliveries).await);

    let lost = held[0].receipt.lost();
    assert!(held.iter().all(|delivery| !delivery.receipt.is_lost()));
    network.tear().await;
    tokio::time::timeout(Duration::from_secs(20), lost)
        .await
        .expect("the connection is gone");
    assert!(held.iter().all(|delivery| delivery.receipt.is_lost()));
    network.mend().await;
    let again = next_many(&mut deliveries, 3).await;
    assert_eq!(again.iter().map(id).collect::<Vec<_>>(), ["1", "2", "3"]);
    assert!(again.iter().all(|delivery| delivery.redelivered));
    // Too late; they must not settle deliveries of the new connection that have the same numbers.
    publish(&broker, &queue, 1).await;
    for delivery in held {
        delivery.receipt.ack();
    }
    nothing(&mut deliveries).await;
    for delivery in again {
        delivery.receipt.ack();
    }
    next(&mut deliveries).await.receipt.ack();
    close(Box::new(broker)).await;
    assert_eq!(RawClient::connect(&vhost).counts(&queue).ready, 0);
}

/// `consume` waits for a server that is not there yet.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_first_connection_is_tried_until_it_stands() {
    let vhost = RabbitMq::vhost();
    let (mut network, url) = Network::to(&vhost.url()).await;
    network.tear().await;
    let queue = queue("first");
    let broker = broker(&url);
    let refused = broker.publish(message(&queue, "1")).await.unwrap_err();
    assert!(matches!(refused, BrokerError::Connection(_)), "{refused:?}");
    let queues = [queue.as_str().into()];
    let mut consuming = broker.consume(&queues, 1);
    let waited = tokio::time::timeout(Duration::from_millis(300), &mut consuming).await;
    assert!(waited.is_err(), "there is nothing to connect to");
    network.mend().await;
    let mut deliveries = consuming.await.unwrap();
    broker.publish(message(&queue, "2")).await.unwrap();
    assert_eq!(id(&next(&mut deliveries).await), "2");
    broker.close().await.unwrap();
}

/// Closing ends the wait for a server that does not come.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn closing_ends_the_wait_for_a_connection() {
    let vhost = RabbitMq::vhost();
    let (mut network, url) = Network::to(&vhost.url()).await;
    network.tear().await;
    let broker = std::sync::Arc::new(broker(&url));
    let waiting = tokio::spawn({
        let broker = std::sync::Arc::clone(&broker);
        async move { broker.consume(&["q".into()], 1).await.map(|_| ()) }
    });
    tokio::time::sleep(Duration::from_millis(50)).await;
    broker.close().await.unwrap();
    assert!(matches!(waiting.await.unwrap(), Err(BrokerError::Connection(_))));
}

/// An operator closes all connections, which RabbitMQ says with `connection.close`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_that_the_server_closes_are_made_again() {
    let server = tokio::task::spawn_blocking(RabbitMq::start).await.unwrap();
    let broker = broker(&server.url());
    let queue = queue("closed");
    let mut deliveries = broker.consume(&[queue.as_str().into()], 1).await.unwrap();
    publish(&broker, &queue, 1).await;
    let first = next(&mut deliveries).await;
    let server = tokio::task::spawn_blocking(move || {
        // The management API learns of a connection within its interval.
        celerybox_tests::within(Duration::from_secs(30), "the connections are closed", || {
            server.close_connections();
            Some(())
        });
        server
    });
    let server = server.await.unwrap();
    let again = tokio::time::timeout(Duration::from_secs(60), async {
        loop {
            if let Ok(Some(again)) = tokio::time::timeout(Duration::from_secs(2), deliveries.recv()).await {
                return again;
            }
            server.close_connections();
        }
    });
    let again = again.await.expect("the message comes back");
    assert!(again.redelivered);
    first.receipt.ack();
    again.receipt.ack();
    publish(&broker, &queue, 1).await;
    assert!(!next(&mut deliveries).await.redelivered);
    close(Box::new(broker)).await;
}

/// A server that stops answering without hanging up is left for a new connection.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_silent_server_is_noticed_by_its_heartbeat() {
    let vhost = RabbitMq::vhost();
    let (network, url) = Network::to(&vhost.url()).await;
    let options = Options {
        heartbeat: 1,
        ..Options::default()
    };
    let broker = AmqpBroker::new(&url, &options).unwrap();
    let queue = queue("silent");
    let mut deliveries = broker.consume(&[queue.as_str().into()], 1).await.unwrap();
    publish(&broker, &queue, 1).await;
    let first = next(&mut deliveries).await;
    // Longer than two heartbeats: ours keep the connection, and RabbitMQ's.
    tokio::time::sleep(Duration::from_secs(3)).await;
    nothing(&mut deliveries).await;
    network.stall();
    let again = next(&mut deliveries).await;
    assert!(again.redelivered);
    first.receipt.ack();
    again.receipt.ack();
    publish(&broker, &queue, 1).await;
    assert!(!next(&mut deliveries).await.redelivered);
    close(Box::new(broker)).await;
}

/// A queue that somebody deletes takes its consumer with it; the worker declares it again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deleted_queue_is_declared_and_consumed_again() {
    let vhost = RabbitMq::vhost();
    let broker = broker(&vhost.url());
    let queue = queue("deleted");
    let mut deliveries = broker.consume(&[queue.as_str().into()], 1).await.unwrap();
    RawClient::connect(&vhost).delete(&queue);
    let deadline = tokio::time::Instant::now() + Duration::from_secs(20);
    let delivery = loop {
        broker.publish(message(&queue, "1")).await.unwrap();
        if let Ok(Some(delivery)) = tokio::time::timeout(Duration::from_millis(200), deliveries.recv()).await
        {
            break delivery;
        }
        assert!(
            tokio::time::Instant::now() < deadline,
            "the queue did not come back"
        );
    };
    delivery.receipt.ack();
    close(Box::new(broker)).await;
}

/// Messages beside one that the server does not like are published all the same.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_that_the_server_refuses_harms_no_other() {
    let vhost = RabbitMq::vhost();
    let broker = broker(&vhost.url());
    let queue = queue("refused");
    broker.declare(&queue.as_str().into()).await.unwrap();
    let mut bad = message(&queue, "bad");
    bad.route.exchange = "no such exchange".into();
    let mut unsendable = message(&queue, "unsendable");
    unsendable.message.properties.correlation_id = Some("x".repeat(256));
    let mut large = message(&queue, "large");
    large
        .message
        .headers
        .as_mut()
        .unwrap()
        .insert("x".into(), "x".repeat(200_000).into());
    let good = (0..100).map(|n| message(&queue, &n.to_string()));
    let good = futures_util::future::join_all(good.map(|message| broker.publish(message)));
    let (bad, unsendable, large, good) = tokio::join!(
        broker.publish(bad),
        broker.publish(unsendable),
        broker.publish(large),
        good
    );
    for (refused, reason) in [
        (bad, "NOT_FOUND"),
        (unsendable, "255 bytes"),
        (large, "headers are larger"),
    ] {
        match refused {
            Err(BrokerError::Refused(text)) => assert!(text.contains(reason), "{text}"),
            other => panic!("{reason}: {other:?}"),
        }
    }
    assert!(good.iter().all(Result::is_ok), "{good:?}");
    // Those that were in flight when the server closed the channel may have been sent twice.
    assert!(RawClient::connect(&vhost).counts(&queue).ready >= 100);
    close(Box::new(broker)).await;
}

/// Each of them is sent once more over a connection of its own, but not all at once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_refused_messages_make_few_connections() {
    let vhost = RabbitMq::vhost();
    let (network, url) = Network::to(&vhost.url()).await;
    let broker = broker(&url);
    let refused = (0..30).map(|n| {
        let mut bad = message("q", &n.to_string());
        bad.route.exchange = "no such exchange".into();
        broker.publish(bad)
    });
    for refused in futures_util::future::join_all(refused).await {
        assert!(matches!(refused, Err(BrokerError::Refused(_))), "{refused:?}");
    }
    let most = network.connected.1.load(Ordering::SeqCst);
    // Eight, one for all messages, and those that the network still carries to their end when the next ones begin.
    assert!((2..20).contains(&most), "{most} for 30 messages");
    close(Box::new(broker)).await;
}

/// With TLS, and only with an authority that is trusted.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tls_with_a_trusted_authority() {
    let vhost = RabbitMq::vhost();
    let queue = queue("tls");
    let authority = vhost.authority();
    let broker = broker(&format!("{}?cacertfile={}", vhost.tls_url(), authority.display()));
    let mut deliveries = broker.consume(&[queue.as_str().into()], 10).await.unwrap();
    let mut large = message(&queue, "large");
    large.message.body = (0..=255).cycle().take(3 << 20).collect();
    broker.publish(large.clone()).await.unwrap();
    publish(&broker, &queue, 50).await;
    let delivery = next(&mut deliveries).await;
    assert_eq!(delivery.message, large.message);
    delivery.receipt.ack();
    for _ in 0..50 {
        next(&mut deliveries).await.receipt.ack();
    }
    close(Box::new(broker)).await;
    until_queued(&vhost, &queue, 0).await;

    // Encrypted, but with whom nobody knows.
    let careless = super::broker(&format!("{}?verify=verify_none", vhost.tls_url()));
    careless.consume(&[queue.as_str().into()], 1).await.unwrap();
    close(Box::new(careless)).await;

    let stranger = super::broker(&vhost.tls_url());
    match stranger.consume(&[queue.as_str().into()], 1).await {
        Err(BrokerError::Refused(text)) => assert!(text.contains("cacertfile"), "{text}"),
        other => panic!("{other:?}"),
    }
}
