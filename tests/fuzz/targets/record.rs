#![no_main]

// A record of the `unacked` hash: its envelope goes back to a queue as one that was delivered before.
libfuzzer_sys::fuzz_target!(|record: &[u8]| celerybox_fuzz::record::goes_back(record));
