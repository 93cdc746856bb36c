use super::*;

fn json(yaml: &str) -> Result<String, ContentError> {
    let (graph, root) = decode(yaml.as_bytes(), 10_000)?;
    graph.to_json(root)
}

fn again(text: &str) -> String {
    let (graph, root) = Graph::of_json(text, 10_000).unwrap();
    let (graph, root) = decode(&write::encode(&graph, root).unwrap(), 10_000).unwrap();
    graph.to_json(root).unwrap()
}

/// Each as `yaml.safe_load` of PyYAML 6.0 reads it.
#[test]
fn scalars_have_yaml_1_1s_types() {
    for (yaml, expected) in [
        ("yes", "true"),
        ("Off", "false"),
        ("y", r#""y""#),
        ("~", "null"),
        ("", "null"),
        ("nUll", r#""nUll""#),
        ("010", "8"),
        ("0o10", r#""0o10""#),
        ("0x1F", "31"),
        ("-0b101", "-5"),
        ("1_000", "1000"),
        ("190:20:30", "685230"),
        ("08", r#""08""#),
        ("123456789012345678901234567890", "123456789012345678901234567890"),
        ("1e3", r#""1e3""#),
        ("1.0e+3", "1000.0"),
        ("1.5e3", r#""1.5e3""#),
        ("6.", "6.0"),
        (".5", "0.5"),
        ("1:30.5", "90.5"),
        ("-.inf", r#"{"__type__": "float", "__value__": "-Infinity"}"#),
        (".NaN", r#"{"__type__": "float", "__value__": "NaN"}"#),
        ("2026-11-21", r#"{"__type__": "date", "__value__": "2026-11-21"}"#),
        ("2026-1-2", r#""2026-1-2""#),
        (
            "2026-11-21 10:00:00",
            r#"{"__type__": "datetime", "__value__": "2026-11-21T10:00:00"}"#,
        ),
        (
            "2026-1-2t1:00:00.5 -5",
            r#"{"__type__": "datetime", "__value__": "2026-01-02T01:00:00.500000-05:00"}"#,
        ),
        (
            "2026-11-21T10:00:00Z",
            r#"{"__type__": "datetime", "__value__": "2026-11-21T10:00:00+00:00"}"#,
        ),
        ("'1'", r#""1""#),
        ("! 1", r#""1""#),
        ("!!str 1", r#""1""#),
        ("!!int '7'", "7"),
        ("!!float 1", "1.0"),
        ("!!binary aGk=", r#"{"__type__": "bytes", "__value__": "hi"}"#),
        ("!!set {a, b}", r#"["a", "b"]"#),
        ("!!omap [a: 1, b: 2]", r#"[["a", 1], ["b", 2]]"#),
        (
            "{1: a, 1.5: b, true: c, null: d}",
            r#"{"1": "a", "1.5": "b", "true": "c", "null": "d"}"#,
        ),
    ] {
        assert_eq!(json(yaml).unwrap(), expected, "{yaml}");
    }
}

#[test]
fn collections_aliases_and_merges() {
    for (yaml, expected) in [
        ("- - 2\n  - 3\n- {}\n- a: null\n", r#"[[2, 3], {}, {"a": null}]"#),
        ("a: &x [1]\nb: *x\n", r#"{"a": [1], "b": [1]}"#),
        (
            "- &d {a: 1, b: 2}\n- {<<: *d, b: 3}\n",
            r#"[{"a": 1, "b": 2}, {"a": 1, "b": 3}]"#,
        ),
        (
            "- &d {a: 1}\n- &e {a: 2, b: 2}\n- <<: [*d, *e]\n  c: 3\n",
            r#"[{"a": 1}, {"a": 2, "b": 2}, {"a": 1, "b": 2, "c": 3}]"#,
        ),
        ("a: 1\na: 2\n", r#"{"a": 2}"#),
        ("--- |\n  line\n  two\n", r#""line\ntwo\n""#),
    ] {
        assert_eq!(json(yaml).unwrap(), expected, "{yaml}");
    }
    let utf16: Vec<u8> = "\u{feff}[ä]".encode_utf16().flat_map(u16::to_le_bytes).collect();
    let (graph, root) = decode(&utf16, 100).unwrap();
    assert_eq!(graph.to_json(root).unwrap(), r#"["ä"]"#);
}

#[test]
fn what_is_written_is_read_again() {
    let long_key = format!(r#"{{"{}": 1}}"#, "k".repeat(2000));
    for text in [
        r#"{"a": [1, -1, 1.5, 1e+300, 1e-7, null, true, "ä\n\"\\ 😀", "yes", "1", ""]}"#,
        r#"[{"__type__": "base64", "__value__": "/w=="}, {"__type__": "float", "__value__": "-Infinity"}]"#,
        r#"{"__type__": "datetime", "__value__": "2026-11-21T10:00:00.500000+02:00"}"#,
        r#"{"__type__": "uuid", "__value__": {"hex": "01"}}"#,
        r#"[123456789012345678901234567890, [], {}, {"__type__": "decimal", "__value__": "1.10"}]"#,
        r#"{"__type__": "datetime", "__value__": "never"}"#,
        &long_key,
    ] {
        assert_eq!(again(text), text);
    }
}

#[test]
fn hostile_documents_are_refused() {
    let mut bomb = "a0: &a0 [lol]\n".to_owned();
    for n in 1..50 {
        let aliases = vec![format!("*a{}", n - 1); 9].join(", ");
        bomb.push_str(&format!("a{n}: &a{n} [{aliases}]\n"));
    }
    let mut merges = "- &a0 {a: 1, b: 2}\n".to_owned();
    for n in 1..50 {
        let aliases = vec![format!("*a{}", n - 1); 9].join(", ");
        merges.push_str(&format!("- &a{n} {{<<: [{aliases}]}}\n"));
    }
    let deep: String = (0..600).map(|n| format!("{}-\n", " ".repeat(n))).collect();
    for yaml in [&bomb, &merges, "&a [*a]", &deep] {
        let refused = json(yaml);
        assert!(
            matches!(refused, Err(ContentError::TooLarge(_))),
            "{yaml:.40}: {refused:?}"
        );
    }
    for yaml in [
        "!!python/object/apply:os.system [id]",
        "!<tag:yaml.org,2002:python/name:os.system> ''",
        "!local 1",
        "*nowhere",
        "[",
        "a: b: c",
        "--- 1\n--- 2\n",
        "!!int x",
        "!!timestamp x",
        "2026-13-21",
        "{[1]: 2}",
        "<<",
        "{<<: 1}",
        "\u{7}",
        &"[".repeat(5000),
    ] {
        let refused = json(yaml);
        assert!(
            matches!(refused, Err(ContentError::Malformed(_))),
            "{yaml:.40}: {refused:?}"
        );
    }
    assert!(decode(b"\xff", 100).is_err());
}
