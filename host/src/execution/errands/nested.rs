//! Everything that some worker may send because of one signature: the tasks in it at any depth (members, callbacks,
//! errbacks, the rest of a chain, a chord's body), each with the places it may go to. Whoever finishes a task sends what
//! follows it, with that worker's own powers; so what a component may not send itself it may not leave to others either.

use serde_json::Value;

use crate::canvas::{CanvasError, Defaults, Kind, Signature};
use crate::message::{JsonMap, Route};
use crate::queue::{Sending, exchange_type};

/// Options that hold signatures.
const SIGNATURES: [&str; 4] = ["chain", "chord", "link", "link_error"];
/// How many different places the composites around a task may name.
const MOST_PLACES: usize = 16;
/// How many tasks, each with its places, are looked at.
const MOST_TASKS: usize = 200_000;

/// Tasks that every worker has and that only stand for others.
pub(super) fn is_built_in(task: &str) -> bool {
    is_map(task) || matches!(task, "celery.accumulate" | "celery.chord_unlock")
}

/// Tasks that run or send the task of the signature in their argument `task`, whatever kind of signature they are.
fn is_map(task: &str) -> bool {
    matches!(task, "celery.map" | "celery.starmap" | "celery.chunks")
}

/// What a signature comes to.
#[derive(Debug, Default)]
pub(super) struct Nested {
    /// Task names and where their messages may go.
    pub(super) destinations: Vec<(String, Route)>,
    /// Bytes that are written once for each task of a header although they are in the signature once: chords' bodies.
    pub(super) repeated: usize,
}

/// Looks through a signature. `options` are applied over its own.
pub(super) fn look(
    signature: &Signature,
    options: &JsonMap,
    defaults: &Defaults,
) -> Result<Nested, CanvasError> {
    let Nested {
        destinations: mut found,
        mut repeated,
    } = Nested::default();
    let outermost = places(&[Sending::default()], options)?;
    let mut left = MOST_TASKS;
    let mut waiting = Vec::new();
    let more = |part: Signature, around: &[Sending], waiting: &mut Vec<(Signature, Vec<Sending>)>| {
        waiting.push((part, around.to_vec()));
    };
    for part in embedded(options)? {
        more(part, &[Sending::default()], &mut waiting);
    }
    more(signature.clone(), &outermost, &mut waiting);
    while let Some((signature, around)) = waiting.pop() {
        left = left
            .checked_sub(around.len())
            .ok_or_else(|| CanvasError::TooLarge(format!("a signature has more than {MOST_TASKS} tasks")))?;
        let here = places(&around, &signature.options)?;
        for part in embedded(&signature.options)? {
            more(part, &[Sending::default()], &mut waiting);
        }
        match signature.kind {
            Kind::Chain(parts) | Kind::Group(parts) => {
                for part in parts {
                    more(part, &here, &mut waiting);
                }
            }
            Kind::Chord { header, body } => {
                let bytes = body.as_ref().map_or(0, |body| body.to_value().to_string().len());
                repeated = repeated.saturating_add(bytes.saturating_mul(header.len()));
                for part in header.into_iter().chain(body.map(|body| *body)) {
                    more(part, &here, &mut waiting);
                }
            }
            // Given by its name, so that no argument in front can stand for it later.
            _ if is_map(&signature.task) => {
                let mapped = signature.kwargs.get("task").cloned().unwrap_or_default();
                more(Signature::read(mapped)?, &here, &mut waiting);
            }
            _ if signature.task == "celery.accumulate" => {}
            Kind::Task | Kind::Map | Kind::Chunks => {
                for place in here {
                    let route = route(&signature.task, place, defaults)?;
                    found.push((signature.task.clone(), route));
                }
            }
        }
    }
    Ok(Nested {
        destinations: found,
        repeated,
    })
}

/// The signatures among options.
pub(super) fn embedded(options: &JsonMap) -> Result<Vec<Signature>, CanvasError> {
    let mut found = Vec::new();
    for option in SIGNATURES {
        match options.get(option) {
            None | Some(Value::Null) => {}
            Some(Value::Array(list)) => {
                for one in list {
                    found.push(Signature::read(one.clone())?);
                }
            }
            Some(one) => found.push(Signature::read(one.clone())?),
        }
    }
    Ok(found)
}

/// Where a part may be sent: as its own options say, or as those around it do. Options around a composite reach some of
/// its parts only (the first of a chain), so all are possible.
fn places(around: &[Sending], options: &JsonMap) -> Result<Vec<Sending>, CanvasError> {
    let text = |option: &str| options.get(option).and_then(Value::as_str).map(str::to_owned);
    let own = Sending {
        queue: text("queue"),
        exchange: text("exchange"),
        exchange_type: text("exchange_type").as_deref().and_then(exchange_type),
        routing_key: text("routing_key"),
        ..Sending::default()
    };
    let mut places: Vec<Sending> = Vec::new();
    let over = around.iter().map(|place| place.clone().or(own.clone()));
    for place in over.chain([own.clone()]) {
        if !places.contains(&place) {
            places.push(place);
        }
    }
    if places.len() > MOST_PLACES {
        return Err(CanvasError::TooLarge(format!(
            "a signature names more than {MOST_PLACES} places for one task"
        )));
    }
    Ok(places)
}

fn route(task: &str, place: Sending, defaults: &Defaults) -> Result<Route, CanvasError> {
    let destination = defaults.router.destination(&defaults.queues, task, place);
    Ok(destination.map_err(CanvasError::Invalid)?.route)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn found(signature: Value, options: Value) -> Vec<String> {
        let signature = Signature::read(signature).unwrap();
        let options = options.as_object().unwrap();
        let nested = look(&signature, options, &Defaults::default()).unwrap();
        let mut found: Vec<String> = nested
            .destinations
            .into_iter()
            .map(|(task, route)| format!("{task}>{}", crate::policy::grants::place(&route)))
            .collect();
        found.sort();
        found.dedup();
        found
    }

    fn task(name: &str, options: Value) -> Value {
        json!({"task": name, "args": [], "kwargs": {}, "options": options, "subtask_type": null, "immutable": false})
    }

    fn many(kind: &str, tasks: Vec<Value>, options: Value) -> Value {
        json!({"task": format!("celery.{kind}"), "args": [], "kwargs": {"tasks": tasks}, "options": options,
            "subtask_type": kind, "immutable": false})
    }

    #[test]
    fn everything_in_a_signature_is_found_at_any_depth() {
        let errback = task("e", json!({"link": task("ee", json!({"queue": "deep"}))}));
        let linked = task("l", json!({"queue": "q1", "link_error": [errback]}));
        let chord = json!({"task": "celery.chord", "subtask_type": "chord", "options": {"chain": [task("c", json!({}))]},
            "kwargs": {"header": [task("h", json!({}))], "body": task("b", json!({"chord": task("bb", json!({}))}))}});
        let starmap = json!({"task": "celery.starmap", "subtask_type": "xstarmap", "args": [], "options": {},
            "kwargs": {"task": task("m", json!({})), "it": [[1]]}});
        let whole = many(
            "chain",
            vec![
                task("a", json!({"link": linked})),
                many("group", vec![chord, starmap], json!({})),
            ],
            json!({}),
        );
        assert_eq!(
            found(whole, json!({"link": [task("o", json!({}))]})),
            [
                "a>celery",
                "b>celery",
                "bb>celery",
                "c>celery",
                "e>celery",
                "ee>deep",
                "h>celery",
                "l>q1",
                "m>celery",
                "o>celery"
            ]
        );
    }

    #[test]
    fn a_queue_given_around_a_task_counts_and_so_does_its_own() {
        let group = many(
            "group",
            vec![task("a", json!({"queue": "own"})), task("b", json!({}))],
            json!({"queue": "g"}),
        );
        let chain = many("chain", vec![group], json!({}));
        assert_eq!(
            found(chain, json!({"queue": "given"})),
            ["a>g", "a>given", "a>own", "b>celery", "b>g", "b>given"]
        );
        let odd = task("a", json!({"exchange": "x", "routing_key": "k"}));
        assert_eq!(found(odd, json!({})), ["a>x/k"]);
    }

    #[test]
    fn a_body_counts_for_each_task_of_its_header() {
        let body = task("b", json!({}));
        let chord = json!({"task": "celery.chord", "subtask_type": "chord", "options": {},
            "kwargs": {"header": vec![task("h", json!({})); 100], "body": body}});
        let nested = look(
            &Signature::read(chord).unwrap(),
            &JsonMap::new(),
            &Defaults::default(),
        )
        .unwrap();
        assert_eq!(nested.repeated, 100 * body.to_string().len());
    }

    /// A name of Celery's own that does not stand for others is a task like any other.
    #[test]
    fn built_in_tasks_by_hand_are_found_by_their_name() {
        assert_eq!(
            found(task("celery.chord_unlock", json!({})), json!({})),
            ["celery.chord_unlock>celery"]
        );
        assert_eq!(found(task("celery.accumulate", json!({})), json!({})), [""; 0]);
        let disguised = json!({"task": "evil", "subtask_type": "xmap", "kwargs": {"task": task("fine", json!({})), "it": []}});
        assert_eq!(found(disguised, json!({})), ["evil>celery"]);
        for name in ["celery.map", "celery.starmap", "celery.chunks"] {
            let by_hand =
                json!({"task": name, "kwargs": {"task": task("evil", json!({"queue": "q"})), "it": []}});
            assert_eq!(found(by_hand, json!({})), ["evil>q"]);
            let positional =
                Signature::read(json!({"task": name, "args": [task("evil", json!({})), []]})).unwrap();
            assert!(look(&positional, &JsonMap::new(), &Defaults::default()).is_err());
        }
    }
}
