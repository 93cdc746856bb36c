//! `celerybox result`.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use clap::Args;
use serde_json::Value;
use tokio::time::Instant;

use super::NO_ANSWER;
use super::global::Global;
use super::terminal::{json_text, line, lines, say};
use crate::config::connect;
use crate::message::repr;

/// How often the result backend is asked.
const POLLING_INTERVAL: Duration = Duration::from_millis(50);

/// Wait for the result of a task; prints it as JSON.
#[derive(Args)]
#[command(after_help = "\
Examples:
  celerybox result 4cfd8e1e-2f6e-4b0c-9d6e-0d6b1f9a7c11
  celerybox result $(celerybox call arithmetic.add -a '[2, 3]') --timeout 10

Exit status: 0 when the task returned a value, 1 when it failed, 69 when nothing came in time.")]
pub(super) struct Wait {
    /// The task's id
    #[arg(value_name = "ID")]
    id: String,

    /// Seconds to wait [default: for ever]
    #[arg(long, value_name = "SECONDS")]
    timeout: Option<f64>,

    /// Print the whole result document, whatever the state
    #[arg(long)]
    meta: bool,

    /// Print the traceback of a failure
    #[arg(long)]
    traceback: bool,
}

impl Wait {
    pub(super) async fn main(self, global: &Global) -> anyhow::Result<ExitCode> {
        let settings = global.settings()?;
        settings.validate()?;
        let broker = connect::broker(&settings)?;
        let backend = connect::backend(&settings, &broker)?
            .context("no result backend: name one with --result-backend")?;
        let timeout = match self.timeout {
            Some(seconds) => {
                Some(Duration::try_from_secs_f64(seconds).context("--timeout: expected seconds")?)
            }
            None => None,
        };
        let deadline = timeout.map(|timeout| Instant::now() + timeout);
        loop {
            if let Some(text) = backend.fetch(&self.id).await? {
                let meta: Value = serde_json::from_str(&text).context("the stored result is not JSON")?;
                if self.meta || is_ready(&meta) {
                    return Ok(self.show(&meta));
                }
            }
            if deadline.is_some_and(|deadline| Instant::now() >= deadline) {
                eprintln!(
                    "Error: no result of task {} in time; is a worker running that has this task?",
                    self.id
                );
                return Ok(ExitCode::from(NO_ANSWER));
            }
            tokio::time::sleep(POLLING_INTERVAL).await;
        }
    }

    fn show(&self, meta: &Value) -> ExitCode {
        if self.meta {
            say(&json_text(&meta.to_string()));
            return ExitCode::SUCCESS;
        }
        let result = meta.get("result").unwrap_or(&Value::Null);
        if status(meta) == "SUCCESS" {
            say(&json_text(&result.to_string()));
            return ExitCode::SUCCESS;
        }
        if let (true, Some(traceback)) = (self.traceback, meta.get("traceback").and_then(Value::as_str)) {
            eprintln!("{}", lines(traceback));
        }
        let class = result
            .get("exc_type")
            .and_then(Value::as_str)
            .unwrap_or("Exception");
        let args: Vec<String> = match result.get("exc_message") {
            Some(Value::Array(args)) => args.iter().map(repr::value).collect(),
            Some(other) => vec![repr::value(other)],
            None => Vec::new(),
        };
        eprintln!(
            "{}",
            line(&format!("{}: {class}({})", status(meta), args.join(", ")))
        );
        ExitCode::FAILURE
    }
}

fn status(meta: &Value) -> &str {
    meta.get("status").and_then(Value::as_str).unwrap_or_default()
}

fn is_ready(meta: &Value) -> bool {
    matches!(status(meta), "SUCCESS" | "FAILURE" | "REVOKED")
}
