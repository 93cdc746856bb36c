//! Some samples against what was really called, as their descriptions say.

use celerybox::message::Request;
use serde_json::{Value, json};

use super::of;

fn only(case: &str) -> Request {
    let mut samples = of(case);
    assert_eq!(samples.len(), 1, "{case}");
    samples.remove(0).decode().unwrap()
}

#[test]
fn all_options() {
    let request = only("task-v2-all-options");
    assert_eq!(request.body.args.get(), "[2]");
    assert_eq!(request.body.kwargs.get(), r#"{"y": 3, "z": 4}"#);
    assert_eq!(
        (request.time_limit, request.soft_time_limit),
        (Some(30.0), Some(20.0))
    );
    assert_eq!(request.shown_name(), "shadow.name");
    assert_eq!(request.task, "proj.add");
    assert_eq!(request.ignore_result, Some(true));
    assert_eq!(request.route.routing_key, "other");
    assert_eq!(request.message.properties.priority, Some(6));
    assert_eq!(
        request.message.properties.expiration.as_deref(),
        Some("98302083113")
    );
    assert_eq!(Value::Object(request.custom_headers()), json!({"x-custom": "v1"}));
    assert_eq!(request.eta.unwrap().to_string(), "2030-01-02T03:04:05.678901Z");
    assert_eq!(request.expires.unwrap().to_string(), "2030-01-02T04:04:05Z");
    let callbacks = request.body.callbacks.unwrap();
    assert!(callbacks.get().starts_with(r#"[{"task": "proj.identity""#));
    assert!(request.body.errbacks.unwrap().get().contains("proj.errback_old"));
    assert!(request.body.chain.is_none() && request.body.chord.is_none());
}

/// No integer is too big, no text is changed: the arguments travel as the sender wrote them.
#[test]
fn arguments_travel_as_they_were_written() {
    let request = only("task-v2-kwargs-unicode");
    assert!(
        request
            .body
            .args
            .get()
            .ends_with("null, true, 1.5, 100000000000000000000]")
    );
    assert!(request.body.kwargs.get().contains(r"k\u00e9y"));
    let request = only("task-v2-json-types");
    assert!(
        request
            .body
            .args
            .get()
            .contains(r#"{"__type__": "decimal", "__value__": "1.10"}"#)
    );
}

#[test]
fn stamps() {
    let request = only("stamped");
    assert_eq!(request.stamped_headers, ["monitoring_id", "tags"]);
    let stamps = json!({"monitoring_id": "mon-1", "tags": ["a", "b"]});
    assert_eq!(Value::Object(request.stamps()), stamps);
    assert!(request.custom_headers().is_empty());
}

#[test]
fn the_rest_of_a_chain() {
    let request = only("chain-3");
    let chain: Value = serde_json::from_str(request.body.chain.unwrap().get()).unwrap();
    // In reverse order.
    assert_eq!((&chain[0]["args"], &chain[1]["args"]), (&json!([4]), &json!([3])));
}

#[test]
fn the_parts_of_a_chord() {
    for (n, sample) in of("chord-2").iter().enumerate() {
        let request = sample.decode().unwrap();
        assert!(request.group.is_some());
        assert_eq!(request.group_index, Some(n as u32));
        assert!(request.body.chord.unwrap().get().contains("proj.tsum"));
    }
}

#[test]
fn priorities() {
    let priorities: Vec<Option<u8>> = of("task-v2-priorities")
        .iter()
        .map(|sample| sample.message.properties.priority)
        .collect();
    assert_eq!(priorities, (0..10).map(Some).collect::<Vec<_>>());
}
