//! What a frame from the broker must look like before lapin sees it.
//!
//! Headers, routing keys and properties are their sender's choice, and RabbitMQ passes on 26,000 lists in one another,
//! for which lapin needs more than 32 MiB of stack, and text that is not UTF-8, over which lapin ends the connection,
//! again and again, since the message comes back. So both are taken out of the frames on their way in.

use std::ops::Range;

/// How deep tables and arrays may be nested.
const MAX_DEPTH: usize = 64;
/// The one header of a message whose headers cannot be read.
pub(super) const UNREADABLE: &str = "celerybox-unreadable-headers";

const METHOD: u8 = 1;
const HEADER: u8 = 2;
const FRAME_END: u8 = 0xCE;
/// Type, channel and size before the payload of a frame.
const FRAME_HEAD: usize = 7;
/// Class, weight and body size before the flags of a content header.
const CONTENT_HEAD: usize = 12;
/// A method frame longer than this is none.
const MAX_METHOD: usize = 1 << 20;
const CONNECTION_START: &[u8] = &[0, 10, 0, 10];
const CONNECTION_TUNE: &[u8] = &[0, 10, 0, 30];
const CONNECTION_CLOSE: &[u8] = &[0, 10, 0, 50];
const CONNECTION_BLOCKED: &[u8] = &[0, 10, 0, 60];
const CHANNEL_CLOSE: &[u8] = &[0, 20, 0, 40];
const BASIC_DELIVER: &[u8] = &[0, 60, 0, 60];

/// The state of a stream of frames, one direction of one connection.
#[derive(Debug)]
pub(super) struct Screen {
    /// Bytes that no whole frame has come of yet.
    inbox: Vec<u8>,
    /// Bytes of the current frame that pass unread.
    passing: usize,
    /// Bytes of the current frame that are left out.
    skipping: usize,
    /// The largest frame that lapin takes, in bytes.
    frame_max: usize,
    /// The arguments of `connection.start`.
    pub(super) start: Option<Vec<u8>>,
}

/// The bytes are not AMQP.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("the server sent something that is not AMQP 0-9-1")]
pub(super) struct Garbage;

impl Screen {
    /// For a connection whose client asks for frames of at most `frame_max` bytes.
    pub(super) fn new(frame_max: u32) -> Self {
        Self {
            inbox: Vec::new(),
            passing: 0,
            skipping: 0,
            frame_max: frame_max as usize,
            start: None,
        }
    }

    /// Takes bytes in and appends what may pass to `out`. Holds back at most one frame.
    pub(super) fn pass(&mut self, bytes: &[u8], out: &mut Vec<u8>) -> Result<(), Garbage> {
        let held = std::mem::take(&mut self.inbox);
        if held.is_empty() {
            let rest = self.frames(bytes, out)?;
            self.inbox.extend_from_slice(rest);
        } else {
            let mut all = held;
            all.extend_from_slice(bytes);
            let length = self.frames(&all, out)?.len();
            all.drain(..all.len() - length);
            self.inbox = all;
        }
        Ok(())
    }

    /// Screens whole frames, and returns what is left.
    fn frames<'a>(&mut self, mut bytes: &'a [u8], out: &mut Vec<u8>) -> Result<&'a [u8], Garbage> {
        loop {
            let (skipped, rest) = bytes.split_at(self.skipping.min(bytes.len()));
            self.skipping -= skipped.len();
            let (passed, rest) = rest.split_at(self.passing.min(rest.len()));
            self.passing -= passed.len();
            out.extend_from_slice(passed);
            bytes = rest;
            let Some(&[kind, c0, c1, s0, s1, s2, s3]) = bytes.first_chunk::<FRAME_HEAD>() else {
                return Ok(bytes);
            };
            if bytes.starts_with(b"AMQP") {
                return Err(Garbage);
            }
            let size = u32::from_be_bytes([s0, s1, s2, s3]) as usize;
            let length = size + FRAME_HEAD + 1;
            match kind {
                METHOD if size > MAX_METHOD => return Err(Garbage),
                HEADER if size < CONTENT_HEAD => return Err(Garbage),
                HEADER if length > self.frame_max => {
                    let Some(head) = bytes.get(FRAME_HEAD..FRAME_HEAD + CONTENT_HEAD) else {
                        return Ok(bytes);
                    };
                    put_frame(
                        out,
                        [kind, c0, c1],
                        &content_header(head, &[1 << 5, 0], &unreadable(), &[]),
                    );
                    self.skipping = length;
                }
                METHOD | HEADER => {
                    let Some(frame) = bytes.get(..length) else {
                        return Ok(bytes);
                    };
                    if !frame.ends_with(&[FRAME_END]) {
                        return Err(Garbage);
                    }
                    let payload = out.len() + FRAME_HEAD..out.len() + FRAME_HEAD + size;
                    out.extend_from_slice(frame);
                    bytes = bytes.get(length..).unwrap_or_default();
                    self.repair(kind, payload, out);
                }
                _ => self.passing = length,
            }
        }
    }

    /// Repairs the last frame of `out`, whose payload is in `place`.
    fn repair(&mut self, kind: u8, place: Range<usize>, out: &mut Vec<u8>) {
        let start = place.start - FRAME_HEAD;
        let Some(payload) = out.get_mut(place) else { return };
        if kind == METHOD {
            return self.repair_method(payload);
        }
        let repaired = match properties(payload) {
            Properties::Fine => return,
            Properties::BadHeaders(table) => {
                let (before, rest) = payload.split_at(table.start.min(payload.len()));
                let after = rest.get(table.len()..).unwrap_or_default();
                let (head, flags_and_more) = before.split_at(CONTENT_HEAD.min(before.len()));
                content_header(head, flags_and_more, &unreadable(), after)
            }
            Properties::Bad => {
                let head = payload.get(..CONTENT_HEAD).unwrap_or_default();
                content_header(head, &[1 << 5, 0], &unreadable(), &[])
            }
        };
        let head: Option<[u8; 3]> = out.get(start..).and_then(|frame| frame.first_chunk().copied());
        out.truncate(start);
        put_frame(out, head.unwrap_or_default(), &repaired);
    }

    fn repair_method(&mut self, payload: &mut [u8]) {
        let (name, arguments) = payload.split_at_mut(4.min(payload.len()));
        let mut cursor = Cursor::new(arguments);
        match &*name {
            BASIC_DELIVER => {
                let _ = cursor.short().and_then(|()| cursor.skip(9)); // Delivery tag and redelivered.
                let _ = cursor.short().and_then(|()| cursor.short());
            }
            // The server quotes names in its reasons, and cuts them off anywhere.
            CONNECTION_CLOSE | CHANNEL_CLOSE => {
                let _ = cursor.skip(2).and_then(|()| cursor.short());
            }
            CONNECTION_BLOCKED => {
                let _ = cursor.short();
            }
            CONNECTION_START => self.start = Some(arguments.to_vec()),
            CONNECTION_TUNE => {
                if let Some(&[a, b, c, d]) = arguments.get(2..).and_then(|rest| rest.first_chunk())
                    && let theirs @ 1.. = u32::from_be_bytes([a, b, c, d]) as usize
                {
                    self.frame_max = self.frame_max.min(theirs);
                }
            }
            _ => {}
        }
    }
}

fn put_frame(out: &mut Vec<u8>, head: [u8; 3], payload: &[u8]) {
    out.extend(head);
    out.extend((payload.len() as u32).to_be_bytes());
    out.extend_from_slice(payload);
    out.push(FRAME_END);
}

fn content_header(head: &[u8], flags: &[u8], table: &[u8], rest: &[u8]) -> Vec<u8> {
    [head, flags, table, rest].concat()
}

/// A field table that says that there was another one.
fn unreadable() -> Vec<u8> {
    let entry = [&[UNREADABLE.len() as u8], UNREADABLE.as_bytes(), b"V"].concat();
    [&(entry.len() as u32).to_be_bytes()[..], &entry].concat()
}

/// What is the matter with the properties of a message.
#[derive(Debug, PartialEq, Eq)]
enum Properties {
    /// Nothing that could not be repaired in its place.
    Fine,
    /// The headers, which are here, are malformed or nested too deep.
    BadHeaders(Range<usize>),
    /// Their end is not where it should be.
    Bad,
}

/// Checks the payload of a content header; text that is not UTF-8 is repaired.
fn properties(payload: &mut [u8]) -> Properties {
    let mut cursor = Cursor::new(payload);
    match cursor.properties() {
        Some(headers) if cursor.is_at_end() => headers.map_or(Properties::Fine, Properties::BadHeaders),
        _ => Properties::Bad,
    }
}

/// Walks over bytes; `None` at their end.
struct Cursor<'a> {
    bytes: &'a mut [u8],
    at: usize,
}

impl<'a> Cursor<'a> {
    fn new(bytes: &'a mut [u8]) -> Self {
        Self { bytes, at: 0 }
    }

    fn is_at_end(&self) -> bool {
        self.at == self.bytes.len()
    }

    fn take(&mut self, count: usize) -> Option<&mut [u8]> {
        let end = self.at.checked_add(count)?;
        let taken = self.bytes.get_mut(self.at..end)?;
        self.at = end;
        Some(taken)
    }

    fn skip(&mut self, count: usize) -> Option<()> {
        self.take(count).map(|_| ())
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.take(N)?.first_chunk().copied()
    }

    /// Text with a length of one byte. What is not UTF-8 becomes question marks.
    fn short(&mut self) -> Option<()> {
        let [length] = self.array()?;
        let mut text = self.take(length.into())?;
        while let Err(error) = std::str::from_utf8(text) {
            let (_, wrong) = text.split_at_mut(error.valid_up_to());
            let count = error.error_len().unwrap_or(wrong.len()).min(wrong.len());
            let (wrong, rest) = wrong.split_at_mut(count);
            wrong.fill(b'?');
            text = rest;
        }
        Some(())
    }

    /// Everything in a content header. Returns where its headers are when they are bad.
    fn properties(&mut self) -> Option<Option<Range<usize>>> {
        self.skip(CONTENT_HEAD)?;
        let flags = u16::from_be_bytes(self.array()?);
        let mut bad = None;
        // From the highest bit down, as they are on the wire: s is a text, t the headers, 1 and 8 so many bytes.
        for (index, kind) in b"sst11ssss8ssss".iter().enumerate() {
            if flags & (0x8000 >> index) == 0 {
                continue;
            }
            match kind {
                b's' => self.short()?,
                b't' => {
                    let start = self.at;
                    let size = u32::from_be_bytes(self.array()?) as usize;
                    let fine = Cursor::new(self.take(size)?).table(MAX_DEPTH);
                    if fine.is_none() {
                        bad = Some(start..self.at);
                    }
                }
                b'8' => self.skip(8)?,
                _ => self.skip(1)?,
            }
        }
        Some(bad)
    }

    /// All that is there, as the entries of a table.
    fn table(&mut self, depth: usize) -> Option<()> {
        while !self.is_at_end() {
            self.short()?;
            self.value(depth)?;
        }
        Some(())
    }

    fn value(&mut self, depth: usize) -> Option<()> {
        let [kind] = self.array()?;
        match kind {
            b'V' => Some(()),
            b't' | b'b' | b'B' => self.skip(1),
            b's' | b'U' | b'u' => self.skip(2),
            b'I' | b'i' | b'f' => self.skip(4),
            b'D' => self.skip(5),
            b'L' | b'l' | b'd' | b'T' => self.skip(8),
            b'S' | b'x' | b'A' | b'F' => {
                let size = u32::from_be_bytes(self.array()?) as usize;
                let mut inner = Cursor::new(self.take(size)?);
                match kind {
                    b'F' => inner.table(depth.checked_sub(1)?),
                    b'A' => {
                        let depth = depth.checked_sub(1)?;
                        while !inner.is_at_end() {
                            inner.value(depth)?;
                        }
                        Some(())
                    }
                    _ => Some(()),
                }
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &[u8] = b"\0\x3c\0\0\0\0\0\0\0\0\0\x01";

    fn frame(kind: u8, payload: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        put_frame(&mut out, [kind, 0, 1], payload);
        out
    }

    fn header(properties: &[u8]) -> Vec<u8> {
        frame(HEADER, &[HEAD, properties].concat())
    }

    fn table(entries: &[u8]) -> Vec<u8> {
        [&(entries.len() as u32).to_be_bytes()[..], entries].concat()
    }

    fn screened(bytes: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        let mut screen = Screen::new(131_072);
        screen.pass(bytes, &mut out).unwrap();
        assert_eq!(screen.inbox, b"");
        // Wherever the bytes are cut, the same comes out.
        let mut again = Vec::new();
        let mut screen = Screen::new(131_072);
        let step = bytes.len() / 50 + 1;
        for part in bytes.chunks(step) {
            screen.pass(part, &mut again).unwrap();
        }
        assert_eq!(out, again);
        out
    }

    /// Lists in lists.
    fn nested(depth: usize) -> Vec<u8> {
        let mut value = b"V".to_vec();
        for _ in 0..depth {
            value = [b"A", &table(&value)[..]].concat();
        }
        [b"\x01k", &value[..]].concat()
    }

    #[test]
    fn what_is_in_order_passes_unchanged() {
        let every_type = b"\x01aV\x01bt\x01\x01cb\0\x01dB\0\x01es\0\0\x01fU\0\0\x01gu\0\0\x01hI\0\0\0\0\x01ii\0\0\0\0\
            \x01jf\0\0\0\0\x01kD\0\0\0\0\0\x01lL\0\0\0\0\0\0\0\0\x01ml\0\0\0\0\0\0\0\0\x01nd\0\0\0\0\0\0\0\0\
            \x01oT\0\0\0\0\0\0\0\0\x01pS\0\0\0\x01\xff\x01qx\0\0\0\x01\xff\x01rA\0\0\0\x02VV\x01sF\0\0\0\x03\x01aV";
        let every_property = [
            &b"\xff\xfe\x01a\x01b"[..],
            &table(every_type),
            b"\x02\x05\x01c\x01d\x01e\x01f\0\0\0\0\0\0\0\x09\x01g\x01h\x01i\x01j",
        ]
        .concat();
        for frame in [
            header(&every_property),
            header(b"\0\0"),
            header(&[b"\x20\0", &table(&nested(MAX_DEPTH))[..]].concat()),
            frame(METHOD, b"\0\x3c\0\x3c\x01t\0\0\0\0\0\0\0\x01\0\x01e\x01k"),
            frame(3, &[0xCE; 70_000]),
            frame(8, b""),
        ] {
            assert_eq!(screened(&frame), frame);
        }
    }

    #[test]
    fn text_that_is_not_utf_8_is_repaired_in_its_place() {
        let cases = [
            (header(b"\x80\0\x02\xc3\x28"), header(b"\x80\0\x02?(")),
            (
                header(&[b"\x20\0", &table(b"\x02\xff\xfeV")[..]].concat()),
                header(&[b"\x20\0", &table(b"\x02??V")[..]].concat()),
            ),
            (
                frame(
                    METHOD,
                    b"\0\x3c\0\x3c\x01t\0\0\0\0\0\0\0\x01\0\x01\xff\x03a\xe2\x82",
                ),
                frame(METHOD, b"\0\x3c\0\x3c\x01t\0\0\0\0\0\0\0\x01\0\x01?\x03a??"),
            ),
            (
                frame(METHOD, b"\0\x14\0\x28\x01\x94\x03no\xc3\0\0\0\0"),
                frame(METHOD, b"\0\x14\0\x28\x01\x94\x03no?\0\0\0\0"),
            ),
        ];
        for (bad, good) in cases {
            assert_eq!(screened(&bad), good);
        }
    }

    #[test]
    fn headers_that_nobody_can_read_are_left_out() {
        let table_with = |entries: &[u8]| [b"\xb0\0\x01a", &table(entries)[..], b"\x02"].concat();
        let without = [b"\xb0\0\x01a", &unreadable()[..], b"\x02"].concat();
        for entries in [
            &b"\x02id?"[..],
            b"\x02idA\0\0\0\x02I\0",
            b"\x02idF\0\0\0\x05\x01aV\0\0",
            b"\x02i",
            b"\x05",
            &nested(MAX_DEPTH + 1),
            &nested(24_000),
        ] {
            let shown = &entries[..entries.len().min(9)];
            assert_eq!(
                screened(&header(&table_with(entries))),
                header(&without),
                "{shown:?}"
            );
        }
        // Without an end, nothing of the properties can be trusted.
        let alone = [b"\x20\0", &unreadable()[..]].concat();
        for properties in [
            &b""[..],
            b"\x80",
            b"\x80\0\x05a",
            b"\x20\0\0\0\0\x09\0",
            b"\0\0more",
        ] {
            assert_eq!(screened(&header(properties)), header(&alone), "{properties:?}");
        }
    }

    #[test]
    fn headers_larger_than_a_frame_may_be_are_left_out() {
        let text = vec![b'x'; 140_000];
        let entry = [b"\x01kS", &table(&text)[..]].concat();
        let large = header(&[b"\x20\0", &table(&entry)[..]].concat());
        let body = frame(3, b"x");
        let alone = [b"\x20\0", &unreadable()[..]].concat();
        let expected = [header(&alone), body.clone()].concat();
        assert_eq!(screened(&[large, body].concat()), expected);
        // The server's limit counts when it is the lower one.
        let tune = frame(METHOD, b"\0\x0a\0\x1e\x07\xff\0\0\x10\0\0\0");
        let fits_ours = header(
            &[
                b"\x20\0",
                &table(&[b"\x01kS", &table(&text[..5000])[..]].concat())[..],
            ]
            .concat(),
        );
        assert_eq!(screened(&fits_ours), fits_ours);
        let expected = [tune.clone(), header(&alone)].concat();
        assert_eq!(screened(&[tune, fits_ours].concat()), expected);
    }

    #[test]
    fn what_is_not_amqp_is_garbage() {
        for bytes in [
            &b"AMQP\0\0\x09\x01"[..],
            b"\x01\0\0\xff\xff\xff\xff",
            b"\x02\0\x01\0\0\0\x0b",
            b"\x01\0\x01\0\0\0\x01\0\xcd",
        ] {
            assert_eq!(
                Screen::new(4096).pass(bytes, &mut Vec::new()),
                Err(Garbage),
                "{bytes:?}"
            );
        }
    }
}
