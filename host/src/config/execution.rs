//! From settings to how tasks are executed.

use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use super::{Settings, SettingsError};
use crate::backend::ResultBackend;
use crate::execution::{Bounds, Options};
use crate::outcome::Nameable;
use crate::policy::admit;
use crate::policy::annotate;
use crate::policy::autoscale::{self, Autoscale};
use crate::policy::rate::Rate;

/// The most places for tasks that nobody asked for.
const MOST_BY_DEFAULT: u32 = 1000;

impl Settings {
    /// How tasks are executed by the worker of this node name; `autoscale` is `--autoscale`;
    /// `backend` says how chords are kept. Reads the environment for
    /// what Celery has no setting for (contract section 8.4).
    pub fn execution(
        &self,
        hostname: &str,
        autoscale: Option<&str>,
        backend: Option<&Arc<dyn ResultBackend>>,
    ) -> Result<Options, SettingsError> {
        let wrong = |what: String| SettingsError::Invalid(vec![what]);
        let celery = Options::default();
        let keepalive = variable("AUTOSCALE_KEEPALIVE")?.unwrap_or(autoscale::KEEPALIVE.as_secs_f64());
        let keepalive = Duration::try_from_secs_f64(keepalive)
            .ok()
            .filter(|keepalive| !keepalive.is_zero())
            .ok_or_else(|| wrong("AUTOSCALE_KEEPALIVE: expected a number of seconds above 0".into()))?;
        let autoscale = autoscale
            .map(|text| Autoscale::parse(text, keepalive))
            .transpose()
            .map_err(|error| wrong(format!("--autoscale: {error}")))?;
        Ok(Options {
            hostname: hostname.into(),
            defaults: self.task_defaults()?,
            publish_retry: self.publish_retry(),
            canvas: self.canvas(hostname, backend)?,
            chord_join_timeout: admit::seconds(Some(self.result_chord_join_timeout)),
            result_extended: self.result_extended,
            nameable: Arc::new(Nameable::with(self.allowed_exceptions.clone())),
            concurrency: self.concurrency(),
            most_slots: self.most_slots(autoscale),
            autoscale,
            prefetch_multiplier: self.worker_prefetch_multiplier,
            eta_task_limit: self.worker_eta_task_limit,
            disable_prefetch: self.worker_disable_prefetch,
            prefetch_reduction: self.worker_enable_prefetch_count_reduction,
            rate_limit: self.default_rate_limit().map_err(wrong)?,
            disable_rate_limits: self.worker_disable_rate_limits,
            deduplicate: self.worker_deduplicate_successful_tasks,
            cancel_on_connection_loss: self.worker_cancel_long_running_tasks_on_connection_loss,
            soft_shutdown_on_idle: self.worker_enable_soft_shutdown_on_idle,
            queues: self.queues()?,
            state_db: self.worker_state_db.clone(),
            revokes: bounds(
                celery.revokes,
                "CELERY_WORKER_REVOKES_MAX",
                "CELERY_WORKER_REVOKE_EXPIRES",
            )?,
            successful: bounds(
                celery.successful,
                "CELERY_WORKER_SUCCESSFUL_MAX",
                "CELERY_WORKER_SUCCESSFUL_EXPIRES",
            )?,
        })
    }

    /// How many slots there may ever be: `worker_max_concurrency`, or four times those of the start and at least 32, which
    /// costs addresses and no memory.
    fn most_slots(&self, autoscale: Option<Autoscale>) -> u32 {
        let start = autoscale.map_or(self.concurrency(), |scale| scale.max);
        let most = self.worker_max_concurrency;
        most.unwrap_or_else(|| start.saturating_mul(4).clamp(32, MOST_BY_DEFAULT))
            .max(start)
    }

    /// `worker_soft_shutdown_timeout`; none when it is off.
    pub fn soft_shutdown(&self) -> Option<Duration> {
        admit::seconds(Some(self.worker_soft_shutdown_timeout))
    }

    /// What is wrong with the settings of this part.
    pub(super) fn check_execution(&self) -> Vec<String> {
        let mut wrong = annotate::check(&self.task_annotations);
        wrong.extend(self.default_rate_limit().err());
        if !(self.worker_soft_shutdown_timeout.is_finite() && self.worker_soft_shutdown_timeout >= 0.0) {
            wrong.push("worker_soft_shutdown_timeout: expected a number of seconds, 0 for none".into());
        }
        wrong
    }

    fn default_rate_limit(&self) -> Result<Option<Rate>, String> {
        let Some(value) = &self.task_default_rate_limit else {
            return Ok(None);
        };
        annotate::rate(value)
            .and_then(|text| Rate::parse(&text))
            .ok_or_else(|| {
                let shown = annotate::shown(value);
                format!("task_default_rate_limit: {shown} is not like 10/s, 100/m, 5/h or 3")
            })
    }
}

fn bounds(celery: Bounds, most: &str, expires: &str) -> Result<Bounds, SettingsError> {
    let seconds: Option<f64> = variable(expires)?;
    Ok(Bounds {
        most: variable(most)?.unwrap_or(celery.most),
        expires: match seconds {
            None => celery.expires,
            Some(seconds) => Duration::try_from_secs_f64(seconds).map_err(|_| {
                SettingsError::Invalid(vec![format!("{expires}: expected a number of seconds")])
            })?,
        },
    })
}

/// A number in the environment.
fn variable<T: FromStr>(name: &str) -> Result<Option<T>, SettingsError> {
    let Some(text) = std::env::var_os(name) else {
        return Ok(None);
    };
    let number = text.to_str().and_then(|text| text.trim().parse().ok());
    number
        .map(Some)
        .ok_or_else(|| SettingsError::Invalid(vec![format!("{name}: {text:?} is not a number")]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_become_options() {
        let settings: Settings = toml::from_str(
            "worker_concurrency = 3\ntask_default_rate_limit = 5\nworker_soft_shutdown_timeout = 2.5\n\
             [allowed_exceptions]\n'shop.errors' = ['NoFunds']",
        )
        .unwrap();
        settings.validate().unwrap();
        let options = settings.execution("w1@h", Some("9,2"), None).unwrap();
        assert_eq!((options.concurrency, options.autoscale.unwrap().max), (3, 9));
        assert_eq!(options.rate_limit, Rate::parse("5/s").unwrap());
        assert_eq!(settings.soft_shutdown(), Some(Duration::from_millis(2500)));
        assert_eq!((options.revokes.most, options.successful.most), (50_000, 1000));
        assert!(settings.execution("w1@h", Some("many"), None).is_err());
    }

    #[test]
    fn what_makes_no_sense_is_reported() {
        let settings: Settings = toml::from_str(
            "task_default_rate_limit = 'fast'\nworker_soft_shutdown_timeout = -1\n\
             [task_annotations]\n'*' = { rate_limt = '1/s' }",
        )
        .unwrap();
        let Err(SettingsError::Invalid(wrong)) = settings.validate() else {
            panic!("expected errors")
        };
        assert_eq!(wrong.len(), 3, "{wrong:?}");
        assert!(
            wrong.iter().any(|text| text.contains("did you mean rate_limit?")),
            "{wrong:?}"
        );
    }
}
