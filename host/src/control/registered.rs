//! What `registered` says of a task: its name and the attributes that are asked for, as Python shows them.

use serde_json::Value;

use crate::message::repr;
use crate::policy::admit::Defaults;
use crate::task::{Definition, RetryLimit};

/// An attribute of a task: its name, and its value where a task has one.
pub(super) type Attribute = (&'static str, fn(&Definition, &Defaults) -> Option<Value>);

/// Those that tasks have; another one is nowhere. Nothing has an exchange and a routing key of its own, which Celery shows
/// unless others are asked for.
const ATTRIBUTES: &[Attribute] = &[
    ("name", |task, _| Some(task.name.as_str().into())),
    ("rate_limit", |task, _| Some(task.rate_limit.as_deref()?.into())),
    ("max_retries", |task, _| match task.max_retries() {
        RetryLimit::AtMost(most) => Some(most.into()),
        RetryLimit::Unlimited => None,
    }),
    ("default_retry_delay", |task, _| {
        Some(seconds(task.default_retry_delay()))
    }),
    ("time_limit", |task, _| Some(seconds(task.time_limit?))),
    ("soft_time_limit", |task, _| Some(seconds(task.soft_time_limit?))),
    ("acks_late", |task, all| flag(task.acks_late, all.acks_late)),
    ("acks_on_failure", |task, all| {
        flag(task.acks_on_failure, all.acks_on_failure)
    }),
    ("acks_on_timeout", |task, all| {
        flag(task.acks_on_timeout, all.acks_on_timeout)
    }),
    ("reject_on_worker_lost", |task, all| {
        flag(task.reject_on_worker_lost, all.reject_on_worker_lost)
    }),
    ("ignore_result", |task, all| {
        flag(task.ignore_result, all.ignore_result)
    }),
    ("track_started", |task, all| {
        flag(task.track_started, all.track_started)
    }),
    ("store_errors_even_if_ignored", |task, all| {
        flag(
            task.store_errors_even_if_ignored,
            all.store_errors_even_if_ignored,
        )
    }),
    ("trail", |task, _| flag(task.trail, true)),
    ("send_events", |task, _| flag(task.send_events, true)),
    ("serializer", |task, _| {
        Some(task.serializer.as_deref().unwrap_or("json").into())
    }),
    ("compression", |task, _| Some(task.compression.as_deref()?.into())),
    ("priority", |task, _| Some(task.priority?.into())),
];

/// The attributes that are asked for, in their order and each once, however often it is named.
pub(super) fn attributes(asked: Option<&Value>) -> Vec<&'static Attribute> {
    let asked: Vec<&str> = match asked {
        Some(Value::Array(items)) if !items.is_empty() => items.iter().filter_map(Value::as_str).collect(),
        Some(Value::String(item)) if !item.is_empty() => vec![item],
        _ => vec!["rate_limit"],
    };
    let mut found: Vec<&Attribute> = Vec::new();
    for item in asked {
        let known = ATTRIBUTES.iter().find(|(name, _)| *name == item);
        if let Some(known) = known.filter(|(name, _)| found.iter().all(|(other, _)| other != name)) {
            found.push(known);
        }
    }
    found
}

/// One line; attributes that a task does not have are left out.
pub(super) fn line(definition: &Definition, attributes: &[&Attribute], defaults: &Defaults) -> String {
    let found = attributes.iter().filter_map(|(name, value)| {
        let value = value(definition, defaults)?;
        Some(format!("{name}={}", text(&value)))
    });
    let found: Vec<String> = found.collect();
    match found.is_empty() {
        true => definition.name.clone(),
        false => format!("{} [{}]", definition.name, found.join(" ")),
    }
}

fn flag(own: Option<bool>, default: bool) -> Option<Value> {
    Some(Value::from(own.unwrap_or(default)))
}

fn seconds(seconds: f64) -> Value {
    match seconds.fract() == 0.0 && seconds.abs() < 1e15 {
        true => Value::from(seconds as i64),
        false => Value::from(seconds),
    }
}

/// Python's `str`.
fn text(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        value => repr::value(value),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn only_what_a_task_has_is_shown() {
        let mut task = Definition {
            name: "proj.add".into(),
            time_limit: Some(2.5),
            ..Definition::default()
        };
        let shown =
            |task: &Definition, items: Value| line(task, &attributes(Some(&items)), &Defaults::default());
        assert_eq!(shown(&task, json!([])), "proj.add");
        assert_eq!(
            shown(&task, json!(["rate_limit", "max_retries", "default_retry_delay"])),
            "proj.add [max_retries=3 default_retry_delay=180]"
        );
        assert_eq!(
            shown(&task, json!(["time_limit", "acks_late", "_secret", "nothing"])),
            "proj.add [time_limit=2.5 acks_late=False]"
        );
        assert_eq!(shown(&task, json!(["_secret"])), "proj.add");
        task.rate_limit = Some("10/m".into());
        assert_eq!(shown(&task, json!(null)), "proj.add [rate_limit=10/m]");
        assert_eq!(shown(&task, json!("name")), "proj.add [name=proj.add]");
    }

    #[test]
    fn an_attribute_that_is_asked_for_again_is_there_once() {
        let items = json!(["name", "acks_late"].repeat(100_000));
        let names: Vec<&str> = attributes(Some(&items)).iter().map(|(name, _)| *name).collect();
        assert_eq!(names, ["name", "acks_late"]);
    }
}
