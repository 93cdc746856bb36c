//! Task messages become requests that say what the message says.

use celerybox::message::envelope;
use celerybox::message::request::{PROTOCOL_HEADERS, format_time};
use serde_json::value::RawValue;
use serde_json::{Value, json};

use super::{Sample, all, count_by_case};

/// Field by field, for every message of every sample.
#[test]
fn every_task_message_is_understood() {
    let samples = all();
    let usable: Vec<&Sample> = samples.iter().filter(|sample| sample.is_usable()).collect();
    for sample in &usable {
        compare(sample);
    }
    // The files that exist for their task messages really gave some.
    let counts = count_by_case(usable.into_iter());
    for (case, count) in [
        ("task-v2-simple", 1),
        ("task-v2-all-options", 1),
        ("task-v2-json-types", 1),
        ("task-v2-kwargs-unicode", 1),
        ("task-v2-priorities", 10),
        ("chain-3", 1),
        ("chord-2", 2),
        ("group-3", 3),
        ("map-starmap-chunks", 4),
        ("stamped", 1),
        ("filesystem-transport-task", 1),
        ("sqlalchemy-transport", 1),
        ("redis-unacked", 1),
        ("amqp-classic", 4),
        ("amqp-quorum-topic", 4),
        ("task-v2-serializer-yaml", 1),
        ("task-v2-serializer-msgpack", 1),
        ("task-v2-serializer-pickle", 1),
        ("task-v2-compression-gzip", 1),
        ("task-v2-compression-bzip2", 1),
        ("task-v2-compression-lzma", 1),
        ("task-v2-compression-brotli", 1),
        ("task-v2-compression-zstd", 1),
    ] {
        assert!(counts.get(case) >= Some(&count), "{case}: {:?}", counts.get(case));
    }
    for client in ["5.2.7", "5.3.6", "5.4.0", "5.5.3", "5.6.2"] {
        assert_eq!(counts[format!("old-client-{client}").as_str()], 4, "{client}");
    }
}

fn compare(sample: &Sample) {
    let case = &sample.case;
    let request = sample.decode().unwrap_or_else(|error| panic!("{case}: {error}"));
    let headers = Value::Object(sample.headers());
    let text = |name: &str| headers[name].as_str().map(str::to_owned);
    assert_eq!(Some(request.id.clone()), text("id"), "{case}");
    assert_eq!(Some(request.task.clone()), text("task"), "{case}");
    assert_eq!(request.shadow, text("shadow"), "{case}");
    assert_eq!(
        request.shown_name(),
        headers["shadow"].as_str().unwrap_or(&request.task)
    );
    assert_eq!(request.root_id, text("root_id"), "{case}");
    assert_eq!(request.parent_id, text("parent_id"), "{case}");
    assert_eq!(request.group, text("group"), "{case}");
    assert_eq!(request.origin, text("origin"), "{case}");
    assert_eq!(
        request.group_index.map(u64::from),
        headers["group_index"].as_u64(),
        "{case}"
    );
    assert_eq!(
        Some(u64::from(request.retries)),
        headers["retries"].as_u64(),
        "{case}"
    );
    assert_eq!(
        request.ignore_result,
        headers["ignore_result"].as_bool(),
        "{case}"
    );
    let nesting = headers["replaced_task_nesting"].as_u64().unwrap_or(0);
    assert_eq!(u64::from(request.replaced_task_nesting), nesting, "{case}");
    assert_eq!(request.time_limit, headers["timelimit"][0].as_f64(), "{case}");
    assert_eq!(
        request.soft_time_limit,
        headers["timelimit"][1].as_f64(),
        "{case}"
    );
    assert_eq!(request.eta.map(format_time), text("eta"), "{case}");
    assert_eq!(request.expires.map(format_time), text("expires"), "{case}");
    let stamps: Vec<&str> = headers["stamped_headers"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .collect();
    assert_eq!(request.stamped_headers, stamps, "{case}");
    assert_eq!(request.stamps().len(), stamps.len(), "{case}");
    assert_eq!(request.arguments_repr().0, headers["argsrepr"], "{case}");
    assert_eq!(request.arguments_repr().1, headers["kwargsrepr"], "{case}");
    for name in request.custom_headers().keys() {
        assert!(!PROTOCOL_HEADERS.contains(&name.as_str()), "{case}: {name}");
    }
    assert_eq!(request.message, sample.message, "{case}: a retry needs all of it");
    assert_eq!(request.route, sample.route, "{case}");
    let redelivered = sample.redelivered || headers["redelivered"] == true;
    assert_eq!(request.redelivered, redelivered, "{case}");

    // The samples of serializers and compressions are all add(2, 3).
    let body: Vec<Value> = match sample.is_plain() {
        true => serde_json::from_slice(&sample.message.body).unwrap(),
        false => {
            assert_eq!(request.task, "proj.add", "{case}");
            vec![json!([2, 3]), json!({}), json!({})]
        }
    };
    let raw = |raw: &RawValue| serde_json::from_str::<Value>(raw.get()).unwrap();
    assert_eq!(raw(&request.body.args), body[0], "{case}");
    assert_eq!(raw(&request.body.kwargs), body[1], "{case}");
    let embedded = [
        ("callbacks", &request.body.callbacks),
        ("errbacks", &request.body.errbacks),
        ("chain", &request.body.chain),
        ("chord", &request.body.chord),
    ];
    for (name, value) in embedded {
        let value = value.as_deref().map_or(Value::Null, raw);
        assert_eq!(value, body[2][name], "{case}: {name}");
    }
}

/// What we publish is what we got: every envelope, sealed again, says the same.
#[test]
fn every_envelope_can_be_sent_again() {
    let mut count = 0;
    for sample in all() {
        let Some(text) = &sample.envelope else { continue };
        let mut expected: Value = serde_json::from_str(text).unwrap();
        let mut sealed: Value = serde_json::from_str(&envelope::seal(&sample.outgoing())).unwrap();
        // Every publishing has a tag of its own; that it had been delivered before is not passed on.
        for value in [&mut expected, &mut sealed] {
            let properties = value["properties"].as_object_mut().unwrap();
            properties.remove("delivery_tag");
            let info = properties.get_mut("delivery_info").and_then(Value::as_object_mut);
            if let Some(info) = info {
                info.remove("redelivered");
            }
            value.as_object_mut().unwrap().remove("redelivered");
        }
        if expected["properties"].get("priority").is_none() {
            expected["properties"]["priority"] = json!(0);
        }
        assert_eq!(sealed, expected, "{}", sample.case);
        count += 1;
    }
    assert!(count > 200, "{count}");
}
