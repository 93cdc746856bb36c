//! The body of a chord that fails without having run (contract section 4.6).

use serde_json::Value;

use super::signature::maybe_list;
use super::{Kind, Signature};

/// A task that fails without having run, and the errbacks to call.
#[derive(Debug, Clone, PartialEq)]
pub struct Failing {
    /// Its id; without one nothing is stored for it.
    pub id: Option<String>,
    /// Signatures.
    pub errbacks: Vec<Value>,
}

impl Failing {
    fn of(signature: &Signature) -> Self {
        Self {
            id: signature.text("task_id").map(str::to_owned),
            errbacks: Vec::new(),
        }
    }
}

/// The body of a chord that cannot run, with its errbacks: itself, or each member of a group and then the group.
pub fn body(body: &Signature, new_id: impl FnOnce() -> String) -> Vec<Failing> {
    let own = maybe_list(body.options.get("link_error"));
    let mut whole = Failing::of(body);
    let Kind::Group(members) = &body.kind else {
        whole.id = whole.id.or_else(|| Some(new_id()));
        whole.errbacks = own;
        return vec![whole];
    };
    let members = members.iter().map(|member| member_of(member, &own));
    members.chain([whole]).collect()
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
    fn a_body_fails_with_its_errbacks_and_a_group_member_by_member() {
        let errback = |name: &str| json!({"task": name});
        let single = task("b", json!({"link_error": errback("e1")}));
        let failing = body(&single, || "unused".into());
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
        let failing = body(&group, || "unused".into());
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
