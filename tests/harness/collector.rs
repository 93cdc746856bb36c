use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

/// One span of OpenTelemetry as it was received.
#[derive(Debug, Clone, Default)]
pub struct Span {
    /// The trace's id, hexadecimal.
    pub trace: String,
    /// Its own id.
    pub id: String,
    /// That of the span it belongs to.
    pub parent: String,
    /// What it is called.
    pub name: String,
    /// 2: server, 3: client, 4: producer, 5: consumer.
    pub kind: u64,
    /// When it began, Unix time in nanoseconds.
    pub start: u64,
    /// When it ended.
    pub end: u64,
    /// Its attributes, as texts.
    pub attributes: BTreeMap<String, String>,
    /// Names of events with their attributes.
    pub events: Vec<(String, BTreeMap<String, String>)>,
    /// 0: unset, 2: error.
    pub status: u64,
    /// What is said of the status.
    pub status_message: String,
    /// The attributes of who made it.
    pub resource: BTreeMap<String, String>,
}

/// A collector that takes OTLP over HTTP and lives as long as the test program.
#[derive(Debug)]
pub struct Collector {
    address: SocketAddr,
    received: Arc<Mutex<Received>>,
}

#[derive(Debug, Default)]
struct Received {
    bodies: Vec<Vec<u8>>,
    heads: Vec<String>,
}

impl Collector {
    /// Listens on a port of its own.
    ///
    /// # Panics
    /// Where there is none.
    pub fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let received = Arc::<Mutex<Received>>::default();
        let shared = Arc::clone(&received);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let shared = Arc::clone(&shared);
                std::thread::spawn(move || serve(stream, &shared));
            }
        });
        Self { address, received }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The request lines and headers so far.
    ///
    /// # Panics
    /// Where a thread that takes requests panicked.
    pub fn heads(&self) -> Vec<String> {
        self.received.lock().unwrap().heads.clone()
    }

    /// The spans so far.
    ///
    /// # Panics
    /// Where something else arrived.
    pub fn spans(&self) -> Vec<Span> {
        let received = self.received.lock().unwrap();
        received.bodies.iter().flat_map(|body| spans(body)).collect()
    }
}

/// Answers requests until the other side has no more.
fn serve(stream: TcpStream, received: &Mutex<Received>) {
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    let mut stream = stream;
    loop {
        let mut head = String::new();
        let mut length = 0;
        loop {
            let mut line = String::new();
            if reader.read_line(&mut line).unwrap_or(0) == 0 {
                return;
            }
            if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
                length = value.trim().parse().unwrap();
            }
            if line.trim().is_empty() {
                break;
            }
            head.push_str(&line);
        }
        let mut body = vec![0; length];
        if reader.read_exact(&mut body).is_err() {
            return;
        }
        let mut received = received.lock().unwrap();
        received.bodies.push(body);
        received.heads.push(head);
        drop(received);
        let answer = "HTTP/1.1 200 OK\r\nContent-Type: application/x-protobuf\r\nContent-Length: 0\r\n\r\n";
        if stream.write_all(answer.as_bytes()).is_err() {
            return;
        }
    }
}

/// One field of a protobuf message: a number, or bytes.
enum Value<'a> {
    Number(u64),
    Bytes(&'a [u8]),
}

impl<'a> Value<'a> {
    fn number(&self) -> u64 {
        match self {
            Value::Number(number) => *number,
            Value::Bytes(_) => panic!("a number was expected"),
        }
    }

    fn bytes(&self) -> &'a [u8] {
        match self {
            Value::Bytes(bytes) => bytes,
            Value::Number(_) => panic!("bytes were expected"),
        }
    }

    fn text(&self) -> String {
        String::from_utf8(self.bytes().to_vec()).unwrap()
    }

    fn hex(&self) -> String {
        self.bytes().iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

/// The fields of a protobuf message, each with its number.
fn fields(mut bytes: &[u8]) -> Vec<(u64, Value<'_>)> {
    fn varint(bytes: &mut &[u8]) -> u64 {
        let mut number = 0;
        for shift in (0..).step_by(7) {
            let (first, rest) = bytes.split_first().unwrap();
            *bytes = rest;
            number |= u64::from(first & 0x7f) << shift;
            if first & 0x80 == 0 {
                break;
            }
        }
        number
    }
    fn take<'a>(bytes: &mut &'a [u8], count: usize) -> &'a [u8] {
        let (taken, rest) = bytes.split_at(count);
        *bytes = rest;
        taken
    }
    let mut found = Vec::new();
    while !bytes.is_empty() {
        let key = varint(&mut bytes);
        let value = match key & 7 {
            0 => Value::Number(varint(&mut bytes)),
            1 => Value::Number(u64::from_le_bytes(take(&mut bytes, 8).try_into().unwrap())),
            2 => {
                let length = varint(&mut bytes) as usize;
                Value::Bytes(take(&mut bytes, length))
            }
            5 => Value::Number(u32::from_le_bytes(take(&mut bytes, 4).try_into().unwrap()).into()),
            other => panic!("wire type {other}"),
        };
        found.push((key >> 3, value));
    }
    found
}

/// The fields of this number.
fn all(bytes: &[u8], number: u64) -> Vec<Value<'_>> {
    let mine = fields(bytes).into_iter().filter(|(found, _)| *found == number);
    mine.map(|(_, value)| value).collect()
}

/// `ExportTraceServiceRequest`: resource_spans 1, scope_spans 2, spans 2.
fn spans(body: &[u8]) -> Vec<Span> {
    let mut found = Vec::new();
    for resource_spans in all(body, 1) {
        let resource = all(resource_spans.bytes(), 1)
            .first()
            .map(|resource| attributes(resource.bytes(), 1))
            .unwrap_or_default();
        for scope in all(resource_spans.bytes(), 2) {
            for one in all(scope.bytes(), 2) {
                found.push(Span {
                    resource: resource.clone(),
                    ..span(one.bytes())
                });
            }
        }
    }
    found
}

fn span(bytes: &[u8]) -> Span {
    let mut span = Span {
        attributes: attributes(bytes, 9),
        ..Span::default()
    };
    for (number, value) in fields(bytes) {
        match number {
            1 => span.trace = value.hex(),
            2 => span.id = value.hex(),
            4 => span.parent = value.hex(),
            5 => span.name = value.text(),
            6 => span.kind = value.number(),
            7 => span.start = value.number(),
            8 => span.end = value.number(),
            11 => {
                let name = all(value.bytes(), 2).first().map(Value::text);
                let attributes = attributes(value.bytes(), 3);
                span.events.push((name.unwrap_or_default(), attributes));
            }
            15 => {
                let status = value.bytes();
                span.status = all(status, 3).first().map_or(0, Value::number);
                span.status_message = all(status, 2).first().map(Value::text).unwrap_or_default();
            }
            _ => {}
        }
    }
    span
}

/// The `KeyValue`s in the fields of this number, as texts.
fn attributes(bytes: &[u8], number: u64) -> BTreeMap<String, String> {
    let pairs = all(bytes, number).into_iter().map(|pair| {
        let key = all(pair.bytes(), 1).first().map(Value::text).unwrap_or_default();
        let value = all(pair.bytes(), 2);
        let value = value.first().and_then(|value| {
            let (number, value) = fields(value.bytes()).into_iter().next()?;
            Some(match number {
                1 => value.text(),
                _ => value.number().to_string(),
            })
        });
        (key, value.unwrap_or_default())
    });
    pairs.collect()
}
