//! What holds for one run: the message's options, else the task's, else the worker's (contract sections 3.2 to 3.11).

use std::time::Duration;

use jiff::Timestamp;

use crate::message::content::compression::Compression;
use crate::message::content::{Reader, Serializer, Writer};
use crate::message::{Request, request};
use crate::task::{Definition, RetryLimit};

/// The longest time limit or wait, seconds: what is longer counts as this.
const LONGEST_SECONDS: f64 = 366.0 * 24.0 * 3600.0;

/// The worker's settings where neither message nor task says otherwise.
#[derive(Debug, Clone)]
pub struct Defaults {
    /// `accept_content`, `limits.body` and `security_*`: how bodies are read.
    pub reader: Reader,
    /// `task_serializer` and `task_compression`: how bodies are written.
    pub writer: Writer,
    /// `task_acks_late`.
    pub acks_late: bool,
    /// `task_acks_on_failure`, after its fallback.
    pub acks_on_failure: bool,
    /// `task_acks_on_timeout`, after its fallback.
    pub acks_on_timeout: bool,
    /// `task_reject_on_worker_lost`.
    pub reject_on_worker_lost: bool,
    /// `task_retry_on_worker_lost`.
    pub retry_on_worker_lost: bool,
    /// `task_ignore_result`.
    pub ignore_result: bool,
    /// `task_store_errors_even_if_ignored`.
    pub store_errors_even_if_ignored: bool,
    /// `task_track_started`.
    pub track_started: bool,
    /// `task_time_limit`, seconds.
    pub time_limit: Option<f64>,
    /// `task_soft_time_limit`, seconds.
    pub soft_time_limit: Option<f64>,
    /// `limits.time`, seconds: no run is longer, whatever its message and its component say.
    pub longest: Option<f64>,
}

/// Celery's own defaults (contract section 8.6).
impl Default for Defaults {
    fn default() -> Self {
        Self {
            reader: Reader::default(),
            writer: Writer::default(),
            acks_late: false,
            acks_on_failure: true,
            acks_on_timeout: true,
            reject_on_worker_lost: false,
            retry_on_worker_lost: false,
            ignore_result: false,
            store_errors_even_if_ignored: false,
            track_started: false,
            time_limit: None,
            soft_time_limit: None,
            longest: None,
        }
    }
}

/// What holds for one run.
#[derive(Debug, Clone, PartialEq)]
pub struct Plan {
    /// Acknowledge after the run.
    pub acks_late: bool,
    /// With late acks: acknowledge a failed task, else reject it.
    pub acks_on_failure: bool,
    /// With late acks: acknowledge a task that ran into its hard limit, else put it back.
    pub acks_on_timeout: bool,
    /// With late acks: put the message back when the sandbox failed.
    pub reject_on_worker_lost: bool,
    /// Send the task again, after so many seconds, when the sandbox failed.
    pub retry_on_worker_lost: Option<f64>,
    /// List the tasks that this one sent (`children`).
    pub trail: bool,
    /// Store no state of a run that succeeds.
    pub ignore_result: bool,
    /// Store errors all the same.
    pub store_errors: bool,
    /// Store STARTED.
    pub track_started: bool,
    /// Hard limit, seconds.
    pub time_limit: Option<f64>,
    /// Soft limit, seconds.
    pub soft_time_limit: Option<f64>,
    /// How a message that it sends is written.
    pub writer: Writer,
}

/// Settles every option of a run. Each of the two time limits falls back separately (contract section 3.7).
pub fn plan(request: &Request, definition: &Definition, defaults: &Defaults) -> Plan {
    let ignore_result = request
        .ignore_result
        .or(definition.ignore_result)
        .unwrap_or(defaults.ignore_result);
    let store_errors = definition
        .store_errors_even_if_ignored
        .unwrap_or(defaults.store_errors_even_if_ignored);
    // A retry that would be one too many is none, and then the message does not go back for ever either.
    let exhausted = match definition.max_retries() {
        RetryLimit::AtMost(most) => request.retries >= most,
        RetryLimit::Unlimited => false,
    };
    let retried = definition
        .retry_on_worker_lost
        .unwrap_or(defaults.retry_on_worker_lost);
    let rejected = definition
        .reject_on_worker_lost
        .unwrap_or(defaults.reject_on_worker_lost);
    Plan {
        acks_late: definition.acks_late.unwrap_or(defaults.acks_late),
        acks_on_failure: definition.acks_on_failure.unwrap_or(defaults.acks_on_failure),
        acks_on_timeout: definition.acks_on_timeout.unwrap_or(defaults.acks_on_timeout),
        reject_on_worker_lost: rejected && !(retried && exhausted),
        retry_on_worker_lost: (retried && !exhausted).then(|| definition.default_retry_delay()),
        trail: definition.trail.unwrap_or(true),
        ignore_result,
        store_errors: !ignore_result || store_errors,
        track_started: definition.track_started.unwrap_or(defaults.track_started) && !ignore_result,
        time_limit: match (
            request
                .time_limit
                .or(definition.time_limit)
                .or(defaults.time_limit),
            defaults.longest,
        ) {
            (Some(asked), Some(longest)) => Some(asked.min(longest)),
            (asked, longest) => asked.or(longest),
        },
        soft_time_limit: request
            .soft_time_limit
            .or(definition.soft_time_limit)
            .or(defaults.soft_time_limit),
        writer: writer(definition, &defaults.writer),
    }
}

/// A serializer or compression that the task names wrongly is as if it named none.
fn writer(definition: &Definition, default: &Writer) -> Writer {
    let serializer = definition.serializer.as_deref().and_then(Serializer::named);
    let compression = definition.compression.as_deref().and_then(Compression::named);
    Writer {
        serializer: serializer.unwrap_or(default.serializer),
        compression: compression.or(default.compression),
        signer: default.signer.clone(),
    }
}

/// When a request may run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Admission {
    /// Now.
    Run,
    /// Not before this time (contract section 3.4).
    Hold(Timestamp),
    /// Never: it came too late (contract section 3.3).
    Expired,
    /// Never: its ETA is no time that Python could count to (the table of contract section 1.1).
    Overflow,
}

/// Decides when a request may run.
pub fn admit(request: &Request, now: Timestamp) -> Admission {
    if request.expires.is_some_and(|expires| now > expires) {
        return Admission::Expired;
    }
    match request.eta {
        Some(_) if eta_overflows(request) => Admission::Overflow,
        Some(eta) if eta > now => Admission::Hold(eta),
        _ => Admission::Run,
    }
}

fn eta_overflows(request: &Request) -> bool {
    let text = request.header("eta").and_then(serde_json::Value::as_str);
    text.is_some_and(request::time_overflows)
}

/// A number of seconds as a duration; what is not a positive number is none.
pub fn seconds(seconds: Option<f64>) -> Option<Duration> {
    let seconds = seconds.filter(|s| s.is_finite() && *s > 0.0)?;
    Duration::try_from_secs_f64(seconds.min(LONGEST_SECONDS)).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_limit_falls_back_separately_and_none_is_above_the_workers_own() {
        let request = crate::message::request::fixture::request(serde_json::json!({"timelimit": [30, null]}));
        let definition = Definition {
            time_limit: Some(20.0),
            soft_time_limit: Some(10.0),
            ..Definition::default()
        };
        let limits = |longest| {
            let defaults = Defaults {
                longest,
                ..Defaults::default()
            };
            let plan = plan(&request, &definition, &defaults);
            (plan.time_limit, plan.soft_time_limit)
        };
        assert_eq!(limits(None), (Some(30.0), Some(10.0)));
        assert_eq!(limits(Some(5.0)), (Some(5.0), Some(10.0)));
        assert_eq!(limits(Some(60.0)), (Some(30.0), Some(10.0)));
    }

    #[test]
    fn an_eta_that_no_clock_reaches_is_an_overflow_and_a_past_one_is_now() {
        let now = "2026-11-21T10:00:00Z".parse().unwrap();
        let admission = |eta: &str| {
            let request = crate::message::request::fixture::request(serde_json::json!({"eta": eta}));
            admit(&request, now)
        };
        assert_eq!(admission("2026-11-21T09:59:59+00:00"), Admission::Run);
        assert!(matches!(
            admission("2026-11-21T10:00:01+00:00"),
            Admission::Hold(_)
        ));
        assert!(matches!(
            admission("9999-12-31T23:59:59.999999+00:00"),
            Admission::Hold(_)
        ));
        assert_eq!(admission("9999-12-31T23:59:59-01:00"), Admission::Overflow);
        assert_eq!(admission("0001-01-01T00:00:00+01:00"), Admission::Overflow);
    }

    /// Celery neither retries nor puts back a task whose sandbox fails again and again.
    #[test]
    fn a_lost_task_is_retried_as_often_as_its_limit_allows() {
        let definition = Definition {
            retry_on_worker_lost: Some(true),
            reject_on_worker_lost: Some(true),
            default_retry_delay: Some(9.0),
            ..Definition::default()
        };
        let lost = |retries: u32| {
            let request = crate::message::request::fixture::request(serde_json::json!({"retries": retries}));
            let plan = plan(&request, &definition, &Defaults::default());
            (plan.retry_on_worker_lost, plan.reject_on_worker_lost)
        };
        assert_eq!(lost(2), (Some(9.0), true));
        assert_eq!(lost(3), (None, false));
    }

    #[test]
    fn a_limit_that_is_no_positive_number_is_none() {
        assert_eq!(seconds(Some(1.5)), Some(Duration::from_millis(1500)));
        assert_eq!(seconds(Some(1e300)), Some(Duration::from_secs(366 * 24 * 3600)));
        for none in [None, Some(0.0), Some(-1.0), Some(f64::NAN), Some(f64::INFINITY)] {
            assert_eq!(seconds(none), None, "{none:?}");
        }
    }
}
