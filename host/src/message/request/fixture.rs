//! A request as a client sends it, for tests of decisions.

use serde_json::{Map, Value, json};

use super::super::{Message, Properties, Route};
use super::{Request, decode};

pub(crate) const HEADERS: &str = r#"{"lang": "py", "task": "proj.add", "id": "i1", "shadow": null, "eta": null,
    "expires": null, "group": null, "group_index": null, "retries": 0, "timelimit": [30, null], "root_id": "i1",
    "parent_id": null, "argsrepr": "(7,)", "kwargsrepr": "{}", "origin": "gen1@c", "ignore_result": false,
    "replaced_task_nesting": 0, "stamped_headers": null, "stamps": {}, "x-custom": "v1", "redelivered": true,
    "x-death": [1]}"#;

/// The request of [`HEADERS`] with these changed, and a callback.
pub(crate) fn request(headers: Value) -> Request {
    with_embed(
        headers,
        &json!({"callbacks": [{"task": "cb"}], "errbacks": null, "chain": null, "chord": null}),
    )
}

/// The request of [`HEADERS`] with these changed, and with these links.
pub(crate) fn with_embed(headers: Value, embed: &Value) -> Request {
    let mut all: Map<String, Value> = serde_json::from_str(HEADERS).unwrap();
    all.extend(headers.as_object().cloned().unwrap_or_default());
    let message = Message {
        headers: Some(all),
        properties: Properties {
            content_type: Some("application/json".into()),
            content_encoding: Some("utf-8".into()),
            correlation_id: Some("i1".into()),
            reply_to: Some("r1".into()),
            priority: Some(3),
            ..Properties::default()
        },
        body: format!("[[7], {{}}, {embed}]").into_bytes(),
    };
    decode(
        message,
        Route::to_queue("celery"),
        false,
        &["application/json".into()],
    )
    .unwrap()
}
