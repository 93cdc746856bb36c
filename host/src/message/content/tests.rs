use super::*;
use crate::message::Properties;

fn message(content_type: Option<&str>, body: &[u8]) -> Message {
    Message {
        headers: Some(crate::message::JsonMap::new()),
        properties: Properties {
            content_type: content_type.map(str::to_owned),
            ..Properties::default()
        },
        body: body.to_vec(),
    }
}

fn everything() -> Reader {
    Reader {
        accept: Serializer::ALL.iter().map(|row| row.0).collect(),
        limit: 10_000,
        trust: None,
    }
}

fn read(reader: &Reader, message: &Message) -> Result<String, ContentError> {
    reader.body(message, Timestamp::UNIX_EPOCH).map(Cow::into_owned)
}

const TEXT: &str = r#"[[1, "ä", {"__type__": "base64", "__value__": "/w=="}], {"k": null}, 1.5]"#;

#[test]
fn every_serializer_with_every_compression_is_read_as_it_was_written() {
    let compressions = [
        None,
        Some("gzip"),
        Some("bzip2"),
        Some("xz"),
        Some("brotli"),
        Some("zstd"),
    ];
    for serializer in [
        Serializer::Json,
        Serializer::Yaml,
        Serializer::Msgpack,
        Serializer::Pickle,
    ] {
        for compression in compressions {
            let writer = Writer {
                serializer,
                compression: compression.and_then(Compression::named),
                signer: None,
            };
            let mut message = message(None, b"");
            writer.fill(&mut message, TEXT).unwrap();
            assert_eq!(
                message.headers.as_ref().unwrap().len(),
                usize::from(compression.is_some())
            );
            assert_eq!(
                read(&everything(), &message).unwrap(),
                TEXT,
                "{serializer:?} {compression:?}"
            );
            let refused = read(
                &Reader {
                    accept: Vec::new(),
                    ..everything()
                },
                &message,
            );
            assert!(matches!(refused, Err(ContentError::Disallowed(_))));
        }
    }
}

#[test]
fn a_writer_without_a_key_cannot_sign() {
    let writer = Writer {
        serializer: Serializer::Auth,
        ..Writer::default()
    };
    assert!(matches!(writer.serialize("[]"), Err(ContentError::Refused(_))));
}

#[test]
fn an_empty_body_is_an_empty_text_and_plain_text_is_read_by_its_encoding() {
    let reader = everything();
    for content_type in [
        Some("application/json"),
        Some("application/x-python-serialize"),
        Some("application/text"),
    ] {
        assert_eq!(read(&reader, &message(content_type, b"")).unwrap(), "\"\"");
    }
    let in_encoding = |encoding: &str, body: &[u8]| {
        let mut message = message(Some("application/text"), body);
        message.properties.content_encoding = Some(encoding.into());
        read(&reader, &message)
    };
    assert_eq!(in_encoding("UTF-8", "ä".as_bytes()).unwrap(), "\"ä\"");
    assert_eq!(in_encoding("latin-1", b"\xe4").unwrap(), "\"ä\"");
    assert_eq!(in_encoding("us-ascii", b"a").unwrap(), "\"a\"");
    for (encoding, body) in [("utf-8", &b"\xff"[..]), ("us-ascii", b"\xe4"), ("ebcdic", b"a")] {
        assert!(
            matches!(in_encoding(encoding, body), Err(ContentError::Malformed(_))),
            "{encoding}"
        );
    }
}

#[test]
fn what_is_no_compression_is_malformed_and_a_bomb_too_large() {
    let mut bomb = message(Some("application/json"), b"");
    bomb.body = Compression::Gzip.deflate(&[b' '; 100_000]).unwrap();
    let with = |compression: Value| {
        let mut message = bomb.clone();
        message
            .headers
            .as_mut()
            .unwrap()
            .insert("compression".into(), compression);
        read(&everything(), &message)
    };
    assert!(matches!(with("gzip".into()), Err(ContentError::TooLarge(_))));
    assert!(matches!(
        with("application/x-gzip".into()),
        Err(ContentError::TooLarge(_))
    ));
    for wrong in [Value::from("rar"), Value::from(7), Value::from("bzip2")] {
        assert!(matches!(with(wrong), Err(ContentError::Malformed(_))));
    }
    for none in [Value::Null, Value::from("")] {
        assert_eq!(with(none).unwrap_err(), read(&everything(), &bomb).unwrap_err());
    }
}

#[test]
fn names_and_content_types_are_celerys() {
    for (name, content_type) in [
        ("json", "application/json"),
        ("yaml", "application/x-yaml"),
        ("msgpack", "application/x-msgpack"),
        ("pickle", "application/x-python-serialize"),
        ("auth", "application/data"),
    ] {
        assert_eq!(Serializer::named(name).unwrap().content_type(), content_type);
        assert_eq!(Serializer::named(content_type), Serializer::named(name));
    }
    assert_eq!(Serializer::named("raw"), None);
}

#[test]
fn a_stored_result_says_what_it_is() {
    let document =
        r#"{"status": "SUCCESS", "result": [1, {"__type__": "float", "__value__": "NaN"}], "task_id": "i"}"#;
    for serializer in [
        Serializer::Json,
        Serializer::Yaml,
        Serializer::Msgpack,
        Serializer::Pickle,
    ] {
        let writer = Writer {
            serializer,
            ..Writer::default()
        };
        let plain = writer.serialize(document).unwrap();
        let deflated = Compression::Zstd.deflate_result(&plain).unwrap();
        for stored in [plain, deflated] {
            let read = read_result(&stored, 10_000, None, Timestamp::UNIX_EPOCH).unwrap();
            assert_eq!(read, document, "{serializer:?}");
        }
    }
    assert!(
        read_result(b"status: SUCCESS\nresult: 5\n", 100, None, Timestamp::UNIX_EPOCH)
            .unwrap()
            .contains("SUCCESS")
    );
    for torn in [
        &b"{\"status\": \"SUCC"[..],
        b"\x81\xa1",
        b"\x80\x04}",
        b"\0celery-compressed\0rar\0x",
    ] {
        assert!(read_result(torn, 100, None, Timestamp::UNIX_EPOCH).is_err());
    }
}

#[test]
fn a_bounded_reader_refuses_json_that_came_as_it_is_too() {
    let message = message(Some("application/json"), TEXT.as_bytes());
    let within = |bytes| everything().bounded(bytes).body(&message, Timestamp::UNIX_EPOCH);
    assert_eq!(within(TEXT.len()).unwrap(), TEXT);
    assert!(matches!(within(TEXT.len() - 1), Err(ContentError::TooLarge(_))));
    assert!(everything().bounded(usize::MAX).0.limit == everything().limit);
}
