//! The log on stderr, in the form of Celery's.

use std::fmt;
use std::fs::OpenOptions;
use std::io::IsTerminal;
use std::path::Path;
use std::sync::Mutex;

use anyhow::Context;
use clap::ValueEnum;
use jiff::Timestamp;
use tracing::field::{Field, Visit};
use tracing::{Event, Subscriber};
use tracing_subscriber::filter::{LevelFilter, filter_fn};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::writer::BoxMakeWriter;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::{Layer, layer::SubscriberExt, util::SubscriberInitExt};

/// Celery's log levels.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub(super) enum Level {
    /// Everything.
    Debug,
    /// Each task.
    Info,
    /// What to look at.
    Warning,
    /// What failed.
    Error,
    /// As error.
    Critical,
    /// As error.
    Fatal,
}

/// Starts logging to stderr, or to the end of a file. Later calls do nothing.
pub(super) fn start(level: Level, no_color: bool, file: Option<&Path>) -> anyhow::Result<()> {
    let level = match level {
        Level::Debug => tracing::Level::DEBUG,
        Level::Info => tracing::Level::INFO,
        Level::Warning => tracing::Level::WARN,
        Level::Error | Level::Critical | Level::Fatal => tracing::Level::ERROR,
    };
    // Libraries speak up only when the user asked for everything: their lines are not about tasks.
    let everything = level == tracing::Level::DEBUG;
    let wanted = filter_fn(move |metadata| everything || metadata.target().starts_with("celerybox"));
    let (writer, color) = match file {
        Some(path) => {
            let file = OpenOptions::new().create(true).append(true).open(path);
            let file = file.with_context(|| format!("--logfile: cannot write {}", path.display()))?;
            (BoxMakeWriter::new(Mutex::new(file)), false)
        }
        None => (
            BoxMakeWriter::new(std::io::stderr),
            !no_color && std::io::stderr().is_terminal(),
        ),
    };
    let lines = tracing_subscriber::fmt::layer()
        .with_writer(writer)
        .with_ansi(color)
        .event_format(CeleryFormat)
        .with_filter(wanted);
    let _ = tracing_subscriber::registry()
        .with(LevelFilter::from_level(level))
        .with(lines)
        .try_init();
    Ok(())
}

/// Logs nothing, for a command that has the terminal for itself; a later [`start`] does nothing.
pub(super) fn silence() {
    let _ = tracing_subscriber::registry().with(LevelFilter::OFF).try_init();
}

/// `[2026-11-21 10:00:00,123: INFO/MainProcess] text`, times in UTC.
struct CeleryFormat;

impl<S, N> FormatEvent<S, N> for CeleryFormat
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(&self, _: &FmtContext<'_, S, N>, mut out: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        let now = Timestamp::now();
        let level = match *event.metadata().level() {
            tracing::Level::ERROR => "ERROR",
            tracing::Level::WARN => "WARNING",
            tracing::Level::INFO => "INFO",
            _ => "DEBUG",
        };
        let colour = match (out.has_ansi_escapes(), level) {
            (true, "ERROR") => ("\x1b[31m", "\x1b[0m"),
            (true, "WARNING") => ("\x1b[33m", "\x1b[0m"),
            _ => ("", ""),
        };
        write!(
            out,
            "[{}: {}{level}/MainProcess{}] ",
            now.strftime("%F %T,%3f"),
            colour.0,
            colour.1
        )?;
        let mut text = Text(String::new());
        event.record(&mut text);
        writeln!(out, "{}", one_record(text.0.trim_end()))
    }
}

/// The message of an event.
struct Text(String);

impl Visit for Text {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        use fmt::Write;
        let _ = match field.name() {
            "message" => write!(self.0, "{value:?}"),
            name => write!(self.0, " {name}={value:?}"),
        };
    }
}

/// One record stays one record: a sender or a task that puts line breaks or terminal escapes into a name, an id or an
/// error can neither imitate the start of another line nor move the cursor.
fn one_record(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\n' => safe.push_str("\n    "),
            '\t' => safe.push(c),
            c if c.is_control() => safe.extend(c.escape_default()),
            c => safe.push(c),
        }
    }
    safe
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_forged_line_is_indented_and_an_escape_is_shown() {
        assert_eq!(
            one_record("id\n[2026: INFO] x\u{1b}[2J"),
            "id\n    [2026: INFO] x\\u{1b}[2J"
        );
    }
}
