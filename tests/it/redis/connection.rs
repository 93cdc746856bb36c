//! The ways to a server, and servers that go away.

use std::net::TcpListener;
use std::process::Command;
use std::time::Duration;

use celerybox::broker::BrokerError;
use celerybox::broker::redis::{Options, RedisBroker};
use celerybox_tests::{Process, Redis, Signal};

use super::{broker_at, redis_cli, until, visibility};
use crate::conformance::{close, id, next, next_many, publish};

async fn sends_and_receives(url: &str) {
    let broker = broker_at(url, &Options::default());
    publish(&*broker, "q", 3).await;
    let mut deliveries = broker.consume(&["q".into()], 2).await.unwrap();
    for n in 0..3 {
        let delivery = next(&mut deliveries).await;
        assert_eq!(id(&delivery), n.to_string());
        delivery.receipt.ack();
    }
    close(broker).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn over_tls_with_the_servers_own_authority() {
    let server = Redis::start();
    sends_and_receives(&server.tls_url()).await;
    // Without it nobody vouches for the server.
    let url = server.tls_url();
    let (without, _) = url.split_once('?').unwrap();
    let stranger = broker_at(without, &Options::default());
    let queues = ["q".into()];
    let trusting = stranger.consume(&queues, 1);
    let trusted = tokio::time::timeout(Duration::from_secs(2), trusting).await;
    assert!(trusted.is_err(), "connected to a server that nobody vouches for");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn over_a_unix_socket() {
    let server = Redis::start();
    let path = server.socket().display().to_string();
    sends_and_receives(&format!("redis+socket://{path}?virtual_host=1")).await;
    sends_and_receives(&format!("unix://{path}")).await;
    // The database of the URL is the one that was used.
    let lists = r"redis.call('SELECT', 1) return redis.call('EXISTS', '_kombu.binding.q')";
    assert_eq!(server.command(&["EVAL", lists, "0"]).integer(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wrong_password_is_an_error_and_is_not_shown() {
    let server = Redis::start();
    server.command(&["CONFIG", "SET", "requirepass", "right"]);
    let with = |userinfo: &str| server.url().replace("redis://", &format!("redis://{userinfo}"));
    for url in [with(":wrong-secret@"), with("nobody:wrong-secret@"), with("")] {
        let broker = RedisBroker::new(&url, &Options::default()).unwrap();
        let error = celerybox::broker::Broker::consume(&broker, &["q".into()], 1).await;
        let error = error.unwrap_err();
        assert!(matches!(error, BrokerError::Refused(_)), "{error:?}");
        assert!(!error.to_string().contains("wrong-secret"), "{error}");
    }
    sends_and_receives(&with(":right@")).await;
    let beyond = with(":right@").replace("/0", "/99");
    let broker = RedisBroker::new(&beyond, &Options::default()).unwrap();
    let error = celerybox::broker::Broker::consume(&broker, &["q".into()], 1).await;
    assert!(matches!(error, Err(BrokerError::Refused(_))), "{error:?}");
}

/// A server on a port of its own that keeps its data when it is stopped and started.
struct Restarting {
    port: u16,
    folder: tempfile::TempDir,
    process: Option<Process>,
}

impl Restarting {
    fn new() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        Self {
            port: listener.local_addr().unwrap().port(),
            folder: tempfile::tempdir().unwrap(),
            process: None,
        }
    }

    fn url(&self) -> String {
        format!("redis://127.0.0.1:{}/0", self.port)
    }

    fn start(&mut self) {
        let port = self.port.to_string();
        let mut command = Command::new("redis-server");
        command.current_dir(self.folder.path());
        command.args(["--bind", "127.0.0.1", "--port", &port, "--save", ""]);
        command.args(["--appendonly", "yes", "--appendfsync", "always"]);
        let mut process = Process::start("redis-server", &mut command, Some(self.folder.path()));
        process.wait_for_line("eady to accept connections");
        self.process = Some(process);
    }

    fn stop(&mut self) {
        let mut process = self.process.take().unwrap();
        process.signal(Signal::TERM);
        process.wait(Duration::from_secs(20));
    }
}

/// The first connection may take its time, like every later one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_starts_later_is_waited_for() {
    let mut server = Restarting::new();
    let broker = broker_at(&server.url(), &Options::default());
    let queues = ["q".into()];
    let (deliveries, ()) = tokio::join!(broker.consume(&queues, 1), async {
        // Long enough for one attempt to fail.
        tokio::time::sleep(Duration::from_millis(50)).await;
        tokio::task::block_in_place(|| server.start());
    });
    let mut deliveries = deliveries.unwrap();
    publish(&*broker, "q", 1).await;
    next(&mut deliveries).await.receipt.ack();
    close(broker).await;
}

/// A restart in the middle: nothing is lost, verdicts given meanwhile count, and messages flow again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restart_loses_neither_messages_nor_verdicts() {
    let mut server = Restarting::new();
    server.start();
    let broker = broker_at(&server.url(), &visibility(Duration::from_secs(3600)));
    publish(&*broker, "q", 6).await;
    let mut deliveries = broker.consume(&["q".into()], 4).await.unwrap();
    let mut held = next_many(&mut deliveries, 4).await;
    tokio::task::block_in_place(|| server.stop());
    // Nobody is there to be told.
    held.remove(0).receipt.ack();
    held.remove(0).receipt.reject(true);
    let waiting = {
        let queue =
            tokio::spawn(async move { deliveries.recv().await.map(|delivery| (delivery, deliveries)) });
        tokio::task::block_in_place(|| server.start());
        queue
    };
    let (delivery, mut deliveries) = waiting.await.unwrap().unwrap();
    assert_eq!(id(&delivery), "4");
    held.push(delivery);
    held.push(next(&mut deliveries).await);
    for delivery in held {
        delivery.receipt.ack();
    }
    let again = next(&mut deliveries).await;
    assert_eq!((id(&again).as_str(), again.redelivered), ("1", true));
    again.receipt.ack();
    publish(&*broker, "q", 1).await;
    next(&mut deliveries).await.receipt.ack();
    close(broker).await;
    let left = redis_cli(
        &server.url(),
        &[
            "EVAL",
            "return redis.call('HLEN', 'unacked') + redis.call('LLEN', 'q')",
            "0",
        ],
    );
    assert_eq!(left, "0");
}

/// Publishing waits for a server that comes back soon.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn publishing_outlives_a_restart() {
    let mut server = Restarting::new();
    server.start();
    let broker = broker_at(&server.url(), &Options::default());
    publish(&*broker, "q", 1).await;
    tokio::task::block_in_place(|| server.stop());
    let publishing = publish(&*broker, "q", 1);
    let (_, ()) = tokio::join!(publishing, async {
        tokio::time::sleep(Duration::from_millis(50)).await;
        tokio::task::block_in_place(|| server.start());
    });
    until("both are there", || {
        redis_cli(&server.url(), &["LLEN", "q"]) == "2"
    })
    .await;
    close(broker).await;
}

/// Every connection is cut again and again under load: every message still comes, and in the end nothing is left.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cut_connections_lose_nothing() {
    const COUNT: usize = 300;
    let server = Redis::start();
    let broker = broker_at(&server.url(), &Options::default());
    publish(&*broker, "q", COUNT).await;
    let mut deliveries = broker.consume(&["q".into()], 10).await.unwrap();
    let mut seen = std::collections::BTreeSet::new();
    while seen.len() < COUNT {
        let delivery = next(&mut deliveries).await;
        seen.insert(id(&delivery));
        delivery.receipt.ack();
        if seen.len() % 60 == 30 {
            server.command(&["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"]);
        }
    }
    until("all is acknowledged", || {
        server.unacked() == 0 && server.list_length("q") == 0
    })
    .await;
    close(broker).await;
}
