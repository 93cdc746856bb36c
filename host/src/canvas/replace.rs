//! A task that hands its identity on, and one that adds to its chord (contract section 4.10).

use serde_json::value::RawValue;
use serde_json::{Value, json};

use super::freeze::Freeze;
use super::{Applied, CanvasError, Context, Kind, Partial, Signature, Step, Work, apply};
use crate::message::{JsonMap, Request, content};

/// `replace`: another signature takes the place of the task of this request. The task has to end with `replaced` then.
pub fn replace(
    request: &Request,
    mut signature: Signature,
    context: &mut Context<'_>,
) -> Result<Applied, CanvasError> {
    if signature.options.contains_key("chord") {
        let what = "A signature replacing a task must not be part of a chord";
        return Err(CanvasError::Invalid(what.into()));
    }
    if matches!(&signature.kind, Kind::Chain(tasks) if tasks.is_empty()) {
        let what = "Cannot replace with an empty chain";
        return Err(CanvasError::Invalid(what.into()));
    }
    let on_headers = context.defaults.errbacks_on_headers;
    signature = match &mut signature.kind {
        Kind::Group(_) => accumulated(signature),
        Kind::Chain(tasks) => {
            if matches!(tasks.last(), Some(last) if matches!(last.kind, Kind::Group(_)))
                && let Some(group) = tasks.pop()
            {
                tasks.push(accumulated(group));
            }
            signature
        }
        _ => signature,
    };
    for callback in list(request.body.callbacks.as_deref())? {
        signature.link(callback);
    }
    for errback in list(request.body.errbacks.as_deref())? {
        signature.link_error(&errback, on_headers, false);
    }
    if let Kind::Chain(tasks) = &mut signature.kind
        && let Some(links) = signature.options.remove("link")
        && let Some(last) = tasks.last_mut()
    {
        let mut all = last.links("link");
        all.extend(super::signature::maybe_list(Some(&links)));
        last.set("link", all);
    }
    let nesting = request.replaced_task_nesting.saturating_add(1);
    let mut work = Work::new(context);
    let given = Freeze {
        id: Some(&request.id),
        ..Freeze::default()
    };
    work.freeze(&mut signature, given)?;
    for (option, value) in [
        ("chord", value(request.body.chord.as_deref())?),
        ("group_id", json!(request.group)),
        ("group_index", json!(request.group_index)),
        ("root_id", json!(request.root_id)),
        ("replaced_task_nesting", json!(nesting)),
    ] {
        signature.set(option, value);
    }
    if let Kind::Chain(tasks) = &mut signature.kind {
        for task in tasks {
            task.set("replaced_task_nesting", nesting);
        }
    }
    let mut rest = Vec::new();
    for element in list(request.body.chain.as_deref())?.into_iter().rev() {
        let mut element = Signature::read(element)?;
        element.set("replaced_task_nesting", nesting);
        rest.push(element);
    }
    let signature = followed(signature, rest, on_headers);
    apply(&signature, Partial::default(), context)
}

/// `add_to_chord`: one more task for the header that the task of this request is in.
pub fn add_to_chord(
    request: &Request,
    mut signature: Signature,
    context: &mut Context<'_>,
) -> Result<Applied, CanvasError> {
    let (Some(group), Some(chord)) = (&request.group, request.body.chord.as_deref()) else {
        let what = "the current task is not a member of any chord";
        return Err(CanvasError::Invalid(what.into()));
    };
    for (option, value) in [
        ("group_id", json!(group)),
        ("group_index", json!(request.group_index)),
        ("chord", value(Some(chord))?),
        ("root_id", json!(request.root_id)),
    ] {
        signature.set(option, value);
    }
    Work::new(context).freeze(&mut signature, Freeze::default())?;
    let mut applied = apply(&signature, Partial::default(), context)?;
    let group = group.clone();
    applied.steps.insert(0, Step::ChordGrows { group });
    Ok(applied)
}

/// A group as one result: a chord whose body returns what it is given.
fn accumulated(group: Signature) -> Signature {
    let mut kwargs = JsonMap::new();
    kwargs.insert("index".into(), 0.into());
    let body = Signature::task("celery.accumulate", Vec::new(), kwargs);
    let id = group.options.get("task_id").cloned();
    let Kind::Group(tasks) = group.kind else {
        return group;
    };
    let mut chord = Signature::chord(tasks, body);
    if let Some(id) = id.filter(Value::is_string) {
        chord.set("task_id", id);
    }
    chord
}

/// `first | a | b`, as Celery's operator puts them together.
fn followed(first: Signature, rest: Vec<Signature>, on_headers: bool) -> Signature {
    rest.into_iter()
        .fold(first, |first, next| or(first, next, on_headers))
}

/// `left | right`.
fn or(mut left: Signature, right: Signature, on_headers: bool) -> Signature {
    let right_is = |kinds: fn(&Kind) -> bool| kinds(&right.kind);
    if right_is(|kind| matches!(kind, Kind::Group(tasks) if tasks.is_empty())) {
        return left;
    }
    match &mut left.kind {
        // What follows a chord follows its body.
        Kind::Chord { body: Some(body), .. }
            if !right_is(|kind| matches!(kind, Kind::Chain(_)))
                && !right_is(|kind| matches!(kind, Kind::Group(tasks) if tasks.len() > 1)) =>
        {
            let own = std::mem::replace(&mut **body, Signature::group(Vec::new()));
            **body = or(own, right, on_headers);
            left
        }
        Kind::Group(_) => {
            let id = left.options.get("task_id").cloned();
            let Kind::Group(tasks) = left.kind else {
                return right;
            };
            let mut chord = Signature::chord(tasks, right);
            if let Some(id) = id.filter(Value::is_string) {
                chord.set("task_id", id);
            }
            chord
        }
        Kind::Chain(tasks) => {
            let ends_in_chord = matches!(tasks.last(), Some(last) if matches!(last.kind, Kind::Chord { .. }));
            let ends_in_group = matches!(tasks.last(), Some(last) if matches!(last.kind, Kind::Group(_)));
            if (ends_in_chord && !right_is(|kind| matches!(kind, Kind::Chord { .. }))) || ends_in_group {
                if let Some(last) = tasks.pop() {
                    tasks.push(or(last, right, on_headers));
                }
                return left;
            }
            let mut tasks = std::mem::take(tasks);
            unchain(&mut tasks, &left, on_headers);
            tasks.push(right);
            // As in Celery its options are gone; those that count are its last task's.
            Signature::chain(tasks)
        }
        _ => Signature::chain(vec![left, right]),
    }
}

/// The links of a chain become those of its tasks.
fn unchain(tasks: &mut [Signature], chain: &Signature, on_headers: bool) {
    for callback in chain.links("link") {
        if let Some(last) = tasks.last_mut() {
            last.link(callback);
        }
    }
    for errback in chain.links("link_error") {
        for task in &mut *tasks {
            task.link_error(&errback, on_headers, false);
        }
    }
}

fn list(raw: Option<&RawValue>) -> Result<Vec<Value>, CanvasError> {
    let value = value(raw)?;
    Ok(super::signature::maybe_list(Some(&value)))
}

fn value(raw: Option<&RawValue>) -> Result<Value, CanvasError> {
    let Some(raw) = raw else { return Ok(Value::Null) };
    content::value(raw.get()).ok_or_else(|| CanvasError::Invalid("a signature is nested too deep".into()))
}

#[cfg(test)]
mod tests {
    use super::super::fixture::{body, defaults, headers, lines, sender, within};
    use super::*;
    use crate::message::request::fixture::with_embed;

    fn task(name: &str, id: Value) -> Value {
        json!({"task": name, "args": [], "kwargs": {}, "options": {"task_id": id}, "subtask_type": null, "immutable": false})
    }

    fn composite(kind: &str, kwargs: Value) -> Value {
        json!({"task": format!("celery.{kind}"), "args": [], "kwargs": kwargs, "options": {}, "subtask_type": kind, "immutable": false})
    }

    fn several(kind: &str, tasks: &[&str]) -> Value {
        let tasks: Vec<Value> = tasks.iter().map(|name| task(name, Value::Null)).collect();
        composite(kind, json!({"tasks": tasks}))
    }

    /// The task `i1` of the workflow `r1`, third in the header `g1` of a chord, with everything that may follow a task.
    fn member() -> Request {
        with_embed(
            json!({"root_id": "r1", "group": "g1", "group_index": 2, "replaced_task_nesting": 4}),
            &json!({
                "callbacks": [task("cb", json!("c1"))], "errbacks": [task("eb", json!("e1"))],
                "chain": [task("last", json!("l1")), task("next", json!("x1"))], "chord": task("body", json!("b1")),
            }),
        )
    }

    /// One that nothing follows.
    fn alone() -> Request {
        with_embed(json!({"root_id": "r1"}), &json!({}))
    }

    fn replaced(request: &Request, signature: Value) -> Result<Applied, CanvasError> {
        let signature = Signature::read(signature)?;
        within(&defaults(), Some(sender()), |context| {
            replace(request, signature, context)
        })
    }

    #[test]
    fn what_takes_the_place_of_a_task_has_its_id_unless_it_has_one() {
        let all = [
            (task("a", Value::Null), vec!["i1 a [] parent=p1 root=r1"]),
            // As in Celery, an id of its own is kept; then nothing comes of the task's.
            (task("a", json!("own")), vec!["own a [] parent=p1 root=r1"]),
            // The last task of a chain has it, and the others are new.
            (
                several("chain", &["a", "b", "c"]),
                vec!["n2 a [] parent=p1 root=r1 chain=[i1 n1]"],
            ),
            (several("chain", &["a"]), vec!["i1 a [] parent=p1 root=r1"]),
        ];
        for (signature, steps) in all {
            let applied = replaced(&alone(), signature.clone()).unwrap();
            assert_eq!(lines(&applied), steps, "{signature}");
        }
    }

    #[test]
    fn a_group_becomes_one_result() {
        let chain = json!({"tasks": [task("z", Value::Null), several("group", &["a", "b"])]});
        for signature in [several("group", &["a", "b"]), composite("chain", chain)] {
            let is_chain = signature["subtask_type"] == "chain";
            let applied = replaced(&alone(), signature).unwrap();
            if is_chain {
                let chord = &body(&applied.steps[0])[2]["chain"][0];
                let accumulate = &chord["kwargs"]["body"];
                assert_eq!(chord["subtask_type"], "chord");
                assert_eq!(accumulate["task"], "celery.accumulate");
                assert_eq!(accumulate["kwargs"], json!({"index": 0}));
                assert_eq!(accumulate["options"]["task_id"], "i1");
                continue;
            }
            let messages = applied
                .steps
                .iter()
                .filter(|step| matches!(step, Step::Publish(_)));
            let messages: Vec<&Step> = messages.collect();
            assert_eq!(messages.len(), 2);
            for (index, message) in messages.into_iter().enumerate() {
                let chord = &body(message)[2]["chord"];
                assert_eq!(headers(message)["group_index"], index);
                assert_eq!(
                    (&chord["task"], &chord["kwargs"]),
                    (&json!("celery.accumulate"), &json!({"index": 0}))
                );
                assert_eq!(chord["options"]["task_id"], "i1");
            }
        }
    }

    #[test]
    fn what_follows_the_task_follows_its_replacement() {
        let applied = replaced(&member(), task("a", Value::Null)).unwrap();
        assert_eq!(
            lines(&applied),
            [
                "i1 a [] group=g1 index=2 parent=p1 root=r1 callbacks=[c1] errbacks=[e1] chain=[l1 x1] chord=b1"
            ]
        );
        assert_eq!(headers(&applied.steps[0])["replaced_task_nesting"], 5);
        for element in body(&applied.steps[0])[2]["chain"].as_array().unwrap() {
            assert_eq!(element["options"]["replaced_task_nesting"], 5, "{element}");
        }
    }

    /// The callbacks belong to the end of a chain, errbacks to each of its tasks, the chord to what ends last.
    #[test]
    fn what_follows_the_task_follows_the_last_of_a_chain() {
        let applied = replaced(&member(), several("chain", &["a", "b"])).unwrap();
        let [publish] = &applied.steps[..] else {
            panic!("{:?}", lines(&applied))
        };
        let embed = &body(publish)[2];
        assert_eq!(headers(publish)["replaced_task_nesting"], 5);
        assert_eq!(embed["callbacks"], Value::Null);
        assert_eq!(embed["errbacks"][0]["options"]["task_id"], "e1");
        let rest = embed["chain"].as_array().unwrap();
        let names: Vec<&str> = rest
            .iter()
            .map(|element| element["task"].as_str().unwrap())
            .collect();
        assert_eq!(names, ["last", "next", "b"]);
        let own = &rest[2]["options"];
        assert_eq!(own["task_id"], "i1");
        assert_eq!(own["link"][0]["options"]["task_id"], "c1");
        assert_eq!(own["link_error"][0]["options"]["task_id"], "e1");
        assert_eq!(own["replaced_task_nesting"], 5);
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        let mut of_chord = task("a", Value::Null);
        of_chord["options"]["chord"] = task("body", json!("b1"));
        for (signature, text) in [
            (of_chord, "must not be part of a chord"),
            (several("chain", &[]), "empty chain"),
        ] {
            let refused = replaced(&alone(), signature).unwrap_err();
            assert!(
                matches!(&refused, CanvasError::Invalid(what) if what.contains(text)),
                "{refused:?}"
            );
        }
    }

    #[test]
    fn a_chord_is_told_first_of_what_is_added_to_it() {
        let added = |request: &Request| {
            let signature = Signature::read(task("a", Value::Null))?;
            within(&defaults(), Some(sender()), |context| {
                add_to_chord(request, signature, context)
            })
        };
        let applied = added(&member()).unwrap();
        assert_eq!(
            lines(&applied),
            ["grow g1", "n1 a [] group=g1 index=2 parent=p1 root=r1 chord=b1"]
        );
        let refused = added(&alone()).unwrap_err();
        assert!(
            matches!(&refused, CanvasError::Invalid(what) if what.contains("not a member of any chord")),
            "{refused:?}"
        );
    }
}
