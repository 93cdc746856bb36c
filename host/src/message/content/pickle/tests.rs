use super::*;

fn json(pickle: &[u8]) -> Result<String, ContentError> {
    let (graph, root) = decode(pickle, 10_000)?;
    graph.to_json(root)
}

fn again(text: &str) -> String {
    let (graph, root) = Graph::of_json(text, 10_000).unwrap();
    json(&write::encode(&graph, root).unwrap()).unwrap()
}

/// `pickle.dumps` of Python 3.11 with each protocol.
#[test]
fn what_python_pickles_is_read() {
    let numbers =
        r#"[1, -1, 70000, 255, 123456789012345678901234567890, -9223372036854775809, 1.5, null, true]"#;
    for pickle in [
        // pickle.dumps([1, -1, 70000, 255, 123456789012345678901234567890, -9223372036854775809, 1.5, None, True], 0)
        &b"(lp0\nI1\naI-1\naI70000\naI255\naL123456789012345678901234567890L\naL-9223372036854775809L\naF1.5\naNaI01\na."[..],
        // … 4, without the frame
        b"\x80\x04](K\x01J\xff\xff\xff\xffJp\x11\x01\x00K\xff\x8a\x0d\xd2\x0a?N\xee\xe0s\xc3\xf6\x0f\xe9\x8e\x01\x8a\x09\xff\xff\xff\xff\xff\xff\xff\x7f\xffG?\xf8\x00\x00\x00\x00\x00\x00N\x88e.",
    ] {
        assert_eq!(json(pickle).unwrap(), numbers);
    }
    // ('ä', b'\xff', {'a'}, {'k': ()}) with protocols 0 and 4.
    let mixed = r#"["ä", {"__type__": "base64", "__value__": "/w=="}, ["a"], {"k": []}]"#;
    for pickle in [
        &b"(V\xe4\np0\nc_codecs\nencode\np1\n(V\xff\np2\nVlatin1\np3\ntp4\nRp5\nc__builtin__\nset\np6\n((lp7\nVa\np8\natp9\nRp10\n(dp11\nVk\np12\n(tstp13\n."[..],
        b"\x80\x04\x95\x1c\x00\x00\x00\x00\x00\x00\x00(\x8c\x02\xc3\xa4\x94C\x01\xff\x94\x8f\x94(\x8c\x01a\x94\x90}\x94\x8c\x01k\x94)st\x94.",
    ] {
        assert_eq!(json(pickle).unwrap(), mixed);
    }
}

#[test]
fn dates_decimals_and_uuids_are_data() {
    // datetime(2026, 11, 21, 10, 0, 0, 5, timezone(timedelta(hours=-5, minutes=-30)))
    let datetime = b"\x80\x04\x8c\x08datetime\x94\x8c\x08datetime\x94\x93\x94C\x0a\x07\xea\x0b\x15\x0a\x00\x00\x00\x00\x05\x94h\x00\x8c\x08timezone\x94\x93\x94h\x00\x8c\x09timedelta\x94\x93\x94J\xff\xff\xff\xffJ\x28\x04\x01\x00K\x00\x87\x94R\x94\x85\x94R\x94\x86\x94R\x94.";
    assert_eq!(
        json(datetime).unwrap(),
        r#"{"__type__": "datetime", "__value__": "2026-11-21T10:00:00.000005-05:30"}"#
    );
    let date = b"\x80\x04\x8c\x08datetime\x94\x8c\x04date\x94\x93\x94C\x04\x07\xea\x0b\x15\x94\x85\x94R\x94.";
    assert_eq!(
        json(date).unwrap(),
        r#"{"__type__": "date", "__value__": "2026-11-21"}"#
    );
    let no_date =
        b"\x80\x04\x8c\x08datetime\x94\x8c\x04date\x94\x93\x94C\x04\x07\xea\x0d\x15\x94\x85\x94R\x94.";
    assert!(matches!(json(no_date), Err(ContentError::Malformed(_))));
    let delta =
        b"\x80\x04\x8c\x08datetime\x94\x8c\x09timedelta\x94\x93\x94K\x01K\x02J \xa1\x07\x00\x87\x94R\x94.";
    assert_eq!(json(delta).unwrap(), "86402.5");
    let uuid = b"\x80\x04\x8c\x04uuid\x94\x8c\x04UUID\x94\x93\x94)\x81\x94}\x94\x8c\x03int\x94K\x05sb.";
    assert_eq!(
        json(uuid).unwrap(),
        r#"{"__type__": "uuid", "__value__": {"hex": "00000000000000000000000000000005"}}"#
    );
    let signature = b"\x80\x02ccelery.canvas\nsignature\nq\x00}q\x01X\x04\x00\x00\x00taskq\x02X\x01\x00\x00\x00tq\x03s\x85q\x04Rq\x05.";
    assert_eq!(json(signature).unwrap(), r#"{"task": "t"}"#);
}

#[test]
fn what_is_written_is_read_again() {
    for text in [
        r#"{"a": [1, -1, 123456789012345678901234567890, -123456789012345678901234567890, 1.5, null, true, "ä"]}"#,
        r#"[{"__type__": "base64", "__value__": "/w=="}, {"__type__": "float", "__value__": "NaN"}]"#,
        r#"[{"__type__": "datetime", "__value__": "2026-11-21T10:00:00"}, {"__type__": "decimal", "__value__": "1.10"}]"#,
        r#"[{"__type__": "uuid", "__value__": {"hex": "0123456789abcdef0123456789abcdef"}}, [], {}]"#,
    ] {
        assert_eq!(again(text), text);
    }
    let long = format!(r#""{}""#, "x".repeat(300));
    assert_eq!(again(&long), long);
}

#[test]
fn whatever_would_import_or_call_is_refused() {
    for pickle in [
        // os.system('id'), in every way that protocols have.
        &b"cos\nsystem\n(S'id'\ntR."[..],
        b"\x80\x04\x8c\x02os\x94\x8c\x06system\x94\x93\x94\x8c\x02id\x94\x85\x94R\x94.",
        b"(S'id'\nios\nsystem\n.",
        b"(cos\nsystem\nS'id'\no.",
        b"cbuiltins\neval\n(S'1'\ntR.",
        b"\x80\x02cproj\nThing\n)\x81.",
        b"\x80\x04\x8c\x04proj\x94\x8c\x05Thing\x94\x93\x94)}\x92.",
        b"\x80\x02\x82\x01.",
        b"Pid\n.",
        b"NQ.",
        b"\x80\x05\x97.",
        // A known name in the wrong place.
        b"cuuid\nUUID\n.",
        b"(lcdecimal\nDecimal\na.",
        b"N)R.",
        b"N}b.",
        b"cdecimal\nDecimal\n)\x81.",
        b"cdatetime\ndatetime.fromisoformat.__self__\n.",
        // A name that only looks like one.
        b"\x80\x04\x8c\x08datetime\x94\x8c\x0edatetime.date\n\x94\x93.",
        b"cceleryXcanvas\nsignature\n.",
    ] {
        let refused = json(pickle);
        assert!(
            matches!(refused, Err(ContentError::Refused(_))),
            "{pickle:?}: {refused:?}"
        );
    }
}

#[test]
fn hostile_pickles_are_refused() {
    let deep = [&b"\x80\x04"[..], &[b']'; 5000], &[b'a'; 4999], b"."].concat();
    let itself = b"\x80\x04]\x94h\x00a.";
    // Each list holds the one before ten times.
    let mut bomb = b"\x80\x04]\x94".to_vec();
    for _ in 0..40 {
        bomb.extend_from_slice(b"](");
        bomb.extend((0..10).flat_map(|_| *b"h\x00"));
        bomb.extend_from_slice(b"eq\x00");
    }
    bomb.push(b'.');
    let digits = [&b"\x8b"[..], &100_000u32.to_le_bytes(), &[1; 100_000], b"."].concat();
    for pickle in [&deep[..], itself, &bomb, &digits] {
        assert!(matches!(json(pickle), Err(ContentError::TooLarge(_))));
    }
    for pickle in [
        &b""[..],
        b".",
        b"N",
        b"(.",
        b"(N0.",
        b"e.",
        b"a.",
        b"h\x00.",
        b"]NNs.",
        b"}(Nu.",
        b"\x80\x06N.",
        b"X\xff\xff\xff\xff",
        b"\x8d\xff\xff\xff\xff\xff\xff\xff\xff",
        b"\xff.",
        b"I1_0\n.",
        b"S'\n.",
        b"V\\ud8\n.",
        b"\x8c\x01\xff.",
        b"2.",
        b"q\x00.",
    ] {
        let refused = json(pickle);
        assert!(
            matches!(refused, Err(ContentError::Malformed(_))),
            "{pickle:?}: {refused:?}"
        );
    }
}
