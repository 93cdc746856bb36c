//! Messages that this worker cannot run, and why (the table of contract section 1.1).

use celerybox::message::{Unusable, request};

use super::{Sample, all, count_by_case, of};

/// Every message that is no task, or one that is signed.
#[test]
fn every_other_message_is_refused_for_its_reason() {
    let samples = all();
    let is_protocol_1 = |sample: &&Sample| sample.case == "task-v1-simple";
    let others: Vec<&Sample> = samples
        .iter()
        .filter(|sample| !sample.is_usable() && !is_protocol_1(sample))
        .collect();
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

#[test]
fn protocol_1_is_a_task_like_any_other() {
    let mut samples = of("task-v1-simple");
    let request = samples.remove(0).decode().unwrap();
    assert_eq!(
        (request.task.as_str(), request.body.args.get()),
        ("proj.add", "[2, 3]")
    );
    assert_eq!(request.id, "0a0a0a0a-0000-4000-8000-000000000007");
    assert_eq!(request.arguments_repr(), ("(2, 3)", "{}"));
    assert!(
        request
            .body
            .callbacks
            .as_ref()
            .unwrap()
            .get()
            .contains("proj.identity")
    );
    assert!(
        request.custom_headers().is_empty(),
        "{:?}",
        request.custom_headers()
    );
}

#[test]
fn what_is_not_accepted_is_refused_by_its_content_type() {
    for (case, content_type) in [
        ("task-v2-serializer-msgpack", "application/x-msgpack"),
        ("task-v2-serializer-yaml", "application/x-yaml"),
        ("task-v2-serializer-pickle", "application/x-python-serialize"),
        ("task-v2-serializer-auth", "application/data"),
    ] {
        let sample = of(case).remove(0);
        let accept = ["application/json".to_owned()];
        let refused = request::decode(sample.message, sample.route, sample.redelivered, &accept);
        let Err(Unusable::ContentDisallowed(text)) = refused else {
            panic!("{case}");
        };
        assert!(text.starts_with(content_type), "{case}: {text}");
    }
}
