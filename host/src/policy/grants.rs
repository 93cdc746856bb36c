//! What one component may do beyond computing: its table `[component.NAME]` of the configuration, where `NAME` is its
//! file's name without the ending. Nothing is granted by default, and every refusal says what to write.

use std::collections::BTreeMap;
use std::path::PathBuf;

use regex::Regex;
use toml::{Table, Value};

use super::network::Endpoint;
use crate::message::Route;
use crate::nearest::did_you_mean;
use crate::queue::glob;

/// The keys of a component's table.
const KEYS: [&str; 5] = ["environment", "files", "network", "results", "send_to"];
/// The longest name that a refusal repeats, bytes.
const SHOWN: usize = 128;

/// What one component is granted.
#[derive(Debug, Clone, Default)]
pub struct Grants {
    /// The component, for refusals.
    pub component: String,
    /// `send_to`: where and what it may send.
    pub send_to: SendTo,
    /// `results`: read any result whose id it knows, and write those of tasks that the same run sent.
    pub results: bool,
    /// `network`: what it may connect to (TCP).
    pub network: Vec<Endpoint>,
    /// `files`: folders of the worker's machine by the path that the component sees.
    pub files: BTreeMap<String, Folder>,
    /// `environment`: the variables it sees.
    pub environment: BTreeMap<String, Variable>,
}

/// `send_to`: both the queue and the task of a message have to be listed.
#[derive(Debug, Clone, Default)]
pub struct SendTo {
    /// Names and globs of queues; a message to another exchange is `exchange/routing key`.
    pub queues: Vec<Pattern>,
    /// Names and globs of tasks.
    pub tasks: Vec<Pattern>,
    /// Exchanges and queue prefixes of events, none of them empty. Like the exchanges and queues of remote control, a pattern
    /// never covers what has these names; only its own name does.
    pub events: Vec<String>,
}

/// A name, or a glob as in `task_routes`.
#[derive(Debug, Clone)]
pub struct Pattern {
    text: String,
    /// Nothing for a name.
    regex: Option<Regex>,
}

/// A folder of the worker's machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Folder {
    /// Where it is.
    pub path: PathBuf,
    /// Whether the component may change it; otherwise it only reads.
    pub writable: bool,
}

/// The value of an environment variable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Variable {
    /// As it is in the worker's own environment, if it is there.
    Own,
    /// This text.
    Text(String),
}

impl Pattern {
    /// Reads a name or a glob.
    pub fn read(text: &str) -> Result<Self, String> {
        let is_glob = text.contains(['*', '?', '[']);
        let regex = is_glob.then(|| Regex::new(&glob(text))).transpose();
        Ok(Self {
            text: text.to_owned(),
            regex: regex.map_err(|error| format!("{text:?} is no pattern: {error}"))?,
        })
    }

    fn fits(&self, name: &str) -> bool {
        match &self.regex {
            Some(regex) => regex.is_match(name),
            None => self.text == name,
        }
    }
}

impl SendTo {
    /// Whether a message may go there. The default exchange leads to the queue that the routing key names; for any
    /// other exchange the grant is written `exchange/routing key`. Remote control and events are no queues.
    pub fn allows_route(&self, route: &Route) -> bool {
        let name = place(route);
        let names_events = |text: &str| {
            let mut names = self.events.iter();
            names.any(|name| {
                let rest = text.strip_prefix(name.as_str());
                rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
            })
        };
        let names_control = |text: &str| text.split(['.', '/', '@']).any(|part| part == "pidbox");
        let reserved = [&route.exchange, &route.routing_key]
            .into_iter()
            .any(|text| names_events(text) || names_control(text));
        let mut patterns = self.queues.iter();
        patterns.any(|pattern| {
            if reserved {
                pattern.text == name
            } else {
                pattern.fits(&name)
            }
        })
    }

    /// Whether a task of this name may be sent. Celery's own tasks are only covered by patterns that say `celery.`: some
    /// of them send what their arguments hold.
    pub fn allows_task(&self, task: &str) -> bool {
        let own = task.starts_with("celery.");
        let mut patterns = self.tasks.iter();
        patterns.any(|pattern| pattern.fits(task) && (!own || pattern.text.starts_with("celery.")))
    }
}

/// How a grant names a destination.
pub fn place(route: &Route) -> String {
    match route.exchange.as_str() {
        "" => route.routing_key.clone(),
        exchange => format!("{exchange}/{}", route.routing_key),
    }
}

impl Grants {
    /// A component that is granted nothing.
    pub fn none(component: &str) -> Self {
        Self {
            component: component.to_owned(),
            ..Self::default()
        }
    }

    /// Whether anything is granted.
    pub fn is_empty(&self) -> bool {
        self.send_to.queues.is_empty()
            && self.send_to.tasks.is_empty()
            && !self.results
            && self.network.is_empty()
            && self.files.is_empty()
            && self.environment.is_empty()
    }

    /// Whether a run can change something outside without the worker's doing.
    pub fn reaches_out(&self) -> bool {
        !self.network.is_empty() || self.files.values().any(|folder| folder.writable)
    }

    /// Refuses to send a task to a place unless both are granted; the text names both and what to write.
    pub fn check_send(&self, task: &str, route: &Route) -> Result<(), String> {
        match self.send_to.allows_task(task) && self.send_to.allows_route(route) {
            true => Ok(()),
            false => Err(self.not_granted(task, route)),
        }
    }

    /// The same for a task that stands for others, which were checked: only its place counts.
    pub fn check_place(&self, task: &str, route: &Route) -> Result<(), String> {
        match self.send_to.allows_route(route) {
            true => Ok(()),
            false => Err(self.not_granted(task, route)),
        }
    }

    fn not_granted(&self, task: &str, route: &Route) -> String {
        let (task, queue) = (shown(task), shown(&place(route)));
        format!(
            "sending the task {task} to the queue {queue} is not granted to the component {component}; to grant it, \
             add both to its table in the configuration: [component.{key}] send_to = {{ queues = [{queue}], \
             tasks = [{task}] }}",
            component = self.component,
            key = key(&self.component),
        )
    }

    /// Refuses to read and write results unless that is granted.
    pub fn check_results(&self) -> Result<(), String> {
        if self.results {
            return Ok(());
        }
        Err(format!(
            "results are not granted to the component {}; to grant them, write in the configuration: \
             [component.{}] results = true",
            self.component,
            key(&self.component),
        ))
    }

    /// What to write so that a component may import this; nothing when no setting grants it.
    pub fn missing(component: &str, import: &str) -> Option<String> {
        import.starts_with("wasi:sockets/").then(|| {
            format!(
                "to grant it, write in the configuration what it may connect to: [component.{}] \
                 network = [\"host.example:5432\"]",
                key(component)
            )
        })
    }

    /// Reads a component's table. What makes no sense is added to `wrong`, with its path.
    pub fn read(component: &str, value: &Value, wrong: &mut Vec<String>) -> Self {
        let at = format!("component.{}", key(component));
        let mut grants = Self::none(component);
        let Value::Table(table) = value else {
            wrong.push(format!("{at}: expected a table with {}", KEYS.join(", ")));
            return grants;
        };
        for (name, value) in table {
            let at = format!("{at}.{name}");
            match name.as_str() {
                "send_to" => grants.send_to = SendTo::read(&at, value, wrong),
                "results" => match value.as_bool() {
                    Some(results) => grants.results = results,
                    None => wrong.push(format!("{at}: expected true or false")),
                },
                "network" => {
                    let read = texts(&at, value, "\"host.example:5432\"", wrong);
                    grants.network = each(&at, read, Endpoint::read, wrong);
                }
                "files" => grants.files = files(&at, value, wrong),
                "environment" => grants.environment = environment(&at, value, wrong),
                unknown => {
                    let nearest = did_you_mean(unknown, KEYS.into_iter());
                    wrong.push(format!("{at}: unknown key{nearest} ({})", KEYS.join(", ")));
                }
            }
        }
        grants
    }

    /// One line for people on each thing that is granted.
    pub fn lines(&self) -> Vec<String> {
        let list = |patterns: &[Pattern]| {
            let texts: Vec<&str> = patterns.iter().map(|pattern| pattern.text.as_str()).collect();
            if texts.is_empty() {
                "none".into()
            } else {
                texts.join(", ")
            }
        };
        let mut lines = Vec::new();
        let SendTo { queues, tasks, .. } = &self.send_to;
        if !queues.is_empty() || !tasks.is_empty() {
            lines.push(format!(
                "send to queues {} the tasks {}",
                list(queues),
                list(tasks)
            ));
        }
        if self.results {
            lines.push("results".into());
        }
        if !self.network.is_empty() {
            let listed: Vec<String> = self.network.iter().map(ToString::to_string).collect();
            lines.push(format!("network {}", listed.join(", ")));
        }
        for (guest, Folder { path, writable }) in &self.files {
            let how = if *writable { "writable" } else { "read-only" };
            lines.push(format!("files {guest} = {} ({how})", path.display()));
        }
        if !self.environment.is_empty() {
            // Names only: values may be secrets.
            let names: Vec<&str> = self.environment.keys().map(String::as_str).collect();
            lines.push(format!("environment {}", names.join(", ")));
        }
        lines
    }
}

impl SendTo {
    fn read(at: &str, value: &Value, wrong: &mut Vec<String>) -> Self {
        let mut send_to = Self::default();
        let example = "{ queues = [\"emails\"], tasks = [\"proj.*\"] }";
        let Value::Table(table) = value else {
            wrong.push(format!("{at}: expected a table, for example {example}"));
            return send_to;
        };
        for (name, value) in table {
            let at = format!("{at}.{name}");
            let mut patterns = |example: &str| {
                let read = texts(&at, value, example, wrong);
                each(&at, read, Pattern::read, wrong)
            };
            match name.as_str() {
                "queues" => send_to.queues = patterns("\"emails\""),
                "tasks" => send_to.tasks = patterns("\"proj.*\""),
                _ => wrong.push(format!("{at}: unknown key (queues, tasks)")),
            }
        }
        if send_to.queues.is_empty() != send_to.tasks.is_empty() {
            wrong.push(format!(
                "{at}: queues and tasks go together, for example {example}"
            ));
        }
        send_to
    }
}

/// A list of texts.
fn texts<'a>(at: &str, value: &'a Value, example: &str, wrong: &mut Vec<String>) -> Vec<&'a str> {
    let list = value.as_array().map(Vec::as_slice);
    let texts: Option<Vec<&str>> = list.and_then(|list| list.iter().map(Value::as_str).collect());
    texts.unwrap_or_else(|| {
        wrong.push(format!("{at}: expected a list of texts, for example [{example}]"));
        Vec::new()
    })
}

fn each<T>(
    at: &str,
    texts: Vec<&str>,
    read: impl Fn(&str) -> Result<T, String>,
    wrong: &mut Vec<String>,
) -> Vec<T> {
    let mut values = Vec::new();
    for text in texts {
        match read(text) {
            Ok(value) => values.push(value),
            Err(reason) => wrong.push(format!("{at}: {reason}")),
        }
    }
    values
}

/// `{ "/data" = "/srv/data", "/out" = { path = "/srv/out", writable = true } }`.
fn files(at: &str, value: &Value, wrong: &mut Vec<String>) -> BTreeMap<String, Folder> {
    let mut folders = BTreeMap::new();
    let Value::Table(table) = value else {
        wrong.push(format!(
            "{at}: expected a table of folders, for example {{ \"/data\" = \"/srv/data\" }}"
        ));
        return folders;
    };
    for (guest, value) in table {
        let at = format!("{at}.{}", key(guest));
        if !guest.starts_with('/') || guest.contains('\0') {
            wrong.push(format!(
                "{at}: the path that the component sees starts with a slash, as in \"/data\""
            ));
        }
        match folder(&at, value, wrong) {
            Some(folder) if folder.path.is_absolute() => {
                folders.insert(guest.clone(), folder);
            }
            Some(_) => wrong.push(format!("{at}: expected an absolute path on the worker's machine")),
            None => {}
        }
    }
    folders
}

fn folder(at: &str, value: &Value, wrong: &mut Vec<String>) -> Option<Folder> {
    let expected = "expected a folder, or { path = \"/srv/data\", writable = true }";
    let table = match value {
        Value::String(path) => {
            return Some(Folder {
                path: path.into(),
                writable: false,
            });
        }
        Value::Table(table) => table,
        _ => {
            wrong.push(format!("{at}: {expected}"));
            return None;
        }
    };
    for name in table
        .keys()
        .filter(|name| !["path", "writable"].contains(&name.as_str()))
    {
        wrong.push(format!("{at}.{name}: unknown key (path, writable)"));
    }
    let writable = table.get("writable").map_or(Some(false), Value::as_bool);
    match (table.get("path").and_then(Value::as_str), writable) {
        (Some(path), Some(writable)) => Some(Folder {
            path: path.into(),
            writable,
        }),
        _ => {
            wrong.push(format!("{at}: {expected}"));
            None
        }
    }
}

/// `["TZ"]`, or `{ TZ = "UTC" }`.
fn environment(at: &str, value: &Value, wrong: &mut Vec<String>) -> BTreeMap<String, Variable> {
    let expected = "expected a list of names, or a table of texts";
    let variables: Option<BTreeMap<String, Variable>> = match value {
        Value::Array(names) => {
            let own = |name: &Value| Some((name.as_str()?.to_owned(), Variable::Own));
            names.iter().map(own).collect()
        }
        Value::Table(table) => table.iter().map(variable).collect(),
        _ => None,
    };
    let variables = variables.unwrap_or_else(|| {
        wrong.push(format!("{at}: {expected}"));
        BTreeMap::new()
    });
    for name in variables
        .keys()
        .filter(|name| name.is_empty() || name.contains(['=', '\0']))
    {
        wrong.push(format!("{at}: {name:?} is no name of a variable"));
    }
    variables
}

fn variable((name, value): (&String, &Value)) -> Option<(String, Variable)> {
    let text = value.as_str().filter(|text| !text.contains('\0'))?;
    Some((name.clone(), Variable::Text(text.to_owned())))
}

/// The components' tables; `events`: see [`SendTo::events`]. What makes no sense is added to `wrong`.
pub fn read(components: &Table, events: &[String], wrong: &mut Vec<String>) -> BTreeMap<String, Grants> {
    let grants = components.iter().map(|(name, value)| {
        let mut grants = Grants::read(name, value, wrong);
        grants.send_to.events = events.to_vec();
        (name.clone(), grants)
    });
    grants.collect()
}

/// A key of TOML: bare where that is possible.
fn key(name: &str) -> String {
    let bare = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    if !name.is_empty() && name.chars().all(bare) {
        name.to_owned()
    } else {
        format!("{name:?}")
    }
}

/// A name that a guest chose: in quotes, control characters escaped, and cut off where it is long.
fn shown(name: &str) -> String {
    match name.get(..name.floor_char_boundary(SHOWN)) {
        Some(start) if start.len() < name.len() => format!("{start:?}…"),
        _ => format!("{name:?}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn granted(text: &str) -> (Grants, Vec<String>) {
        let table: Table = toml::from_str(text).unwrap();
        let mut wrong = Vec::new();
        let components = table["component"].as_table().unwrap();
        let events = ["celeryev", "monitors"].map(str::to_owned);
        let mut all = read(components, &events, &mut wrong);
        (all.remove("mailer").unwrap(), wrong)
    }

    fn to(exchange: &str, routing_key: &str) -> Route {
        Route {
            exchange: exchange.into(),
            routing_key: routing_key.into(),
        }
    }

    #[test]
    fn a_message_needs_both_its_queue_and_its_task() {
        let (grants, wrong) = granted(
            "[component.mailer]\nsend_to = { queues = ['emails', 'reports.*', 'media/a.*'], tasks = ['proj.*', 'm.send'] }",
        );
        assert_eq!(wrong, [""; 0]);
        for (task, route, fine) in [
            ("proj.add", to("", "emails"), true),
            ("m.send", to("", "reports.daily"), true),
            ("m.sends", to("", "emails"), false),
            ("xproj.add", to("", "emails"), false),
            ("proj.add", to("", "emails2"), false),
            ("proj.add", to("emails", "emails"), false),
            ("proj.add", to("media", "a.b"), true),
            ("proj.add", to("", "media/a.b"), true),
            ("proj.add", to("media", "b"), false),
        ] {
            assert_eq!(grants.check_send(task, &route).is_ok(), fine, "{task} {route:?}");
        }
        let refusal = grants
            .check_send("evil\n\u{1b}[2J", &to("", "other"))
            .unwrap_err();
        assert!(
            refusal.contains("[component.mailer] send_to = { queues = [\"other\"]"),
            "{refusal}"
        );
        assert!(!refusal.contains(['\n', '\u{1b}']), "{refusal}");
        let long = grants.check_send(&"é".repeat(9999), &to("", "q")).unwrap_err();
        assert!(long.len() < 1000, "{}", long.len());
    }

    #[test]
    fn a_pattern_never_covers_remote_control_and_events() {
        let (grants, _) = granted("[component.mailer]\nsend_to = { queues = ['*'], tasks = ['*'] }");
        assert!(grants.check_send("a", &to("", "anything")).is_ok());
        assert!(grants.check_send("a", &to("x", "y")).is_ok());
        assert!(grants.check_send("a", &to("", "monitors-of-mine")).is_ok());
        for (exchange, key) in [
            ("celery.pidbox", ""),
            ("", "celery.pidbox"),
            ("reply.celery.pidbox", "x"),
            ("", "w1@host.celery.pidbox"),
            ("other.pidbox", ""),
            ("celeryev", "worker.online"),
            ("", "monitors.8f1b"),
            ("", "_kombu.binding.celery.pidbox"),
        ] {
            assert!(
                grants.check_send("a", &to(exchange, key)).is_err(),
                "{exchange}/{key}"
            );
        }
    }

    #[test]
    fn nothing_is_granted_by_default_and_the_refusals_say_what_to_write() {
        let none = Grants::none("my tasks");
        assert!(none.is_empty());
        let refusal = none.check_results().unwrap_err();
        assert!(
            refusal.contains("[component.\"my tasks\"] results = true"),
            "{refusal}"
        );
        assert!(none.check_send("a", &to("", "q")).is_err());
        assert!(
            Grants::missing("db", "wasi:sockets/tcp@0.2.3")
                .unwrap()
                .contains("[component.db] network")
        );
        assert_eq!(Grants::missing("db", "wasi:http/types@0.2.3"), None);
    }

    #[test]
    fn files_and_variables_have_a_short_and_a_long_form() {
        let (grants, wrong) = granted(
            r#"[component.mailer]
            results = true
            environment = { TZ = "UTC" }
            files = { "/data" = "/srv/data", "/out" = { path = "/srv/out", writable = true } }
            "#,
        );
        assert_eq!(wrong, [""; 0]);
        assert!(!grants.files["/data"].writable && grants.files["/out"].writable);
        assert_eq!(grants.environment["TZ"], Variable::Text("UTC".into()));
        let (short, _) = granted("[component.mailer]\nenvironment = ['HOME']");
        assert_eq!(short.environment["HOME"], Variable::Own);
        assert_eq!(
            grants.lines(),
            [
                "results",
                "files /data = /srv/data (read-only)",
                "files /out = /srv/out (writable)",
                "environment TZ"
            ]
        );
    }

    #[test]
    fn everything_that_makes_no_sense_is_named_with_its_path() {
        let (_, wrong) = granted(
            r#"[component.mailer]
            netwrk = []
            results = 1
            network = ["nowhere", "10.0.0.0/40:1"]
            send_to = { queues = ["a"], task = ["b"] }
            environment = ["A=B"]
            files = { data = "/srv", "/out" = { path = "srv", mode = 1 }, "/x" = 3 }
            "#,
        );
        let all = wrong.join("\n");
        for part in [
            "component.mailer.netwrk: unknown key; did you mean network?",
            "component.mailer.results: expected true or false",
            "component.mailer.network: \"nowhere\"",
            "component.mailer.network: \"10.0.0.0/40:1\"",
            "component.mailer.send_to.task: unknown key",
            "component.mailer.send_to: queues and tasks go together",
            "component.mailer.environment: \"A=B\"",
            "component.mailer.files.data: the path",
            "component.mailer.files.\"/out\".mode: unknown key",
            "component.mailer.files.\"/out\": expected an absolute path",
            "component.mailer.files.\"/x\": expected a folder",
        ] {
            assert!(all.contains(part), "{part:?} is not in\n{all}");
        }
        assert_eq!(wrong.len(), 11, "{all}");
    }
}
