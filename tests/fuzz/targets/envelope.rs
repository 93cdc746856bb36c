#![no_main]

use celerybox_fuzz::message::{Outgoing, envelope};

// What opens can be sealed and opened again, and marked as redelivered.
libfuzzer_sys::fuzz_target!(|text: &[u8]| {
    let Ok(opened) = envelope::open(text) else { return };
    if let Ok(text) = std::str::from_utf8(text) {
        let marked = envelope::open(envelope::mark_redelivered(text).as_bytes()).unwrap();
        assert_eq!(marked.message.body, opened.message.body);
        assert_eq!(marked.route, opened.route);
    }
    let outgoing = Outgoing {
        route: opened.route,
        message: opened.message,
    };
    let again = envelope::open(envelope::seal(&outgoing).as_bytes()).unwrap();
    assert_eq!(again.route, outgoing.route);
    assert_eq!(again.message.body, outgoing.message.body);
    assert_eq!(
        again.message.headers,
        Some(outgoing.message.headers.unwrap_or_default())
    );
});
