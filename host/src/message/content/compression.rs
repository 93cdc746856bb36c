//! kombu's compression of bodies and stored results (contract section 1.6).

use std::io::{self, Read, Write};

use super::ContentError;
use super::graph::too_large;

/// What stands before a compressed result.
const MARK: &[u8] = b"\0celery-compressed\0";

/// What a decoder may hold beside its output: windows of up to 8 MiB, which Python's encoders ask for by default even
/// where a body is small.
const WINDOW: usize = 9 << 20;

/// Celery's compressions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compression {
    /// A zlib stream, whatever its name says.
    Gzip,
    /// bzip2.
    Bzip2,
    /// An .xz container; older .lzma files are read, too.
    Lzma,
    /// Brotli.
    Brotli,
    /// Zstandard.
    Zstd,
}

impl Compression {
    const ALL: [(Compression, &str, &[&str]); 5] = [
        (Compression::Gzip, "application/x-gzip", &["gzip", "zlib"]),
        (Compression::Bzip2, "application/x-bz2", &["bzip2", "bzip"]),
        (Compression::Lzma, "application/x-lzma", &["lzma", "xz"]),
        (Compression::Brotli, "application/x-brotli", &["brotli"]),
        (Compression::Zstd, "application/zstd", &["zstd", "zstandard"]),
    ];

    /// The compression of this name or content type.
    pub fn named(name: &str) -> Option<Self> {
        let mut all = Self::ALL.iter();
        all.find_map(|(compression, content_type, names)| {
            (name == *content_type || names.contains(&name)).then_some(*compression)
        })
    }

    /// The names that settings take, for messages to people.
    pub fn names() -> String {
        let names = Self::ALL.iter().flat_map(|(_, _, names)| names.first());
        names
            .map(|name| format!("{name:?}"))
            .collect::<Vec<_>>()
            .join(", ")
    }

    /// What messages call it.
    pub fn content_type(self) -> &'static str {
        let mut all = Self::ALL.iter();
        all.find_map(|(compression, content_type, _)| (*compression == self).then_some(*content_type))
            .unwrap_or_default()
    }

    /// Inflates a body. One that would have more than `limit` bytes is [`ContentError::TooLarge`] before it is that
    /// large.
    pub fn inflate(self, body: &[u8], limit: usize) -> Result<Vec<u8>, ContentError> {
        let window = limit.max(WINDOW);
        let window_kib = u32::try_from(window / 1024).unwrap_or(u32::MAX);
        let inflated = match self {
            Compression::Gzip => read(flate2::read::ZlibDecoder::new(body), limit),
            Compression::Bzip2 => read(bzip2::read::MultiBzDecoder::new(body), limit),
            Compression::Lzma if body.starts_with(b"\xfd7zXZ\0") => {
                read(lzma_rust2::XzReader::new_mem_limit(body, true, window_kib), limit)
            }
            Compression::Lzma => lzma_rust2::LzmaReader::new_mem_limit(body, window_kib, None)
                .and_then(|reader| read(reader, limit)),
            Compression::Brotli => read(brotli::Decompressor::new(body, 4096), limit),
            Compression::Zstd => zstd::stream::read::Decoder::with_buffer(body).and_then(|mut decoder| {
                decoder.window_log_max(window.ilog2())?;
                read(decoder, limit)
            }),
        };
        let inflated = inflated.map_err(|error| {
            ContentError::Malformed(format!("the body is not {}: {error}", self.content_type()))
        })?;
        inflated.ok_or_else(|| too_large(limit))
    }

    /// Compresses a body.
    pub fn deflate(self, body: &[u8]) -> Result<Vec<u8>, ContentError> {
        self.write(body).map_err(|error| {
            ContentError::Malformed(format!("cannot write {}: {error}", self.content_type()))
        })
    }

    fn write(self, body: &[u8]) -> io::Result<Vec<u8>> {
        match self {
            Compression::Gzip => {
                let mut encoder = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::default());
                encoder.write_all(body)?;
                encoder.finish()
            }
            Compression::Bzip2 => {
                let mut encoder = bzip2::write::BzEncoder::new(Vec::new(), bzip2::Compression::best());
                encoder.write_all(body)?;
                encoder.finish()
            }
            Compression::Lzma => {
                let mut options = lzma_rust2::XzOptions::with_preset(6);
                // No larger than the body, or every reader would set aside 8 MiB for it.
                let size = u32::try_from(body.len()).unwrap_or(u32::MAX);
                options.lzma_options.dict_size = size.clamp(4096, options.lzma_options.dict_size);
                let mut encoder = lzma_rust2::XzWriter::new(Vec::new(), options)?;
                encoder.write_all(body)?;
                encoder.finish()
            }
            Compression::Brotli => {
                let mut encoder = brotli::CompressorWriter::new(Vec::new(), 4096, 5, 22);
                encoder.write_all(body)?;
                encoder.flush()?;
                Ok(encoder.into_inner())
            }
            Compression::Zstd => zstd::stream::encode_all(body, zstd::DEFAULT_COMPRESSION_LEVEL),
        }
    }

    /// The stored form of a compressed result (contract section 5.2).
    pub fn deflate_result(self, document: &[u8]) -> Result<Vec<u8>, ContentError> {
        let mut stored = MARK.to_vec();
        stored.extend_from_slice(self.content_type().as_bytes());
        stored.push(0);
        stored.append(&mut self.deflate(document)?);
        Ok(stored)
    }
}

/// The compression's name and the compressed bytes of a stored result, when it is compressed.
pub(super) fn prefixed(stored: &[u8]) -> Option<(&str, &[u8])> {
    let rest = stored.strip_prefix(MARK)?;
    let end = rest.iter().position(|byte| *byte == 0)?;
    let (name, compressed) = rest.split_at_checked(end)?;
    Some((std::str::from_utf8(name).ok()?, compressed.get(1..)?))
}

/// Everything that `reader` gives, or `None` when that is more than `limit`.
fn read(reader: impl Read, limit: usize) -> io::Result<Option<Vec<u8>>> {
    let mut inflated = Vec::new();
    reader
        .take((limit as u64).saturating_add(1))
        .read_to_end(&mut inflated)?;
    Ok((inflated.len() <= limit).then_some(inflated))
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: [Compression; 5] = [
        Compression::Gzip,
        Compression::Bzip2,
        Compression::Lzma,
        Compression::Brotli,
        Compression::Zstd,
    ];

    #[test]
    fn what_is_deflated_inflates_again() {
        for compression in ALL {
            for body in [&b""[..], b"x", &b"abc".repeat(10_000), &[0; 300_000]] {
                let deflated = compression.deflate(body).unwrap();
                assert_eq!(
                    compression.inflate(&deflated, 300_000).unwrap(),
                    body,
                    "{compression:?}"
                );
                let stored = compression.deflate_result(body).unwrap();
                let (name, rest) = prefixed(&stored).unwrap();
                assert_eq!(Compression::named(name), Some(compression));
                assert_eq!(rest, deflated);
            }
        }
    }

    #[test]
    fn a_bomb_ends_at_the_limit() {
        for compression in ALL {
            let bomb = compression.deflate(&vec![0; 20_000_000]).unwrap();
            assert!(bomb.len() < 30_000, "{compression:?}: {}", bomb.len());
            let refused = compression.inflate(&bomb, 100_000);
            assert!(
                matches!(refused, Err(ContentError::TooLarge(_))),
                "{compression:?}: {refused:?}"
            );
            let exact = compression.deflate(&vec![0; 100_000]).unwrap();
            assert!(compression.inflate(&exact, 100_000).is_ok());
        }
    }

    #[test]
    fn what_is_not_compressed_so_is_malformed() {
        for compression in ALL {
            let whole = compression.deflate(&b"abc".repeat(1000)).unwrap();
            let cut = &whole[..whole.len() / 2];
            for body in [&b"\x01\x02\x03\x04"[..], b"[[], {}, {}]", cut] {
                let refused = compression.inflate(body, 100_000);
                assert!(
                    matches!(refused, Err(ContentError::Malformed(_))),
                    "{compression:?}: {refused:?}"
                );
            }
        }
    }

    /// A header that asks for a window of gigabytes costs none.
    #[test]
    fn a_window_has_a_limit() {
        let mut zstd = b"\x28\xb5\x2f\xfd\x00".to_vec();
        // A window of 2^31 bytes, then an empty last block.
        zstd.extend_from_slice(&[21 << 3, 0x01, 0x00, 0x00]);
        assert!(matches!(
            Compression::Zstd.inflate(&zstd, 1000),
            Err(ContentError::Malformed(_))
        ));
        // lc=3 lp=0 pb=2, a dictionary of 4 GiB - 1, unknown size.
        let mut lzma = b"\x5d\xff\xff\xff\xff".to_vec();
        lzma.extend_from_slice(&[0xff; 8]);
        lzma.extend_from_slice(&[0; 10]);
        assert!(matches!(
            Compression::Lzma.inflate(&lzma, 1000),
            Err(ContentError::Malformed(_))
        ));
    }
}
