//! What a component declares about its tasks, in Celery's words.

/// How often a task may be retried.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RetryLimit {
    /// For ever.
    Unlimited,
    /// At most so many times.
    AtMost(u32),
}

/// Celery's default for `max_retries`.
pub const DEFAULT_MAX_RETRIES: RetryLimit = RetryLimit::AtMost(3);
/// Celery's default for `default_retry_delay`, in seconds.
pub const DEFAULT_RETRY_DELAY: f64 = 180.0;

/// One task and its options. An option that is `None` follows the worker's setting.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Definition {
    /// The name clients call.
    pub name: String,
    /// One line for people.
    pub doc: Option<String>,
    /// The parameters as Python would write them.
    pub signature: Option<String>,
    /// `max_retries`.
    pub max_retries: Option<RetryLimit>,
    /// `default_retry_delay`, seconds.
    pub default_retry_delay: Option<f64>,
    /// `rate_limit`.
    pub rate_limit: Option<String>,
    /// `soft_time_limit`, seconds.
    pub soft_time_limit: Option<f64>,
    /// `time_limit`, seconds.
    pub time_limit: Option<f64>,
    /// `acks_late`.
    pub acks_late: Option<bool>,
    /// `acks_on_failure`.
    pub acks_on_failure: Option<bool>,
    /// `acks_on_timeout`.
    pub acks_on_timeout: Option<bool>,
    /// `reject_on_worker_lost`.
    pub reject_on_worker_lost: Option<bool>,
    /// `retry_on_worker_lost`.
    pub retry_on_worker_lost: Option<bool>,
    /// `ignore_result`.
    pub ignore_result: Option<bool>,
    /// `store_errors_even_if_ignored`.
    pub store_errors_even_if_ignored: Option<bool>,
    /// `track_started`.
    pub track_started: Option<bool>,
    /// `trail`.
    pub trail: Option<bool>,
    /// `send_events`.
    pub send_events: Option<bool>,
    /// `serializer`.
    pub serializer: Option<String>,
    /// `compression`.
    pub compression: Option<String>,
    /// `priority`.
    pub priority: Option<u8>,
    /// An error callback that takes `(request, exception, traceback)`.
    pub errback: bool,
    /// Retries that the worker makes by itself.
    pub autoretry: Option<Autoretry>,
}

/// Celery's `autoretry_for` and what belongs to it (contract section 3.6).
#[derive(Debug, Clone, PartialEq)]
pub struct Autoretry {
    /// `autoretry_for`: class names.
    pub retry_for: Vec<String>,
    /// `dont_autoretry_for`: class names.
    pub except_for: Vec<String>,
    /// `retry_backoff`, seconds.
    pub backoff: Option<u32>,
    /// `retry_backoff_max`, seconds.
    pub backoff_max: u32,
    /// `retry_jitter`.
    pub jitter: bool,
    /// `retry_kwargs`' `countdown`, seconds.
    pub countdown: Option<f64>,
    /// `retry_kwargs`' `max_retries`.
    pub max_retries: Option<RetryLimit>,
}

impl Definition {
    /// How often this task may be retried.
    pub fn max_retries(&self) -> RetryLimit {
        self.max_retries.unwrap_or(DEFAULT_MAX_RETRIES)
    }

    /// Hard and soft time limit, seconds.
    pub fn limits(&self) -> (Option<f64>, Option<f64>) {
        (self.time_limit, self.soft_time_limit)
    }

    /// Seconds before a retry that names no time.
    pub fn default_retry_delay(&self) -> f64 {
        self.default_retry_delay.unwrap_or(DEFAULT_RETRY_DELAY)
    }
}
