//! The rules for every broker, for this one.

use async_trait::async_trait;
use celerybox::broker::Broker;

use super::Folder;
use crate::conformance::{Fixture, conformance};

#[async_trait]
impl Fixture for Folder {
    async fn broker(&self) -> Box<dyn Broker> {
        Box::new(Folder::broker(self))
    }

    async fn queued(&self, queue: &str) -> usize {
        let end = format!(".{queue}.msg");
        // As kombu counts: what follows the first dot.
        let names = self.messages().into_iter();
        names
            .filter(|name| name.find('.').is_some_and(|dot| name[dot..] == end))
            .count()
    }

    async fn put_garbage(&self, queue: &str) {
        let put = |name: &str, content: &[u8]| {
            std::fs::write(self.queue().join(format!("1_{name}.{queue}.msg")), content).unwrap();
        };
        put("text", b"this is no envelope");
        put("binary", b"\xff\x00\xfe");
        put("list", b"[]");
        put("null", b"null");
        put("torn", br#"{"body": "W1syLCAzXSwg"#);
        put(
            "base64",
            br#"{"body": "%%%", "headers": {}, "properties": {"body_encoding": "base64"}}"#,
        );
        put(
            "headers",
            br#"{"body": "", "headers": 1, "properties": {"body_encoding": "base64"}}"#,
        );
        put("properties", br#"{"body": "", "headers": {}, "properties": []}"#);
        put("deep", "[".repeat(1_000_000).as_bytes());
        let huge = std::fs::File::create(self.queue().join(format!("1_huge.{queue}.msg"))).unwrap();
        huge.set_len(200 << 20).unwrap();
    }
}

conformance!(Folder::new());
