//! What every command takes, in front of its name or behind it, as with `celery`.

use std::path::PathBuf;

use anyhow::Context;
use clap::Args;

use super::log;
use crate::config::{OneOrMany, Settings};

/// Options of every command.
#[derive(Args)]
#[command(next_help_heading = "Global options")]
pub(super) struct Global {
    /// Settings, a TOML file with Celery's names [default: celerybox.toml when it is there]
    #[arg(long, value_name = "FILE", env = "CELERYBOX_CONFIG", global = true)]
    config: Option<PathBuf>,

    /// Broker: amqp://, amqps://, redis://, rediss://, redis+socket://, sentinel:// or filesystem://; several that
    /// stand in for each other are separated by ';' [default: the folder --data-dir]
    #[arg(
        short,
        long,
        value_name = "URL",
        env = "CELERY_BROKER_URL",
        hide_env_values = true,
        global = true
    )]
    broker: Option<String>,

    /// Result backend: redis://, sentinel://, rpc://, file:///folder or disabled://
    /// [default: the folder --data-dir, or none with another broker]
    #[arg(
        long,
        value_name = "URL",
        env = "CELERY_RESULT_BACKEND",
        hide_env_values = true,
        global = true
    )]
    result_backend: Option<String>,

    /// Folder of the embedded broker and result backend [default: celerybox-data]
    #[arg(long, value_name = "DIR", env = "CELERYBOX_DATA_DIR", global = true)]
    data_dir: Option<PathBuf>,

    /// Folder to work in
    #[arg(
        long,
        value_name = "DIR",
        env = "CELERY_WORKDIR",
        hide_env = true,
        global = true
    )]
    pub(super) workdir: Option<PathBuf>,

    /// Lines to log: debug, info, warning, error, critical or fatal
    #[arg(
        short,
        long,
        value_name = "LEVEL",
        env = "CELERY_WORKER_LOGLEVEL",
        hide_env = true,
        default_value = "warning",
        ignore_case = true,
        global = true
    )]
    pub(super) loglevel: log::Level,

    /// Lines of the log: text for people, or json, one object a line
    #[arg(
        long,
        value_name = "FORMAT",
        env = "CELERYBOX_LOG_FORMAT",
        hide_env = true,
        default_value = "text",
        global = true
    )]
    pub(super) log_format: log::Format,

    /// No colours in the log
    #[arg(short = 'C', long, env = "NO_COLOR", hide_env = true, value_parser = clap::builder::FalseyValueParser::new(), global = true)]
    pub(super) no_color: bool,

    /// Nothing on the terminal but errors and what was asked for
    #[arg(short, long, env = "CELERY_QUIET", hide_env = true, global = true)]
    pub(super) quiet: bool,

    /// Accepted and without effect: tasks come from components (--tasks)
    #[arg(
        short = 'A',
        long,
        value_name = "APP",
        env = "CELERY_APP",
        hide_env = true,
        global = true
    )]
    app: Option<String>,

    /// Accepted and without effect: settings come from a TOML file (--config)
    #[arg(
        long,
        value_name = "LOADER",
        env = "CELERY_LOADER",
        hide_env = true,
        global = true
    )]
    loader: Option<String>,

    /// Accepted and without effect: there are no checks of a Django project
    #[arg(long, global = true)]
    skip_checks: bool,
}

impl Global {
    /// Starts the log and reads the settings: command line, environment, file, default, in this order.
    pub(super) fn settings(&self) -> anyhow::Result<Settings> {
        log::start(self.loglevel, self.log_format, self.no_color, None)?;
        let mut settings = Settings::load(self.config.as_deref())?;
        // Celery's own command takes these two names from the environment as well.
        if let Some(broker) = self.broker.clone().or_else(|| variable("BROKER_URL")) {
            settings.broker_url = Some(broker.as_str().into());
        }
        if let Some(backend) = self.result_backend.clone().or_else(|| variable("RESULT_BACKEND")) {
            settings.result_backend = Some(backend);
        }
        let url = |name: &str| variable(name).map(|url| OneOrMany::from(url.as_str()));
        settings.broker_read_url = url("CELERY_BROKER_READ_URL").or(settings.broker_read_url);
        settings.broker_write_url = url("CELERY_BROKER_WRITE_URL").or(settings.broker_write_url);
        if let Some(data_dir) = &self.data_dir {
            settings.data_dir = data_dir.clone();
        }
        Ok(settings)
    }

    /// Goes to the folder to work in; all other paths are seen from there.
    pub(super) fn enter(&self) -> anyhow::Result<()> {
        match &self.workdir {
            Some(dir) => {
                std::env::set_current_dir(dir).with_context(|| format!("--workdir {}", dir.display()))
            }
            None => Ok(()),
        }
    }

    /// Says of each option that was given and does nothing why it does nothing.
    pub(super) fn mention_inert(&self) {
        if let Some(app) = &self.app {
            tracing::info!("--app {app} has no effect: tasks come from components (--tasks)");
        }
        if let Some(loader) = &self.loader {
            tracing::info!("--loader {loader} has no effect: settings come from a TOML file (--config)");
        }
        if self.skip_checks {
            tracing::info!("--skip-checks has no effect: there are no checks of a Django project");
        }
    }
}

/// An environment variable that is set and not empty.
fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}
