//! `task_annotations`: options of tasks by name or for all, over those that components declare.

use std::collections::BTreeMap;

use toml::{Table, Value};

use super::rate::Rate;
use crate::nearest::nearest;
use crate::task::{Definition, RetryLimit};

/// The options that can be annotated.
const OPTIONS: [&str; 19] = [
    "acks_late",
    "acks_on_failure",
    "acks_on_failure_or_timeout",
    "acks_on_timeout",
    "compression",
    "default_retry_delay",
    "ignore_result",
    "max_retries",
    "priority",
    "rate_limit",
    "reject_on_worker_lost",
    "retry_on_worker_lost",
    "send_events",
    "serializer",
    "soft_time_limit",
    "store_errors_even_if_ignored",
    "time_limit",
    "track_started",
    "trail",
];

/// Finds every option that is unknown, and every value that makes no sense.
pub fn check(annotations: &BTreeMap<String, Table>) -> Vec<String> {
    let mut wrong = Vec::new();
    for (task, options) in annotations {
        for (option, value) in options {
            if !OPTIONS.contains(&option.as_str()) {
                wrong.push(match nearest(option, OPTIONS.into_iter()) {
                    Some(near) => {
                        format!("task_annotations: {task}: unknown option {option}; did you mean {near}?")
                    }
                    None => format!(
                        "task_annotations: {task}: unknown option {option}; there are {}",
                        OPTIONS.join(", ")
                    ),
                });
            } else if set(&mut Definition::default(), option, value).is_none() {
                wrong.push(format!(
                    "task_annotations: {task}: {option} cannot be {}",
                    shown(value)
                ));
            }
        }
    }
    wrong
}

/// The definition with its annotations: those for `*`, and over them those for its name.
pub fn annotate(definition: &Definition, annotations: &BTreeMap<String, Table>) -> Definition {
    let mut annotated = definition.clone();
    for options in ["*", &definition.name]
        .iter()
        .filter_map(|name| annotations.get(*name))
    {
        // The setting for both comes first, so that the narrower ones count.
        let (both, rest): (Vec<_>, Vec<_>) = options
            .iter()
            .partition(|(option, _)| *option == "acks_on_failure_or_timeout");
        for (option, value) in both.into_iter().chain(rest) {
            // What makes no sense was reported at start.
            let _ = set(&mut annotated, option, value);
        }
    }
    annotated
}

/// Sets one option; `None` when the value makes no sense.
fn set(definition: &mut Definition, option: &str, value: &Value) -> Option<()> {
    let boolean = || value.as_bool().map(Some);
    let seconds = || {
        let seconds = value
            .as_float()
            .or_else(|| value.as_integer().map(|n| n as f64))?;
        (seconds.is_finite() && seconds >= 0.0).then_some(Some(seconds))
    };
    let text = || value.as_str().map(|text| Some(text.to_owned()));
    match option {
        "acks_late" => definition.acks_late = boolean()?,
        "acks_on_failure" => definition.acks_on_failure = boolean()?,
        "acks_on_timeout" => definition.acks_on_timeout = boolean()?,
        "acks_on_failure_or_timeout" => {
            definition.acks_on_failure = boolean()?;
            definition.acks_on_timeout = boolean()?;
        }
        "reject_on_worker_lost" => definition.reject_on_worker_lost = boolean()?,
        "retry_on_worker_lost" => definition.retry_on_worker_lost = boolean()?,
        "ignore_result" => definition.ignore_result = boolean()?,
        "store_errors_even_if_ignored" => definition.store_errors_even_if_ignored = boolean()?,
        "track_started" => definition.track_started = boolean()?,
        "trail" => definition.trail = boolean()?,
        "send_events" => definition.send_events = boolean()?,
        "default_retry_delay" => definition.default_retry_delay = seconds()?,
        // As in Python, a limit of 0 is none.
        "time_limit" => definition.time_limit = seconds()?.filter(|seconds| *seconds > 0.0),
        "soft_time_limit" => definition.soft_time_limit = seconds()?.filter(|seconds| *seconds > 0.0),
        "max_retries" => {
            let most = u32::try_from(value.as_integer()?).ok()?;
            definition.max_retries = Some(RetryLimit::AtMost(most));
        }
        "priority" => {
            let priority = u8::try_from(value.as_integer()?).ok()?;
            definition.priority = (priority <= 9).then_some(Some(priority))?;
        }
        "rate_limit" => definition.rate_limit = Some(rate(value)?),
        "serializer" => definition.serializer = text()?,
        "compression" => definition.compression = text()?,
        _ => return None,
    }
    Some(())
}

/// A value of a setting, for an error.
pub fn shown(value: &Value) -> String {
    serde_json::to_string(value).unwrap_or_default()
}

/// A rate limit as TOML has it, a text or a number per second, as text.
pub fn rate(value: &Value) -> Option<String> {
    let text = match value {
        Value::String(text) => text.clone(),
        Value::Integer(number) => number.to_string(),
        Value::Float(number) => number.to_string(),
        _ => return None,
    };
    Rate::parse(&text).map(|_| text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn annotations(text: &str) -> BTreeMap<String, Table> {
        toml::from_str(text).unwrap()
    }

    #[test]
    fn a_name_counts_over_the_star_and_both_over_the_component() {
        let annotations = annotations(
            "'*' = { rate_limit = '10/s', acks_late = true, time_limit = 0 }\n'proj.add' = { rate_limit = 5, max_retries = 7 }",
        );
        let declared = |name: &str| Definition {
            name: name.into(),
            rate_limit: Some("1/h".into()),
            time_limit: Some(3.0),
            ..Definition::default()
        };
        let add = annotate(&declared("proj.add"), &annotations);
        assert_eq!(add.rate_limit.as_deref(), Some("5"));
        assert_eq!(
            (add.acks_late, add.max_retries),
            (Some(true), Some(RetryLimit::AtMost(7)))
        );
        assert_eq!(add.time_limit, None);
        let mul = annotate(&declared("proj.mul"), &annotations);
        assert_eq!((mul.rate_limit.as_deref(), mul.max_retries), (Some("10/s"), None));
    }

    #[test]
    fn the_narrower_ack_option_counts() {
        let annotations = annotations("'*' = { acks_on_timeout = true, acks_on_failure_or_timeout = false }");
        let annotated = annotate(&Definition::default(), &annotations);
        assert_eq!(
            (annotated.acks_on_failure, annotated.acks_on_timeout),
            (Some(false), Some(true))
        );
    }

    #[test]
    fn what_makes_no_sense_is_reported() {
        let annotations = annotations(
            "'*' = { rate_limit = '10/d', name = 'x' }\n'a' = { time_limt = 3, priority = 10, max_retries = -1 }",
        );
        let wrong = check(&annotations);
        assert_eq!(wrong.len(), 5, "{wrong:?}");
        let all = wrong.join("\n");
        assert!(all.contains("did you mean time_limit?"), "{all}");
        assert!(all.contains("unknown option name"), "{all}");
        assert!(all.contains("rate_limit cannot be \"10/d\""), "{all}");
    }
}
