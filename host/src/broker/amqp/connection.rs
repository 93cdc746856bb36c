//! One connection of lapin with one channel.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use lapin::types::parsing::parse_field_table;
use lapin::types::{AMQPValue, FieldTable, LongString, ShortString};
use lapin::uri::{AMQPAuthority, AMQPQueryString, AMQPScheme, AMQPUri, AMQPUserInfo, SASLMechanism};
use lapin::{Channel, ConnectionProperties, ErrorKind};
use tokio::sync::oneshot;
use tokio::time::timeout;

use super::Login;
use super::address::Address;
use super::message::EncodeError;
use super::stream::{self, Kit, Screened};

/// The largest frame we ask for, in bytes; RabbitMQ's default. Smaller ones would not do: headers come in one frame,
/// however large it is.
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
    /// Its channel was closed before: nothing was sent.
    #[error("{0}")]
    NotOpen(String),
    /// It took longer than the connection timeout.
    #[error("timed out")]
    TimedOut,
}

/// The reason the server gives when it closes something.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Reply {
    /// AMQP's reply code, for example 406.
    pub(super) code: u16,
    /// The server's sentence, for example `PRECONDITION_FAILED - inequivalent arg …`.
    pub(super) text: String,
}

impl From<lapin::Error> for Lost {
    fn from(error: lapin::Error) -> Self {
        match error.kind() {
            ErrorKind::ProtocolError(said) => Self::Closed(Reply {
                code: said.get_id(),
                text: said.get_message().to_string(),
            }),
            ErrorKind::IOError(io) => Self::Io(io::Error::new(io.kind(), io.to_string())),
            ErrorKind::InvalidChannelState(..) => Self::NotOpen(error.to_string()),
            _ => Self::Protocol(error.to_string()),
        }
    }
}

impl From<EncodeError> for Lost {
    fn from(error: EncodeError) -> Self {
        Self::Protocol(error.to_string())
    }
}

/// An open connection with an open channel. Dropping it cuts the connection.
pub(super) struct Connection {
    pub(super) lapin: lapin::Connection,
    pub(super) channel: Channel,
    /// Where it leads.
    pub(super) address: Address,
    /// What the server says about itself.
    server: FieldTable,
    cut: oneshot::Sender<()>,
}

impl Connection {
    /// Connects, logs in and opens the channel.
    pub(super) async fn open(address: &Address, login: Login) -> Result<Self, Lost> {
        let limit = address.connection_timeout;
        let connected = timeout(limit, stream::connect(address));
        let stream = connected.await.map_err(|_| Lost::TimedOut)??;
        let (cut, is_cut) = oneshot::channel();
        let start = Arc::new(Mutex::new(None));
        let stream = Screened::new(stream, FRAME_MAX, Arc::clone(&start), is_cut);
        let stream = Mutex::new(Some(stream));
        let once = async move |_, _| {
            let stream = stream.lock().unwrap_or_else(PoisonError::into_inner).take();
            let again = || lapin::Error::from(io::Error::from(io::ErrorKind::NotConnected));
            stream.map(lapin::AsyncTcpStream::Plain).ok_or_else(again)
        };
        let opened = async {
            let runtime = async_rs::Runtime::new(Kit(async_rs::Tokio::current()));
            let uri = uri(address, login);
            let lapin = lapin::Connection::connector(uri, runtime, once, properties()).await?;
            let channel = lapin.create_channel().await?;
            Ok::<_, lapin::Error>((lapin, channel))
        };
        // A server under load may need much longer to log us in than to accept us.
        let opened = timeout(limit.saturating_mul(5), opened);
        let (lapin, channel) = opened.await.map_err(|_| Lost::TimedOut)??;
        let start = start.lock().unwrap_or_else(PoisonError::into_inner).take();
        Ok(Self {
            lapin,
            channel,
            address: address.clone(),
            server: server_properties(&start.unwrap_or_default()),
            cut,
        })
    }

    /// The server's version, such as 3 and 10 for RabbitMQ 3.10.8. `None` for another server.
    pub(super) fn rabbitmq_version(&self) -> Option<(u32, u32)> {
        let text = |name| match self.server.inner().get(name)? {
            AMQPValue::LongString(text) => Some(text.to_string()),
            _ => None,
        };
        if text("product")? != "RabbitMQ" {
            return None;
        }
        let version = text("version")?;
        let mut parts = version.split('.');
        Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
    }

    /// Writes what is to be written, says goodbye and waits for the server's goodbye, which says that it has read
    /// everything.
    pub(super) async fn close(self) -> Result<(), Lost> {
        self.lapin.close(200, ShortString::from("bye")).await?;
        // Nobody is there to hear of it when lapin's thread is done already.
        let _ = self.cut.send(());
        Ok(())
    }
}

/// The table in the arguments of `connection.start`, which follows the protocol's version.
fn server_properties(start: &[u8]) -> FieldTable {
    let table = start.get(2..).unwrap_or_default();
    parse_field_table(table)
        .map(|(_, table)| table)
        .unwrap_or_default()
}

fn uri(address: &Address, login: Login) -> AMQPUri {
    AMQPUri {
        scheme: AMQPScheme::AMQP, // TLS is the stream's.
        authority: AMQPAuthority {
            userinfo: AMQPUserInfo {
                username: address.user.clone(),
                password: address.password.clone(),
            },
            host: address.host.clone(),
            port: address.port,
        },
        vhost: address.vhost.clone(),
        query: AMQPQueryString {
            frame_max: Some(FRAME_MAX),
            channel_max: Some(2047),
            heartbeat: Some(address.heartbeat),
            auth_mechanism: Some(match login {
                Login::Plain => SASLMechanism::Plain,
                Login::AmqPlain => SASLMechanism::AMQPlain,
                Login::External => SASLMechanism::External,
            }),
            ..AMQPQueryString::default()
        },
    }
}

fn properties() -> ConnectionProperties {
    let property = |text: &str| LongString::from(text.as_bytes());
    ConnectionProperties::default()
        .with_connection_name(property("celerybox"))
        .with_client_property(ShortString::from("product"), property("celerybox"))
        .with_client_property(ShortString::from("version"), property(env!("CARGO_PKG_VERSION")))
}
