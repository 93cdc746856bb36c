//! The commands (contract section 6.3). One more is one more line of [`COMMANDS`] and its function.

mod arguments;
mod inspect;
mod revoke;
mod tune;

use serde::{Deserialize, Serialize};
use serde_json::value::{RawValue, to_raw_value};
use serde_json::{Value, json};

use self::arguments::Arguments;
use super::about::About;
use super::resources::Samples;
use crate::execution::Execution;
use crate::message::{JsonMap, repr};
use crate::shutdown::Stage;

/// The most bytes that the arguments of a command may have, unless it takes ids or stamps by the thousand: what was read
/// is several times as large.
const LARGEST: usize = 64 << 10;

/// What a command may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Group {
    /// It only looks.
    Inspect,
    /// It revokes and ends tasks.
    Revoke,
    /// It changes limits, slots, queues, components or events.
    Tune,
    /// It stops the worker.
    Shutdown,
}

impl Group {
    /// All of them, which are obeyed by default as in Celery.
    pub const ALL: [Self; 4] = [Self::Inspect, Self::Revoke, Self::Tune, Self::Shutdown];

    fn name(self) -> &'static str {
        match self {
            Self::Inspect => "inspect",
            Self::Revoke => "revoke",
            Self::Tune => "tune",
            Self::Shutdown => "shutdown",
        }
    }
}

/// What commands look at.
pub struct State<'a> {
    /// The worker.
    pub execution: &'a std::sync::Arc<Execution>,
    /// What does not change of it.
    pub about: &'a About,
    /// What `memsample` saw.
    pub samples: &'a Samples,
    /// The groups that are obeyed.
    pub obeyed: &'a [Group],
}

/// What goes back to the client.
pub enum Answer {
    /// This, as JSON.
    Value(Box<RawValue>),
    /// Nothing, whatever the client wants.
    Silence,
}

/// A command could not be obeyed: Python's text of the exception.
struct Refused(String);

impl Refused {
    /// As Python shows an exception with one argument.
    fn new(exception: &str, text: &str) -> Self {
        Self(format!("{exception}({})", repr::value(&text.into())))
    }

    fn value(text: &str) -> Self {
        Self::new("ValueError", text)
    }
}

type Done = Result<Answer, Refused>;
type Obey = fn(&State<'_>, &Arguments<'_>) -> Done;

struct Command {
    name: &'static str,
    alias: &'static str,
    group: Group,
    /// Arguments that it cannot do without.
    required: &'static [&'static str],
    /// All arguments that it takes, where others are an error.
    only: Option<&'static [&'static str]>,
    /// Whether its arguments may be as large as a message.
    large: bool,
    obey: Obey,
}

impl Command {
    const fn new(group: Group, name: &'static str, required: &'static [&'static str], obey: Obey) -> Self {
        Self {
            name,
            alias: name,
            group,
            required,
            only: None,
            large: false,
            obey,
        }
    }

    const fn or(self, alias: &'static str) -> Self {
        Self { alias, ..self }
    }

    const fn only(self, names: &'static [&'static str]) -> Self {
        Self {
            only: Some(names),
            ..self
        }
    }

    const fn large(self) -> Self {
        Self { large: true, ..self }
    }
}

const fn look(name: &'static str, obey: Obey) -> Command {
    Command::new(Group::Inspect, name, &[], obey)
}

const fn revokes(name: &'static str, required: &'static [&'static str], obey: Obey) -> Command {
    Command::new(Group::Revoke, name, required, obey)
}

const fn tunes(name: &'static str, required: &'static [&'static str], obey: Obey) -> Command {
    Command::new(Group::Tune, name, required, obey)
}

/// Every command.
const COMMANDS: &[Command] = &[
    look("ping", |_, _| ok("pong")),
    look("clock", |state, _| {
        value(json!({"clock": state.execution.clock.now()}))
    }),
    look("stats", inspect::stats),
    look("report", inspect::report).only(&[]),
    look("conf", inspect::conf).or("dump_conf"),
    look("registered", inspect::registered).or("dump_tasks"),
    look("active", inspect::active).or("dump_active"),
    look("reserved", inspect::reserved).or("dump_reserved"),
    look("scheduled", inspect::scheduled).or("dump_schedule"),
    look("revoked", |state, _| value(state.execution.known.revoked())).or("dump_revoked"),
    Command::new(Group::Inspect, "query_task", &["ids"], inspect::query_task).large(),
    look("active_queues", inspect::active_queues).only(&[]),
    Command::new(Group::Inspect, "hello", &["from_node"], revoke::hello).large(),
    look("memsample", |state, _| value(state.samples.take())),
    look("memdump", inspect::memdump),
    look("objgraph", inspect::objgraph),
    look("heartbeat", tune::heartbeat).only(&[]),
    revokes("revoke", &["task_id"], revoke::revoke).large(),
    revokes("terminate", &["signal", "task_id"], revoke::terminate).large(),
    revokes(
        "revoke_by_stamped_headers",
        &["headers"],
        revoke::revoke_by_stamped_headers,
    )
    .large(),
    tunes("rate_limit", &["task_name", "rate_limit"], tune::rate_limit),
    tunes("time_limit", &[], tune::time_limit),
    tunes("add_consumer", &["queue"], tune::add_consumer),
    tunes("cancel_consumer", &["queue"], tune::cancel_consumer),
    tunes("pool_grow", &[], tune::pool_grow),
    tunes("pool_shrink", &[], tune::pool_shrink),
    tunes("pool_restart", &[], tune::pool_restart),
    tunes("autoscale", &[], tune::autoscale).only(&["max", "min"]),
    tunes("enable_events", &[], tune::enable_events).only(&[]),
    tunes("disable_events", &[], tune::disable_events).only(&[]),
    tunes("election", &["id", "topic"], tune::election),
    Command::new(Group::Shutdown, "shutdown", &[], |state, arguments| {
        let message = arguments.text("msg").unwrap_or("Got shutdown from remote");
        tracing::warn!("{message:.1000?}");
        state.execution.shutdown.advance(Stage::Warm);
        Ok(Answer::Silence)
    }),
];

/// Obeys a command, if its group is obeyed; what cannot be done is said as Python says it.
pub fn obey(state: &State<'_>, method: &str, arguments: &RawValue) -> Answer {
    let done = match COMMANDS
        .iter()
        .find(|command| command.name == method || command.alias == method)
    {
        Some(command) => run(state, command, arguments),
        None => Err(Refused::new("KeyError", method)),
    };
    done.or_else(|Refused(error)| {
        tracing::error!("pidbox command error: {error:.300}");
        value(json!({"error": error}))
    })
    .unwrap_or(Answer::Silence)
}

fn run(state: &State<'_>, command: &Command, arguments: &RawValue) -> Done {
    let (name, group) = (command.name, command.group.name());
    if !state.obeyed.contains(&command.group) {
        let text = format!("{name} is not obeyed here: the setting control_groups is without '{group}'");
        return Err(Refused::new("PermissionError", &text));
    }
    let arguments = read(command, arguments)?;
    let arguments = Arguments::new(&arguments);
    arguments.check(name, command.required, command.only)?;
    (command.obey)(state, &arguments)
}

/// The arguments by name. Nothing stands for none, in each of Python's forms.
fn read(command: &Command, arguments: &RawValue) -> Result<JsonMap, Refused> {
    let (name, bytes) = (command.name, arguments.get().len());
    if bytes > LARGEST && !command.large {
        let text = format!("the arguments of {name} have {bytes} bytes, {LARGEST} are allowed");
        return Err(Refused::value(&text));
    }
    let of_type = |kind| {
        let text = format!("celery.worker.control.{name}() argument after ** must be a mapping, not {kind}");
        Err(Refused::new("TypeError", &text))
    };
    match serde_json::from_str(arguments.get()).map_err(|error| Refused::value(&error.to_string()))? {
        Value::Object(arguments) => Ok(arguments),
        Value::Null | Value::Bool(false) => Ok(JsonMap::new()),
        Value::Bool(true) => of_type("bool"),
        Value::Number(number) if number.as_f64() == Some(0.0) => Ok(JsonMap::new()),
        Value::Number(number) if number.is_f64() => of_type("float"),
        Value::Number(_) => of_type("int"),
        Value::String(text) if text.is_empty() => Ok(JsonMap::new()),
        Value::String(_) => of_type("str"),
        Value::Array(list) if list.is_empty() => Ok(JsonMap::new()),
        Value::Array(_) => of_type("list"),
    }
}

fn value(value: impl Serialize) -> Done {
    let raw = to_raw_value(&value).map_err(|error| Refused::value(&error.to_string()))?;
    Ok(Answer::Value(raw))
}

fn ok(text: &str) -> Done {
    value(json!({"ok": text}))
}

fn nok(text: &str) -> Done {
    value(json!({"error": text}))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_group_has_its_name_in_the_settings() {
        for group in Group::ALL {
            assert_eq!(json!(group), group.name());
        }
    }

    #[test]
    fn arguments_are_a_map_or_nothing_and_of_a_sane_size() {
        let read = |name: &str, arguments: &str| {
            let command = COMMANDS.iter().find(|command| command.name == name).unwrap();
            let arguments = RawValue::from_string(arguments.to_owned()).unwrap();
            read(command, &arguments).map_err(|Refused(error)| error)
        };
        for nothing in ["null", "{}", "[]", "\"\"", "0", "0.0", "false"] {
            assert_eq!(read("ping", nothing), Ok(JsonMap::new()), "{nothing}");
        }
        assert_eq!(read("ping", "{\"x\": 1}").unwrap().len(), 1);
        for (other, kind) in [
            ("[1]", "list"),
            ("\"x\"", "str"),
            ("3", "int"),
            ("0.5", "float"),
            ("true", "bool"),
        ] {
            let text = format!(
                "TypeError('celery.worker.control.ping() argument after ** must be a mapping, not {kind}')"
            );
            assert_eq!(read("ping", other), Err(text));
        }
        let large = format!("{{\"ids\": {:?}}}", "x".repeat(LARGEST));
        assert!(read("ping", &large).unwrap_err().contains("65536 are allowed"));
        assert!(read("rate_limit", &large).is_err());
        for name in [
            "hello",
            "revoke",
            "terminate",
            "query_task",
            "revoke_by_stamped_headers",
        ] {
            assert!(read(name, &large).is_ok(), "{name}");
        }
    }

    /// Celery 5.7's commands, all of them.
    #[test]
    fn no_command_is_missing_or_there_twice() {
        let mut names: Vec<&str> = COMMANDS
            .iter()
            .flat_map(|command| [command.name, command.alias])
            .collect();
        names.sort_unstable();
        names.dedup();
        let celery = "active active_queues add_consumer autoscale cancel_consumer clock conf disable_events dump_active \
                      dump_conf dump_reserved dump_revoked dump_schedule dump_tasks election enable_events heartbeat \
                      hello memdump memsample objgraph ping pool_grow pool_restart pool_shrink query_task rate_limit \
                      registered report reserved revoke revoke_by_stamped_headers revoked scheduled shutdown stats \
                      terminate time_limit";
        assert_eq!(names, celery.split_whitespace().collect::<Vec<_>>());
        assert_eq!(COMMANDS.len(), 32);
    }
}
