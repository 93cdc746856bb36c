#![no_main]

use celerybox_fuzz::message::content::compression::Compression;
use celerybox_fuzz::message::{Message, Route, request};
use celerybox_fuzz::{SERIALIZERS, is_json, message, reader};
use jiff::Timestamp;
use serde_json::json;

// Any serializer, compression and protocol: three bytes choose, the rest is the body. What is understood is strict
// JSON, and so is the message that a retry would send.
libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    let [serializer, compression, protocol, body @ ..] = input else {
        return;
    };
    let serializer = SERIALIZERS[usize::from(*serializer) % SERIALIZERS.len()];
    let names = [
        None,
        Some("gzip"),
        Some("bzip2"),
        Some("lzma"),
        Some("brotli"),
        Some("zstd"),
    ];
    let compression = names[usize::from(*compression) % names.len()].and_then(Compression::named);
    let mut sent = Message {
        headers: match protocol % 3 {
            0 => json!({"task": "t", "id": "i"}).as_object().cloned(),
            1 => json!({}).as_object().cloned(),
            _ => json!({"task": "t", "id": "i", "eta": "2030-01-02", "stamped_headers": ["a"]})
                .as_object()
                .cloned(),
        },
        ..message(serializer, body)
    };
    if let (Some(compression), Some(headers)) = (compression, &mut sent.headers) {
        headers.insert("compression".into(), compression.content_type().into());
        // Half of them are compressed indeed.
        if protocol & 0x80 == 0 {
            sent.body = compression.deflate(body).unwrap();
        }
    }
    let (reader, now) = (reader(), Timestamp::UNIX_EPOCH);
    let Ok(recognized) = request::recognize(sent, &reader, now) else {
        return;
    };
    let Ok(request) = recognized.decode(Route::default(), false, &reader, now) else {
        return;
    };
    assert!(is_json(&request.body.to_json(None, None)));
    let again = request::recognize(request.message, &reader, now).unwrap();
    assert_eq!(again.identity.id, request.id);
    let again = again.decode(Route::default(), false, &reader, now).unwrap();
    assert_eq!(again.body.args.get(), request.body.args.get());
});
