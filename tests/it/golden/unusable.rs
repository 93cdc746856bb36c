//! Messages that this worker cannot run, and why (the table of contract section 1.1).

use celerybox::message::Unusable;

use super::{Sample, all, count_by_case, of};

/// Every message that is not a plain task of protocol 2.
#[test]
fn every_other_message_is_refused_for_its_reason() {
    let samples = all();
    let others: Vec<&Sample> = samples.iter().filter(|sample| !sample.is_usable()).collect();
    for sample in &others {
        let case = &sample.case;
        let refused = sample.decode().expect_err(case);
        let is_task = sample.headers().contains_key("task");
        match &refused {
            Unusable::UnknownFormat(_) => assert!(!is_task, "{case}: {refused}"),
            Unusable::ContentDisallowed(_) => assert!(is_task, "{case}: {refused}"),
            other => panic!("{case}: {other}"),
        }
    }
    let counts = count_by_case(others.into_iter());
    assert!(counts.len() > 50, "{counts:?}");
}

fn refusal(case: &str) -> Unusable {
    let mut samples = of(case);
    assert_eq!(samples.len(), 1, "{case}");
    samples.remove(0).decode().expect_err(case)
}

#[test]
fn protocol_1_is_an_unknown_format() {
    assert!(matches!(refusal("task-v1-simple"), Unusable::UnknownFormat(_)));
}

#[test]
fn other_serializers_are_refused_by_their_content_type() {
    for (case, content_type) in [
        ("task-v2-serializer-msgpack", "application/x-msgpack"),
        ("task-v2-serializer-yaml", "application/x-yaml"),
        ("task-v2-serializer-pickle", "application/x-python-serialize"),
        ("task-v2-serializer-auth", "application/data"),
    ] {
        let Unusable::ContentDisallowed(text) = refusal(case) else {
            panic!("{case}");
        };
        assert!(text.starts_with(content_type), "{case}: {text}");
    }
}

#[test]
fn compressed_bodies_are_refused_and_not_decoded() {
    for (case, codec) in [
        ("task-v2-compression-gzip", "gzip"),
        ("task-v2-compression-bzip2", "bz2"),
        ("task-v2-compression-lzma", "lzma"),
        ("task-v2-compression-zstd", "zstd"),
        ("task-v2-compression-brotli", "brotli"),
    ] {
        let Unusable::ContentDisallowed(text) = refusal(case) else {
            panic!("{case}");
        };
        assert!(
            text.contains(codec) && text.contains("compress"),
            "{case}: {text}"
        );
    }
}
