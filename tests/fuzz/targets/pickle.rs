#![no_main]

use celerybox_fuzz::message::content::Serializer;
use celerybox_fuzz::{decodes_to_plain_data, message, reader};

// The modules that a pickle may name; what it names in them is data.
const DATA: [&str; 9] = [
    "datetime",
    "decimal",
    "uuid",
    "pytz",
    "_codecs",
    "builtins",
    "__builtin__",
    "collections",
    "celery.canvas",
];

libfuzzer_sys::fuzz_target!(|body: &[u8]| {
    decodes_to_plain_data(Serializer::Pickle, body);
    // The same with an import in front, whose value is dropped: nothing is read of a pickle that imports.
    let mut lines = body.split(|byte| *byte == b'\n');
    let name = |line: Option<&[u8]>| String::from_utf8_lossy(line.unwrap_or_default()).into_owned();
    let (module, attribute) = (name(lines.next()), name(lines.next()));
    if !DATA.contains(&module.as_str()) {
        let importing = [format!("c{module}\n{attribute}\n0").as_bytes(), body].concat();
        let read = reader()
            .body(
                &message(Serializer::Pickle, &importing),
                jiff::Timestamp::UNIX_EPOCH,
            )
            .is_ok();
        assert!(!read, "{module}.{attribute} was imported");
    }
});
