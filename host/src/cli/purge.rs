//! `celerybox purge`.

use std::collections::BTreeSet;
use std::io::{BufRead, Write};
use std::process::ExitCode;

use clap::Args;

use super::global::Global;
use super::remote::away;
use super::terminal::{line, say};
use crate::broker::BrokerError;
use crate::config::{Settings, connect};
use crate::queue::Queue;

/// Throw away the messages of queues. There is no undo.
#[derive(Args)]
#[command(after_help = "\
Examples:
  celerybox purge                    all queues of the settings, after a question
  celerybox purge -f -Q emails,video
  celerybox purge -f -X important

What a worker has taken already is not thrown away. Exit status: 0 done, 1 not wanted or failed, 69 the broker is away.")]
pub(super) struct Purge {
    /// Do not ask
    #[arg(short, long)]
    force: bool,

    /// These queues; names separated by commas [default: those of the settings]
    #[arg(short = 'Q', long, value_name = "NAMES", value_delimiter = ',')]
    queues: Vec<String>,

    /// But not these
    #[arg(short = 'X', long, value_name = "NAMES", value_delimiter = ',')]
    exclude_queues: Vec<String>,
}

impl Purge {
    pub(super) async fn main(self, global: &Global) -> anyhow::Result<ExitCode> {
        let settings = global.settings()?;
        settings.validate()?;
        let names = self.names(settings.queues()?.all());
        if names.is_empty() {
            return Ok(ExitCode::SUCCESS);
        }
        if !self.force && !confirmed(&question(&names))? {
            eprintln!("Aborted!");
            return Ok(ExitCode::FAILURE);
        }
        match purge(&settings, &names).await {
            Ok(messages) => {
                say(&done(messages, names.len()));
                Ok(ExitCode::SUCCESS)
            }
            Err(error) => away(error, &settings),
        }
    }

    fn names(&self, known: &[Queue]) -> BTreeSet<String> {
        let mut names: BTreeSet<String> = match self.queues.is_empty() {
            true => known.iter().map(|queue| queue.name.clone()).collect(),
            false => self.queues.iter().cloned().collect(),
        };
        names.retain(|name| !self.exclude_queues.contains(name));
        names
    }
}

/// How many messages went; a queue that is not there has none.
async fn purge(settings: &Settings, names: &BTreeSet<String>) -> Result<usize, BrokerError> {
    let (broker, _) = connect::mailbox_client(settings)?;
    let mut messages = 0;
    for name in names {
        let queue = Queue {
            no_declare: true,
            ..Queue::named(name)
        };
        match broker.purge(&queue).await {
            Ok(purged) => messages += purged,
            Err(BrokerError::Refused(reason)) => tracing::warn!("queue {}: {}", line(name), line(&reason)),
            Err(error) => return Err(error),
        }
    }
    broker.close().await?;
    Ok(messages)
}

fn plural<'a>(number: usize, one: &'a str, many: &'a str) -> &'a str {
    if number == 1 { one } else { many }
}

fn question(names: &BTreeSet<String>) -> String {
    let names: Vec<String> = names.iter().map(|name| line(name)).collect();
    let queues = plural(names.len(), "queue", "queues");
    format!(
        "WARNING:This will remove all tasks from {queues}: {}.\n         There is no undo for this operation!\n\n(to skip \
         this prompt use the -f option)\nAre you sure you want to delete all tasks? [y/N]: ",
        names.join(", ")
    )
}

fn done(messages: usize, queues: usize) -> String {
    let known = plural(queues, "queue", "queues");
    match messages {
        0 => format!("No messages purged from {queues} {known}."),
        _ => {
            let what = plural(messages, "message", "messages");
            format!("Purged {messages} {what} from {queues} known task {known}.")
        }
    }
}

/// Asks, and reads a line.
fn confirmed(question: &str) -> anyhow::Result<bool> {
    let mut out = std::io::stdout().lock();
    write!(out, "{question}")?;
    out.flush()?;
    let mut answer = String::new();
    if std::io::stdin().lock().read_line(&mut answer)? == 0 {
        writeln!(out)?;
    }
    Ok(matches!(answer.trim().to_lowercase().as_str(), "y" | "yes"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    #[test]
    fn the_queues_are_those_of_q_or_of_the_settings_without_those_of_x() {
        let known = [Queue::named("a"), Queue::named("b")];
        for (queues, exclude, expected) in [
            (&[][..], &[][..], &["a", "b"][..]),
            (&[], &["a"], &["b"]),
            (&["c", "a"], &["a", "x"], &["c"]),
            (&["c"], &["c"], &[]),
        ] {
            let purge = Purge {
                force: false,
                queues: list(queues),
                exclude_queues: list(exclude),
            };
            let names: Vec<String> = purge.names(&known).into_iter().collect();
            assert_eq!(names, expected, "{queues:?} {exclude:?}");
        }
    }

    #[test]
    fn it_is_said_in_celerys_words() {
        assert_eq!(done(0, 1), "No messages purged from 1 queue.");
        assert_eq!(done(1, 2), "Purged 1 message from 2 known task queues.");
        assert_eq!(done(7, 1), "Purged 7 messages from 1 known task queue.");
    }
}
