//! The worker's settings: Celery's names where the concept is Celery's (contract section 8.6).
//!
//! Precedence: command line, environment, file, default. Unknown keys are errors.

pub mod connect;

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;

use crate::policy::admit::Defaults;
use crate::sandbox::Limits;

/// The file that is read when none is named and it is there.
pub const DEFAULT_FILE: &str = "celerybox.toml";

/// Everything that can be set in the configuration file.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// Where messages come from; `None` works in `data_dir`.
    pub broker_url: Option<String>,
    /// Options of the broker, with kombu's names.
    pub broker_transport_options: toml::Table,
    /// Where outcomes go; `None` stores nothing, or in `data_dir` when messages come from there.
    pub result_backend: Option<String>,
    /// Options of the result backend.
    pub result_backend_transport_options: toml::Table,
    /// Seconds that results are kept; 0 keeps them for ever.
    pub result_expires: f64,
    /// Seconds that failures are kept, when that differs.
    pub result_failure_expires: Option<f64>,
    /// Store name, arguments, worker, retries and queue with each result.
    pub result_extended: bool,
    /// RPC results survive a restart of the broker.
    pub result_persistent: bool,
    /// Serializers taken: names or content types.
    pub accept_content: Vec<String>,
    /// The queue consumed when none is named.
    pub task_default_queue: String,
    /// Acknowledge after the run instead of before it.
    pub task_acks_late: bool,
    /// With late acks: acknowledge also tasks that failed or ran into their time limit.
    pub task_acks_on_failure_or_timeout: bool,
    /// The same for failures only.
    pub task_acks_on_failure: Option<bool>,
    /// The same for time limits only.
    pub task_acks_on_timeout: Option<bool>,
    /// With late acks: put a message back when the sandbox itself failed.
    pub task_reject_on_worker_lost: bool,
    /// Store no state of tasks that succeed.
    pub task_ignore_result: bool,
    /// Store errors all the same.
    pub task_store_errors_even_if_ignored: bool,
    /// Store STARTED.
    pub task_track_started: bool,
    /// Hard time limit, seconds.
    pub task_time_limit: Option<f64>,
    /// Soft time limit, seconds.
    pub task_soft_time_limit: Option<f64>,
    /// Tasks that run at the same time; `None`: one for each processor.
    pub worker_concurrency: Option<u32>,
    /// Messages held for each running task; 0: no limit.
    pub worker_prefetch_multiplier: u32,
    /// The most messages held while tasks wait for their ETA.
    pub worker_eta_task_limit: Option<u32>,
    /// Components and folders of components.
    pub tasks: Vec<PathBuf>,
    /// The folder of the embedded broker and result backend.
    pub data_dir: PathBuf,
    /// The folder of compiled components.
    pub cache_dir: Option<PathBuf>,
    /// What one run may use.
    pub limits: Limits,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            broker_url: None,
            broker_transport_options: toml::Table::new(),
            result_backend: None,
            result_backend_transport_options: toml::Table::new(),
            result_expires: 86400.0,
            result_failure_expires: None,
            result_extended: false,
            result_persistent: false,
            accept_content: vec!["json".into()],
            task_default_queue: "celery".into(),
            task_acks_late: false,
            task_acks_on_failure_or_timeout: true,
            task_acks_on_failure: None,
            task_acks_on_timeout: None,
            task_reject_on_worker_lost: false,
            task_ignore_result: false,
            task_store_errors_even_if_ignored: false,
            task_track_started: false,
            task_time_limit: None,
            task_soft_time_limit: None,
            worker_concurrency: None,
            worker_prefetch_multiplier: 4,
            worker_eta_task_limit: None,
            tasks: Vec::new(),
            data_dir: PathBuf::from("celerybox-data"),
            cache_dir: None,
            limits: Limits::default(),
        }
    }
}

/// Why the settings cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    /// The file cannot be read.
    #[error("cannot read {path}: {source}")]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The file is not what it should be.
    #[error("{path}: {message}")]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What and where.
        message: String,
    },
    /// Values that make no sense, all of them.
    #[error("{}", .0.join("\n"))]
    Invalid(Vec<String>),
}

impl Settings {
    /// Reads `file`, or [`DEFAULT_FILE`] when it is there, or takes the defaults.
    pub fn load(file: Option<&Path>) -> Result<Self, SettingsError> {
        let path = match file {
            Some(path) => path,
            None if Path::new(DEFAULT_FILE).exists() => Path::new(DEFAULT_FILE),
            None => return Ok(Self::default()),
        };
        let unreadable = |source| SettingsError::Unreadable {
            path: path.to_owned(),
            source,
        };
        let text = std::fs::read_to_string(path).map_err(unreadable)?;
        let malformed = |error: toml::de::Error| SettingsError::Malformed {
            path: path.to_owned(),
            message: error.to_string(),
        };
        toml::from_str(&text).map_err(malformed)
    }

    /// Finds every value that makes no sense.
    pub fn validate(&self) -> Result<(), SettingsError> {
        let mut wrong = Vec::new();
        let mut check = |fine: bool, what: String| {
            if !fine {
                wrong.push(what);
            }
        };
        let positive = |value: Option<f64>| value.is_none_or(|v| v.is_finite() && v > 0.0);
        check(
            positive(self.task_time_limit),
            "task_time_limit: expected a number of seconds above 0".into(),
        );
        check(
            positive(self.task_soft_time_limit),
            "task_soft_time_limit: expected a number of seconds above 0".into(),
        );
        if let (Some(soft), Some(hard)) = (self.task_soft_time_limit, self.task_time_limit) {
            check(
                soft <= hard,
                format!(
                    "task_soft_time_limit: {soft} is above task_time_limit ({hard}), so it would never be seen"
                ),
            );
        }
        check(
            self.result_expires.is_finite() && self.result_expires >= 0.0,
            "result_expires: expected a number of seconds, 0 to keep results for ever".into(),
        );
        check(
            self.worker_concurrency != Some(0),
            "worker_concurrency: expected at least 1".into(),
        );
        check(
            !self.task_default_queue.is_empty(),
            "task_default_queue: expected the name of a queue".into(),
        );
        for name in &self.accept_content {
            check(
                content_type(name).is_some(),
                format!("accept_content: {name:?} is not supported yet; this version takes \"json\""),
            );
        }
        if wrong.is_empty() {
            Ok(())
        } else {
            Err(SettingsError::Invalid(wrong))
        }
    }

    /// The settings that each task may override.
    pub fn task_defaults(&self) -> Defaults {
        let either = self.task_acks_on_failure_or_timeout;
        Defaults {
            accept_content: self
                .accept_content
                .iter()
                .filter_map(|name| content_type(name))
                .collect(),
            acks_late: self.task_acks_late,
            acks_on_failure: self.task_acks_on_failure.unwrap_or(either),
            acks_on_timeout: self.task_acks_on_timeout.unwrap_or(either),
            reject_on_worker_lost: self.task_reject_on_worker_lost,
            ignore_result: self.task_ignore_result,
            store_errors_even_if_ignored: self.task_store_errors_even_if_ignored,
            track_started: self.task_track_started,
            time_limit: self.task_time_limit,
            soft_time_limit: self.task_soft_time_limit,
            longest: self.limits.time.map(|seconds| seconds as f64),
        }
    }

    /// How long results are kept.
    pub fn result_expires(&self) -> Option<Duration> {
        crate::policy::admit::seconds(Some(self.result_expires))
    }

    /// How many tasks may run at the same time.
    pub fn concurrency(&self) -> u32 {
        let processors = || std::thread::available_parallelism().map_or(1, usize::from);
        self.worker_concurrency
            .unwrap_or_else(|| u32::try_from(processors()).unwrap_or(1))
    }

    /// How many messages the worker may hold; 0 means no limit.
    pub fn prefetch(&self) -> u32 {
        self.concurrency().saturating_mul(self.worker_prefetch_multiplier)
    }
}

/// The content type of a serializer that this version understands, by name or content type.
fn content_type(name: &str) -> Option<String> {
    matches!(name, "json" | "application/json").then(|| "application/json".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_key_is_an_error_that_names_it() {
        let error = toml::from_str::<Settings>("task_time_limt = 3")
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("task_time_limt") && error.contains("task_time_limit"),
            "{error}"
        );
    }

    #[test]
    fn every_value_that_makes_no_sense_is_reported_at_once() {
        let settings: Settings = toml::from_str(
            "task_time_limit = 1\ntask_soft_time_limit = 2\nworker_concurrency = 0\naccept_content = [\"pickle\"]",
        )
        .unwrap();
        let Err(SettingsError::Invalid(wrong)) = settings.validate() else {
            panic!("expected errors")
        };
        assert_eq!(wrong.len(), 3, "{wrong:?}");
    }

    #[test]
    fn acks_on_failure_and_on_timeout_fall_back_to_their_common_setting() {
        let settings: Settings =
            toml::from_str("task_acks_on_failure_or_timeout = false\ntask_acks_on_failure = true").unwrap();
        let defaults = settings.task_defaults();
        assert!(defaults.acks_on_failure);
        assert!(!defaults.acks_on_timeout);
    }
}
