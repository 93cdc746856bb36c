//! `celerybox events`: what happens in a fleet, line by line, as `celery events --dump` prints it.

use std::collections::{HashMap, VecDeque};
use std::io::Write;
use std::process::ExitCode;

use clap::Args;
use jiff::Timestamp;
use serde_json::Value;
use tokio::signal::unix::{SignalKind, signal};

use super::feed::Feed;
use super::global::Global;
use super::remote::{away, open};
use super::terminal::{cut, json, line};
use crate::control::client::Command;
use crate::message::{JsonMap, repr};

/// How many tasks are remembered by name.
const REMEMBERED: usize = 4096;
/// The longest line that is printed, characters.
const LONGEST: usize = 8192;

/// Print what happens in the fleet, as it happens.
#[derive(Args)]
#[command(after_help = "\
Examples:
  celerybox events
  celerybox events --json | jq -c 'select(.type == \"task-failed\") | {uuid, exception}'
  celerybox events --passive -n 100

Workers are asked to send events of their tasks, and go on sending them; --passive asks for nothing. celerybox top shows
the same as a table. Ends with Ctrl-C; exit status 69 when the broker is away.")]
pub(super) struct Events {
    /// Accepted, as this is what it does: print each event
    #[arg(short, long)]
    dump: bool,

    /// Print each event as one line of JSON
    #[arg(short, long)]
    json: bool,

    /// End after so many events
    #[arg(short, long, value_name = "N")]
    number: Option<u64>,

    /// Only listen: ask no worker to send events
    #[arg(long)]
    passive: bool,
}

impl Events {
    pub(super) async fn main(self, global: &Global) -> anyhow::Result<ExitCode> {
        let settings = global.settings()?;
        settings.validate()?;
        let mut feed = match Feed::open(&settings).await {
            Ok(feed) => feed,
            Err(error) => return away(error, &settings),
        };
        if !self.passive {
            let client = match open(&settings).await {
                Ok(client) => client,
                Err(error) => return away(error, &settings),
            };
            for method in ["enable_events", "heartbeat"] {
                client.tell(&Command::named(method)).await?;
            }
            client.close().await?;
        }
        if !global.quiet && !self.json {
            eprintln!("-> celerybox events: starting capture...");
        }
        let (mut term, mut int) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
        let (mut names, mut left) = (Names::default(), self.number.unwrap_or(u64::MAX));
        'events: while left > 0 {
            let events = tokio::select! {
                events = feed.next() => events,
                _ = term.recv() => break,
                _ = int.recv() => break,
            };
            let Some(events) = events else {
                anyhow::bail!("the connection to the broker was lost");
            };
            for event in events {
                let text = match self.json {
                    true => json(&Value::Object(event)),
                    false => dumped(event, &mut names),
                };
                let mut out = std::io::stdout().lock();
                if writeln!(out, "{text}").and_then(|()| out.flush()).is_err() {
                    // Nobody reads any more.
                    break 'events;
                }
                left -= 1;
                if left == 0 {
                    break;
                }
            }
        }
        feed.close().await?;
        Ok(ExitCode::SUCCESS)
    }
}

/// What tasks are called, for as many as are remembered: later events name them by id alone.
#[derive(Default)]
struct Names {
    known: HashMap<String, String>,
    order: VecDeque<String>,
}

impl Names {
    fn learn(&mut self, id: &str, call: &str) {
        if self.known.insert(id.to_owned(), call.to_owned()).is_none() {
            self.order.push_back(id.to_owned());
        }
        if self.order.len() > REMEMBERED
            && let Some(oldest) = self.order.pop_front()
        {
            self.known.remove(&oldest);
        }
    }

    fn of(&self, id: &str) -> &str {
        self.known.get(id).map_or("", String::as_str)
    }
}

/// One event as Celery's dumper prints it.
fn dumped(mut event: JsonMap, names: &mut Names) -> String {
    let mut take = |name: &str| event.remove(name).map(|value| text(&value)).unwrap_or_default();
    let kind = take("type").to_lowercase();
    let hostname = take("hostname");
    let time = match event.remove("timestamp").and_then(|time| time.as_f64()) {
        Some(seconds) => time(seconds),
        None => "?".into(),
    };
    let mut take = |name: &str| event.remove(name).map(|value| text(&value)).unwrap_or_default();
    let task = match kind.strip_prefix("task-") {
        None => None,
        Some(what) => {
            let id = take("uuid");
            if matches!(what, "received" | "sent") {
                let (name, args, kwargs) = (take("name"), take("args"), take("kwargs"));
                let call = format!("{name}({id}) args={args} kwargs={kwargs}");
                names.learn(&id, &cut(&call, LONGEST));
                Some(call)
            } else {
                Some(names.of(&id).to_owned())
            }
        }
    };
    let fields: Vec<String> = event
        .iter()
        .map(|(name, value)| format!("{name}={}", text(value)))
        .collect();
    let (colon, fields) = (if fields.is_empty() { "" } else { ":" }, fields.join(", "));
    let kind = match kind.as_str() {
        "worker-offline" => "shutdown".into(),
        "worker-online" => "started".into(),
        "worker-heartbeat" => "heartbeat".into(),
        other => other.replace('-', " "),
    };
    let task = task.map(|task| format!(" {task}")).unwrap_or_default();
    line(&cut(
        &format!("{hostname} [{time}] {kind}{colon}{task} {fields}"),
        LONGEST,
    ))
}

/// Python's `str`.
fn text(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        other => repr::whole(other),
    }
}

fn time(seconds: f64) -> String {
    let time = Timestamp::from_microsecond((seconds * 1e6).round() as i64);
    time.map_or("?".into(), |time| time.strftime("%F %T.%6f+00:00").to_string())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn map(value: Value) -> JsonMap {
        value.as_object().cloned().unwrap()
    }

    /// As `celery events --dump` of 5.7 prints these events.
    #[test]
    fn lines_are_those_of_celerys_dumper() {
        let mut names = Names::default();
        let mut shown = |value: Value| dumped(map(value), &mut names);
        let time = 1_795_255_422.549_633;
        for (event, expected) in [
            (
                json!({"type": "worker-heartbeat", "hostname": "w1@h", "timestamp": time, "freq": 2.0,
                       "loadavg": [0.5, 1.0, 1.5], "active": null}),
                "w1@h [2026-11-21 10:03:42.549633+00:00] heartbeat: active=None, freq=2.0, loadavg=[0.5, 1.0, 1.5]",
            ),
            (
                json!({"type": "task-received", "hostname": "w1@h", "timestamp": time, "uuid": "1", "name": "t.add",
                       "args": "(2, 2)", "kwargs": "{}", "eta": null}),
                "w1@h [2026-11-21 10:03:42.549633+00:00] task received: t.add(1) args=(2, 2) kwargs={} eta=None",
            ),
            (
                json!({"type": "task-succeeded", "hostname": "w1@h", "timestamp": time, "uuid": "1", "result": "4"}),
                "w1@h [2026-11-21 10:03:42.549633+00:00] task succeeded: t.add(1) args=(2, 2) kwargs={} result=4",
            ),
            (
                json!({"type": "worker-offline", "hostname": "w1@h", "timestamp": time}),
                "w1@h [2026-11-21 10:03:42.549633+00:00] shutdown ",
            ),
            (
                json!({"type": "task-odd\u{1b}[2J", "hostname": "\r", "uuid": 3, "x": {"a": "b\n"}}),
                "\\r [?] task odd\\x1b[2j:  x={'a': 'b\\n'}",
            ),
        ] {
            assert_eq!(shown(event), expected);
        }
    }

    #[test]
    fn names_and_lines_are_bounded() {
        let mut names = Names::default();
        for id in 0..2 * REMEMBERED {
            names.learn(&id.to_string(), "t");
        }
        assert_eq!((names.known.len(), names.order.len()), (REMEMBERED, REMEMBERED));
        assert_eq!(
            (names.of("0"), names.of(&(2 * REMEMBERED - 1).to_string())),
            ("", "t")
        );
        let event = json!({"type": "x", "hostname": "h".repeat(100_000)});
        assert_eq!(dumped(map(event), &mut names).chars().count(), LONGEST);
    }
}
