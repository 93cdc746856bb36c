#![no_main]

use celerybox_fuzz::message::content::read_result;
use celerybox_fuzz::{LIMIT, is_json};

// A stored result in any form is JSON, or is refused.
libfuzzer_sys::fuzz_target!(|stored: &[u8]| {
    if let Ok(text) = read_result(stored, LIMIT, None, jiff::Timestamp::UNIX_EPOCH) {
        assert!(is_json(&text), "{text}");
    }
});
