//! The commands of `celery inspect` and `celery control`, and how words become their arguments (contract section 6.7).

use serde_json::{Value, json};

use crate::message::JsonMap;
use crate::nearest::did_you_mean;

/// What kind of command it is, and which of ours sends it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// It only looks.
    Inspect,
    /// It changes something.
    Control,
}

impl Kind {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Inspect => "inspect",
            Self::Control => "control",
        }
    }
}

/// What a word stands for.
#[derive(Debug, Clone, Copy)]
enum Type {
    Text,
    Integer,
    Seconds,
    Flag,
}

/// A command.
#[derive(Debug)]
pub(super) struct Row {
    pub(super) name: &'static str,
    kind: Kind,
    /// What each word is called, in order.
    arguments: &'static [(&'static str, Type)],
    /// How many of them must be there.
    required: usize,
    /// What all further words are called together.
    variadic: Option<&'static str>,
    /// For people.
    pub(super) signature: &'static str,
    pub(super) help: &'static str,
}

const fn row(kind: Kind, name: &'static str, help: &'static str) -> Row {
    Row {
        name,
        kind,
        arguments: &[],
        required: 0,
        variadic: None,
        signature: "",
        help,
    }
}

const fn taking(
    arguments: &'static [(&'static str, Type)],
    required: usize,
    variadic: Option<&'static str>,
    signature: &'static str,
    row: Row,
) -> Row {
    Row {
        arguments,
        required,
        variadic,
        signature,
        ..row
    }
}

use Kind::{Control, Inspect};
use Type::{Flag, Integer, Seconds, Text};

const IDS: &str = "[id1 [id2 [... [idN]]]]";

/// Every command, those of a kind in the order of their names.
const ROWS: &[Row] = &[
    row(Inspect, "active", "Tasks that run now"),
    row(Inspect, "active_queues", "Queues that are consumed"),
    row(Inspect, "clock", "The logical clock"),
    taking(
        &[("with_defaults", Flag)],
        0,
        None,
        "[include_defaults=False]",
        row(Inspect, "conf", "Settings; secrets are masked"),
    ),
    taking(
        &[("samples", Integer)],
        0,
        None,
        "[n_samples=10]",
        row(Inspect, "memdump", "The samples of memory taken so far"),
    ),
    row(Inspect, "memsample", "Take a sample of the memory in use"),
    taking(
        &[("type", Text), ("num", Integer), ("max_depth", Integer)],
        0,
        None,
        "[object_type=Request] [num=200 [max_depth=10]]",
        row(Inspect, "objgraph", "A graph of objects (Python workers only)"),
    ),
    row(Inspect, "ping", "Who is there"),
    taking(
        &[],
        0,
        Some("ids"),
        IDS,
        row(Inspect, "query_task", "Where tasks are, by id"),
    ),
    taking(
        &[],
        0,
        Some("taskinfoitems"),
        "[attr1 [attr2 [... [attrN]]]]",
        row(
            Inspect,
            "registered",
            "Tasks that can be run, with these attributes",
        ),
    ),
    row(Inspect, "report", "The worker and its machine, for bug reports"),
    row(Inspect, "reserved", "Tasks that were taken and do not run yet"),
    row(Inspect, "revoked", "Ids of tasks that were revoked"),
    row(Inspect, "scheduled", "Tasks that wait for their time"),
    row(Inspect, "stats", "Pool, broker, counts and memory"),
    taking(
        &[
            ("queue", Text),
            ("exchange", Text),
            ("exchange_type", Text),
            ("routing_key", Text),
        ],
        1,
        None,
        "<queue> [exchange [type [routing_key]]]",
        row(Control, "add_consumer", "Consume from one more queue"),
    ),
    taking(
        &[("max", Integer), ("min", Integer)],
        0,
        None,
        "[max [min]]",
        row(Control, "autoscale", "Change the bounds of the autoscaler"),
    ),
    taking(
        &[("queue", Text)],
        1,
        None,
        "<queue>",
        row(Control, "cancel_consumer", "Consume from a queue no more"),
    ),
    row(Control, "disable_events", "Send no more events of tasks"),
    row(
        Control,
        "election",
        "Hold an election (what it needs no command line can say)",
    ),
    row(Control, "enable_events", "Send events of tasks"),
    row(Control, "heartbeat", "Send a heartbeat event now"),
    taking(
        &[("n", Integer)],
        0,
        None,
        "[N=1]",
        row(Control, "pool_grow", "Run N more tasks at a time"),
    ),
    row(
        Control,
        "pool_restart",
        "Restart the pool; ours reloads its components",
    ),
    taking(
        &[("n", Integer)],
        0,
        None,
        "[N=1]",
        row(Control, "pool_shrink", "Run N tasks less at a time"),
    ),
    taking(
        &[("task_name", Text), ("rate_limit", Text)],
        2,
        None,
        "<task_name> <rate_limit (e.g., 5/s | 5/m | 5/h)>",
        row(
            Control,
            "rate_limit",
            "Start a task no more often than that; 0: no limit",
        ),
    ),
    taking(
        &[],
        0,
        Some("task_id"),
        IDS,
        row(Control, "revoke", "Never start these tasks"),
    ),
    taking(
        &[],
        0,
        Some("headers"),
        "[key1=value1 [key2=value2 [... [keyN=valueN]]]]",
        row(
            Control,
            "revoke_by_stamped_headers",
            "Never start tasks with these stamps",
        ),
    ),
    row(Control, "shutdown", "End the workers warmly"),
    taking(
        &[("signal", Text)],
        1,
        Some("task_id"),
        "<signal> [id1 [id2 [... [idN]]]]",
        row(Control, "terminate", "End these tasks, whether they run or not"),
    ),
    taking(
        &[("task_name", Text), ("soft", Seconds), ("hard", Seconds)],
        2,
        None,
        "<task_name> <soft_secs> [hard_secs]",
        row(Control, "time_limit", "How long a task may run"),
    ),
];

/// The commands of a kind.
pub(super) fn rows(kind: Kind) -> impl Iterator<Item = &'static Row> {
    ROWS.iter().filter(move |row| row.kind == kind)
}

/// The command of that name; else a sentence on what there is.
pub(super) fn find(kind: Kind, name: &str) -> Result<&'static Row, String> {
    if let Some(row) = rows(kind).find(|row| row.name == name) {
        return Ok(row);
    }
    let other = match kind {
        Inspect => Control,
        Control => Inspect,
    };
    let hint = match rows(other).find(|row| row.name == name) {
        Some(_) => format!("; it is a command of celerybox {}", other.as_str()),
        None => did_you_mean(name, rows(kind).map(|row| row.name)),
    };
    let names: Vec<&str> = rows(kind).map(|row| row.name).collect();
    Err(format!(
        "Command {name} not recognized{hint}. Available {} commands: {}",
        kind.as_str(),
        names.join(", ")
    ))
}

impl Row {
    /// The arguments that these words are; else a sentence on what is expected.
    pub(super) fn arguments(&self, words: &[String]) -> Result<JsonMap, String> {
        let signature = match self.signature {
            "" => "nothing",
            signature => signature,
        };
        let usage = |what: &str| format!("Command '{}' takes arguments: {signature} ({what})", self.name);
        let named = words.iter().zip(self.arguments);
        let mut arguments = JsonMap::new();
        for (word, (name, kind)) in named {
            let value = kind.read(word).map_err(|expected| {
                usage(&format!(
                    "{name} must be {expected}, not {word:?}; what begins with - goes behind --"
                ))
            })?;
            arguments.insert((*name).to_owned(), value);
        }
        if words.len() < self.required {
            return Err(usage(&format!(
                "{} expected, {} given",
                self.required,
                words.len()
            )));
        }
        let rest = words.get(self.arguments.len()..).unwrap_or_default();
        match self.variadic {
            Some(name) => {
                arguments.insert(name.to_owned(), json!(rest));
            }
            None if !rest.is_empty() => return Err(usage(&format!("{:?} is one too many", rest.concat()))),
            None => {}
        }
        Ok(arguments)
    }
}

impl Type {
    /// The value of a word, or what it should be.
    fn read(self, word: &str) -> Result<Value, &'static str> {
        match self {
            Text => Ok(word.into()),
            Integer => word.parse::<i64>().map(Value::from).map_err(|_| "a whole number"),
            Seconds => word
                .parse::<f64>()
                .ok()
                .filter(|seconds| seconds.is_finite())
                .map(Value::from)
                .ok_or("a number of seconds"),
            Flag => match word.to_ascii_lowercase().as_str() {
                "true" | "yes" | "on" | "1" => Ok(true.into()),
                "false" | "no" | "off" | "0" => Ok(false.into()),
                _ => Err("yes or no"),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn arguments(kind: Kind, words: &[&str]) -> Result<Value, String> {
        let (name, words) = words.split_first().unwrap();
        let words: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
        find(kind, name)?.arguments(&words).map(Value::Object)
    }

    #[test]
    fn words_become_the_arguments_that_celery_sends() {
        for (kind, words, expected) in [
            (Inspect, &["ping"][..], json!({})),
            (
                Inspect,
                &["registered", "rate_limit"],
                json!({"taskinfoitems": ["rate_limit"]}),
            ),
            (Inspect, &["registered"], json!({"taskinfoitems": []})),
            (Inspect, &["query_task", "a", "b"], json!({"ids": ["a", "b"]})),
            (Inspect, &["conf", "yes"], json!({"with_defaults": true})),
            (Inspect, &["memdump", "3"], json!({"samples": 3})),
            (
                Inspect,
                &["objgraph", "Task", "5"],
                json!({"type": "Task", "num": 5}),
            ),
            (Control, &["revoke", "a", "b"], json!({"task_id": ["a", "b"]})),
            (
                Control,
                &["terminate", "KILL", "a"],
                json!({"signal": "KILL", "task_id": ["a"]}),
            ),
            (
                Control,
                &["rate_limit", "t.add", "10/m"],
                json!({"task_name": "t.add", "rate_limit": "10/m"}),
            ),
            (
                Control,
                &["time_limit", "t", "30", "60"],
                json!({"task_name": "t", "soft": 30.0, "hard": 60.0}),
            ),
            (Control, &["pool_grow", "2"], json!({"n": 2})),
            (Control, &["pool_shrink"], json!({})),
            (Control, &["autoscale", "5", "2"], json!({"max": 5, "min": 2})),
            (
                Control,
                &["add_consumer", "q", "x", "topic", "k"],
                json!({"queue": "q", "exchange": "x", "exchange_type": "topic", "routing_key": "k"}),
            ),
            (
                Control,
                &["revoke_by_stamped_headers", "a=b"],
                json!({"headers": ["a=b"]}),
            ),
        ] {
            assert_eq!(arguments(kind, words), Ok(expected), "{words:?}");
        }
    }

    #[test]
    fn wrong_words_are_answered_with_what_is_expected() {
        for (kind, words, part) in [
            (
                Control,
                &["rate_limit", "t"][..],
                "<task_name> <rate_limit (e.g., 5/s | 5/m | 5/h)> (2 expected, 1 given)",
            ),
            (Control, &["cancel_consumer"], "<queue> (1 expected, 0 given)"),
            (Control, &["pool_grow", "many"], "n must be a whole number"),
            (Control, &["time_limit", "t", "inf"], "soft must be a number"),
            (Inspect, &["ping", "w1"], "takes arguments: nothing"),
            (Inspect, &["conf", "perhaps"], "with_defaults must be yes or no"),
            (Inspect, &["activ"], "did you mean active"),
            (Inspect, &["revoke"], "it is a command of celerybox control"),
            (Control, &["zzz"], "Available control commands: add_consumer, "),
        ] {
            let error = arguments(kind, words).unwrap_err();
            assert!(error.contains(part), "{words:?}: {error}");
        }
    }

    #[test]
    fn commands_are_in_the_order_of_their_names() {
        for kind in [Inspect, Control] {
            assert!(rows(kind).is_sorted_by_key(|row| row.name));
        }
    }
}
