//! A TCP connection, plain or with TLS.

use std::io::{self, Read, Write};
use std::path::Path;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use lapin::tcp::{HandshakeError, OwnedIdentity, OwnedTLSConfig, TcpStream as TlsStream};
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::TcpStream;

use super::address::{Address, TlsFiles};

/// Bytes from and to the broker.
pub(super) enum Stream {
    /// Without encryption.
    Plain(TcpStream),
    /// TLS, done by the stream itself on a socket that does not block.
    Tls {
        /// The same socket, to learn when it is ready.
        socket: TcpStream,
        /// What reads and writes it.
        tls: Box<TlsStream>,
    },
}

impl Stream {
    /// Connects to an address; no step of it takes longer than `limit`.
    pub(super) async fn connect(address: &Address, limit: Duration) -> io::Result<Self> {
        let Some(files) = address.tls.clone() else {
            let stream = TcpStream::connect((address.host.as_str(), address.port)).await?;
            stream.set_nodelay(true)?;
            return Ok(Self::Plain(stream));
        };
        let (host, port) = (address.host.clone(), address.port);
        let shaken = tokio::task::spawn_blocking(move || shake_hands(&host, port, &files, limit)).await;
        let stream = shaken.map_err(io::Error::other)??;
        Ok(Self::Tls {
            socket: TcpStream::from_std(stream.try_clone()?)?,
            tls: Box::new(stream),
        })
    }
}

fn shake_hands(host: &str, port: u16, files: &TlsFiles, limit: Duration) -> io::Result<TlsStream> {
    let mut config = OwnedTLSConfig::default();
    if let Some(ca) = &files.ca {
        config.cert_chain = Some(String::from_utf8_lossy(&read(ca)?).into_owned());
    }
    if let (Some(certificate), Some(key)) = (&files.certificate, &files.key) {
        let (pem, key) = (read(certificate)?, read(key)?);
        config.identity = Some(OwnedIdentity::PKCS8 { pem, key });
    }
    let stream = TlsStream::connect_timeout((host, port), limit)?;
    stream.set_read_timeout(Some(limit))?;
    stream.set_write_timeout(Some(limit))?;
    let stream = stream
        .into_tls(host, config.as_ref())
        .map_err(|error| match error {
            HandshakeError::WouldBlock(_) => io::Error::from(io::ErrorKind::TimedOut),
            HandshakeError::Failure(error) => error,
        })?;
    stream.set_nonblocking(true)?;
    Ok(stream)
}

fn read(path: &Path) -> io::Result<Vec<u8>> {
    std::fs::read(path)
        .map_err(|error| io::Error::new(error.kind(), format!("cannot read {}: {error}", path.display())))
}

/// Does `work` when the socket is ready for it.
fn when_ready<T>(
    socket: &TcpStream,
    cx: &mut Context<'_>,
    interest: Interest,
    mut work: impl FnMut() -> io::Result<T>,
) -> Poll<io::Result<T>> {
    loop {
        match interest.is_writable() {
            true => ready!(socket.poll_write_ready(cx))?,
            false => ready!(socket.poll_read_ready(cx))?,
        }
        match socket.try_io(interest, &mut work) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            done => return Poll::Ready(done),
        }
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match &mut *self {
            Self::Plain(stream) => Pin::new(stream).poll_read(cx, buffer),
            Self::Tls { socket, tls } => {
                let space = buffer.initialize_unfilled();
                let count = ready!(when_ready(socket, cx, Interest::READABLE, || tls.read(space)))?;
                buffer.advance(count);
                Poll::Ready(Ok(()))
            }
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match &mut *self {
            Self::Plain(stream) => Pin::new(stream).poll_write(cx, bytes),
            Self::Tls { socket, tls } => when_ready(socket, cx, Interest::WRITABLE, || tls.write(bytes)),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut *self {
            Self::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Self::Tls { socket, tls } => when_ready(socket, cx, Interest::WRITABLE, || tls.flush()),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut *self {
            Self::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Tls { tls, .. } => Poll::Ready(tls.shutdown(std::net::Shutdown::Write)),
        }
    }
}
