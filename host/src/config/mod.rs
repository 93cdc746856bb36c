//! The worker's settings: Celery's names where the concept is Celery's (contract section 8.6).
//!
//! Precedence: command line, environment, file, default. Unknown keys are errors.

mod canvas;
pub mod connect;
pub mod content;
mod control;
pub mod elsewhere;
mod execution;
mod grants;
mod queues;
mod settings;
mod urls;

use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::nearest::nearest;
use crate::policy::admit::Defaults;
use crate::policy::publish::RetryPolicy;

pub(crate) use canvas::origin;
pub use settings::{OneOrMany, SETTINGS, Settings};

/// The file that is read when none is named and it is there.
pub const DEFAULT_FILE: &str = "celerybox.toml";

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
        let table: toml::Table = toml::from_str(&text).map_err(malformed)?;
        let unknown: Vec<String> = table.keys().filter_map(|name| unknown(name)).collect();
        if !unknown.is_empty() {
            return Err(SettingsError::Malformed {
                path: path.to_owned(),
                message: unknown.join("\n"),
            });
        }
        toml::from_str(&text).map_err(malformed)
    }

    /// Finds every value that makes no sense.
    pub fn validate(&self) -> Result<(), SettingsError> {
        let mut wrong = self.wrong_queues();
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
        for (name, seconds) in [
            (
                "result_chord_expires",
                self.result_chord_expires.unwrap_or_default(),
            ),
            ("result_chord_join_timeout", self.result_chord_join_timeout),
            ("result_chord_retry_interval", self.result_chord_retry_interval),
        ] {
            let fine = seconds.is_finite() && seconds >= 0.0;
            check(fine, format!("{name}: expected a number of seconds"));
        }
        check(
            self.worker_concurrency != Some(0),
            "worker_concurrency: expected at least 1".into(),
        );
        check(
            !self.task_default_queue.is_empty(),
            "task_default_queue: expected the name of a queue".into(),
        );
        check(
            self.limits.body >= self.limits.arguments,
            "limits.body: expected at least limits.arguments, as arguments are a part of the body".into(),
        );
        wrong.extend(self.content().err().into_iter().flatten());
        wrong.extend(self.check_execution());
        wrong.extend(self.granting().err().into_iter().flatten());
        if wrong.is_empty() {
            Ok(())
        } else {
            Err(SettingsError::Invalid(wrong))
        }
    }

    /// The settings that each task may override. Reads the files that `security_*` name.
    pub fn task_defaults(&self) -> Result<Defaults, SettingsError> {
        let either = self.task_acks_on_failure_or_timeout;
        let content = self.content().map_err(SettingsError::Invalid)?;
        Ok(Defaults {
            reader: content.reader,
            writer: content.writer,
            acks_late: self.task_acks_late,
            acks_on_failure: self.task_acks_on_failure.unwrap_or(either),
            acks_on_timeout: self.task_acks_on_timeout.unwrap_or(either),
            reject_on_worker_lost: self.task_reject_on_worker_lost.unwrap_or(false),
            retry_on_worker_lost: self.task_retry_on_worker_lost,
            ignore_result: self.task_ignore_result,
            store_errors_even_if_ignored: self.task_store_errors_even_if_ignored,
            track_started: self.task_track_started,
            time_limit: self.task_time_limit,
            soft_time_limit: self.task_soft_time_limit,
            longest: self.limits.time.map(|seconds| seconds as f64),
        })
    }

    /// How long a message that cannot be sent is tried again.
    pub fn publish_retry(&self) -> RetryPolicy {
        let policy = self.task_publish_retry_policy.clone();
        match self.task_publish_retry {
            true => policy,
            false => RetryPolicy {
                max_retries: Some(0),
                ..policy
            },
        }
    }

    /// How long results are kept.
    pub fn result_expires(&self) -> Option<Duration> {
        crate::policy::admit::seconds(Some(self.result_expires))
    }

    /// How long chords are kept, when that differs from results; zero: for ever.
    pub fn result_chord_expires(&self) -> Option<Duration> {
        let seconds = self.result_chord_expires?;
        Some(crate::policy::admit::seconds(Some(seconds)).unwrap_or_default())
    }

    /// How many tasks may run at the same time.
    pub fn concurrency(&self) -> u32 {
        let processors = || std::thread::available_parallelism().map_or(1, usize::from);
        self.worker_concurrency
            .unwrap_or_else(|| u32::try_from(processors()).unwrap_or(1))
    }
}

/// What is wrong with a name in the file; a setting that does nothing here is only mentioned.
fn unknown(name: &str) -> Option<String> {
    if SETTINGS.iter().any(|(known, _)| *known == name) {
        return None;
    }
    if let Some(reason) = elsewhere::reason(name) {
        tracing::warn!("the setting {name} has no effect: {reason}");
        return None;
    }
    let known = SETTINGS.iter().map(|(known, _)| *known);
    let all = known.chain(elsewhere::ELSEWHERE.iter().map(|(known, _)| *known));
    Some(match nearest(name, all) {
        Some(nearest) => format!("unknown setting {name}; did you mean {nearest}?"),
        None => format!("unknown setting {name}; the README lists all of them"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_key_is_an_error_that_names_it() {
        let error = unknown("task_time_limt").unwrap();
        assert!(
            error.contains("task_time_limt") && error.contains("task_time_limit"),
            "{error}"
        );
        assert!(unknown("zzz").unwrap().contains("README"));
        for fine in ["task_time_limit", "worker_pool", "beat_schedule"] {
            assert_eq!(unknown(fine), None, "{fine}");
        }
    }

    #[test]
    fn every_value_that_makes_no_sense_is_reported_at_once() {
        let settings: Settings = toml::from_str(
            "task_time_limit = 1\ntask_soft_time_limit = 2\nworker_concurrency = 0\naccept_content = [\"pickled\"]",
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
        let defaults = settings.task_defaults().unwrap();
        assert!(defaults.acks_on_failure);
        assert!(!defaults.acks_on_timeout);
    }
}
