//! The rules for every broker, for this one.

use std::time::Duration;

use async_trait::async_trait;
use celerybox::broker::Broker;
use celerybox_tests::Redis;

use super::{broker_at, visibility};
use crate::conformance::{Fixture, conformance};

struct Server(Redis);

#[async_trait]
impl Fixture for Server {
    async fn broker(&self) -> Box<dyn Broker> {
        broker_at(&self.0.url(), &visibility(Duration::from_secs(2)))
    }

    async fn queued(&self, queue: &str) -> usize {
        let steps = ["", "\x06\x163", "\x06\x166", "\x06\x169"];
        let lengths = steps.map(|step| self.0.list_length(&format!("{queue}{step}")));
        usize::try_from(lengths.iter().sum::<i64>()).unwrap()
    }

    async fn put_garbage(&self, queue: &str) {
        let deep = "[".repeat(1_000_000);
        for text in [
            "this is no envelope",
            "",
            "[]",
            "null",
            r#"{"body": "W1syLCAzXSwg"#,
            r#"{"body": "%%%", "headers": {}, "properties": {"body_encoding": "base64"}}"#,
            r#"{"body": "", "headers": 1, "properties": {"body_encoding": "base64"}}"#,
            r#"{"body": "", "headers": {}, "properties": []}"#,
            &deep,
        ] {
            self.0.command(&["LPUSH", queue, text]);
        }
        let binary = r"return redis.call('LPUSH', KEYS[1], '\255\0\254')";
        self.0.command(&["EVAL", binary, "1", queue]);
    }
}

conformance!(Server(Redis::start()));
