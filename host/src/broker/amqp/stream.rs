//! The bytes between the broker and lapin: a TCP connection, plain or with TLS, whose incoming half is screened.

use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use async_rs::traits::{Executor, Reactor, RuntimeKit};
use async_rs::util::Task;
use futures_io::{AsyncRead, AsyncWrite};
use futures_util::Stream as FuturesStream;
use lapin::tcp::{AsyncTcpStream, OwnedIdentity, OwnedTLSConfig};
use tokio::io::{AsyncRead as _, AsyncWrite as _, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::oneshot;

use super::address::Address;
use super::screen::Screen;
use super::trust;
use crate::tls::{Check, Tls};

/// How much is read at once, in bytes.
const READ_SIZE: usize = 64 << 10;

/// Connects to an address.
pub(super) async fn connect(address: &Address) -> io::Result<AsyncTcpStream<Socket>> {
    let stream = TcpStream::connect((address.host.as_str(), address.port)).await?;
    stream.set_nodelay(true)?;
    let plain = AsyncTcpStream::Plain(Socket(stream));
    let Some(tls) = &address.tls else {
        return Ok(plain);
    };
    match tls.check {
        Check::Required => plain.into_tls(&address.host, tls_config(tls)?.as_ref()).await,
        Check::None => plain.into_rustls(&trust::everybody(tls)?, &address.host).await,
    }
}

fn tls_config(files: &Tls) -> io::Result<OwnedTLSConfig> {
    let mut config = OwnedTLSConfig::default();
    if let Some(ca) = &files.ca {
        config.cert_chain = Some(String::from_utf8_lossy(&read(ca)?).into_owned());
    }
    if let (Some(certificate), Some(key)) = (&files.certificate, &files.key) {
        let (pem, key) = (read(certificate)?, read(key)?);
        config.identity = Some(OwnedIdentity::PKCS8 { pem, key });
    }
    Ok(config)
}

/// Reads a file; the error names it.
pub(super) fn read(path: &Path) -> io::Result<Vec<u8>> {
    std::fs::read(path)
        .map_err(|error| io::Error::new(error.kind(), format!("cannot read {}: {error}", path.display())))
}

/// A TCP connection.
pub(super) struct Socket(TcpStream);

impl AsyncRead for Socket {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        let mut buffer = ReadBuf::new(bytes);
        ready!(Pin::new(&mut self.0).poll_read(cx, &mut buffer))?;
        Poll::Ready(Ok(buffer.filled().len()))
    }
}

impl AsyncWrite for Socket {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

/// The stream that lapin reads and writes. It ends when the other end of `cut` is dropped: lapin's thread would
/// otherwise wait for a silent server for ever. After a message on `cut` it ends when the server ends it.
pub(super) struct Screened {
    inner: AsyncTcpStream<Socket>,
    screen: Screen,
    read: Box<[u8]>,
    /// Screened bytes; those before `taken` are done.
    passed: Vec<u8>,
    taken: usize,
    start: Arc<Mutex<Option<Vec<u8>>>>,
    cut: Option<oneshot::Receiver<()>>,
}

impl Screened {
    /// `start` gets the arguments of `connection.start` before lapin sees them.
    pub(super) fn new(
        inner: AsyncTcpStream<Socket>,
        frame_max: u32,
        start: Arc<Mutex<Option<Vec<u8>>>>,
        cut: oneshot::Receiver<()>,
    ) -> Self {
        Self {
            inner,
            screen: Screen::new(frame_max),
            read: vec![0; READ_SIZE].into_boxed_slice(),
            passed: Vec::new(),
            taken: 0,
            start,
            cut: Some(cut),
        }
    }
}

impl AsyncRead for Screened {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        loop {
            let ready = this.passed.get(this.taken..).unwrap_or_default();
            if !ready.is_empty() {
                let count = ready.len().min(bytes.len());
                if let (Some(to), Some(from)) = (bytes.get_mut(..count), ready.get(..count)) {
                    to.copy_from_slice(from);
                }
                this.taken += count;
                return Poll::Ready(Ok(count));
            }
            this.passed.clear();
            this.taken = 0;
            let Poll::Ready(count) = Pin::new(&mut this.inner).poll_read(cx, &mut this.read)? else {
                return match this.cut.as_mut().map(|cut| Pin::new(cut).poll(cx)) {
                    Some(Poll::Ready(Err(_))) => Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into())),
                    Some(Poll::Ready(Ok(()))) => {
                        this.cut = None;
                        Poll::Pending
                    }
                    _ => Poll::Pending,
                };
            };
            if count == 0 {
                return Poll::Ready(Ok(0));
            }
            let read = this.read.get(..count).unwrap_or_default();
            this.screen
                .pass(read, &mut this.passed)
                .map_err(io::Error::other)?;
            if let Some(start) = this.screen.start.take() {
                *this.start.lock().unwrap_or_else(PoisonError::into_inner) = Some(start);
            }
        }
    }
}

impl AsyncWrite for Screened {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_close(cx)
    }
}

/// tokio, for lapin, with [`Screened`] for its streams.
#[derive(Debug, Clone)]
pub(super) struct Kit(pub(super) async_rs::Tokio);

impl RuntimeKit for Kit {}

impl Executor for Kit {
    type Task<T: Send + 'static> = <async_rs::Tokio as Executor>::Task<T>;

    fn block_on<T, F: Future<Output = T>>(&self, future: F) -> T {
        self.0.block_on(future)
    }

    fn spawn<T: Send + 'static, F: Future<Output = T> + Send + 'static>(
        &self,
        future: F,
    ) -> Task<Self::Task<T>> {
        self.0.spawn(future)
    }

    fn spawn_blocking<T: Send + 'static, F: FnOnce() -> T + Send + 'static>(
        &self,
        work: F,
    ) -> Task<Self::Task<T>> {
        self.0.spawn_blocking(work)
    }
}

impl Reactor for Kit {
    type TcpStream = Screened;
    type Sleep = <async_rs::Tokio as Reactor>::Sleep;

    /// Never called, as [`Kit::tcp_connect_addr`].
    fn register<H: io::Read + io::Write + Send + 'static>(
        &self,
        _: H,
    ) -> io::Result<impl AsyncRead + AsyncWrite + Send + Unpin + 'static> {
        Err::<Socket, _>(io::ErrorKind::Unsupported.into())
    }

    fn sleep(&self, duration: Duration) -> Self::Sleep {
        self.0.sleep(duration)
    }

    fn interval(&self, duration: Duration) -> impl FuturesStream<Item = Instant> + Send + 'static {
        self.0.interval(duration)
    }

    /// Never called: lapin is given a stream that is connected.
    fn tcp_connect_addr(&self, _: SocketAddr) -> impl Future<Output = io::Result<Screened>> + Send + 'static {
        std::future::ready(Err(io::ErrorKind::Unsupported.into()))
    }
}
