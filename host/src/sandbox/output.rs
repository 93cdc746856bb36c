//! What a guest prints: kept up to a limit, made safe to show, never an error for the guest.

use std::fmt::Write;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use bytes::Bytes;
use wasmtime_wasi::cli::{IsTerminal, StdoutStream};
use wasmtime_wasi::p2::{OutputStream, Pollable, StreamResult};

/// How much one write may carry: `write-zeroes` allocates as much as `check_write` grants.
const WRITE: usize = 64 * 1024;
/// How much of the end of stderr is kept for tracebacks, however much was printed before.
const TAIL: usize = 4 * 1024;
/// The longest line that is shown.
const LINE: usize = 8 * 1024;

/// The output of one run; both streams share it, in the order they were written.
#[derive(Debug)]
pub(super) struct Output {
    kept: Mutex<Kept>,
}

#[derive(Debug)]
struct Kept {
    text: Vec<u8>,
    limit: usize,
    truncated: bool,
    /// The end of stderr.
    tail: Vec<u8>,
}

/// Which of the two streams.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stream {
    Stdout,
    Stderr,
}

impl Output {
    pub(super) fn new(limit: usize) -> Arc<Self> {
        Arc::new(Self {
            kept: Mutex::new(Kept {
                text: Vec::new(),
                limit,
                truncated: false,
                tail: Vec::new(),
            }),
        })
    }

    /// Adds what a stream got.
    fn write(&self, stream: Stream, bytes: &[u8]) {
        let mut kept = self.kept();
        kept.keep(bytes);
        if stream == Stream::Stderr {
            kept.keep_tail(bytes);
        }
    }

    /// Takes `bytes` off what may still be kept, for a log line that goes elsewhere. False: no more of them.
    pub(super) fn spend(&self, bytes: usize) -> bool {
        let mut kept = self.kept();
        if kept.limit.saturating_sub(kept.text.len()) < bytes {
            return false;
        }
        kept.limit -= bytes;
        true
    }

    /// Everything that was kept, as lines that are safe to show; `limit` is the one it was made with.
    pub(super) fn shown(&self, limit: usize) -> String {
        let kept = self.kept();
        let mut text = safe(&kept.text);
        if kept.truncated {
            if !text.is_empty() && !text.ends_with('\n') {
                text.push('\n');
            }
            let _ = writeln!(text, "… output truncated (limit output: {limit} bytes)");
        }
        text
    }

    /// Whether more was printed than is kept.
    pub(super) fn is_truncated(&self) -> bool {
        self.kept().truncated
    }

    /// The end of stderr, as lines that are safe to show.
    pub(super) fn tail(&self) -> String {
        let kept = self.kept();
        let start = kept.tail.len().saturating_sub(TAIL);
        safe(kept.tail.get(start..).unwrap_or_default())
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        // A panic while the lock was held cannot leave bytes half written.
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Kept {
    fn keep(&mut self, bytes: &[u8]) {
        let room = self.limit.saturating_sub(self.text.len());
        match bytes.get(..room) {
            Some(start) if bytes.len() > room => {
                self.text.extend_from_slice(start);
                self.truncated = true;
            }
            _ => self.text.extend_from_slice(bytes),
        }
    }

    fn keep_tail(&mut self, bytes: &[u8]) {
        let start = bytes.len().saturating_sub(TAIL);
        self.tail
            .extend_from_slice(bytes.get(start..).unwrap_or_default());
        if self.tail.len() > 4 * TAIL {
            let surplus = self.tail.len() - TAIL;
            self.tail.drain(..surplus);
        }
    }
}

/// Text of a guest as lines that a terminal and a log can take: UTF-8, no control characters but the line feed, no
/// characters that turn the direction of writing, no endless line.
pub(super) fn safe(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    let mut shown = String::with_capacity(text.len());
    let mut line = 0;
    for c in text.chars() {
        match c {
            '\n' => {
                shown.push('\n');
                line = 0;
                continue;
            }
            '\t' => shown.push('\t'),
            // The line feed after it says the same.
            '\r' => continue,
            c if c.is_control() || turns_direction(c) || matches!(c, '\u{2028}' | '\u{2029}') => {
                let _ = write!(shown, "{}", c.escape_unicode());
            }
            c => shown.push(c),
        }
        line += 1;
        if line == LINE {
            shown.push('\n');
            line = 0;
        }
    }
    shown
}

/// Text of a guest or a sender as one line that is safe to show.
pub(super) fn one_line(text: &str) -> String {
    safe(text.replace('\n', "\\n").as_bytes())
}

fn turns_direction(c: char) -> bool {
    matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// One of the two streams, as WASI sees it.
pub(super) struct Pipe {
    pub(super) output: Arc<Output>,
    pub(super) stream: Stream,
}

impl IsTerminal for Pipe {
    fn is_terminal(&self) -> bool {
        false
    }
}

impl StdoutStream for Pipe {
    fn p2_stream(&self) -> Box<dyn OutputStream> {
        Box::new(Pipe {
            output: Arc::clone(&self.output),
            stream: self.stream,
        })
    }

    fn async_stream(&self) -> Box<dyn tokio::io::AsyncWrite + Send + Sync> {
        Box::new(Pipe {
            output: Arc::clone(&self.output),
            stream: self.stream,
        })
    }
}

#[async_trait::async_trait]
impl Pollable for Pipe {
    async fn ready(&mut self) {}
}

#[async_trait::async_trait]
impl OutputStream for Pipe {
    fn write(&mut self, bytes: Bytes) -> StreamResult<()> {
        self.output.write(self.stream, &bytes);
        Ok(())
    }

    fn flush(&mut self) -> StreamResult<()> {
        Ok(())
    }

    fn check_write(&mut self) -> StreamResult<usize> {
        Ok(WRITE)
    }
}

impl tokio::io::AsyncWrite for Pipe {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<std::io::Result<usize>> {
        self.output.write(self.stream, bytes);
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_too_much_is_cut_off_and_marked() {
        let output = Output::new(10);
        output.write(Stream::Stdout, b"1234567");
        output.write(Stream::Stderr, b"89abc");
        for _ in 0..1000 {
            output.write(Stream::Stderr, &[b'x'; WRITE]);
        }
        assert_eq!(
            output.shown(10),
            "123456789a\n… output truncated (limit output: 10 bytes)\n"
        );
        assert!(output.kept().tail.capacity() < 64 * TAIL);
    }

    #[test]
    fn exactly_the_limit_is_not_too_much() {
        let output = Output::new(4);
        output.write(Stream::Stdout, b"1234");
        assert_eq!(output.shown(4), "1234");
        output.write(Stream::Stdout, b"");
        assert_eq!(output.shown(4), "1234");
    }

    #[test]
    fn the_end_of_stderr_is_kept_behind_any_amount_of_output() {
        let output = Output::new(10);
        for _ in 0..100 {
            output.write(Stream::Stderr, &[b'x'; WRITE]);
        }
        output.write(Stream::Stdout, b"not this");
        output.write(Stream::Stderr, b"\npanicked at main.rs\n");
        assert!(output.tail().ends_with("\npanicked at main.rs\n"));
        assert!(output.tail().len() <= TAIL);
    }

    #[test]
    fn nothing_that_fools_a_terminal_or_a_log_gets_through() {
        assert_eq!(
            safe(b"a\x1b[31mred\r\nb\xff\0"),
            "a\\u{1b}[31mred\nb\u{fffd}\\u{0}"
        );
        assert_eq!(
            safe("x\u{202e}y\u{2028}z\u{85}".as_bytes()),
            "x\\u{202e}y\\u{2028}z\\u{85}"
        );
        assert!(safe(&[b'x'; 100_000]).lines().all(|line| line.len() <= LINE));
    }

    #[test]
    fn a_stream_never_grants_a_large_write() {
        let mut pipe = Pipe {
            output: Output::new(1),
            stream: Stream::Stdout,
        };
        assert_eq!(pipe.check_write().unwrap(), WRITE);
        pipe.write(Bytes::from_static(b"too much")).unwrap();
        assert_eq!(pipe.check_write().unwrap(), WRITE);
    }
}
