#![no_main]

use std::sync::LazyLock;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use celerybox_fuzz::message::content::auth::{Digest, Trust};
use jiff::Timestamp;

const SAMPLE: &str = include_str!("../../cases/wire/task-v2-serializer-auth.json");

static SIGNED: LazyLock<(Trust, Vec<u8>)> = LazyLock::new(|| {
    let sample: serde_json::Value = serde_json::from_str(SAMPLE).unwrap();
    let pem = sample["certificate_pem"].as_str().unwrap().as_bytes().to_vec();
    let trust = Trust::new(
        [("sample".to_owned(), pem)],
        Digest::Sha256,
        Timestamp::UNIX_EPOCH,
    )
    .unwrap();
    (
        trust,
        sample["signed_bytes_utf8"].as_str().unwrap().as_bytes().to_vec(),
    )
});

// Whatever the parts are: the one payload that was signed is the only one that is read.
libfuzzer_sys::fuzz_target!(|parts: &[u8]| {
    let (trust, payload) = &*SIGNED;
    for body in [parts.to_vec(), BASE64.encode(parts).into_bytes()] {
        if let Ok(signed) = trust.open(&body, Timestamp::UNIX_EPOCH) {
            assert_eq!(&signed.payload, payload);
        }
    }
});
