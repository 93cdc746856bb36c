//! Commands that revoke and end tasks.

use std::collections::{BTreeMap, HashSet};

use serde_json::{Map, Value, json};

use super::arguments::Arguments;
use super::{Done, Group, Refused, State, ok, value};
use crate::message::repr;

/// The answers are Python's texts of a set and of a list.
pub(super) fn revoke(state: &State<'_>, arguments: &Arguments<'_>) -> Done {
    by_id(state, arguments, arguments.flag("terminate"))
}

pub(super) fn terminate(state: &State<'_>, arguments: &Arguments<'_>) -> Done {
    by_id(state, arguments, true)
}

fn by_id(state: &State<'_>, arguments: &Arguments<'_>, terminate: bool) -> Done {
    let mut ids = arguments.ids("task_id")?;
    state.execution.revoke(&ids);
    if !terminate {
        tracing::info!("Tasks flagged as revoked: {:.1000?}", ids.join(", "));
        return ok(&format!("tasks {} flagged as revoked", set(&ids)));
    }
    // What is revoked stays so, also when there is no such signal, as in Celery.
    let signal = arguments.signal()?;
    let wanted: HashSet<&str> = ids.iter().copied().collect();
    let here = state
        .execution
        .terminate(|request| wanted.contains(request.id.as_str()), signal);
    let here: HashSet<&str> = here.iter().map(|request| request.id.as_str()).collect();
    ids.retain(|id| here.contains(id));
    for id in &ids {
        tracing::info!("Terminating {id:.300?} ({signal})");
    }
    match &ids[..] {
        [] => ok("terminate: tasks unknown"),
        ended => ok(&format!("terminate: {}", ended.join(", "))),
    }
}

/// `repr` of a set of texts.
fn set(texts: &[&str]) -> String {
    if texts.is_empty() {
        return "set()".into();
    }
    let texts: Vec<String> = texts
        .iter()
        .map(|text| repr::value(&Value::from(*text)))
        .collect();
    format!("{{{}}}", texts.join(", "))
}

pub(super) fn revoke_by_stamped_headers(state: &State<'_>, arguments: &Arguments<'_>) -> Done {
    let signal = arguments.signal()?;
    let headers = headers(arguments.get("headers"))?;
    let shown = repr::value(&Value::Object(headers.clone()));
    let revoked: Vec<(&String, Vec<&Value>)> =
        headers.iter().map(|(name, value)| (name, list(value))).collect();
    for (name, values) in &revoked {
        if !state.execution.known.revoke_by_stamp(name, values) {
            let text = "a stamp is too large, or too many are revoked already; a worker forgets them when it starts again";
            return Err(Refused::value(text));
        }
    }
    if !arguments.flag("terminate") {
        return ok(&format!("headers {shown} flagged as revoked, but not terminated"));
    }
    let hits = std::cell::RefCell::new(BTreeMap::<&String, Vec<Value>>::new());
    state.execution.terminate(
        |request| {
            let stamps = request.stamps();
            let mut hit = false;
            for (name, values) in &revoked {
                let carried = stamps.get(*name).map(list).unwrap_or_default();
                for value in carried.into_iter().filter(|value| values.contains(value)) {
                    hit = true;
                    let mut hits = hits.borrow_mut();
                    let known = hits.entry(name).or_default();
                    if !known.contains(value) {
                        known.push(value.clone());
                    }
                }
            }
            hit
        },
        signal,
    );
    let hits = hits.into_inner();
    if hits.is_empty() {
        return ok(&format!("headers {shown} were not terminated"));
    }
    let hits = hits.iter().map(|(name, values)| {
        let values: Vec<String> = values.iter().map(repr::value).collect();
        format!(
            "{}: {{{}}}",
            repr::value(&name.as_str().into()),
            values.join(", ")
        )
    });
    let hits: Vec<String> = hits.collect();
    ok(&format!(
        "headers defaultdict(<class 'set'>, {{{}}}) revoked",
        hits.join(", ")
    ))
}

/// A map of headers, or the command line's list of `name=value`.
fn headers(value: Option<&Value>) -> Result<Map<String, Value>, Refused> {
    match value {
        Some(Value::Object(headers)) => Ok(headers.clone()),
        Some(Value::Array(pairs)) => {
            let pair = |pair: &Value| {
                let (name, value) = pair.as_str()?.split_once('=')?;
                let value = value.split('=').next().unwrap_or_default();
                Some((name.to_owned(), Value::from(value)))
            };
            let headers: Option<Map<_, _>> = pairs.iter().map(pair).collect();
            headers.ok_or_else(|| Refused::new("IndexError", "list index out of range"))
        }
        _ => Err(Refused::new(
            "TypeError",
            "headers must be a map, or a list of name=value",
        )),
    }
}

fn list(value: &Value) -> Vec<&Value> {
    match value {
        Value::Array(values) => values.iter().collect(),
        Value::Null => Vec::new(),
        value => vec![value],
    }
}

/// Neighbours tell each other at their start what is revoked (contract section 7.4). Who may only look revokes nothing.
pub(super) fn hello(state: &State<'_>, arguments: &Arguments<'_>) -> Done {
    let from = arguments.text("from_node").unwrap_or_default();
    if from == &*state.execution.options.hostname {
        return value(Value::Null);
    }
    tracing::info!("sync with {from:.300?}");
    if let Some(revoked) = arguments.get("revoked")
        && state.obeyed.contains(&Group::Revoke)
    {
        state.execution.known.merge_revoked(revoked);
    }
    let revoked = state.execution.known.revoked();
    value(json!({"revoked": revoked, "clock": state.execution.clock.forward()}))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sets_read_like_python() {
        assert_eq!(set(&[]), "set()");
        assert_eq!(set(&["a", "it's"]), r#"{'a', "it's"}"#);
    }

    #[test]
    fn stamps_come_as_a_map_or_as_words() {
        let read = |value: Value| headers(Some(&value)).map(Value::Object).map_err(|error| error.0);
        assert_eq!(read(json!({"a": [1]})), Ok(json!({"a": [1]})));
        assert_eq!(read(json!(["a=b", "c=d=e"])), Ok(json!({"a": "b", "c": "d"})));
        assert_eq!(
            read(json!(["a"])),
            Err("IndexError('list index out of range')".into())
        );
        assert!(read(json!("a=b")).is_err());
    }
}
