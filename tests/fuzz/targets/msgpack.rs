#![no_main]

use celerybox_fuzz::decodes_to_plain_data;
use celerybox_fuzz::message::content::Serializer;

libfuzzer_sys::fuzz_target!(|body: &[u8]| decodes_to_plain_data(Serializer::Msgpack, body));
