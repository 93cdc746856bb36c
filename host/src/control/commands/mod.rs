//! The commands (contract section 6.3). One more is one more line of [`COMMANDS`] and its function.

mod arguments;
mod inspect;
mod revoke;
mod tune;

use serde::{Deserialize, Serialize};
use serde_json::json;
use serde_json::value::{RawValue, to_raw_value};

use self::arguments::Arguments;
use super::about::About;
use super::resources::Samples;
use crate::execution::Execution;
use crate::message::{JsonMap, repr};
use crate::shutdown::Stage;

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
    Command::new(Group::Inspect, "query_task", &["ids"], inspect::query_task),
    look("active_queues", inspect::active_queues).only(&[]),
    Command::new(Group::Inspect, "hello", &["from_node"], revoke::hello),
    look("memsample", |state, _| value(state.samples.take())),
    look("memdump", inspect::memdump),
    look("objgraph", inspect::objgraph),
    look("heartbeat", tune::heartbeat).only(&[]),
    revokes("revoke", &["task_id"], revoke::revoke),
    revokes("terminate", &["signal", "task_id"], revoke::terminate),
    revokes(
        "revoke_by_stamped_headers",
        &["headers"],
        revoke::revoke_by_stamped_headers,
    ),
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
pub fn obey(state: &State<'_>, method: &str, arguments: &JsonMap) -> Answer {
    let done = match COMMANDS
        .iter()
        .find(|command| command.name == method || command.alias == method)
    {
        Some(command) => run(state, command, arguments),
        None => Err(Refused::new("KeyError", method)),
    };
    done.or_else(|Refused(error)| value(json!({"error": error})))
        .unwrap_or(Answer::Silence)
}

fn run(state: &State<'_>, command: &Command, arguments: &JsonMap) -> Done {
    let (name, group) = (command.name, command.group.name());
    if !state.obeyed.contains(&command.group) {
        let text = format!("{name} is not obeyed here: the setting control_groups is without '{group}'");
        return Err(Refused::new("PermissionError", &text));
    }
    let arguments = Arguments::new(arguments);
    arguments.check(name, command.required, command.only)?;
    (command.obey)(state, &arguments)
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
