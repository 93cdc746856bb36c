//! What an ending means: the one place that turns an outcome into effects, in the contract's order
//! (sections 3.2 and 3.10).

use jiff::{SignedDuration, Timestamp};
use serde_json::value::RawValue;
use serde_json::{Value, json};

use crate::message::request::{Identity, PROTOCOL_HEADERS, format_time};
use crate::message::{Message, Outgoing, Request, Route, Unusable, repr};
use crate::outcome::{ErrorMap, Extended, Failure, Meta, Outcome, Retry, RetryWhen, State, StoredResult};
use crate::policy::admit::Plan;

/// One thing to do. Effects are carried out in order; a store that fails ends the list.
#[derive(Debug, Clone, PartialEq)]
pub enum Effect {
    /// Send a message.
    Publish(Outgoing),
    /// Store a state.
    Store(StoredResult),
    /// Acknowledge the message.
    Ack,
    /// Refuse the message.
    Reject {
        /// Put it back on its queue.
        requeue: bool,
    },
}

/// What a result document says about the worker, and when.
#[derive(Debug, Clone, Copy)]
pub struct Scene<'a> {
    /// Node name.
    pub hostname: &'a str,
    /// `result_extended`.
    pub extended: bool,
    /// The time of the ending.
    pub now: Timestamp,
}

/// What to do with a message that cannot be run (the table of contract section 1.1).
pub fn unusable(reason: &Unusable) -> Effect {
    match reason {
        Unusable::Undecodable(_) => Effect::Ack,
        Unusable::UnknownFormat(_) | Unusable::Invalid(_) | Unusable::ContentDisallowed(_) => {
            Effect::Reject { requeue: false }
        }
    }
}

/// What to do with a task that no component has: reject before the store (contract section 1.1).
pub fn not_registered(identity: &Identity, message: &Message, scene: Scene<'_>) -> Vec<Effect> {
    let failure = Failure::new("celery.exceptions", "NotRegistered", identity.task.clone());
    let result = error_map(&failure);
    let meta = Meta {
        status: State::Failure.as_str(),
        result: &result,
        traceback: None,
        children: &[],
        date_done: Some(format_time(scene.now)),
        group_id: None,
        parent_id: None,
        extended: scene.extended.then(Extended::default),
        task_id: &identity.id,
    };
    let stored = StoredResult {
        task_id: identity.id.clone(),
        state: State::Failure,
        meta: to_json(&meta),
        reply_to: message.properties.reply_to.clone(),
        correlation_id: message.properties.correlation_id.clone(),
    };
    vec![Effect::Reject { requeue: false }, Effect::Store(stored)]
}

/// What an outcome means. `acked` tells whether the message was acknowledged before the run.
pub fn settle(
    request: &Request,
    plan: &Plan,
    outcome: Outcome,
    acked: bool,
    scene: Scene<'_>,
) -> Vec<Effect> {
    let store = |wanted: bool, state: State, result: &RawValue, traceback: Option<&str>| {
        wanted.then(|| Effect::Store(stored(request, state, result, traceback, &[], scene)))
    };
    let failed = |failure: &Failure| {
        store(
            plan.store_errors,
            State::Failure,
            &error_map(failure),
            failure.traceback.as_deref(),
        )
    };
    let ack_if = |ack: bool, requeue: bool| {
        let effect = if ack {
            Effect::Ack
        } else {
            Effect::Reject { requeue }
        };
        (!acked).then_some(effect)
    };
    let effects: [Option<Effect>; 3] = match outcome {
        Outcome::Success(value) => {
            let result = raw(value.into());
            [
                None,
                store(!plan.ignore_result, State::Success, &result, None),
                ack_if(true, false),
            ]
        }
        Outcome::Failure(failure) => [None, failed(&failure), ack_if(plan.acks_on_failure, false)],
        Outcome::TimeLimit(limit) => {
            let failure = Failure::time_limit_exceeded(limit);
            [None, failed(&failure), ack_if(plan.acks_on_timeout, true)]
        }
        Outcome::Retry(retry) => {
            let result = retry.exc.as_ref().map_or_else(null, error_map);
            let traceback = retry.exc.as_ref().and_then(|exc| exc.traceback.as_deref());
            let itself = json!([[request.id, null], null]);
            let stored = (!plan.ignore_result).then(|| {
                Effect::Store(stored(
                    request,
                    State::Retry,
                    &result,
                    traceback,
                    &[itself],
                    scene,
                ))
            });
            [
                Some(Effect::Publish(retry_message(request, plan, &retry, scene.now))),
                stored,
                ack_if(true, false),
            ]
        }
        Outcome::Reject { requeue: true, .. } => [None, None, ack_if(false, true)],
        Outcome::Reject {
            reason,
            requeue: false,
        } => {
            let failure = Failure {
                exc_args: vec![json!(reason), json!(false)],
                ..Failure::new("celery.exceptions", "Reject", "")
            };
            [None, failed(&failure), ack_if(false, false)]
        }
        Outcome::Ignore => [None, None, ack_if(true, false)],
        Outcome::Expired => {
            let failure = Failure::new("celery.exceptions", "TaskRevokedError", "expired");
            [
                None,
                store(plan.store_errors, State::Revoked, &error_map(&failure), None),
                ack_if(true, false),
            ]
        }
        // A late-acked task gets no state: the broker delivers it again (contract section 3.14).
        Outcome::Cancelled if !acked => [None, None, None],
        Outcome::Cancelled => {
            let failure = Failure::new("celery.exceptions", "Retry", "cancelled by Celery");
            [
                None,
                store(!plan.ignore_result, State::Retry, &error_map(&failure), None),
                None,
            ]
        }
        Outcome::WorkerLost(_) if !acked && plan.reject_on_worker_lost => [None, None, ack_if(false, true)],
        Outcome::WorkerLost(reason) => {
            let failure = Failure::new("billiard.exceptions", "WorkerLostError", reason);
            [None, failed(&failure), ack_if(true, false)]
        }
    };
    effects.into_iter().flatten().collect()
}

/// STARTED, stored when a run begins (contract section 3.1, step 9).
pub fn started(request: &Request, pid: u32, scene: Scene<'_>) -> StoredResult {
    let result = raw(json!({"pid": pid, "hostname": scene.hostname}).to_string());
    stored(request, State::Started, &result, None, &[], scene)
}

/// The stored form of one state of a request.
pub fn stored(
    request: &Request,
    state: State,
    result: &RawValue,
    traceback: Option<&str>,
    children: &[Value],
    scene: Scene<'_>,
) -> StoredResult {
    let extended = scene.extended.then(|| Extended {
        name: Some(&request.task),
        args: Some(&request.body.args),
        kwargs: Some(&request.body.kwargs),
        worker: Some(scene.hostname),
        retries: Some(request.retries),
        queue: Some(&request.route.routing_key),
        stamped_headers: (!request.stamped_headers.is_empty()).then_some(&request.stamped_headers),
        stamps: request.stamps(),
    });
    let meta = Meta {
        status: state.as_str(),
        result,
        traceback,
        children,
        date_done: state.is_ready().then(|| format_time(scene.now)),
        group_id: request.group.as_deref(),
        parent_id: request.parent_id.as_deref(),
        extended,
        task_id: &request.id,
    };
    StoredResult {
        task_id: request.id.clone(),
        meta: to_json(&meta),
        state,
        reply_to: request.message.properties.reply_to.clone(),
        correlation_id: request.message.properties.correlation_id.clone(),
    }
}

/// The message of a retry: the same id with everything that the task carries (contract section 3.6, steps 3 and 4).
fn retry_message(request: &Request, plan: &Plan, retry: &Retry, now: Timestamp) -> Outgoing {
    let mut headers = request.message.headers.clone().unwrap_or_default();
    headers.retain(|name, _| !is_broker_header(name));
    for name in PROTOCOL_HEADERS {
        if !matches!(name, "redelivered" | "compression" | "meth" | "taskset") {
            headers.entry(name).or_insert(Value::Null);
        }
    }
    let option = |name: &str| retry.options.get(name).filter(|value| !value.is_null()).cloned();
    let mut set = |name: &str, value: Value| {
        headers.insert(name.to_owned(), value);
    };
    set("retries", json!(request.retries.saturating_add(1)));
    set(
        "eta",
        retry_eta(&retry.when, now).map_or(Value::Null, Value::String),
    );
    if let Some(expires) = &retry.expires {
        set("expires", json!(expires));
    }
    if request.parent_id.is_none() {
        set("parent_id", json!(request.id));
    }
    set("ignore_result", json!(plan.ignore_result));
    let hard = option("time_limit").or(request.time_limit.map(Value::from));
    let soft = option("soft_time_limit").or(request.soft_time_limit.map(Value::from));
    set("timelimit", json!([hard, soft]));
    if let Some(args) = retry
        .args
        .as_deref()
        .and_then(|args| serde_json::from_str::<Vec<Value>>(args).ok())
    {
        set("argsrepr", json!(repr::args(&args)));
    }
    if let Some(kwargs) = retry
        .kwargs
        .as_deref()
        .and_then(|kwargs| serde_json::from_str(kwargs).ok())
    {
        set("kwargsrepr", json!(repr::value(&kwargs)));
    }
    if let Some(Value::Object(own)) = option("headers") {
        own.into_iter()
            .filter(|(name, _)| !PROTOCOL_HEADERS.contains(&name.as_str()))
            .for_each(|(name, value)| {
                headers.insert(name, value);
            });
    }
    let mut properties = request.message.properties.clone();
    properties.expiration = None;
    if let Some(origin) = &request.origin {
        properties.other.insert("origin".into(), json!(origin));
    }
    if let Some(priority) = option("priority")
        .and_then(|p| p.as_u64())
        .and_then(|p| u8::try_from(p).ok())
    {
        properties.priority = Some(priority);
    }
    let route = match option("queue") {
        Some(Value::String(queue)) => Route::to_queue(queue),
        _ => request.route.clone(),
    };
    Outgoing {
        route,
        message: Message {
            headers: Some(headers),
            properties,
            body: retry_body(request, retry),
        },
    }
}

/// RabbitMQ adds these when it dead-letters a message; they are not the sender's (contract section 3.6).
fn is_broker_header(name: &str) -> bool {
    name == "x-death"
        || name == "redelivered"
        || name.starts_with("x-first-death-")
        || name.starts_with("x-last-death-")
}

fn retry_eta(when: &RetryWhen, now: Timestamp) -> Option<String> {
    match when {
        RetryWhen::Eta(eta) => Some(eta.clone()),
        RetryWhen::Countdown(seconds) if *seconds > 0.0 => {
            let pause = SignedDuration::try_from_secs_f64(*seconds).ok()?;
            now.checked_add(pause).ok().map(format_time)
        }
        RetryWhen::Countdown(_) => None,
    }
}

fn retry_body(request: &Request, retry: &Retry) -> Vec<u8> {
    if retry.args.is_none() && retry.kwargs.is_none() {
        return request.message.body.clone();
    }
    let body = &request.body;
    let part = |part: &Option<Box<RawValue>>| {
        part.as_ref()
            .map_or_else(|| "null".to_owned(), |raw| raw.get().to_owned())
    };
    format!(
        r#"[{}, {}, {{"callbacks": {}, "errbacks": {}, "chain": {}, "chord": {}}}]"#,
        retry.args.as_deref().unwrap_or(body.args.get()),
        retry.kwargs.as_deref().unwrap_or(body.kwargs.get()),
        part(&body.callbacks),
        part(&body.errbacks),
        part(&body.chain),
        part(&body.chord),
    )
    .into_bytes()
}

fn error_map(failure: &Failure) -> Box<RawValue> {
    raw(to_json(&ErrorMap::from(failure)))
}

fn null() -> Box<RawValue> {
    RawValue::NULL.to_owned()
}

/// Text that is JSON already. Text that is not would tear the document, so it becomes null.
fn raw(text: String) -> Box<RawValue> {
    RawValue::from_string(text).unwrap_or_else(|_| null())
}

/// Maps with text keys and finite numbers always serialize.
fn to_json(value: &impl serde::Serialize) -> String {
    serde_json::to_string(value).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::{Properties, request};
    use crate::policy::admit;
    use crate::task::Definition;

    const HEADERS: &str = r#"{"lang": "py", "task": "proj.add", "id": "i1", "shadow": null, "eta": null,
        "expires": null, "group": null, "group_index": null, "retries": 0, "timelimit": [30, null], "root_id": "i1",
        "parent_id": null, "argsrepr": "(7,)", "kwargsrepr": "{}", "origin": "gen1@c", "ignore_result": false,
        "replaced_task_nesting": 0, "stamped_headers": null, "stamps": {}, "x-custom": "v1", "redelivered": true,
        "x-death": [1]}"#;

    fn request(headers: Value) -> Request {
        let mut all: serde_json::Map<String, Value> = serde_json::from_str(HEADERS).unwrap();
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
            body: br#"[[7], {}, {"callbacks": [{"task": "cb"}], "errbacks": null, "chain": null, "chord": null}]"#
                .to_vec(),
        };
        request::decode(
            message,
            Route::to_queue("celery"),
            false,
            &["application/json".into()],
        )
        .unwrap()
    }

    fn plan(request: &Request, definition: Definition) -> Plan {
        admit::plan(request, &definition, &admit::Defaults::default())
    }

    fn scene() -> Scene<'static> {
        Scene {
            hostname: "w1@h",
            extended: false,
            now: "2026-11-21T10:00:00Z".parse().unwrap(),
        }
    }

    /// Effects in a form that reads as a table: what is done, in order.
    fn names(effects: &[Effect]) -> Vec<String> {
        effects
            .iter()
            .map(|effect| match effect {
                Effect::Publish(_) => "publish".into(),
                Effect::Store(result) => format!("store {}", result.state.as_str()),
                Effect::Ack => "ack".into(),
                Effect::Reject { requeue } => format!("reject requeue={requeue}"),
            })
            .collect()
    }

    fn failure() -> Failure {
        Failure::new("builtins", "ValueError", "boom")
    }

    fn reject(requeue: bool) -> Outcome {
        Outcome::Reject {
            reason: Some("no".into()),
            requeue,
        }
    }

    /// Contract section 3.2: when what is acknowledged, and section 3.10: what is stored.
    #[test]
    fn every_ending_has_its_effects_in_the_contracts_order() {
        let table: [(Outcome, &[&str], &[&str]); 11] = [
            (
                Outcome::Success("5".into()),
                &["store SUCCESS"],
                &["store SUCCESS", "ack"],
            ),
            (
                Outcome::Failure(failure()),
                &["store FAILURE"],
                &["store FAILURE", "ack"],
            ),
            (
                Outcome::TimeLimit(1.0),
                &["store FAILURE"],
                &["store FAILURE", "ack"],
            ),
            (
                Outcome::Retry(Box::default()),
                &["publish", "store RETRY"],
                &["publish", "store RETRY", "ack"],
            ),
            (
                reject(false),
                &["store FAILURE"],
                &["store FAILURE", "reject requeue=false"],
            ),
            (reject(true), &[], &["reject requeue=true"]),
            (Outcome::Ignore, &[], &["ack"]),
            (Outcome::Expired, &["store REVOKED"], &["store REVOKED", "ack"]),
            (Outcome::Cancelled, &["store RETRY"], &[]),
            (
                Outcome::WorkerLost("x".into()),
                &["store FAILURE"],
                &["store FAILURE", "ack"],
            ),
            (
                Outcome::Failure(failure()),
                &["store FAILURE"],
                &["store FAILURE", "ack"],
            ),
        ];
        let request = request(json!({}));
        let plan = plan(&request, Definition::default());
        for (outcome, early, late) in table {
            let effects = |acked| names(&settle(&request, &plan, outcome.clone(), acked, scene()));
            assert_eq!(effects(true), early, "{outcome:?}, acknowledged before");
            assert_eq!(effects(false), late, "{outcome:?}, acknowledged late");
        }
    }

    #[test]
    fn settings_decide_what_becomes_of_late_acked_failures() {
        let request = request(json!({}));
        let definition = Definition {
            acks_on_failure: Some(false),
            acks_on_timeout: Some(false),
            ..Definition::default()
        };
        let mut plan = plan(&request, definition);
        plan.reject_on_worker_lost = true;
        let effects = |outcome| names(&settle(&request, &plan, outcome, false, scene()));
        assert_eq!(
            effects(Outcome::Failure(failure())),
            ["store FAILURE", "reject requeue=false"]
        );
        assert_eq!(
            effects(Outcome::TimeLimit(1.0)),
            ["store FAILURE", "reject requeue=true"]
        );
        assert_eq!(effects(Outcome::WorkerLost("x".into())), ["reject requeue=true"]);
    }

    /// Contract section 3.11.
    #[test]
    fn an_ignored_result_is_not_stored_and_its_errors_only_on_request() {
        let request = request(json!({"ignore_result": null}));
        let ignoring = |store_errors| {
            let definition = Definition {
                ignore_result: Some(true),
                store_errors_even_if_ignored: Some(store_errors),
                ..Definition::default()
            };
            plan(&request, definition)
        };
        let effects = |plan: &Plan, outcome| names(&settle(&request, plan, outcome, true, scene()));
        assert!(effects(&ignoring(false), Outcome::Success("5".into())).is_empty());
        assert!(effects(&ignoring(false), Outcome::Failure(failure())).is_empty());
        assert_eq!(
            effects(&ignoring(false), Outcome::Retry(Box::default())),
            ["publish"]
        );
        assert_eq!(
            effects(&ignoring(true), Outcome::Failure(failure())),
            ["store FAILURE"]
        );
    }

    fn sent(request: &Request, retry: Retry) -> Outgoing {
        let plan = plan(request, Definition::default());
        let effects = settle(request, &plan, Outcome::Retry(Box::new(retry)), true, scene());
        match effects.into_iter().next() {
            Some(Effect::Publish(outgoing)) => outgoing,
            other => panic!("expected a message, got {other:?}"),
        }
    }

    /// Contract section 3.6, step 3, and the sample result-retry.
    #[test]
    fn a_retry_is_the_same_message_once_more() {
        let request = request(json!({}));
        let retry = Retry {
            when: RetryWhen::Countdown(1.5),
            ..Retry::default()
        };
        let outgoing = sent(&request, retry);
        let mut expected: Value = serde_json::from_str(HEADERS).unwrap();
        expected["retries"] = json!(1);
        expected["eta"] = json!("2026-11-21T10:00:01.500000+00:00");
        expected["parent_id"] = json!("i1");
        expected["timelimit"] = json!([30.0, null]);
        expected
            .as_object_mut()
            .unwrap()
            .retain(|name, _| name != "redelivered" && name != "x-death");
        assert_eq!(Value::Object(outgoing.message.headers.unwrap()), expected);
        assert_eq!(outgoing.message.body, request.message.body);
        assert_eq!(outgoing.route, Route::to_queue("celery"));
        assert_eq!(outgoing.message.properties.priority, Some(3));
        assert_eq!(outgoing.message.properties.reply_to.as_deref(), Some("r1"));
        assert_eq!(outgoing.message.properties.other["origin"], json!("gen1@c"));
    }

    #[test]
    fn a_retry_may_change_arguments_and_options_and_keeps_its_links() {
        let request = request(json!({"parent_id": "p1"}));
        let retry = Retry {
            args: Some("[8, 9]".into()),
            options: json!({"queue": "slow", "priority": 9, "time_limit": 5})
                .as_object()
                .cloned()
                .unwrap(),
            ..Retry::default()
        };
        let outgoing = sent(&request, retry);
        let headers = outgoing.message.headers.unwrap();
        assert_eq!(headers["eta"], Value::Null);
        assert_eq!(headers["parent_id"], json!("p1"));
        assert_eq!(headers["argsrepr"], json!("(8, 9)"));
        assert_eq!(headers["timelimit"], json!([5, null]));
        assert_eq!(outgoing.route, Route::to_queue("slow"));
        assert_eq!(outgoing.message.properties.priority, Some(9));
        let body: Value = serde_json::from_slice(&outgoing.message.body).unwrap();
        assert_eq!(body[0], json!([8, 9]));
        assert_eq!(body[2]["callbacks"], json!([{"task": "cb"}]));
    }

    #[test]
    fn the_document_has_celerys_keys() {
        let request = request(json!({"group": "g1"}));
        let value = RawValue::from_string("12345678901234567890123".into()).unwrap();
        let stored = |extended| {
            let scene = Scene { extended, ..scene() };
            stored(&request, State::Success, &value, None, &[], scene).meta
        };
        assert_eq!(
            stored(false),
            r#"{"status":"SUCCESS","result":12345678901234567890123,"traceback":null,"children":[],"date_done":"2026-11-21T10:00:00+00:00","group_id":"g1","task_id":"i1"}"#
        );
        let extended: Value = serde_json::from_str(&stored(true)).unwrap();
        let keys = ["name", "args", "kwargs", "worker", "retries", "queue"];
        assert_eq!(
            keys.map(|key| extended[key].to_string()),
            ["\"proj.add\"", "[7]", "{}", "\"w1@h\"", "0", "\"celery\""]
        );
    }
}
