#![no_main]

// What is read of the file of revoked ids is written and read again as the same.
libfuzzer_sys::fuzz_target!(|content: &[u8]| celerybox_fuzz::state_db::reads_what_it_writes(content));
