//! What fails without having run, because what it waits for failed: the body of a chord, the rest of a chain (contract
//! sections 4.2 and 4.6).

use std::collections::VecDeque;

use serde_json::Value;

use super::signature::maybe_list;
use super::{Kind, Partial, Signature};

/// A task that fails without having run.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Failing {
    /// Its id; without one there is nothing to store.
    pub id: Option<String>,
    /// Its group.
    pub group_id: Option<String>,
    /// Where an RPC result goes.
    pub reply_to: Option<String>,
    /// First task of its workflow.
    pub root_id: Option<String>,
    /// The chord that it is a part of: its position in the header, and the body.
    pub part: Option<(Option<u32>, Value)>,
    /// The errbacks to call.
    pub errbacks: Vec<Value>,
}

impl Failing {
    fn of(signature: &Signature) -> Self {
        let text = |option: &str| signature.text(option).map(str::to_owned);
        let index = signature.options.get("group_index").and_then(Value::as_u64);
        let index = index.and_then(|index| u32::try_from(index).ok());
        let chord = signature.options.get("chord").filter(|chord| chord.is_object());
        Self {
            id: text("task_id"),
            group_id: text("group_id"),
            reply_to: text("reply_to"),
            root_id: text("root_id"),
            part: chord.map(|chord| (index, chord.clone())),
            errbacks: Vec::new(),
        }
    }
}

/// What is left of a chain whose task failed. Of a chord there also its body: what comes later waits for that.
pub fn rest_of_chain(chain: &[Signature]) -> Vec<Failing> {
    let mut waiting: VecDeque<&Signature> = chain.iter().collect();
    let mut failing = Vec::new();
    while let Some(element) = waiting.pop_front() {
        failing.push(Failing::of(element));
        if let Kind::Chord { body: Some(body), .. } = &element.kind {
            waiting.push_back(body);
        }
    }
    failing
}

/// The body of a chord that cannot run, with its errbacks: itself, or each member of a group and then the group. What
/// follows in its chain is [`rest_of_chain`].
pub fn body(body: &Signature, new_id: impl FnOnce() -> String) -> Vec<Failing> {
    let Kind::Group(members) = &body.kind else {
        let mut failing = Failing::of(body);
        failing.id = failing.id.or_else(|| Some(new_id()));
        failing.errbacks = maybe_list(body.options.get("link_error"));
        return vec![failing];
    };
    let own = maybe_list(body.options.get("link_error"));
    let mut failing: Vec<Failing> = members.iter().map(|member| member_of(member, &own)).collect();
    failing.push(Failing {
        errbacks: Vec::new(),
        part: None,
        ..Failing::of(body)
    });
    failing
}

/// A member fails under the id of its result, which for a chord is that of the chord's body.
fn member_of(member: &Signature, of_group: &[Value]) -> Failing {
    let mut errbacks = Vec::new();
    let result = result_of(member, &mut errbacks);
    let mut failing = Failing::of(result);
    for errback in errbacks.into_iter().chain(of_group.iter().cloned()) {
        if !failing.errbacks.contains(&errback) {
            failing.errbacks.push(errback);
        }
    }
    failing
}

/// The signature whose result counts, and all errbacks on the way to it.
fn result_of<'a>(signature: &'a Signature, errbacks: &mut Vec<Value>) -> &'a Signature {
    errbacks.extend(maybe_list(signature.options.get("link_error")));
    match &signature.kind {
        Kind::Chord { body: Some(body), .. } => result_of(body, errbacks),
        Kind::Group(members) => {
            for member in members {
                result_of(member, errbacks);
            }
            signature
        }
        _ => signature,
    }
}

/// The group of errbacks that is sent when a task failed, and what it is applied with (contract section 4.5).
pub fn errbacks(errbacks: Vec<Signature>, failed: &str, root_id: Option<&str>) -> (Signature, Partial) {
    let mut partial = Partial {
        args: vec![failed.into()],
        ..Partial::default()
    };
    partial.options.insert("parent_id".into(), failed.into());
    partial
        .options
        .insert("root_id".into(), root_id.unwrap_or(failed).into());
    (Signature::group(errbacks), partial)
}

/// The ids that show whether a signature was applied before: those of the tasks that are sent first, and its own.
pub fn first_ids(signature: &Signature) -> Vec<&str> {
    let mut ids: Vec<&str> = signature.text("task_id").into_iter().collect();
    match &signature.kind {
        Kind::Chain(tasks) => ids.extend(tasks.first().map(first_ids).unwrap_or_default()),
        Kind::Group(tasks) => ids.extend(tasks.iter().flat_map(first_ids)),
        Kind::Chord { header, .. } => ids.extend(header.iter().flat_map(first_ids)),
        Kind::Task | Kind::Map | Kind::Chunks => {}
    }
    ids
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn task(id: &str, options: Value) -> Signature {
        let mut signature = Signature::task("t", Vec::new(), serde_json::Map::new());
        signature.set("task_id", id);
        for (option, value) in options.as_object().unwrap() {
            signature.set(option, value.clone());
        }
        signature
    }

    fn ids(failing: &[Failing]) -> Vec<&str> {
        failing
            .iter()
            .map(|failing| failing.id.as_deref().unwrap_or("none"))
            .collect()
    }

    #[test]
    fn the_rest_of_a_chain_fails_down_to_the_bodies_of_its_chords() {
        let inner = Signature::chord(vec![task("h2", json!({}))], task("b2", json!({})));
        let outer = Signature::chord(vec![task("h1", json!({}))], inner);
        let part = json!({"group_id": "g", "group_index": 3, "chord": {"task": "body"}, "reply_to": "r"});
        let failing = rest_of_chain(&[outer, task("z", part)]);
        assert_eq!(ids(&failing), ["none", "z", "none", "b2"]);
        assert_eq!(failing[1].group_id.as_deref(), Some("g"));
        assert_eq!(failing[1].reply_to.as_deref(), Some("r"));
        assert_eq!(failing[1].part, Some((Some(3), json!({"task": "body"}))));
    }

    #[test]
    fn a_body_fails_with_its_errbacks_and_a_group_member_by_member() {
        let errback = |name: &str| json!({"task": name});
        let single = task("b", json!({"link_error": errback("e1")}));
        let failing = body(&single, || unreachable!());
        assert_eq!(
            (ids(&failing), &failing[0].errbacks),
            (vec!["b"], &vec![errback("e1")])
        );
        let mut nameless = single.clone();
        nameless.options.remove("task_id");
        assert_eq!(ids(&body(&nameless, || "new".into())), ["new"]);

        let mut chord = Signature::chord(
            vec![task("h", json!({}))],
            task("b2", json!({"link_error": [errback("e3")]})),
        );
        chord.set("link_error", json!([errback("e2")]));
        let mut group = Signature::group(vec![task("m1", json!({"link_error": [errback("e1")]})), chord]);
        group.set("task_id", "g");
        group.set("link_error", json!([errback("e1"), errback("e9")]));
        let failing = body(&group, || unreachable!());
        assert_eq!(ids(&failing), ["m1", "b2", "g"]);
        assert_eq!(failing[0].errbacks, [errback("e1"), errback("e9")]);
        assert_eq!(
            failing[1].errbacks,
            [errback("e2"), errback("e3"), errback("e1"), errback("e9")]
        );
        assert!(failing[2].errbacks.is_empty());
    }

    #[test]
    fn the_first_tasks_show_that_something_was_sent() {
        let chain = Signature::chain(vec![task("a", json!({})), task("b", json!({}))]);
        assert_eq!(first_ids(&chain), ["a"]);
        let mut chord = Signature::chord(vec![chain, task("c", json!({}))], task("d", json!({})));
        chord.set("task_id", "g");
        assert_eq!(first_ids(&chord), ["g", "a", "c"]);
        assert_eq!(
            first_ids(&Signature::group(vec![chord, task("e", json!({}))])),
            ["g", "a", "c", "e"]
        );
    }
}
