//! The log on stderr, in the form of Celery's.

use std::fmt;
use std::fs::OpenOptions;
use std::io::IsTerminal;
use std::path::Path;
use std::sync::Mutex;

use anyhow::Context;
use clap::ValueEnum;
use jiff::Timestamp;
use serde_json::{Map, Value};
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

/// How a line of the log is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Format {
    /// For people, as Celery writes it.
    Text,
    /// For programs: one JSON object on each line.
    Json,
}

/// Starts logging to stderr, or to the end of a file. Later calls do nothing.
pub(super) fn start(level: Level, format: Format, no_color: bool, file: Option<&Path>) -> anyhow::Result<()> {
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
        .event_format(CeleryFormat(format))
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

/// `[2026-11-21 10:00:00,123: INFO/MainProcess] text`, or the same as JSON; times in UTC.
struct CeleryFormat(Format);

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
        let mut record = Record {
            for_programs: self.0 == Format::Json,
            ..Record::default()
        };
        event.record(&mut record);
        if self.0 == Format::Json {
            return writeln!(out, "{}", record.json(now, level));
        }
        let colour = match (out.has_ansi_escapes(), level) {
            (true, "ERROR") => ("\x1b[31m", "\x1b[0m"),
            (true, "WARNING") => ("\x1b[33m", "\x1b[0m"),
            _ => ("", ""),
        };
        for text in record.texts() {
            write!(
                out,
                "[{}: {}{level}/MainProcess{}] ",
                now.strftime("%F %T,%3f"),
                colour.0,
                colour.1
            )?;
            writeln!(out, "{}", one_record(text.trim_end()))?;
        }
        Ok(())
    }
}

/// One line of the log for programs, outside of the log's level.
pub(super) fn json_line(message: String) -> String {
    let record = Record {
        message,
        ..Record::default()
    };
    record.json(Timestamp::now(), "INFO")
}

/// What an event says.
#[derive(Default)]
struct Record {
    /// Otherwise what the message says already is left out.
    for_programs: bool,
    message: String,
    fields: Map<String, Value>,
}

/// The field with what a task printed.
const OUTPUT: &str = "output";
/// Fields that the message says already.
const SAID: [&str; 3] = ["task_name", "task_id", "runtime"];

impl Record {
    fn json(mut self, now: Timestamp, level: &str) -> String {
        let mut all = Map::new();
        let time = now.strftime("%FT%T.%3fZ").to_string();
        all.insert("timestamp".into(), Value::String(time));
        all.insert("level".into(), level.into());
        all.insert("message".into(), Value::String(self.message));
        all.append(&mut self.fields);
        Value::Object(all).to_string()
    }

    /// The message; of a task's output each line, behind the message.
    fn texts(mut self) -> Vec<String> {
        if let Some(Value::String(output)) = self.fields.get(OUTPUT) {
            let lines = output.lines();
            return lines.map(|line| format!("{} {line}", self.message)).collect();
        }
        for (name, value) in &self.fields {
            use fmt::Write;
            let _ = write!(self.message, " {name}={value}");
        }
        vec![self.message]
    }

    fn put(&mut self, field: &Field, value: impl Into<Value>) {
        if self.for_programs || !SAID.contains(&field.name()) {
            self.fields.insert(field.name().to_owned(), value.into());
        }
    }
}

impl Visit for Record {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        match field.name() {
            "message" => self.message = format!("{value:?}"),
            _ => self.put(field, format!("{value:?}")),
        }
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        match field.name() {
            "message" => value.clone_into(&mut self.message),
            _ => self.put(field, value),
        }
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        self.put(field, value);
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.put(field, value);
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.put(field, value);
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.put(field, value);
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

    #[test]
    fn a_record_for_programs_is_one_line_whatever_is_in_it() {
        let mut fields = Map::new();
        fields.insert("task_id".into(), "a\nb".into());
        fields.insert("output".into(), "one\ntwo\u{1b}".into());
        let record = || Record {
            for_programs: true,
            message: "said\n\u{1b}[2J".into(),
            fields: fields.clone(),
        };
        let now = "2026-11-21T10:00:00.5Z".parse().unwrap();
        let line = record().json(now, "INFO");
        assert!(!line.contains(['\n', '\u{1b}']), "{line}");
        let read: Value = serde_json::from_str(&line).unwrap();
        assert_eq!(read["timestamp"], "2026-11-21T10:00:00.500Z");
        assert_eq!(
            (&read["task_id"], &read["level"]),
            (&"a\nb".into(), &"INFO".into())
        );
        assert_eq!(record().texts().len(), 2, "each line is a record of its own");
    }
}
