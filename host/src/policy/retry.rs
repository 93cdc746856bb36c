//! Whether a task may be retried, and how (contract section 3.6).

use serde_json::Value;

use crate::message::{JsonMap, Request, repr, request};
use crate::outcome::{Failure, Retry, RetryWhen};
use crate::policy::parameters;
use crate::task::{Definition, RetryLimit};

/// The longest wait a task may ask for: a year, in seconds.
pub const LONGEST_COUNTDOWN: f64 = 365.0 * 24.0 * 3600.0;

/// What a task asked for with `retry`; everything that is `None` stays as it was.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Asked {
    /// New positional arguments, a JSON list.
    pub args: Option<String>,
    /// New keyword arguments, a JSON map.
    pub kwargs: Option<String>,
    /// Seconds from now. Without it and `eta`: the task's `default_retry_delay`.
    pub countdown: Option<f64>,
    /// ISO 8601; `countdown` is then ignored.
    pub eta: Option<String>,
    /// A new expiry, ISO 8601.
    pub expires: Option<String>,
    /// The limit for this retry instead of the task's `max_retries`.
    pub max_retries: Option<RetryLimit>,
    /// The error that made the retry necessary.
    pub exc: Option<Failure>,
    /// Other options of `apply_async`, a JSON map; `expires` is here in seconds from now.
    pub options: Option<String>,
}

/// Why a retry was not accepted.
#[derive(Debug, Clone, PartialEq)]
pub enum Refusal {
    /// The limit is reached; the task ends with this failure.
    MaxRetriesExceeded(Failure),
    /// A value is malformed; the text says which.
    Invalid(String),
    /// This worker cannot do it; the text says what.
    NotSupported(String),
}

/// Decides about a retry that a task asked for.
pub fn accept(request: &Request, definition: &Definition, asked: Asked) -> Result<Retry, Refusal> {
    asked.args.as_deref().map(|text| list("args", text)).transpose()?;
    asked
        .kwargs
        .as_deref()
        .map(|text| map("kwargs", text))
        .transpose()?;
    let options = match asked.options.as_deref() {
        Some(text) => map("options", text)?,
        None => JsonMap::new(),
    };
    check_options(&options)?;
    let when = when(definition, asked.countdown, asked.eta)?;
    let expires = asked.expires.map(|text| time("expires", text)).transpose()?;

    let inherited = parameters::inherit(
        definition.signature.as_deref(),
        (request.body.args.get(), request.body.kwargs.get()),
        (asked.args, asked.kwargs),
    );
    let (args, kwargs) = inherited;

    let limit = asked.max_retries.unwrap_or_else(|| definition.max_retries());
    if let RetryLimit::AtMost(limit) = limit
        && request.retries >= limit
    {
        let failure = asked
            .exc
            .unwrap_or_else(|| exceeded(request, args.as_deref(), kwargs.as_deref()));
        return Err(Refusal::MaxRetriesExceeded(failure));
    }
    Ok(Retry {
        args: args.map(String::into_boxed_str),
        kwargs: kwargs.map(String::into_boxed_str),
        when,
        expires,
        exc: asked.exc,
        options,
    })
}

/// Celery's words when the limit is reached and the task named no error of its own.
fn exceeded(request: &Request, args: Option<&str>, kwargs: Option<&str>) -> Failure {
    let args = list("args", args.unwrap_or(request.body.args.get()))
        .map_or_else(|_| "?".into(), |args| repr::args(&args));
    let kwargs = map("kwargs", kwargs.unwrap_or(request.body.kwargs.get()))
        .map_or_else(|_| "?".into(), |kwargs| repr::value(&Value::Object(kwargs)));
    Failure::new(
        "celery.exceptions",
        "MaxRetriesExceededError",
        format!(
            "Can't retry {}[{}] args:{args} kwargs:{kwargs}",
            request.task, request.id
        ),
    )
}

fn when(definition: &Definition, countdown: Option<f64>, eta: Option<String>) -> Result<RetryWhen, Refusal> {
    // As in Python, an empty text is no ETA.
    if let Some(eta) = eta.filter(|eta| !eta.is_empty()) {
        return time("eta", eta).map(RetryWhen::Eta);
    }
    let countdown = countdown.unwrap_or_else(|| definition.default_retry_delay());
    if !countdown.is_finite() {
        return Err(Refusal::Invalid(format!(
            "countdown: {countdown} is not a number of seconds"
        )));
    }
    Ok(RetryWhen::Countdown(countdown.clamp(0.0, LONGEST_COUNTDOWN)))
}

/// The options a retry may change. An option this worker does not know is refused, not dropped.
fn check_options(options: &JsonMap) -> Result<(), Refusal> {
    for (name, value) in options {
        let fine = match name.as_str() {
            // Which queues a component may send to is a grant, and a retry is no way around it.
            "queue" | "exchange" | "routing_key" => {
                return Err(Refusal::NotSupported(format!(
                    "a retry goes back to its own queue; this worker does not grant {name:?} yet"
                )));
            }
            "shadow" => value.is_string() || value.is_null(),
            "priority" => value.is_null() || value.as_u64().is_some_and(|priority| priority <= 9),
            "time_limit" | "soft_time_limit" | "expires" => {
                value.is_null()
                    || value
                        .as_f64()
                        .is_some_and(|seconds| seconds.is_finite() && seconds >= 0.0)
            }
            "ignore_result" => value.is_boolean() || value.is_null(),
            "headers" => value.is_object() || value.is_null(),
            _ => {
                return Err(Refusal::NotSupported(format!(
                    "the option {name:?} of a retry is not supported by this worker"
                )));
            }
        };
        if !fine {
            return Err(Refusal::Invalid(format!("options: {name:?} cannot be {value}")));
        }
    }
    Ok(())
}

fn time(name: &str, text: String) -> Result<String, Refusal> {
    match request::parse_time(&text) {
        Some(_) => Ok(text),
        None => Err(Refusal::Invalid(format!(
            "{name}: {text:?} is not an ISO 8601 time"
        ))),
    }
}

fn list(name: &str, text: &str) -> Result<Vec<Value>, Refusal> {
    serde_json::from_str(text).map_err(|error| Refusal::Invalid(format!("{name}: not a JSON list: {error}")))
}

fn map(name: &str, text: &str) -> Result<JsonMap, Refusal> {
    serde_json::from_str(text).map_err(|error| Refusal::Invalid(format!("{name}: not a JSON map: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::{Message, Properties, Route};
    use serde_json::json;

    fn request(retries: u32, args: &str, kwargs: &str) -> Request {
        let headers = json!({"task": "proj.retry_exhaust", "id": "0b0b", "retries": retries});
        let message = Message {
            headers: headers.as_object().cloned(),
            properties: Properties {
                content_type: Some("application/json".into()),
                ..Properties::default()
            },
            body: format!("[{args}, {kwargs}, null]").into_bytes(),
        };
        request::decode(
            message,
            Route::to_queue("celery"),
            false,
            &["application/json".into()],
        )
        .unwrap()
    }

    fn definition(max_retries: Option<RetryLimit>) -> Definition {
        Definition {
            max_retries,
            ..Definition::default()
        }
    }

    #[test]
    fn the_limit_counts_from_the_first_retry() {
        let three = definition(None);
        assert!(accept(&request(2, "[]", "{}"), &three, Asked::default()).is_ok());
        let refusal = accept(&request(3, "[]", "{}"), &three, Asked::default()).unwrap_err();
        assert_eq!(
            refusal,
            Refusal::MaxRetriesExceeded(Failure::new(
                "celery.exceptions",
                "MaxRetriesExceededError",
                "Can't retry proj.retry_exhaust[0b0b] args:() kwargs:{}"
            ))
        );
        let forever = definition(Some(RetryLimit::Unlimited));
        assert!(accept(&request(u32::MAX, "[]", "{}"), &forever, Asked::default()).is_ok());
        let asked = Asked {
            max_retries: Some(RetryLimit::AtMost(0)),
            ..Asked::default()
        };
        assert!(accept(&request(0, "[]", "{}"), &forever, asked).is_err());
    }

    #[test]
    fn the_error_shows_the_arguments_as_python_prints_them() {
        let text = |asked| match accept(&request(0, "[1]", r#"{"a": "b"}"#), &definition(None), asked) {
            Err(Refusal::MaxRetriesExceeded(failure)) => failure.exc_args[0].clone(),
            other => panic!("{other:?}"),
        };
        let none = Asked {
            max_retries: Some(RetryLimit::AtMost(0)),
            ..Asked::default()
        };
        assert_eq!(
            text(none.clone()),
            "Can't retry proj.retry_exhaust[0b0b] args:(1,) kwargs:{'a': 'b'}"
        );
        let changed = Asked {
            args: Some("[2, 3]".into()),
            kwargs: Some("{}".into()),
            ..none
        };
        assert_eq!(
            text(changed),
            "Can't retry proj.retry_exhaust[0b0b] args:(2, 3) kwargs:{}"
        );
    }

    #[test]
    fn the_tasks_own_error_is_the_failure_at_the_limit() {
        let own = Failure::new("builtins", "ConnectionError", "down");
        let asked = Asked {
            exc: Some(own.clone()),
            ..Asked::default()
        };
        assert_eq!(
            accept(&request(3, "[]", "{}"), &definition(None), asked.clone()),
            Err(Refusal::MaxRetriesExceeded(own.clone()))
        );
        assert_eq!(
            accept(&request(0, "[]", "{}"), &definition(None), asked)
                .unwrap()
                .exc,
            Some(own)
        );
    }

    #[test]
    fn a_time_before_a_countdown_before_the_default() {
        let when = |countdown, eta: Option<&str>| {
            let asked = Asked {
                countdown,
                eta: eta.map(str::to_owned),
                ..Asked::default()
            };
            accept(&request(0, "[]", "{}"), &definition(None), asked).map(|retry| retry.when)
        };
        assert_eq!(when(None, None), Ok(RetryWhen::Countdown(180.0)));
        assert_eq!(when(Some(0.0), None), Ok(RetryWhen::Countdown(0.0)));
        assert_eq!(when(Some(-5.0), None), Ok(RetryWhen::Countdown(0.0)));
        assert_eq!(
            when(Some(1e300), None),
            Ok(RetryWhen::Countdown(LONGEST_COUNTDOWN))
        );
        assert!(matches!(when(Some(f64::NAN), None), Err(Refusal::Invalid(_))));
        assert_eq!(
            when(Some(9.0), Some("2030-01-01T00:00:00+00:00")),
            Ok(RetryWhen::Eta("2030-01-01T00:00:00+00:00".into()))
        );
        assert!(matches!(when(None, Some("soon")), Err(Refusal::Invalid(_))));
    }

    #[test]
    fn malformed_values_and_unknown_options_are_refused() {
        let refused = |asked: Asked| accept(&request(0, "[]", "{}"), &definition(None), asked).unwrap_err();
        let args = Asked {
            args: Some("{}".into()),
            ..Asked::default()
        };
        assert!(matches!(refused(args), Refusal::Invalid(text) if text.starts_with("args:")));
        let deep = Asked {
            kwargs: Some(format!("{{\"a\": {}{}}}", "[".repeat(5000), "]".repeat(5000))),
            ..Asked::default()
        };
        assert!(matches!(refused(deep), Refusal::Invalid(text) if text.starts_with("kwargs:")));
        let with = |options: &str| Asked {
            options: Some(options.into()),
            ..Asked::default()
        };
        assert!(matches!(
            refused(with(r#"{"link": []}"#)),
            Refusal::NotSupported(_)
        ));
        assert!(matches!(
            refused(with(r#"{"priority": 12}"#)),
            Refusal::Invalid(_)
        ));
        let elsewhere = refused(with(r#"{"queue": "slow"}"#));
        assert!(matches!(elsewhere, Refusal::NotSupported(text) if text.contains("\"queue\"")));
        let sooner = with(r#"{"priority": 9, "time_limit": 5}"#);
        assert!(accept(&request(0, "[]", "{}"), &definition(None), sooner).is_ok());
    }
}
