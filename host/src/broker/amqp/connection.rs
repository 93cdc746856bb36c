//! One connection with one channel: opens it, puts messages together from frames, keeps the heartbeat.

use std::io;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::time::{Instant, Interval, MissedTickBehavior, interval, timeout};

use super::Options;
use super::address::Address;
use super::stream::Stream;
use super::table::put_table;
use super::wire::{
    self, Deliver, EncodeError, Incoming, PROTOCOL_HEADER, Reply, put_heartbeat, put_method, put_short,
};
use crate::message::{JsonMap, Message};

/// The one channel of a connection.
pub(super) const CHANNEL: u16 = 1;
/// How much is read at once, in bytes.
const READ_SIZE: usize = 64 << 10;
/// The largest frame we ask for, in bytes; RabbitMQ's default.
const FRAME_MAX: u32 = 131_072;

/// Why a connection ended or did not come to be.
#[derive(Debug, thiserror::Error)]
pub(super) enum Lost {
    /// The network.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// The server closed it, or its channel, and said why.
    #[error("{}", .0.text)]
    Closed(Reply),
    /// The server does not speak AMQP 0-9-1, or not well.
    #[error("{0}")]
    Protocol(String),
    /// Nothing came for two heartbeats.
    #[error("no heartbeat from the server for {} seconds", .0.as_secs())]
    Silent(Duration),
    /// It took longer than the connection timeout.
    #[error("timed out")]
    TimedOut,
}

impl Lost {
    fn protocol(error: impl std::fmt::Display) -> Self {
        Self::Protocol(error.to_string())
    }
}

impl From<EncodeError> for Lost {
    fn from(error: EncodeError) -> Self {
        Self::protocol(error)
    }
}

/// An open connection with an open channel.
pub(super) struct Connection {
    reader: ReadHalf<Stream>,
    writer: WriteHalf<Stream>,
    /// Bytes that were read; those before `parsed` are done.
    inbox: Vec<u8>,
    parsed: usize,
    /// Bytes to write; those before `written` are done.
    outbox: Vec<u8>,
    written: usize,
    /// A message whose content is still coming.
    partial: Option<Partial>,
    /// The largest frame we may send, in bytes.
    pub(super) frame_max: usize,
    /// What the server says about itself.
    server: JsonMap,
    heartbeat: Duration,
    beat: Interval,
    last_read: Instant,
    last_write: Instant,
}

struct Partial {
    deliver: Deliver,
    /// Bytes of the body to come; `None` before the header, which says how many.
    missing: Option<u64>,
    message: Message,
}

impl Connection {
    /// Connects, logs in and opens the channel.
    pub(super) async fn open(address: &Address, options: &Options) -> Result<Self, Lost> {
        let limit = Duration::try_from_secs_f64(options.connection_timeout).unwrap_or(Duration::MAX);
        let connected = timeout(limit, Stream::connect(address, limit));
        let stream = connected.await.map_err(|_| Lost::TimedOut)??;
        let (reader, writer) = tokio::io::split(stream);
        let now = Instant::now();
        let mut connection = Self {
            reader,
            writer,
            inbox: Vec::new(),
            parsed: 0,
            outbox: PROTOCOL_HEADER.to_vec(),
            written: 0,
            partial: None,
            frame_max: FRAME_MAX as usize,
            server: JsonMap::new(),
            heartbeat: Duration::ZERO,
            beat: interval(Duration::from_secs(3600)),
            last_read: now,
            last_write: now,
        };
        // A server under load may need much longer to log us in than to accept us.
        let handshake = timeout(limit.saturating_mul(5), connection.handshake(address, options));
        handshake.await.map_err(|_| Lost::TimedOut)??;
        Ok(connection)
    }

    async fn handshake(&mut self, address: &Address, options: &Options) -> Result<(), Lost> {
        let Incoming::Start { server, mechanisms } = self.answer().await? else {
            return Err(Lost::protocol("the server did not say hello"));
        };
        if !mechanisms.split_whitespace().any(|name| name == "PLAIN") {
            let message = format!("the server does not offer to log in with a password, only {mechanisms}");
            return Err(Lost::Protocol(message));
        }
        self.server = server;
        self.send(0, (10, 11), |out| {
            put_table(out, &client_properties())?;
            put_short(out, "PLAIN")?;
            let login = format!("\0{}\0{}", address.user, address.password);
            out.extend((login.len() as u32).to_be_bytes());
            out.extend_from_slice(login.as_bytes());
            put_short(out, "en_US")
        })?;
        let Incoming::Tune { frame_max, heartbeat } = self.answer().await? else {
            return Err(Lost::protocol("the server did not accept the login"));
        };
        let frame_max = match frame_max {
            0 => FRAME_MAX,
            size => size.min(FRAME_MAX),
        };
        let heartbeat = negotiated_heartbeat(options.heartbeat, heartbeat);
        self.frame_max = frame_max as usize;
        self.heartbeat = Duration::from_secs(heartbeat.into());
        self.send(0, (10, 31), |out| {
            out.extend(2047_u16.to_be_bytes());
            out.extend(frame_max.to_be_bytes());
            out.extend(heartbeat.to_be_bytes());
            Ok(())
        })?;
        self.send(0, (10, 40), |out| {
            put_short(out, &address.vhost)?;
            out.extend([0, 0]);
            Ok(())
        })?;
        self.expect((10, 41)).await?;
        if heartbeat > 0 {
            self.beat = interval(self.heartbeat / 4);
            self.beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        }
        self.call(CHANNEL, (20, 10), |out| put_short(out, "")).await
    }

    /// Queues a method to be written; [`Connection::next`] writes it.
    pub(super) fn send(
        &mut self,
        channel: u16,
        method: (u16, u16),
        arguments: impl FnOnce(&mut Vec<u8>) -> Result<(), EncodeError>,
    ) -> Result<(), EncodeError> {
        put_method(&mut self.outbox, channel, method, arguments)
    }

    /// Sends a method and waits for its `…-ok`, whose method number is one higher. Not for a channel with consumers
    /// or confirms: what else comes meanwhile is dropped.
    pub(super) async fn call(
        &mut self,
        channel: u16,
        (class, method): (u16, u16),
        arguments: impl FnOnce(&mut Vec<u8>) -> Result<(), EncodeError>,
    ) -> Result<(), Lost> {
        self.send(channel, (class, method), arguments)?;
        self.expect((class, method + 1)).await
    }

    async fn expect(&mut self, method: (u16, u16)) -> Result<(), Lost> {
        loop {
            if let Incoming::Other(class, number) = self.answer().await?
                && (class, number) == method
            {
                return Ok(());
            }
        }
    }

    /// The next thing the server says that is an answer.
    async fn answer(&mut self) -> Result<Incoming, Lost> {
        loop {
            match self.next().await? {
                Incoming::Flushed | Incoming::Heartbeat | Incoming::Blocked(_) | Incoming::Unblocked => {}
                answer => return Ok(answer),
            }
        }
    }

    /// Where to put frames to be written.
    pub(super) fn outbox(&mut self) -> &mut Vec<u8> {
        &mut self.outbox
    }

    /// How many bytes wait to be written.
    pub(super) fn backlog(&self) -> usize {
        self.outbox.len() - self.written
    }

    /// The server's version, such as 3 and 10 for RabbitMQ 3.10.8. `None` for another server.
    pub(super) fn rabbitmq_version(&self) -> Option<(u32, u32)> {
        if self.server.get("product")?.as_str()? != "RabbitMQ" {
            return None;
        }
        let mut parts = self.server.get("version")?.as_str()?.split('.');
        Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
    }

    /// Waits for the next message or method, and writes what is to be written meanwhile. Dropping the future loses
    /// nothing. An end of the connection, or of its channel, is an error.
    pub(super) async fn next(&mut self) -> Result<Incoming, Lost> {
        loop {
            if let Some(incoming) = self.parse()? {
                return Ok(incoming);
            }
            if self.parsed > 0 {
                self.inbox.drain(..self.parsed);
                self.parsed = 0;
            }
            self.inbox.reserve(READ_SIZE);
            let unwritten = self.backlog() > 0;
            tokio::select! {
                biased;
                count = self.reader.read_buf(&mut self.inbox) => {
                    if count? == 0 {
                        return Err(io::Error::from(io::ErrorKind::ConnectionReset).into());
                    }
                    self.last_read = Instant::now();
                }
                written = drain(&mut self.writer, &self.outbox, &mut self.written), if unwritten => {
                    written?;
                    self.last_write = Instant::now();
                    self.outbox.clear();
                    self.written = 0;
                    return Ok(Incoming::Flushed);
                }
                _ = self.beat.tick(), if !self.heartbeat.is_zero() => {
                    if self.last_read.elapsed() > self.heartbeat * 2 {
                        return Err(Lost::Silent(self.last_read.elapsed()));
                    }
                    if self.last_write.elapsed() > self.heartbeat / 3 && self.backlog() == 0 {
                        put_heartbeat(&mut self.outbox);
                    }
                }
            }
        }
    }

    /// What can be made of the bytes that were read.
    fn parse(&mut self) -> Result<Option<Incoming>, Lost> {
        loop {
            let bytes = self.inbox.get(self.parsed..).unwrap_or_default();
            let Some((incoming, length)) = wire::parse(bytes).map_err(Lost::protocol)? else {
                return Ok(None);
            };
            self.parsed += length;
            match incoming {
                Incoming::Close(reply) => {
                    self.send(0, (10, 51), |_| Ok(()))?;
                    return Err(Lost::Closed(reply));
                }
                Incoming::ChannelClose(reply) => return Err(Lost::Closed(reply)),
                Incoming::Deliver(deliver) => {
                    self.partial = Some(Partial {
                        deliver,
                        missing: None,
                        message: Message::default(),
                    });
                }
                Incoming::Header { size, message } => {
                    if let Some(partial) = &mut self.partial {
                        partial.missing = Some(size);
                        partial.message = message;
                    }
                }
                Incoming::Body(body) => {
                    if let Some(partial) = &mut self.partial {
                        let missing = partial.missing.unwrap_or_default();
                        partial.missing = Some(missing.saturating_sub(body.len() as u64));
                        match partial.message.body.is_empty() {
                            true => partial.message.body = body,
                            false => partial.message.body.extend_from_slice(&body),
                        }
                    }
                }
                other => return Ok(Some(other)),
            }
            let whole = self.partial.take_if(|partial| partial.missing == Some(0));
            if let Some(whole) = whole {
                return Ok(Some(Incoming::Message(whole.deliver, whole.message)));
            }
        }
    }

    /// Writes what is to be written, says goodbye and waits for the server's goodbye, which says that it has read
    /// everything. What else comes meanwhile is dropped.
    pub(super) async fn close(mut self) -> Result<(), Lost> {
        self.send(0, (10, 50), |out| {
            out.extend(200_u16.to_be_bytes());
            put_short(out, "bye")?;
            out.extend([0; 4]);
            Ok(())
        })?;
        self.expect((10, 51)).await
    }
}

/// Writes everything. Dropping the future loses nothing: `written` says how far it came.
async fn drain(writer: &mut WriteHalf<Stream>, bytes: &[u8], written: &mut usize) -> io::Result<()> {
    while let Some(rest) = bytes.get(*written..).filter(|rest| !rest.is_empty()) {
        *written += writer.write(rest).await?;
    }
    writer.flush().await
}

/// As py-amqp does: the lower of the two, where 0 means that this side does not care.
fn negotiated_heartbeat(ours: u16, theirs: u16) -> u16 {
    match (ours, theirs) {
        (0, other) | (other, 0) => other,
        (ours, theirs) => ours.min(theirs),
    }
}

fn client_properties() -> JsonMap {
    let properties = json!({
        "product": "celerybox",
        "product_version": env!("CARGO_PKG_VERSION"),
        "connection_name": "celerybox",
        "capabilities": {
            "consumer_cancel_notify": true,
            "connection.blocked": true,
            "authentication_failure_close": true,
            "publisher_confirms": true,
        },
    });
    match properties {
        Value::Object(properties) => properties,
        _ => JsonMap::new(),
    }
}
