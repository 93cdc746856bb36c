#![no_main]

use celerybox_fuzz::message::content::{Serializer, Writer};
use celerybox_fuzz::message::{Message, Route, request};
use celerybox_fuzz::{is_json, message};
use serde_json::json;

// JSON bodies with what only Python calls JSON: the arguments are strict JSON afterwards, and mean the same when they
// were written and read again.
libfuzzer_sys::fuzz_target!(|body: &[u8]| {
    let decode = |body: &[u8]| {
        let headers = json!({"task": "t", "id": "i"}).as_object().cloned();
        let message = Message {
            headers,
            ..message(Serializer::Json, body)
        };
        request::decode(message, Route::default(), false, &["json".to_owned()])
    };
    let Ok(request) = decode(body) else { return };
    let text = request.body.to_json(None, None);
    assert!(is_json(&text), "{text}");
    let written = Writer::default().serialize(&text).unwrap();
    let again = decode(&written).unwrap_or_else(|error| panic!("{error}: {text}"));
    let twice = Writer::default()
        .serialize(&again.body.to_json(None, None))
        .unwrap();
    assert_eq!(written, twice);
});
