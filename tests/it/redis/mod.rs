//! Redis as broker and as result backend.

mod backend;
mod chords;
mod claims;
mod conformance;
mod connection;
mod expiry;
mod failover;
mod kombu;
mod queues;

use std::process::Command;
use std::time::{Duration, Instant};

use celerybox::backend::redis as backend_of;
use celerybox::backend::redis::RedisBackend;
use celerybox::broker::Broker;
use celerybox::broker::redis::{Options, RedisBroker};
use celerybox_tests::Redis;

/// A broker on this server.
pub(crate) fn broker(server: &Redis) -> Box<dyn Broker> {
    broker_at(&server.url(), &Options::default())
}

pub(crate) fn broker_at(url: &str, options: &Options) -> Box<dyn Broker> {
    Box::new(RedisBroker::new(url, options).unwrap())
}

/// Kombu's options with another visibility timeout.
pub(crate) fn visibility(timeout: Duration) -> Options {
    Options {
        visibility_timeout: timeout,
        ..Options::default()
    }
}

pub(crate) fn result_backend(server: &Redis) -> RedisBackend {
    RedisBackend::new(&server.url(), backend_of::Options::default()).unwrap()
}

/// Waits until something is so.
pub(crate) async fn until(what: &str, mut fact: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !fact() {
        assert!(Instant::now() < deadline, "not in time: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// What `redis-cli` prints for a command.
pub(crate) fn redis_cli(url: &str, words: &[&str]) -> String {
    let mut command = Command::new("redis-cli");
    let output = command.args(["-u", url]).args(words).output().unwrap();
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}
