#![no_main]

use celerybox_fuzz::LIMIT;
use celerybox_fuzz::message::content::compression::Compression;

// The first byte says which compression. Nothing inflates beyond the limit, and what was inflated deflates again.
libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    let Some((which, body)) = input.split_first() else {
        return;
    };
    let names = ["gzip", "bzip2", "lzma", "brotli", "zstd"];
    let Some(compression) = names
        .get(usize::from(*which) % names.len())
        .and_then(|name| Compression::named(name))
    else {
        return;
    };
    if let Ok(inflated) = compression.inflate(body, LIMIT) {
        assert!(inflated.len() <= LIMIT);
        if inflated.len() < 4096 {
            let deflated = compression.deflate(&inflated).unwrap();
            assert_eq!(compression.inflate(&deflated, LIMIT).unwrap(), inflated);
        }
    }
});
