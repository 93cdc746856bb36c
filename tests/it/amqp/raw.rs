//! A client that writes AMQP by hand, to see and to send what no well-behaved client does.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use celerybox_tests::Vhost;

pub(crate) struct RawClient {
    stream: TcpStream,
}

/// What `queue.declare` with `passive` tells of a queue.
pub(crate) struct QueueCounts {
    pub(crate) ready: u32,
}

impl RawClient {
    /// Connects as guest and opens channel 1.
    pub(crate) fn connect(vhost: &Vhost) -> Self {
        let url = vhost.url();
        let (_, place) = url.split_once('@').unwrap();
        let (server, name) = place.split_once('/').unwrap();
        let stream = TcpStream::connect(server).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        stream.set_nodelay(true).unwrap();
        let mut client = Self { stream };
        client.stream.write_all(b"AMQP\0\0\x09\x01").unwrap();
        client.expect((10, 10));
        // No client properties, PLAIN, "\0guest\0guest", en_US.
        client.method(0, (10, 11), b"\0\0\0\0\x05PLAIN\0\0\0\x0c\0guest\0guest\x05en_US");
        client.expect((10, 30));
        // Server's limits for channels, frames of 128 KiB, no heartbeat.
        client.method(0, (10, 31), b"\x07\xff\0\x02\0\0\0\0");
        client.method(0, (10, 40), &[&short(name)[..], b"\0\0"].concat());
        client.expect((10, 41));
        client.method(1, (20, 10), b"\0");
        client.expect((20, 11));
        client
    }

    /// Whether the server took what was sent so far, rather than to hang up over it.
    pub(crate) fn is_alive(&mut self, queue: &str) -> bool {
        self.ask_counts(queue);
        self.read().1.starts_with(b"\0\x32\0\x0b")
    }

    /// Counts of a queue that exists.
    pub(crate) fn counts(&mut self, queue: &str) -> QueueCounts {
        self.ask_counts(queue);
        let answer = self.expect((50, 11));
        let numbers = &answer[1 + usize::from(answer[0])..];
        let number = |bytes: &[u8]| u32::from_be_bytes(bytes.try_into().unwrap());
        QueueCounts {
            ready: number(&numbers[..4]),
        }
    }

    fn ask_counts(&mut self, queue: &str) {
        let passive = 1;
        self.method(
            1,
            (50, 10),
            &[b"\0\0", &short(queue)[..], &[passive], b"\0\0\0\0"].concat(),
        );
    }

    /// Declares a durable queue with arguments, a field table in bytes.
    pub(crate) fn declare(&mut self, queue: &str, arguments: &[u8]) {
        let durable = 2;
        self.method(
            1,
            (50, 10),
            &[b"\0\0", &short(queue)[..], &[durable], arguments].concat(),
        );
        self.expect((50, 11));
    }

    /// Deletes a queue.
    pub(crate) fn delete(&mut self, queue: &str) {
        self.method(1, (50, 40), &[b"\0\0", &short(queue)[..], b"\0"].concat());
        self.expect((50, 41));
    }

    /// Publishes to a queue; `properties` is what follows the body's size in the content header: flags and values.
    pub(crate) fn publish(&mut self, queue: &str, properties: &[u8], body: &[u8]) {
        self.method(1, (60, 40), &[b"\0\0\0", &short(queue)[..], b"\0"].concat());
        let size = (body.len() as u64).to_be_bytes();
        self.frame(2, 1, &[b"\0\x3c\0\0", &size[..], properties].concat());
        if !body.is_empty() {
            self.frame(3, 1, body);
        }
    }

    /// Publishes to a queue by a routing key of any bytes, over an exchange of its own that sends everything there.
    pub(crate) fn publish_to(&mut self, queue: &str, routing_key: &[u8], body: &[u8]) {
        let exchange = short(&format!("{queue}-all"));
        let rest = b"\0\0\0\0\0"; // No flags, no arguments.
        let declare = [b"\0\0", &exchange[..], &short("fanout"), rest].concat();
        self.method(1, (40, 10), &declare);
        self.expect((40, 11));
        let bind = [b"\0\0", &short(queue)[..], &exchange, b"\0", rest].concat();
        self.method(1, (50, 20), &bind);
        self.expect((50, 21));
        let length = u8::try_from(routing_key.len()).unwrap();
        let place = [b"\0\0", &exchange[..], &[length], routing_key, b"\0"].concat();
        self.method(1, (60, 40), &place);
        let size = (body.len() as u64).to_be_bytes();
        self.frame(2, 1, &[b"\0\x3c\0\0", &size[..], b"\0\0"].concat());
        self.frame(3, 1, body);
    }

    /// The content header and the body of the next message of a queue, which must be there; it is acknowledged.
    pub(crate) fn get(&mut self, queue: &str) -> (Vec<u8>, Vec<u8>) {
        let no_ack = 1;
        self.method(1, (60, 70), &[b"\0\0", &short(queue)[..], &[no_ack]].concat());
        self.expect((60, 71));
        let (_, header) = self.read();
        let size = u64::from_be_bytes(header[4..12].try_into().unwrap()) as usize;
        let mut body = Vec::new();
        while body.len() < size {
            body.extend(self.read().1);
        }
        (header[12..].to_vec(), body)
    }

    fn method(&mut self, channel: u16, (class, method): (u16, u16), arguments: &[u8]) {
        let name = [class.to_be_bytes(), method.to_be_bytes()].concat();
        self.frame(1, channel, &[&name, arguments].concat());
    }

    fn frame(&mut self, kind: u8, channel: u16, payload: &[u8]) {
        let mut frame = vec![kind];
        frame.extend(channel.to_be_bytes());
        frame.extend(u32::try_from(payload.len()).unwrap().to_be_bytes());
        frame.extend(payload);
        frame.push(0xCE);
        self.stream.write_all(&frame).unwrap();
    }

    /// The arguments of the next method, which must be this one.
    fn expect(&mut self, (class, method): (u16, u16)) -> Vec<u8> {
        let (kind, payload) = self.read();
        let name = [class.to_be_bytes(), method.to_be_bytes()].concat();
        let shown = String::from_utf8_lossy(&payload);
        assert!(
            kind == 1 && payload.starts_with(&name),
            "not {class}.{method}: {shown}"
        );
        payload[4..].to_vec()
    }

    fn read(&mut self) -> (u8, Vec<u8>) {
        let mut head = [0; 7];
        self.stream.read_exact(&mut head).unwrap();
        let size = u32::from_be_bytes(head[3..].try_into().unwrap()) as usize;
        let mut payload = vec![0; size + 1];
        self.stream.read_exact(&mut payload).unwrap();
        assert_eq!(payload.pop(), Some(0xCE), "a frame ends with its mark");
        (head[0], payload)
    }
}

/// A text with its length in one byte.
pub(crate) fn short(text: &str) -> Vec<u8> {
    let length = u8::try_from(text.len()).unwrap();
    [&[length], text.as_bytes()].concat()
}

/// A field table of one entry: name, type and value in bytes.
pub(crate) fn table(name: &[u8], value: &[u8]) -> Vec<u8> {
    let size = u32::try_from(1 + name.len() + value.len()).unwrap();
    let length = u8::try_from(name.len()).unwrap();
    [&size.to_be_bytes()[..], &[length], name, value].concat()
}
