//! The example `workflow`, and what the guest `sender` sends to workers of ours and of Celery's.

use std::sync::OnceLock;

use celerybox_tests::{Place, Worker, python};
use serde_json::{Value, json};

use super::{apply, call, chord, composite, results, task, with, worker};

/// A worker of ours and one of Celery's, on the queue `python`.
struct Fleet {
    place: Place,
    _workers: [Worker; 2],
}

fn fleet() -> &'static Fleet {
    static FLEET: OnceLock<Fleet> = OnceLock::new();
    FLEET.get_or_init(|| {
        let place = Place::redis();
        let ours = worker(&place, json!({}));
        let theirs = Worker::python(&place, &json!({}), &["-c", "2", "-Q", "python"]);
        Fleet {
            place,
            _workers: [ours, theirs],
        }
    })
}

fn place() -> &'static Place {
    &fleet().place
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_else(|| panic!("{value} is no text"))
}

/// Applies through the guest, and waits for the value of the whole.
fn value_of(signature: &Value) -> Value {
    let tuple = apply(place(), signature).unwrap_or_else(|refused| panic!("{refused:?}: {signature}"));
    results(place(), &[text(&tuple[0][0])]).remove(0)
}

fn add(x: i64) -> Value {
    task("arithmetic.add", json!([x]))
}

/// The same on the worker in Python.
fn in_python(signature: Value) -> Value {
    with(signature, json!({"queue": "python"}))
}

#[test]
fn a_chord_of_chains_counts_the_words() {
    let id = call(place(), "workflow.words", json!([4]));
    assert_eq!(results(place(), &[text(&id)]), [json!(10)]);
}

#[test]
fn a_group_of_tasks_and_what_becomes_of_it() {
    let sent = call(place(), "workflow.pages", json!([3, 0.2]));
    let ids: Vec<&str> = sent[1].as_array().unwrap().iter().map(text).collect();
    let found = results(place(), &ids);
    assert_eq!(
        found,
        [
            json!(["word0"]),
            json!(["word0", "word1"]),
            json!(["word0", "word1", "word2"])
        ]
    );
    let state = call(place(), "workflow.state", json!([ids[0]]));
    assert_eq!(state, json!(["SUCCESS", ["word0"]]));
    assert_eq!(
        call(place(), "workflow.state", json!(["no-such-id"])),
        json!(["PENDING", null])
    );
}

/// Contract section 4.5: an errback that the worker calls sends in the name of the task that failed.
#[test]
fn an_errback_of_three_arguments_sends() {
    let place = Place::redis();
    let mut worker = worker(&place, json!({}));
    let told = with(task("probe.echo", json!([])), json!({"task_id": "told"}));
    let mut errback = task("sender.pass_on", json!([]));
    errback["kwargs"] = json!({"signature": told.to_string()});
    let options = json!({"task_id": "failing", "link_error": [errback]});
    apply(&place, &with(task("probe.fail", json!(["no"])), options)).unwrap();
    worker.wait_for_line("passed on: \"ok\"; replaced: \"not-supported\"");
    worker.wait_for_line("[told] succeeded");
    let stored = place.results().stored(&["told".into()]);
    assert_eq!(stored[0]["result"], json!(["failing", "ValueError"]));
    assert_eq!(stored[0]["parent_id"], "failing", "{stored:?}");
}

/// The caller waits for the id it got; each task takes over the identity of the one before.
#[test]
fn a_task_is_replaced_again_and_again() {
    assert_eq!(call(place(), "workflow.factorial", json!([10])), 3_628_800);
}

#[test]
fn what_a_task_sends_is_its_children() {
    let sent = call(place(), "sender.apply", json!([add(1).to_string(), "[4]"]));
    assert_eq!(results(place(), &[text(&sent[1][0][0])]), [json!(5)]);
    let parent = python(place(), "sending.py", &["children", "workflow.pages", "[2]"]);
    assert_eq!(parent["children"][0][0], parent["value"][0], "{parent}");
    assert_eq!(parent["children"][0][1], parent["value"][1], "{parent}");
    let group = composite(
        "group",
        vec![
            task("arithmetic.add", json!([1, 1])),
            task("arithmetic.add", json!([2, 2])),
        ],
    );
    let tuple = apply(place(), &group).unwrap();
    let members: Vec<&str> = tuple[1]
        .as_array()
        .unwrap()
        .iter()
        .map(|member| text(&member[0][0]))
        .collect();
    assert_eq!(results(place(), &members), [json!(2), json!(4)]);
}

#[test]
fn chains_groups_and_chords_go_through_workers_of_both_kinds() {
    let first = |x: i64, y: i64| task("arithmetic.add", json!([x, y]));
    let chain = composite(
        "chain",
        vec![first(1, 2), in_python(add(10)), add(100), in_python(add(1000))],
    );
    assert_eq!(value_of(&chain), 1113);
    let body = task("arithmetic.tsum", json!([]));
    for (header, body) in [
        (
            vec![first(1, 1), in_python(first(2, 2)), first(3, 3)],
            in_python(body.clone()),
        ),
        (
            vec![in_python(first(1, 1)), first(2, 2), in_python(first(3, 3))],
            body.clone(),
        ),
    ] {
        assert_eq!(value_of(&chord(header, body)), 12);
    }
    let nested = composite(
        "chain",
        vec![
            first(1, 1),
            chord(vec![add(1), in_python(add(2))], body),
            in_python(add(5)),
        ],
    );
    assert_eq!(value_of(&nested), 12);
    let map = json!({"task": "celery.starmap", "args": [], "kwargs": {"task": first(0, 0), "it": [[1, 2], [3, 4]]},
        "options": {}, "subtask_type": null, "immutable": true});
    assert_eq!(value_of(&map), json!([3, 7]));
}

#[test]
fn callbacks_and_errbacks_follow() {
    let mut linked = task("arithmetic.add", json!([1, 2]));
    linked["options"] = json!({"link": [with(add(10), json!({"task_id": "linked-callback"}))]});
    assert_eq!(value_of(&linked), 3);
    assert_eq!(results(place(), &["linked-callback"]), [json!(13)]);
    let errback = with(
        task("probe.echo", json!([])),
        json!({"task_id": "linked-errback"}),
    );
    let failing = with(
        task("probe.fail", json!(["no"])),
        json!({"task_id": "failing-one", "link_error": [errback]}),
    );
    apply(place(), &failing).unwrap();
    let found = results(place(), &["failing-one", "linked-errback"]);
    assert_eq!(
        (&found[0][0], &found[1]),
        (&json!("FAILURE"), &json!("failing-one")),
        "{found:?}"
    );
}

#[test]
fn a_replacement_may_be_of_any_kind_also_a_chord() {
    let first = |x: i64, y: i64| task("arithmetic.add", json!([x, y]));
    let to_end = |signature: Value| {
        value_of(&task(
            "sender.replace",
            json!([signature.to_string(), "replaced"]),
        ))
    };
    assert_eq!(to_end(first(1, 2)), 3);
    assert_eq!(to_end(composite("chain", vec![first(1, 2), add(10)])), 13);
    let group = composite("group", vec![first(1, 2), in_python(first(3, 4))]);
    assert_eq!(to_end(group), json!([3, 7]));
    let body = task("arithmetic.tsum", json!([]));
    assert_eq!(to_end(chord(vec![first(1, 2), first(3, 4)], body)), 10);
    let replaced = |signature: Value| {
        call(
            place(),
            "sender.replace",
            json!([signature.to_string(), "as it should"]),
        )
    };
    // `sender.replace` itself answers when it is not replaced in the end, so its own value shows that asking is not ending.
    assert_eq!(replaced(first(1, 2)), json!(["ok", null]));
    let twice = call(
        place(),
        "sender.replace",
        json!([first(1, 2).to_string(), "twice"]),
    );
    assert_eq!(twice[0], "invalid", "{twice}");
}

#[test]
fn a_part_adds_another_part_to_its_chord() {
    let part = |page: i64| with(task("workflow.more", json!([page])), json!({"queue": "celery"}));
    let body = task("workflow.total", json!([]));
    let header = json!([part(3), part(4)]).to_string();
    let sent = python(place(), "sending_chord.py", &[&header, &body.to_string()]);
    assert_eq!(sent, 7);
    let refused = call(place(), "sender.add", json!([add(1).to_string()]));
    assert_eq!(refused[0], "invalid", "{refused}");
}
