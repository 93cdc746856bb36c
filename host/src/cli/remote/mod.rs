//! `celerybox status`, `celerybox inspect` and `celerybox control`: as Celery's own commands (contract section 6.7).

mod show;
mod table;

use std::collections::BTreeSet;
use std::io::IsTerminal;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use clap::Args;
use serde_json::{Map, Value};

use self::show::Style;
use self::table::Kind;
use super::global::Global;
use super::terminal::say;
use super::{NO_ANSWER, USAGE, terminal};
use crate::broker::BrokerError;
use crate::config::{Settings, connect};
use crate::control::client::{Answer, Client, Command};
use crate::masked::masked;

/// Whom to ask, and how long.
#[derive(Args)]
#[command(next_help_heading = "Remote control options")]
struct Asking {
    /// Seconds to wait for the next answer
    #[arg(short, long, value_name = "SECONDS", default_value_t = 1.0)]
    timeout: f64,

    /// Ask these nodes alone; names separated by commas
    #[arg(short, long, value_name = "NODES", value_delimiter = ',')]
    destination: Vec<String>,

    /// Print the answers as JSON
    #[arg(short, long)]
    json: bool,
}

/// Show the workers that are online.
#[derive(Args)]
#[command(after_help = "\
Examples:
  celerybox status
  celerybox status -b redis://localhost --timeout 5
  celerybox status -d w1@host,w2@host --json

Exit status: 0 when somebody answered, 69 when nobody did or the broker is away.")]
pub(super) struct Status {
    #[command(flatten)]
    asking: Asking,
}

/// Ask workers what they do, without changing anything.
#[derive(Args)]
#[command(after_help = "\
Examples:
  celerybox inspect --list
  celerybox inspect active
  celerybox inspect registered rate_limit acks_late
  celerybox inspect query_task 4cfd8e1e-2f6e-4b0c-9d6e-0d6b1f9a7c11 -d w1@host
  celerybox inspect stats --json | jq 'map_values(.total)'

Exit status: 0 when somebody answered, 64 wrong usage, 69 when nobody did or the broker is away.")]
pub(super) struct Inspect {
    #[command(flatten)]
    words: Words,
}

/// Tell workers to change what they do.
#[derive(Args)]
#[command(after_help = "\
Examples:
  celerybox control --list
  celerybox control revoke 4cfd8e1e-2f6e-4b0c-9d6e-0d6b1f9a7c11
  celerybox control terminate KILL 4cfd8e1e-2f6e-4b0c-9d6e-0d6b1f9a7c11
  celerybox control rate_limit arithmetic.add 10/m
  celerybox control pool_grow 2 -d w1@host
  celerybox control add_consumer emails
  celerybox control shutdown -d w1@host

Exit status: 0 when somebody answered, 64 wrong usage, 69 when nobody did or the broker is away. A worker that shuts down
does not answer.")]
pub(super) struct Control {
    #[command(flatten)]
    words: Words,
}

#[derive(Args)]
struct Words {
    /// The command; --list shows them
    #[arg(value_name = "COMMAND", required_unless_present = "list")]
    command: Option<String>,

    /// Its arguments
    #[arg(value_name = "ARGUMENT")]
    arguments: Vec<String>,

    /// List the commands, and end
    #[arg(long)]
    list: bool,

    #[command(flatten)]
    asking: Asking,
}

impl Status {
    pub(super) async fn main(self, global: &Global) -> anyhow::Result<ExitCode> {
        let style = style(global);
        let json = self.asking.json;
        let print = |answer: &Answer| {
            if !json {
                say(&show::answer(answer, false, style));
            }
        };
        match self.asking.ask(Command::named("ping"), global, print).await? {
            Asked::Answers(answers) if json => say(&terminal::json(&by_node(answers))),
            Asked::Answers(answers) => count(answers, global),
            Asked::Nobody(code) => return Ok(code),
        }
        Ok(ExitCode::SUCCESS)
    }
}

impl Inspect {
    pub(super) async fn main(self, global: &Global) -> anyhow::Result<ExitCode> {
        self.words.main(Kind::Inspect, global).await
    }
}

impl Control {
    pub(super) async fn main(self, global: &Global) -> anyhow::Result<ExitCode> {
        self.words.main(Kind::Control, global).await
    }
}

impl Words {
    async fn main(self, kind: Kind, global: &Global) -> anyhow::Result<ExitCode> {
        if self.list {
            say(&list(kind));
            return Ok(ExitCode::SUCCESS);
        }
        let method = self.command.unwrap_or_default();
        let row = table::find(kind, &method);
        let command = row.and_then(|row| row.arguments(&self.arguments));
        let arguments = match command {
            Ok(arguments) => arguments,
            Err(problem) => {
                eprintln!("Error: {}", terminal::line(&problem));
                return Ok(ExitCode::from(USAGE));
            }
        };
        let command = Command {
            method,
            arguments,
            destination: Vec::new(),
        };
        let (style, json) = (style(global), self.asking.json);
        let print = |answer: &Answer| {
            if !json {
                say(&show::answer(answer, true, style));
            }
        };
        match (self.asking.ask(command, global, print).await?, kind) {
            (Asked::Nobody(code), _) => return Ok(code),
            (Asked::Answers(answers), Kind::Inspect) if json => say(&terminal::json(&by_node(answers))),
            (Asked::Answers(answers), Kind::Control) if json => {
                let one = |Answer { node, value }| Value::Object(Map::from_iter([(node, value)]));
                say(&terminal::json(&answers.into_iter().map(one).collect()));
            }
            (Asked::Answers(answers), Kind::Inspect) => count(answers, global),
            (Asked::Answers(_), Kind::Control) => {}
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// What came of asking.
enum Asked {
    /// At least one.
    Answers(Vec<Answer>),
    /// It was said why; this is the exit status.
    Nobody(ExitCode),
}

impl Asking {
    async fn ask(
        self,
        command: Command,
        global: &Global,
        heard: impl FnMut(&Answer),
    ) -> anyhow::Result<Asked> {
        let timeout = Duration::try_from_secs_f64(self.timeout).context("--timeout: expected seconds")?;
        let settings = global.settings()?;
        settings.validate()?;
        let command = Command {
            destination: self.destination,
            ..command
        };
        let ask = async {
            let mut client = open(&settings).await?;
            let answers = client.ask(&command, timeout, heard).await?;
            if let Err(error) = client.close().await {
                tracing::debug!("the reply queue was not removed: {error}");
            }
            Ok(answers)
        };
        match ask.await {
            Ok(answers) if answers.is_empty() => {
                eprintln!(
                    "Error: No nodes replied within time constraint\nIs a worker running on {}? celerybox status shows \
                     who is there; a busy fleet may need a longer --timeout.",
                    place(&settings)
                );
                Ok(Asked::Nobody(ExitCode::from(NO_ANSWER)))
            }
            Ok(answers) => Ok(Asked::Answers(answers)),
            Err(error) => away(error, &settings).map(Asked::Nobody),
        }
    }
}

/// A client of the workers of these settings.
pub(super) async fn open(settings: &Settings) -> Result<Client, BrokerError> {
    let (broker, options) = connect::mailbox_client(settings)?;
    let defaults = settings.task_defaults();
    let reader = defaults
        .map_err(|error| BrokerError::Config(error.to_string()))?
        .reader;
    Client::open(broker, &options, reader).await
}

/// Says that the broker is away, and what to do; another error is passed on.
pub(super) fn away(error: BrokerError, settings: &Settings) -> anyhow::Result<ExitCode> {
    match error {
        BrokerError::Connection(reason) => {
            eprintln!(
                "Error: Could not connect to the message broker at {}. Please make sure that it is running and that \
                 --broker names it. Reason: {}",
                place(settings),
                terminal::line(&reason)
            );
            Ok(ExitCode::from(NO_ANSWER))
        }
        other => Err(other.into()),
    }
}

/// The broker, for people.
pub(super) fn place(settings: &Settings) -> String {
    match &settings.broker_url {
        Some(urls) => masked(&urls.to_string()),
        None => format!("the folder {}", settings.data_dir.display()),
    }
}

/// The answers as one map; of nodes with the same name the last counts, and people are told.
fn by_node(answers: Vec<Answer>) -> Value {
    let (mut nodes, mut twice) = (Map::new(), BTreeSet::new());
    for Answer { node, value } in answers {
        if nodes.insert(node.clone(), value).is_some() {
            twice.insert(terminal::line(&node));
        }
    }
    if !twice.is_empty() {
        let twice: Vec<String> = twice.into_iter().collect();
        tracing::warn!(
            "Received several answers from {}: give each worker a name of its own (-n)",
            twice.join(", ")
        );
    }
    Value::Object(nodes)
}

fn count(answers: Vec<Answer>, global: &Global) {
    if !global.quiet {
        let nodes = by_node(answers).as_object().map_or(0, Map::len);
        say(&format!("\n{}", show::online(nodes)));
    }
}

fn style(global: &Global) -> Style {
    Style {
        color: !global.no_color && std::io::stdout().is_terminal(),
        quiet: global.quiet,
    }
}

fn list(kind: Kind) -> String {
    let calls: Vec<(String, &str)> = table::rows(kind)
        .map(|row| {
            (
                format!("{} {}", row.name, row.signature).trim_end().to_owned(),
                row.help,
            )
        })
        .collect();
    let lines = calls.iter().map(|(call, help)| format!("  {call:<34}  {help}"));
    let title = match kind {
        Kind::Inspect => "Inspect Commands:",
        Kind::Control => "Control Commands:",
    };
    format!("{title}\n{}", lines.collect::<Vec<_>>().join("\n"))
}
