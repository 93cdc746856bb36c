//! A component that wants more than it is granted (T13, T20, T27, T28 of `host/docs/sandbox-hardening.md`).

use std::sync::OnceLock;

use celerybox_tests::{Place, Worker};
use serde_json::{Value, json};

use super::{answer, apply, call, chord, composite, results, task, with, worker};

struct Fleet {
    place: Place,
    _worker: Worker,
}

fn place() -> &'static Place {
    static FLEET: OnceLock<Fleet> = OnceLock::new();
    let fleet = FLEET.get_or_init(|| {
        let place = Place::redis();
        let limits = json!({"messages": 500, "message_bytes": 400_000});
        let settings = json!({"limits": limits, "task_routes": {"probe.fail": {"queue": "not-granted"}}});
        let worker = worker(&place, settings);
        Fleet {
            place,
            _worker: worker,
        }
    });
    &fleet.place
}

fn refused(signature: &Value) -> (String, String) {
    match apply(place(), signature) {
        Err(refused) => refused,
        Ok(tuple) => panic!("{signature} was sent: {tuple}"),
    }
}

#[test]
fn t20_what_is_not_granted_is_denied_and_the_text_names_both() {
    let (kind, text) = refused(&task("evil.task", json!([])));
    assert_eq!(kind, "denied");
    for part in [
        "\"evil.task\"",
        "\"celery\"",
        "[component.sender] send_to = { queues = [\"celery\"]",
    ] {
        assert!(text.contains(part), "{part} is not in {text}");
    }
    let fine = || task("probe.echo", json!([1]));
    let other = || with(fine(), json!({"queue": "other"}));
    let nested = |option: &str| {
        with(
            fine(),
            json!({option: [with(task("evil.task", json!([])), json!({}))]}),
        )
    };
    let deep = with(
        fine(),
        json!({"link": [with(fine(), json!({"link_error": [other()]}))]}),
    );
    for signature in [
        other(),
        with(fine(), json!({"exchange": "celery.pidbox", "routing_key": ""})),
        with(fine(), json!({"exchange": "x", "routing_key": "celery"})),
        // By the worker's own routes.
        task("probe.fail", json!(["x"])),
        nested("link"),
        nested("link_error"),
        nested("chain"),
        with(fine(), json!({"chord": task("evil.task", json!([]))})),
        deep,
        composite("chain", vec![fine(), task("evil.task", json!([]))]),
        composite("chain", vec![fine(), other()]),
        composite("group", vec![fine(), other()]),
        with(
            composite("group", vec![fine(), fine()]),
            json!({"queue": "other"}),
        ),
        chord(vec![fine()], other()),
        chord(vec![other()], fine()),
        json!({"task": "celery.map", "kwargs": {"task": task("evil.task", json!([])), "it": [1]}}),
        json!({"task": "celery.chunks", "kwargs": {"task": task("evil.task", json!([])), "it": [[1]], "n": 1}}),
        json!({"task": "celery.chord_unlock", "args": ["g", task("evil.task", json!([]))]}),
        json!({"task": "celery.backend_cleanup"}),
    ] {
        let (kind, text) = refused(&signature);
        assert_eq!(kind, "denied", "{signature}: {text}");
    }
    // Nothing of a group was sent because one of it is denied: its only legal member never ran.
    let group = composite(
        "group",
        vec![with(fine(), json!({"task_id": "never-sent"})), other()],
    );
    refused(&group);
    let state = call(place(), "sender.results_of", json!(["get", "never-sent"]));
    assert_eq!(state, json!(["ok", null]));
}

#[test]
fn t16_names_with_control_characters_stay_on_one_line() {
    let (kind, text) = refused(&task("evil\n\u{1b}[2J\u{7}", json!([])));
    assert_eq!(kind, "denied");
    assert!(!text.contains(char::is_control), "{text:?}");
    let (_, text) = refused(&task(&"x".repeat(100_000), json!([])));
    assert!(text.len() < 2000, "{}", text.len());
}

#[test]
fn t13_a_run_sends_no_more_than_its_limits() {
    let flood =
        |signature: Value, most: u64| call(place(), "sender.flood", json!([signature.to_string(), most]));
    let nowhere = |args: Value| with(task("probe.echo", args), json!({"queue": "granted-nobody"}));
    let many = flood(nowhere(json!([1])), 1_000_000);
    assert_eq!(many[0], 500, "{many}");
    let (kind, text) = answer(many[1].clone()).unwrap_err();
    assert_eq!(kind, "limit-exceeded");
    assert!(text.contains("limits.messages"), "{text}");
    let large = flood(nowhere(json!(["x".repeat(50_000)])), 1_000_000);
    assert!(large[0].as_u64().unwrap() < 9, "{large}");
    let (_, text) = answer(large[1].clone()).unwrap_err();
    assert!(text.contains("limits.message_bytes"), "{text}");
    // A body is in the signature once, and in the message of each task of its header.
    let body = task("probe.echo", json!(["x".repeat(10_000)]));
    let (kind, text) = refused(&chord(vec![nowhere(json!([1])); 50], body));
    assert_eq!(kind, "limit-exceeded");
    assert!(text.contains("limits.message_bytes"), "{text}");
    // One signature that becomes too many messages sends none of them.
    let (kind, _) = refused(&composite("group", vec![nowhere(json!([1])); 501]));
    assert_eq!(kind, "limit-exceeded");
}

#[test]
fn t09_signatures_that_are_too_large_too_deep_or_no_json_are_refused() {
    let deep = call(place(), "sender.large", json!([1, 100_000]));
    assert_eq!(deep[0], "invalid", "{deep}");
    let large = call(place(), "sender.large", json!([3_000_000, 1]));
    assert_eq!(large[0], "FAILURE", "{large}");
    assert!(
        large[1].as_str().unwrap().contains("limits.host_call_bytes"),
        "{large}"
    );
    for text in [
        "",
        "null",
        "[]",
        "{}",
        "{\"task\": 1}",
        "{\"task\": \"a\", \"args\": 1}",
        "{\"task\": \"a\"} x",
        "\u{0}",
    ] {
        let answered = call(place(), "sender.apply", json!([text]));
        assert_eq!(answered[0], "invalid", "{text:?}: {answered}");
    }
    let fine = task("probe.echo", json!([1])).to_string();
    for (args, kwargs, options) in [
        ("{}", "{}", "{}"),
        ("[]", "[]", "{}"),
        ("[]", "{}", "1"),
        ("[", "{}", "{}"),
    ] {
        let answered = call(place(), "sender.apply", json!([fine, args, kwargs, options]));
        assert_eq!(answered[0], "invalid", "{args} {kwargs} {options}: {answered}");
    }
    let answered = call(
        place(),
        "sender.apply",
        json!([fine, "[]", "{}", json!({"countdown": "soon"}).to_string()]),
    );
    assert_eq!(answered[0], "invalid", "{answered}");
    // Options that are given, and those of what is linked to them, are granted or not like all others.
    let linked = json!({"link": [task("evil.task", json!([]))]}).to_string();
    let answered = call(place(), "sender.apply", json!([fine, "[]", "{}", linked]));
    assert_eq!(answered[0], "denied", "{answered}");
}

#[test]
fn t28_a_message_of_its_own_making_is_read_before_it_is_sent() {
    let publish = |key: &str, headers: Value, body: &str, content_type: &str| {
        let args = json!(["", key, headers.to_string(), body, content_type]);
        answer(call(place(), "sender.publish", args))
    };
    let headers =
        |task: &str| json!({"lang": "py", "task": task, "id": format!("raw-{task}"), "root_id": "r"});
    let (json_type, plain) = ("application/json", "[[7], {}, {}]");
    publish("celery", headers("probe.echo"), plain, json_type).unwrap();
    assert_eq!(results(place(), &["raw-probe.echo"]), [json!(7)]);
    let embedded = json!([[], {}, {"callbacks": [task("evil.task", json!([]))]}]).to_string();
    let mut compressed = headers("probe.echo");
    compressed["compression"] = json!("application/x-gzip");
    for (key, headers, body, content_type, kind) in [
        ("other", headers("probe.echo"), plain, json_type, "denied"),
        ("celery", headers("evil.task"), plain, json_type, "denied"),
        (
            "celery",
            headers("celery.chord_unlock"),
            plain,
            json_type,
            "denied",
        ),
        ("celery", headers("probe.echo"), &embedded, json_type, "denied"),
        (
            "celery",
            headers("probe.echo"),
            "{\"task\": \"evil.task\"}",
            json_type,
            "invalid",
        ),
        ("celery", json!({"lang": "py"}), plain, json_type, "invalid"),
        ("celery", json!([]), plain, json_type, "invalid"),
        (
            "celery",
            headers("probe.echo"),
            plain,
            "application/x-python-serialize",
            "not-supported",
        ),
        ("celery", compressed, plain, json_type, "not-supported"),
    ] {
        let refused = publish(key, headers.clone(), body, content_type).unwrap_err();
        assert_eq!(refused.0, kind, "{key} {headers} {body}: {}", refused.1);
    }
}

#[test]
fn t28_only_results_of_its_own_tasks_are_written() {
    let of = |what: &str, id: &str, text: &str, state: &str| {
        call(place(), "sender.results_of", json!([what, id, text, state]))
    };
    let victim = apply(place(), &task("probe.echo", json!(["true"]))).unwrap();
    let id = victim[0][0].as_str().unwrap();
    assert_eq!(results(place(), &[id]), [json!("true")]);
    assert_eq!(of("get", id, "", "")[1]["result"], "true");
    for (what, text) in [
        ("store", "\"forged\""),
        ("forget", ""),
        ("save", "[[\"g\", null], []]"),
        ("size", ""),
    ] {
        assert_eq!(of(what, id, text, "SUCCESS")[0], "denied", "{what}");
    }
    for bad in ["", "../../etc/passwd", "a\nb"] {
        assert_eq!(of("get", bad, "", "")[0], "invalid", "{bad:?}");
    }
    assert_eq!(results(place(), &[id]), [json!("true")]);
    let nowhere = with(task("probe.echo", json!([1])), json!({"queue": "granted-nobody"}));
    let own = call(place(), "sender.own_results", json!([nowhere.to_string()]));
    assert_eq!(
        (&own[0], &own[1][1]["status"]),
        (&json!(["ok", null]), &json!("PROGRESS")),
        "{own}"
    );
    assert_eq!(
        (&own[2][0], &own[3]),
        (&json!("invalid"), &json!(["ok", null])),
        "{own}"
    );
}

/// A task that asks to be replaced and then breaks has failed, and nothing takes its place.
#[test]
fn t27_a_replacement_is_sent_by_its_ending_only() {
    let replacement = with(
        task("probe.echo", json!(["replaced"])),
        json!({"queue": "granted-nobody"}),
    );
    let mut broken = task("sender.replace", json!([replacement.to_string(), "trap"]));
    broken["options"] = json!({"task_id": "asked-and-trapped"});
    apply(place(), &broken).unwrap();
    let found = results(place(), &["asked-and-trapped"]);
    assert_eq!(found[0][0], "FAILURE", "{found:?}");
    assert!(
        found[0][1].as_str().unwrap().contains("after a replacement"),
        "{found:?}"
    );
    let denied = call(
        place(),
        "sender.replace",
        json!([task("evil.task", json!([])).to_string(), ""]),
    );
    assert_eq!(denied[0], "denied", "{denied}");
}
