//! What `registered` says of a task: its name and the attributes that are asked for, as Python shows them.

use serde_json::Value;

use crate::message::repr;
use crate::policy::admit::Defaults;
use crate::task::{Definition, RetryLimit};

/// One line; attributes that a task does not have are left out.
pub(super) fn line(definition: &Definition, items: &[&str], defaults: &Defaults) -> String {
    let items = match items {
        [] => &["exchange", "routing_key", "rate_limit"],
        items => items,
    };
    let found = items.iter().filter_map(|item| {
        let value = attribute(definition, item, defaults)?;
        Some(format!("{item}={}", text(&value)))
    });
    let found: Vec<String> = found.collect();
    match found.is_empty() {
        true => definition.name.clone(),
        false => format!("{} [{}]", definition.name, found.join(" ")),
    }
}

fn attribute(definition: &Definition, name: &str, defaults: &Defaults) -> Option<Value> {
    let flag = |own: Option<bool>, default: bool| Some(Value::from(own.unwrap_or(default)));
    let seconds = |seconds: f64| match seconds.fract() == 0.0 && seconds.abs() < 1e15 {
        true => Value::from(seconds as i64),
        false => Value::from(seconds),
    };
    match name {
        "name" => Some(definition.name.as_str().into()),
        "rate_limit" => Some(definition.rate_limit.as_deref()?.into()),
        "max_retries" => match definition.max_retries() {
            RetryLimit::AtMost(most) => Some(most.into()),
            RetryLimit::Unlimited => None,
        },
        "default_retry_delay" => Some(seconds(definition.default_retry_delay())),
        "time_limit" => Some(seconds(definition.time_limit?)),
        "soft_time_limit" => Some(seconds(definition.soft_time_limit?)),
        "acks_late" => flag(definition.acks_late, defaults.acks_late),
        "acks_on_failure" => flag(definition.acks_on_failure, defaults.acks_on_failure),
        "acks_on_timeout" => flag(definition.acks_on_timeout, defaults.acks_on_timeout),
        "reject_on_worker_lost" => flag(definition.reject_on_worker_lost, defaults.reject_on_worker_lost),
        "ignore_result" => flag(definition.ignore_result, defaults.ignore_result),
        "track_started" => flag(definition.track_started, defaults.track_started),
        "store_errors_even_if_ignored" => flag(
            definition.store_errors_even_if_ignored,
            defaults.store_errors_even_if_ignored,
        ),
        "trail" => flag(definition.trail, true),
        "send_events" => flag(definition.send_events, true),
        "serializer" => Some(definition.serializer.as_deref().unwrap_or("json").into()),
        "compression" => Some(definition.compression.as_deref()?.into()),
        "priority" => Some(definition.priority?.into()),
        _ => None,
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
    use super::*;

    #[test]
    fn only_what_a_task_has_is_shown() {
        let mut task = Definition {
            name: "proj.add".into(),
            time_limit: Some(2.5),
            ..Definition::default()
        };
        let shown = |task: &Definition, items: &[&str]| line(task, items, &Defaults::default());
        assert_eq!(shown(&task, &[]), "proj.add");
        assert_eq!(
            shown(&task, &["rate_limit", "max_retries", "default_retry_delay"]),
            "proj.add [max_retries=3 default_retry_delay=180]"
        );
        assert_eq!(
            shown(&task, &["time_limit", "acks_late", "_secret", "nothing"]),
            "proj.add [time_limit=2.5 acks_late=False]"
        );
        task.rate_limit = Some("10/m".into());
        assert_eq!(shown(&task, &[]), "proj.add [rate_limit=10/m]");
    }
}
