//! `celerybox tasks` and `celerybox check`.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;

use super::global::Global;
use super::terminal::{line, say};
use super::worker::Serving;
use crate::config::connect;
use crate::masked::masked;
use crate::sandbox::registry::Registry;
use crate::task::{Definition, RetryLimit};

/// List the tasks that components declare, and what they import.
#[derive(Args)]
#[command(after_help = "\
Examples:
  celerybox tasks arithmetic.wasm
  celerybox tasks tasks/")]
pub(super) struct Tasks {
    /// Components and folders of components [default: those of the settings]
    #[arg(value_name = "PATH")]
    paths: Vec<PathBuf>,
}

impl Tasks {
    pub(super) async fn main(self, global: &Global) -> anyhow::Result<ExitCode> {
        let mut settings = global.settings()?;
        if !self.paths.is_empty() {
            settings.tasks = self.paths;
        }
        anyhow::ensure!(
            !settings.tasks.is_empty(),
            "name a component or a folder of components"
        );
        let registry = super::load(&settings, &super::sandbox(&settings, 1)?).await;
        for component in registry.components() {
            tell(&format!("{} (sha256 {})", component.name(), component.digest()));
            for definition in component.definitions() {
                tell(&format!("  {}", describe(definition)));
            }
            tell(&format!("  imports: {}", component.imports().join(", ")));
            for grant in component.grants().lines() {
                tell(&format!("  granted: {grant}"));
            }
        }
        Ok(broken(&registry))
    }
}

/// Do everything `worker` does before it connects, and say what is wrong.
#[derive(Args)]
#[command(after_help = "\
Example:
  celerybox check --config /etc/celerybox.toml --tasks tasks/")]
pub(super) struct Check {
    #[command(flatten)]
    serving: Serving,
}

impl Check {
    pub(super) async fn main(self, global: &Global) -> anyhow::Result<ExitCode> {
        let mut settings = global.settings()?;
        self.serving.apply(&mut settings)?;
        let broker = connect::broker(&settings)?;
        connect::backend(&settings, &broker)?;
        let sandbox = super::sandbox(&settings, settings.concurrency())?;
        let registry = super::load(&settings, &sandbox).await;
        let broker = settings.broker_url.as_ref();
        let broker = broker.map_or("embedded".into(), |urls| masked(&urls.to_string()));
        tell(&format!("broker:         {broker}"));
        for (what, urls) in [
            ("taken from:     ", &settings.broker_read_url),
            ("sent to:        ", &settings.broker_write_url),
        ] {
            if let Some(urls) = urls {
                tell(&format!("{what}{}", masked(&urls.to_string())));
            }
        }
        let backend = settings.result_backend.as_deref().map(masked);
        let none = if settings.broker_url.is_none() {
            "embedded"
        } else {
            "none"
        };
        tell(&format!(
            "result backend: {}",
            backend.unwrap_or_else(|| none.into())
        ));
        tell(&format!("concurrency:    {}", settings.concurrency()));
        tell(&format!("components:     {}", registry.components().len()));
        tell(&format!("tasks:          {}", registry.names().count()));
        for component in registry.components() {
            for grant in component.grants().lines() {
                tell(&format!("granted:        {}: {grant}", component.name()));
            }
        }
        Ok(broken(&registry))
    }
}

/// What components say of themselves goes to no terminal as it is.
fn tell(text: &str) {
    say(&line(text));
}

fn broken(registry: &Registry) -> ExitCode {
    if registry.broken().is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

/// One line on a task: its call, its options, its doc.
fn describe(definition: &Definition) -> String {
    let mut text = format!(
        "{}{}",
        definition.name,
        definition.signature.as_deref().unwrap_or_default()
    );
    let mut option = |name: &str, value: Option<String>| {
        if let Some(value) = value {
            text.push_str(&format!(" {name}={value}"));
        }
    };
    option(
        "max_retries",
        definition.max_retries.map(|limit| match limit {
            RetryLimit::Unlimited => "None".into(),
            RetryLimit::AtMost(n) => n.to_string(),
        }),
    );
    option("time_limit", definition.time_limit.map(|s| s.to_string()));
    option(
        "soft_time_limit",
        definition.soft_time_limit.map(|s| s.to_string()),
    );
    option("acks_late", definition.acks_late.map(|b| b.to_string()));
    option("ignore_result", definition.ignore_result.map(|b| b.to_string()));
    option("rate_limit", definition.rate_limit.clone());
    match &definition.doc {
        Some(doc) => format!("{text}  — {doc}"),
        None => text,
    }
}
