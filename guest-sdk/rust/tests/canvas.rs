//! Signatures are those of Celery: `canvas/make.py` asked it.

use celerybox_guest::canvas::{AsyncResult, Signature, chain, chord, group, signature};
use celerybox_guest::testing::{Error, TestContext};
use celerybox_guest::{Context, TaskError, task};
use serde_json::{Value, json};

#[task(name = "proj.add")]
fn add(x: i64, y: i64) -> i64 {
    x + y
}

fn linked(sig: Signature) -> Signature {
    sig.link(add::s(10)).link(add::s(11)).link_error(add::si(12))
}

fn made(name: &str) -> Signature {
    let s = |x: i64| add::s(x);
    match name {
        "task" => add::s((2, 2)),
        "one argument" => add::s(4),
        "no argument" => add::s(()),
        "a list as the argument" => add::s((vec![1, 2],)),
        "immutable" => add::si((1, 2)),
        "by name" => signature("other.task").args(1).kwarg("y", "z"),
        "options" => {
            let sig = s(1).countdown(3.0).expires(1.5).queue("q").priority(4);
            sig.time_limit(30.0).soft_time_limit(20.0)
        }
        "more options" => {
            let sig = s(1).exchange("x").routing_key("k").task_id("t");
            sig.eta("2030-01-01T00:00:00").set("shadow", "s")
        }
        "linked" => linked(s(1)),
        "chain" => chain([add::s((2, 2)), s(4), s(8)]),
        "chain of one" => chain([s(1)]),
        "pipe" => add::s((2, 2)) | s(4) | s(8),
        "chain of chains" => chain([s(1), chain([s(2), s(3)]), s(4)]),
        "pipe of chains" => (s(1) | s(2)) | (s(3) | s(4)),
        "group" => group([add::s((1, 1)), add::s((2, 2))]),
        "group of one" => group([add::s((1, 1))]),
        "empty group" => group([]),
        "chord" => chord([add::s((1, 1)), add::s((2, 2))], s(3)),
        "chord of one chain" => chord([chain([add::s((1, 1)), s(2)])], s(3)),
        "chord of a group" => chord(group([add::s((1, 1)), add::s((2, 2))]), s(3)),
        "group then task" => group([add::s((1, 1)), add::s((2, 2))]) | s(3),
        "group then group" => group([s(1), s(2)]) | group([s(3), s(4)]),
        "group then nothing" => group([s(1), s(2)]) | group([]),
        "task then group" => add::s((1, 1)) | group([s(2), s(3)]),
        "task, group, task" => chain([add::s((1, 1)), group([s(2), s(3)]), s(4)]),
        "task, group, task, task" => chain([add::s((1, 1)), group([s(2), s(3)]), s(4), s(5)]),
        "task, group, group" => chain([add::s((1, 1)), group([s(2), s(3)]), group([s(4), s(5)])]),
        "task, group of one, task" => chain([add::s((1, 1)), group([s(2)]), s(4)]),
        "task, empty group, task" => chain([add::s((1, 1)), group([]), s(4)]),
        "chain of a group" => chain([group([s(1), s(2)])]),
        "group, task as chain" => chain([group([s(1), s(2)]), s(3)]),
        "chord then task" => chord([add::s((1, 1))], s(2)) | s(3),
        "chord then group" => chord([add::s((1, 1))], s(2)) | group([s(3), s(4)]),
        "chain, chord, task" => chain([s(0), chord([add::s((1, 1))], s(2)), s(3)]),
        "chain, chord, chord" => chain([s(0), chord([s(1)], s(2)), chord([s(3)], s(4))]),
        "linked group" => linked(group([s(1), s(2)])),
        "linked chain" => linked(chain([s(1), s(2)])),
        "linked chord" => linked(chord([s(1), s(2)], s(3))),
        "linked chain in a chain" => chain([linked(chain([s(1), s(2)])), s(3)]),
        "map" => add::s(()).map([1, 2]),
        "starmap" => add::s(()).starmap([(1, 2), (3, 4)]),
        "chunks" => add::s(()).chunks([(1, 2), (3, 4)], 1),
        "nested" => {
            let inner = group([add::s((4, 4)), add::s((5, 5))]);
            group([
                chain([add::s((1, 1)), s(2)]),
                chord([add::s((3, 3)), inner], s(6)),
            ])
        }
        other => panic!("{other} is not made here"),
    }
}

#[test]
fn signatures_are_celerys() {
    let mut wrong = Vec::new();
    let lines = include_str!("canvas/signatures.jsonl").lines();
    assert!(lines.clone().count() > 40);
    for line in lines {
        let (name, expected): (String, Value) = serde_json::from_str(line).unwrap();
        let made = made(&name).to_value();
        let read: Signature = serde_json::from_value(expected.clone()).unwrap();
        assert_eq!(serde_json::to_value(&read).unwrap(), expected, "{name}");
        if made != expected {
            wrong.push(format!("{name}:\n  ours   {made}\n  Celery {expected}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[task(name = "proj.send")]
fn send(ctx: &Context, x: i64) -> Result<String, TaskError> {
    let sent = group([add::s((x, 1)), add::s((x, 2))]).apply_async(ctx)?;
    assert_eq!(sent.results().len(), 2);
    Ok(sent.id().to_owned())
}

#[test]
fn what_a_task_sends_is_seen_in_its_tests() {
    let ctx = TestContext::new();
    assert_eq!(send(&ctx, 5).unwrap(), "sent-1");
    add::delay(&ctx, (1, 2)).unwrap();
    add::s(7).delay(&ctx, 3).unwrap();
    let sent = ctx.sent();
    assert_eq!(sent[0]["kwargs"]["tasks"][1]["args"], json!([5, 2]));
    assert_eq!(
        (&sent[1]["args"], &sent[2]["args"]),
        (&json!([1, 2]), &json!([3, 7]))
    );
}

#[test]
fn refusals_are_pythons_exceptions() {
    for (refusal, class) in [
        (Error::Denied("no".into()), "PermissionError"),
        (Error::Invalid("no".into()), "ValueError"),
        (Error::LimitExceeded("no".into()), "RuntimeError"),
        (Error::Unavailable("no".into()), "ConnectionError"),
    ] {
        let ctx = TestContext::new().with_refusal(refusal);
        let error = send(&ctx, 1).unwrap_err();
        assert_eq!(error.failure().unwrap().exc_type(), class);
        assert_eq!(ctx.replace(add::s((1, 2))).failure().unwrap().exc_type(), class);
        assert!(ctx.sent().is_empty() && ctx.replacement().is_none());
    }
    let no_json = std::collections::BTreeMap::from([((1, 2), 3)]);
    let ctx = TestContext::new();
    let error = chain([add::s((1, 2)), add::s((no_json,))])
        .apply_async(&ctx)
        .unwrap_err();
    assert_eq!(error.failure().unwrap().exc_type(), "EncodeError");
}

#[test]
fn a_task_is_replaced_or_added_to() {
    let ctx = TestContext::new();
    assert!(matches!(ctx.replace(add::s((1, 2))), TaskError::Replaced(_)));
    assert_eq!(ctx.replacement().unwrap()["args"], json!([1, 2]));
    assert!(ctx.add_to_chord(add::s((1, 2))).is_err());
    let nothing = ctx.replace(chain([]));
    assert_eq!(nothing.failure().unwrap().exc_type(), "ImproperlyConfigured");
    let ctx = TestContext::new().with_request(|request| request.chord = Some("{}".into()));
    assert_eq!(ctx.add_to_chord(add::s((1, 2))).unwrap().id(), "sent-1");
}

#[test]
fn results_are_read_without_waiting() {
    let ctx = TestContext::new().with_result("a", &json!({"x": 1}));
    let result = AsyncResult::new("a");
    assert_eq!(result.get::<Value>(&ctx).unwrap(), Some(json!({"x": 1})));
    assert!(result.ready(&ctx).unwrap());
    assert!(
        result
            .get::<i64>(&ctx)
            .unwrap_err()
            .to_string()
            .starts_with("TypeError: result of a")
    );
    let missing = AsyncResult::new("b");
    assert_eq!(missing.state(&ctx).unwrap(), "PENDING");
    assert_eq!(missing.get::<i64>(&ctx).unwrap(), None);
    result.forget(&ctx).unwrap();
    assert_eq!(result.get::<Value>(&ctx).unwrap(), None);
}
