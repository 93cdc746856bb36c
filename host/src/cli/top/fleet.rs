//! What a monitor knows of a fleet: a value that is fed with events and answers. Everything is bounded, and every text is
//! made harmless when it comes in.
//!
//! Times are seconds of the monitor's own clock, so that the clocks of workers do not matter.

use std::collections::{BTreeMap, HashMap, VecDeque};

use serde_json::Value;

use crate::cli::terminal::{cut, line};
use crate::control::client::Answer;
use crate::message::{JsonMap, repr};

/// Tasks, workers and names of tasks that are remembered.
const TASKS: usize = 10_000;
const WORKERS: usize = 1000;
const NAMES: usize = 1000;
/// Where everything is counted that has no room of its own.
const OTHERS: &str = "(others)";
/// The longest text, characters.
const LONGEST: usize = 200;
/// A worker that answered or sent something else than a heartbeat counts as there for so long.
const ALIVE: f64 = 20.0;
/// Rates are those of the last so many seconds.
const WINDOW: usize = 10;

/// How many tasks ended in each of the last seconds.
#[derive(Debug, Clone, Default)]
struct Rate {
    /// Of the last one.
    second: i64,
    counts: [u32; WINDOW],
}

impl Rate {
    fn count(&mut self, now: f64) {
        self.advance(now);
        if let Some(count) = self.counts.first_mut() {
            *count = count.saturating_add(1);
        }
    }

    fn advance(&mut self, now: f64) {
        let steps = (now as i64).saturating_sub(self.second).max(0);
        let kept = usize::try_from(steps).unwrap_or(WINDOW).min(WINDOW);
        self.counts.rotate_right(kept % WINDOW);
        self.counts.iter_mut().take(kept).for_each(|count| *count = 0);
        self.second += steps;
    }

    fn per_second(&self, now: f64) -> f64 {
        let mut rate = self.clone();
        rate.advance(now);
        f64::from(rate.counts.iter().sum::<u32>()) / WINDOW as f64
    }
}

/// A worker.
#[derive(Debug, Clone, Default)]
pub(super) struct Worker {
    /// Until when it counts as there.
    until: f64,
    offline: bool,
    pub(super) pool: String,
    pub(super) slots: Option<u64>,
    pub(super) active: Option<u64>,
    pub(super) processed: Option<u64>,
    pub(super) load: Option<f64>,
    pub(super) queues: Vec<String>,
}

impl Worker {
    pub(super) fn is_online(&self, now: f64) -> bool {
        !self.offline && now < self.until
    }
}

/// A task.
#[derive(Debug, Clone, Default)]
pub(super) struct Task {
    pub(super) name: String,
    pub(super) args: String,
    pub(super) kwargs: String,
    /// As Celery calls it: `RECEIVED`, `STARTED`, `SUCCESS` …
    pub(super) state: String,
    pub(super) worker: String,
    started: Option<f64>,
    pub(super) runtime: Option<f64>,
    /// The value or the error.
    pub(super) outcome: String,
    /// Tasks are numbered as they are heard of.
    pub(super) number: u64,
}

impl Task {
    /// How long it ran, or runs already.
    pub(super) fn time(&self, now: f64) -> Option<f64> {
        let running = || Some((now - self.started?).max(0.0));
        self.runtime
            .or_else(|| if self.state == "STARTED" { running() } else { None })
    }
}

/// What is known of all tasks of one name.
#[derive(Debug, Clone, Default)]
pub(super) struct Kind {
    pub(super) succeeded: u64,
    pub(super) failed: u64,
    pub(super) retried: u64,
    runtime: f64,
    /// Of those that succeeded, seconds.
    pub(super) slowest: f64,
    ended: Rate,
}

impl Kind {
    /// Of those that succeeded, seconds.
    pub(super) fn mean(&self) -> Option<f64> {
        (self.succeeded > 0).then(|| self.runtime / self.succeeded as f64)
    }

    pub(super) fn per_second(&self, now: f64) -> f64 {
        self.ended.per_second(now)
    }
}

/// All of it.
#[derive(Debug, Clone, Default)]
pub(super) struct Fleet {
    pub(super) workers: BTreeMap<String, Worker>,
    tasks: HashMap<String, Task>,
    /// Their ids, the oldest first.
    order: VecDeque<String>,
    pub(super) kinds: BTreeMap<String, Kind>,
    ended: Rate,
    heard_of: u64,
}

impl Fleet {
    /// Learns what an event says.
    pub(super) fn hear(&mut self, event: &JsonMap, now: f64) {
        let kind = text(event, "type");
        let node = text(event, "hostname");
        if kind != "task-sent" && !node.is_empty() {
            self.sign_of_life(&node, &kind, event, now);
        }
        if let Some(kind) = kind.strip_prefix("task-") {
            self.task(kind, node, event, now);
        }
    }

    /// Learns what a worker says to `stats`, `active_queues` and `active`.
    pub(super) fn answered(&mut self, method: &str, answer: &Answer, now: f64) {
        let node = harmless(&answer.node);
        let value = &answer.value;
        let Some(worker) = self.worker(&node) else { return };
        worker.until = worker.until.max(now + ALIVE);
        worker.offline = false;
        match method {
            "stats" => {
                let pool = value.pointer("/pool/implementation").and_then(Value::as_str);
                worker.pool = pool.map(pool_name).unwrap_or_default();
                worker.slots = value.pointer("/pool/max-concurrency").and_then(Value::as_u64);
                let total = value.get("total").and_then(Value::as_object);
                let total = total.map(|total| {
                    total
                        .values()
                        .filter_map(Value::as_u64)
                        .fold(0, u64::saturating_add)
                });
                worker.processed = worker.processed.max(total);
            }
            "active_queues" => {
                let names = value.as_array().into_iter().flatten();
                let names = names
                    .filter_map(|queue| queue.get("name")?.as_str())
                    .map(harmless);
                worker.queues = names.take(100).collect();
            }
            "active" => {
                let tasks = value.as_array().map(Vec::as_slice).unwrap_or_default();
                worker.active = Some(tasks.len() as u64);
                for info in tasks.iter().filter_map(Value::as_object).take(TASKS) {
                    self.runs(info, &node, now);
                }
            }
            _ => {}
        }
    }

    /// How many tasks end in a second.
    pub(super) fn per_second(&self, now: f64) -> f64 {
        self.ended.per_second(now)
    }

    /// How many run, as far as is known.
    pub(super) fn running(&self) -> usize {
        self.tasks.values().filter(|task| task.state == "STARTED").count()
    }

    /// How many of each name run.
    pub(super) fn running_by_name(&self) -> HashMap<&str, usize> {
        let mut running = HashMap::new();
        for task in self.tasks.values().filter(|task| task.state == "STARTED") {
            *running.entry(task.name.as_str()).or_default() += 1;
        }
        running
    }

    /// Every task with its id, in no order.
    pub(super) fn tasks(&self) -> impl Iterator<Item = (&str, &Task)> {
        self.tasks.iter().map(|(id, task)| (id.as_str(), task))
    }

    /// The task of this id.
    pub(super) fn get(&self, id: &str) -> Option<&Task> {
        self.tasks.get(id)
    }

    fn worker(&mut self, node: &str) -> Option<&mut Worker> {
        if !self.workers.contains_key(node) && self.workers.len() >= WORKERS {
            let oldest = self.workers.iter().min_by(|a, b| a.1.until.total_cmp(&b.1.until));
            let oldest = oldest.map(|(name, _)| name.clone())?;
            self.workers.remove(&oldest);
        }
        Some(self.workers.entry(node.to_owned()).or_default())
    }

    fn sign_of_life(&mut self, node: &str, kind: &str, event: &JsonMap, now: f64) {
        let Some(worker) = self.worker(node) else { return };
        worker.offline = kind == "worker-offline";
        let number = |name: &str| event.get(name).and_then(Value::as_u64);
        if !kind.starts_with("worker-") {
            worker.until = worker.until.max(now + ALIVE);
            return;
        }
        let freq = event
            .get("freq")
            .and_then(Value::as_f64)
            .filter(|freq| *freq > 0.0);
        worker.until = worker
            .until
            .max(now + 2.0 * freq.unwrap_or(ALIVE / 2.0).min(600.0));
        worker.active = number("active").or(worker.active);
        worker.processed = number("processed").or(worker.processed);
        let load = event.get("loadavg").and_then(|load| load.get(0)?.as_f64());
        worker.load = load.or(worker.load);
    }

    fn task(&mut self, kind: &str, node: String, event: &JsonMap, now: f64) {
        let id = text(event, "uuid");
        if id.is_empty() {
            return;
        }
        let is_new = self.remember(&id);
        let Some(task) = self.tasks.get_mut(&id) else {
            return;
        };
        if kind == "sent" && !is_new {
            // The worker was faster.
            return;
        }
        for (field, name) in [
            (&mut task.name, "name"),
            (&mut task.args, "args"),
            (&mut task.kwargs, "kwargs"),
        ] {
            let said = text(event, name);
            if !said.is_empty() {
                *field = said;
            }
        }
        let state = state(kind);
        if kind != "sent" {
            task.worker = node;
        }
        if state == "STARTED" && task.state != "STARTED" {
            task.started = Some(now);
        }
        if matches!(&*state, "RECEIVED" | "STARTED") {
            (task.runtime, task.outcome) = (None, String::new());
        } else if task.state == "STARTED" {
            task.runtime = task.started.map(|started| (now - started).max(0.0));
        }
        let runtime = event
            .get("runtime")
            .and_then(Value::as_f64)
            .filter(|time| time.is_finite() && *time >= 0.0);
        task.runtime = runtime.or(task.runtime);
        for name in ["result", "exception"] {
            if event.contains_key(name) {
                task.outcome = text(event, name);
            }
        }
        task.state = state.clone();
        let (name, runtime) = (task.name.clone(), task.runtime.unwrap_or(0.0));
        self.count(&name, &state, runtime, now);
    }

    fn count(&mut self, name: &str, state: &str, runtime: f64, now: f64) {
        let name = if name.is_empty() { "?" } else { name };
        let known = self.kinds.len() < NAMES || self.kinds.contains_key(name);
        let kind = self
            .kinds
            .entry(if known { name } else { OTHERS }.to_owned())
            .or_default();
        match state {
            "SUCCESS" => {
                kind.succeeded += 1;
                kind.runtime += runtime;
                kind.slowest = kind.slowest.max(runtime);
            }
            "FAILURE" => kind.failed += 1,
            "RETRY" => kind.retried += 1,
            _ => return,
        }
        kind.ended.count(now);
        self.ended.count(now);
    }

    /// A task that runs, as its worker says; perhaps it began before this monitor did.
    fn runs(&mut self, info: &JsonMap, node: &str, now: f64) {
        let id = text(info, "id");
        if id.is_empty() || !self.remember(&id) {
            return;
        }
        if let Some(task) = self.tasks.get_mut(&id) {
            task.name = text(info, "name");
            (task.args, task.kwargs) = (text(info, "args"), text(info, "kwargs"));
            (task.state, task.worker) = ("STARTED".into(), node.to_owned());
            task.started = Some(now);
        }
    }

    /// Makes room for a task; whether it is new.
    fn remember(&mut self, id: &str) -> bool {
        if self.tasks.contains_key(id) {
            return false;
        }
        if self.order.len() >= TASKS
            && let Some(oldest) = self.order.pop_front()
        {
            self.tasks.remove(&oldest);
        }
        self.heard_of += 1;
        let task = Task {
            number: self.heard_of,
            ..Task::default()
        };
        self.tasks.insert(id.to_owned(), task);
        self.order.push_back(id.to_owned());
        true
    }
}

/// Celery's name of the state that an event leads to.
fn state(kind: &str) -> String {
    match kind {
        "sent" => "PENDING".into(),
        "succeeded" => "SUCCESS".into(),
        "failed" => "FAILURE".into(),
        "retried" => "RETRY".into(),
        other => other.to_uppercase(),
    }
}

/// `prefork` of `celery.concurrency.prefork:TaskPool`.
fn pool_name(implementation: &str) -> String {
    let module = implementation.split(':').next().unwrap_or_default();
    harmless(module.rsplit('.').next().unwrap_or_default())
}

fn text(event: &JsonMap, name: &str) -> String {
    match event.get(name) {
        None | Some(Value::Null) => String::new(),
        Some(Value::String(text)) => harmless(text),
        Some(other) => harmless(&repr::value(other)),
    }
}

fn harmless(text: &str) -> String {
    line(&cut(text, LONGEST))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn hear(fleet: &mut Fleet, now: f64, event: Value) {
        fleet.hear(event.as_object().unwrap(), now);
    }

    fn event(kind: &str, id: &str) -> Value {
        json!({"type": kind, "hostname": "w1@h", "uuid": id, "name": "t.add", "runtime": 0.5})
    }

    #[test]
    fn a_worker_is_online_for_two_heartbeats() {
        let mut fleet = Fleet::default();
        let heartbeat = json!({"type": "worker-heartbeat", "hostname": "w1@h", "freq": 2.0, "active": 1,
                               "processed": 7, "loadavg": [0.5, 1, 2]});
        hear(&mut fleet, 100.0, heartbeat.clone());
        let worker = &fleet.workers["w1@h"];
        assert_eq!(
            (worker.active, worker.processed, worker.load),
            (Some(1), Some(7), Some(0.5))
        );
        assert!(worker.is_online(103.9) && !worker.is_online(104.0));
        hear(
            &mut fleet,
            101.0,
            json!({"type": "worker-offline", "hostname": "w1@h"}),
        );
        assert!(!fleet.workers["w1@h"].is_online(101.0));
        hear(&mut fleet, 102.0, heartbeat);
        assert!(fleet.workers["w1@h"].is_online(102.0));
        // A client is no worker.
        hear(
            &mut fleet,
            102.0,
            json!({"type": "task-sent", "hostname": "gen1@h", "uuid": "1"}),
        );
        assert_eq!(fleet.workers.len(), 1);
    }

    #[test]
    fn answers_say_what_events_do_not() {
        let mut fleet = Fleet::default();
        let mut answered = |method: &str, value: Value| {
            let node = "w1@h".into();
            fleet.answered(method, &Answer { node, value }, 5.0);
        };
        answered(
            "stats",
            json!({"pool": {"implementation": "celery.concurrency.prefork:TaskPool", "max-concurrency": 4},
                   "total": {"a": 2, "b": 3}}),
        );
        answered("active_queues", json!([{"name": "celery"}, {"name": "mail"}, 3]));
        let info = json!({"id": "1", "name": "t.add", "args": "(1,)", "kwargs": "{}"});
        answered("active", json!([info, "odd"]));
        let worker = &fleet.workers["w1@h"];
        assert_eq!(
            (worker.pool.as_str(), worker.slots, worker.processed),
            ("prefork", Some(4), Some(5))
        );
        assert_eq!(
            (&worker.queues[..], worker.active),
            (&["celery".to_owned(), "mail".into()][..], Some(2))
        );
        let task = fleet.get("1").unwrap();
        assert_eq!(
            (task.state.as_str(), task.worker.as_str(), task.time(7.0)),
            ("STARTED", "w1@h", Some(2.0))
        );
    }

    #[test]
    fn a_task_goes_through_its_states() {
        let mut fleet = Fleet::default();
        hear(
            &mut fleet,
            1.0,
            json!({"type": "task-received", "hostname": "w1@h", "uuid": "1", "name": "t.add",
                                    "args": "(2, 2)", "kwargs": "{}"}),
        );
        hear(
            &mut fleet,
            1.5,
            json!({"type": "task-sent", "hostname": "gen@h", "uuid": "1", "name": "x"}),
        );
        let state = |fleet: &Fleet| fleet.get("1").unwrap().state.clone();
        assert_eq!(state(&fleet), "RECEIVED");
        hear(
            &mut fleet,
            2.0,
            json!({"type": "task-started", "hostname": "w1@h", "uuid": "1"}),
        );
        assert_eq!((state(&fleet).as_str(), fleet.running()), ("STARTED", 1));
        assert_eq!(fleet.get("1").unwrap().time(5.0), Some(3.0));
        hear(
            &mut fleet,
            6.0,
            json!({"type": "task-retried", "hostname": "w1@h", "uuid": "1", "exception": "E()"}),
        );
        assert_eq!(fleet.get("1").unwrap().outcome, "E()");
        hear(
            &mut fleet,
            7.0,
            json!({"type": "task-started", "hostname": "w1@h", "uuid": "1"}),
        );
        hear(
            &mut fleet,
            9.0,
            json!({"type": "task-succeeded", "hostname": "w1@h", "uuid": "1", "runtime": 1.5,
                                    "result": "4"}),
        );
        let task = fleet.get("1").unwrap();
        assert_eq!(
            (task.state.as_str(), task.runtime, task.outcome.as_str()),
            ("SUCCESS", Some(1.5), "4")
        );
        assert_eq!(
            (task.name.as_str(), task.args.as_str(), fleet.running()),
            ("t.add", "(2, 2)", 0)
        );
        let kind = &fleet.kinds["t.add"];
        assert_eq!(
            (kind.succeeded, kind.retried, kind.mean(), kind.slowest),
            (1, 1, Some(1.5), 1.5)
        );
        hear(
            &mut fleet,
            9.0,
            json!({"type": "task-revoked", "hostname": "w1@h", "uuid": "1"}),
        );
        assert_eq!(state(&fleet), "REVOKED");
    }

    #[test]
    fn rates_are_those_of_the_last_ten_seconds() {
        let mut fleet = Fleet::default();
        for second in 0..5 {
            for task in 0..20 {
                let event = event("task-succeeded", &format!("{second}-{task}"));
                hear(&mut fleet, 1000.0 + f64::from(second), event);
            }
        }
        assert_eq!(fleet.per_second(1004.0), 10.0);
        assert_eq!(fleet.kinds["t.add"].per_second(1010.0), 8.0);
        assert_eq!(fleet.per_second(1e9), 0.0);
        // A clock that is set back changes nothing.
        assert_eq!(fleet.per_second(10.0), 10.0);
    }

    #[test]
    fn memory_is_bounded_and_texts_are_harmless() {
        let mut fleet = Fleet::default();
        for number in 0..TASKS + 10 {
            let long = "x".repeat(10_000);
            let event = json!({"type": "task-received", "uuid": number.to_string(), "name": format!("t{number}"),
                               "hostname": format!("w{number}\u{1b}[2J"), "args": long});
            hear(&mut fleet, number as f64, event);
        }
        assert_eq!(
            (fleet.tasks.len(), fleet.order.len(), fleet.workers.len()),
            (TASKS, TASKS, WORKERS)
        );
        assert_eq!(fleet.kinds.len(), NAMES + 1);
        let last = (TASKS + 9).to_string();
        assert!(fleet.get("0").is_none());
        assert_eq!(fleet.get(&last).unwrap().args.chars().count(), LONGEST);
        assert!(fleet.workers.keys().all(|name| !name.contains('\u{1b}')));
        for odd in [
            json!({}),
            json!({"type": 3}),
            json!({"type": "task-x", "hostname": [1], "uuid": {"a": 1}}),
            json!({"type": "worker-heartbeat", "hostname": "w", "freq": -1e300, "loadavg": 3}),
            json!({"type": "task-succeeded", "hostname": "w", "uuid": "u", "runtime": -5}),
        ] {
            hear(&mut fleet, f64::MAX, odd);
        }
    }
}
