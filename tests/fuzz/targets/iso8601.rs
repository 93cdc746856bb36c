#![no_main]

use celerybox_fuzz::message::request::{format_time, parse_time};

// A time that is read prints as the same time, to the microsecond.
libfuzzer_sys::fuzz_target!(|text: &str| {
    let Some(time) = parse_time(text) else { return };
    let printed = format_time(time);
    let again = parse_time(&printed).unwrap_or_else(|| panic!("{printed} of {text:?}"));
    assert_eq!(format_time(again), printed);
});
