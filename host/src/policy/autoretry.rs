//! Retries that the worker makes by itself (contract section 3.6, `autoretry_for`).

use crate::message::Request;
use crate::outcome::{Failure, Outcome};
use crate::policy::retry::{self, Asked, Refusal};
use crate::task::{Autoretry, Definition};

/// The outcome of a run after its automatic retries: a failure that the task's definition lists becomes a retry, or,
/// when there were too many, stays what it is. `random` gives any number, for the
/// jitter.
pub fn apply(
    request: &Request,
    definition: &Definition,
    outcome: Outcome,
    random: impl FnOnce() -> u64,
) -> Outcome {
    let (Some(autoretry), Outcome::Failure(failure)) = (&definition.autoretry, &outcome) else {
        return outcome;
    };
    if !covers(autoretry, failure) {
        return outcome;
    }
    let asked = Asked {
        countdown: match autoretry.backoff {
            Some(factor) => Some(countdown(autoretry, factor, request.retries, random()).into()),
            None => autoretry.countdown,
        },
        max_retries: autoretry.max_retries,
        exc: Some(failure.clone()),
        ..Asked::default()
    };
    match retry::accept(request, definition, asked) {
        Ok(retry) => Outcome::Retry(Box::new(retry)),
        Err(Refusal::MaxRetriesExceeded(failure)) => Outcome::Failure(failure),
        // A definition's own numbers were checked when it was loaded.
        Err(Refusal::Invalid(_) | Refusal::NotSupported(_)) => outcome,
    }
}

/// Seconds to wait: `factor × 2^retries`, at most `retry_backoff_max`; with jitter a random whole number up to that.
fn countdown(autoretry: &Autoretry, factor: u32, retries: u32, random: u64) -> u32 {
    let doubled = 2_u32.saturating_pow(retries);
    let longest = factor.saturating_mul(doubled).min(autoretry.backoff_max);
    if !autoretry.jitter {
        return longest;
    }
    u32::try_from(random % (u64::from(longest) + 1)).unwrap_or(longest)
}

fn covers(autoretry: &Autoretry, failure: &Failure) -> bool {
    let any = |names: &[String]| names.iter().any(|name| is_a(&failure.exc_type, name));
    any(&autoretry.retry_for) && !any(&autoretry.except_for)
}

/// Whether an exception would be caught by `except name`: it is that class, or derived from it among Python's own.
fn is_a(class: &str, name: &str) -> bool {
    let name = canonical(name);
    let mut class = canonical(class);
    loop {
        if class == name {
            return true;
        }
        match base(class) {
            Some(base) => class = base,
            None => return false,
        }
    }
}

/// Other names of one class.
fn canonical(name: &str) -> &str {
    match name {
        "IOError" | "EnvironmentError" => "OSError",
        name => name,
    }
}

/// The base class of an exception, in Python's `builtins`; every other one is an `Exception`.
fn base(class: &str) -> Option<&'static str> {
    Some(match class {
        "BaseException" => return None,
        "Exception" | "SystemExit" | "KeyboardInterrupt" | "GeneratorExit" => "BaseException",
        "FloatingPointError" | "OverflowError" | "ZeroDivisionError" => "ArithmeticError",
        "ModuleNotFoundError" => "ImportError",
        "IndexError" | "KeyError" => "LookupError",
        "UnboundLocalError" => "NameError",
        "BlockingIOError" | "ChildProcessError" | "ConnectionError" | "FileExistsError"
        | "FileNotFoundError" | "InterruptedError" | "IsADirectoryError" | "NotADirectoryError"
        | "PermissionError" | "ProcessLookupError" | "TimeoutError" => "OSError",
        "BrokenPipeError" | "ConnectionAbortedError" | "ConnectionRefusedError" | "ConnectionResetError" => {
            "ConnectionError"
        }
        "NotImplementedError" | "RecursionError" => "RuntimeError",
        "IndentationError" => "SyntaxError",
        "TabError" => "IndentationError",
        "UnicodeError" => "ValueError",
        "UnicodeDecodeError" | "UnicodeEncodeError" | "UnicodeTranslateError" => "UnicodeError",
        _ => "Exception",
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::request::fixture::request;
    use crate::outcome::RetryWhen;
    use crate::task::RetryLimit;
    use serde_json::json;

    fn autoretry(retry_for: &[&str], except_for: &[&str]) -> Autoretry {
        let owned = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        Autoretry {
            retry_for: owned(retry_for),
            except_for: owned(except_for),
            backoff: None,
            backoff_max: 600,
            jitter: false,
            countdown: None,
            max_retries: None,
        }
    }

    #[test]
    fn a_class_stands_for_those_derived_from_it() {
        for (class, name, caught) in [
            ("ConnectionRefusedError", "ConnectionError", true),
            ("ConnectionRefusedError", "OSError", true),
            ("ConnectionRefusedError", "IOError", true),
            ("IOError", "OSError", true),
            ("ConnectionError", "ConnectionRefusedError", false),
            ("KeyError", "LookupError", true),
            ("UnicodeDecodeError", "ValueError", true),
            ("CardDeclined", "Exception", true),
            ("CardDeclined", "CardDeclined", true),
            ("CardDeclined", "ValueError", false),
            ("SystemExit", "Exception", false),
            ("SystemExit", "BaseException", true),
        ] {
            assert_eq!(is_a(class, name), caught, "{class} {name}");
        }
        let listed = autoretry(&["LookupError"], &["KeyError"]);
        let fails_with = |class| covers(&listed, &Failure::new("builtins", class, "x"));
        assert!(fails_with("IndexError") && !fails_with("KeyError") && !fails_with("OSError"));
    }

    #[test]
    fn the_wait_doubles_up_to_its_maximum_and_jitter_is_anything_below() {
        let plain = autoretry(&[], &[]);
        let waits: Vec<u32> = [0, 1, 2, 7, 8, 40]
            .map(|retries| countdown(&plain, 3, retries, 0))
            .to_vec();
        assert_eq!(waits, [3, 6, 12, 384, 600, 600]);
        let jitter = Autoretry {
            jitter: true,
            ..plain
        };
        assert_eq!(
            [6, 7, 13].map(|random| countdown(&jitter, 3, 1, random)),
            [6, 0, 6]
        );
        assert!(countdown(&jitter, u32::MAX, u32::MAX, u64::MAX) <= 600);
    }

    #[test]
    fn a_listed_failure_becomes_a_retry_until_there_were_too_many() {
        let failure = || Outcome::Failure(Failure::new("builtins", "TimeoutError", "slow"));
        let ends = |retries: u32, autoretry: Autoretry, outcome: Outcome| {
            let definition = Definition {
                autoretry: Some(autoretry),
                max_retries: Some(RetryLimit::AtMost(2)),
                default_retry_delay: Some(7.0),
                ..Definition::default()
            };
            apply(&request(json!({"retries": retries})), &definition, outcome, || 0)
        };
        let when = |outcome| match outcome {
            Outcome::Retry(retry) => Some(retry.when),
            _ => None,
        };
        let listed = autoretry(&["OSError"], &[]);
        let wait = when(ends(1, listed.clone(), failure()));
        assert_eq!(wait, Some(RetryWhen::Countdown(7.0)));
        assert_eq!(ends(2, listed.clone(), failure()), failure());
        let own = Autoretry {
            countdown: Some(1.0),
            max_retries: Some(RetryLimit::Unlimited),
            ..listed.clone()
        };
        assert_eq!(
            when(ends(9, own.clone(), failure())),
            Some(RetryWhen::Countdown(1.0))
        );
        let backoff = Autoretry {
            backoff: Some(2),
            ..own
        };
        assert_eq!(
            when(ends(3, backoff, failure())),
            Some(RetryWhen::Countdown(16.0))
        );
        for other in [
            Outcome::Ignore,
            Outcome::Success("1".into()),
            Outcome::TimeLimit(1.0),
        ] {
            assert_eq!(ends(0, autoretry(&["Exception"], &[]), other.clone()), other);
        }
    }
}
