//! `celerybox list bindings`.

use std::collections::BTreeSet;
use std::process::ExitCode;

use clap::{Args, Subcommand};

use super::global::Global;
use super::remote::away;
use super::terminal::{line, say};
use super::{USAGE, remote};
use crate::broker::BrokerError;
use crate::config::{Settings, connect};

/// Show what the broker knows.
#[derive(Args)]
#[command(after_help = "\
Example:
  celerybox list bindings

RabbitMQ tells its bindings to its operator alone: rabbitmqctl list_bindings. For the tasks of components: celerybox tasks.")]
pub(super) struct List {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    /// Which queues the exchanges of the settings lead to
    Bindings,
}

impl List {
    pub(super) async fn main(self, global: &Global) -> anyhow::Result<ExitCode> {
        let What::Bindings = self.what;
        let settings = global.settings()?;
        settings.validate()?;
        match bindings(&settings).await {
            Ok(Some(rows)) => {
                say(&table(&rows));
                Ok(ExitCode::SUCCESS)
            }
            Ok(None) => {
                eprintln!(
                    "Error: {} lists its bindings for its operator alone; try: rabbitmqctl list_bindings",
                    remote::place(&settings)
                );
                Ok(ExitCode::from(USAGE))
            }
            Err(error) => away(error, &settings),
        }
    }
}

/// Queue, exchange and routing key of each binding; `None` where the broker does not tell.
async fn bindings(settings: &Settings) -> Result<Option<Vec<[String; 3]>>, BrokerError> {
    let queues = settings
        .queues()
        .map_err(|error| BrokerError::Config(error.to_string()))?;
    let bound = queues.all().iter().flat_map(|queue| queue.all_bindings());
    let exchanges: BTreeSet<&str> = bound.map(|(exchange, ..)| exchange.name.as_str()).collect();
    let (broker, _) = connect::mailbox_client(settings)?;
    let mut rows = Vec::new();
    for exchange in exchanges {
        let Some(mut bound) = broker.bindings(exchange).await? else {
            return Ok(None);
        };
        bound.sort();
        let row = |bound: crate::broker::Bound| [bound.queue, exchange.to_owned(), bound.routing_key];
        rows.extend(bound.into_iter().map(row));
    }
    Ok(Some(rows))
}

fn table(rows: &[[String; 3]]) -> String {
    let dashes = "-".repeat(16);
    let mut lines = vec![
        format!("{:<28} {:<28} {}", "Queue", "Exchange", "Routing Key"),
        format!("{dashes:<28} {dashes:<28} {dashes}"),
    ];
    for [queue, exchange, key] in rows {
        lines.push(format!(
            "{:<28} {:<28} {}",
            line(queue),
            line(exchange),
            line(key)
        ));
    }
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_celerys() {
        let row = ["celery", "celery", "key\u{1b}"].map(str::to_owned);
        let expected = "\
Queue                        Exchange                     Routing Key
----------------             ----------------             ----------------
celery                       celery                       key\\x1b";
        assert_eq!(table(&[row]), expected);
    }
}
