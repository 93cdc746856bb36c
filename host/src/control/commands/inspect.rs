//! Commands that only look.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::arguments::Arguments;
use super::{Done, Refused, State, ok, value};
use crate::control::info::{Scheduled, TaskInfo};
use crate::control::{queues, registered as shown, resources};
use crate::execution::active::{Entry, Progress};

fn entries(state: &State<'_>, wanted: impl Fn(&Entry) -> bool) -> Vec<Entry> {
    let mut entries = state.execution.active.entries();
    entries.retain(|entry| wanted(entry));
    entries
}

fn info<'a>(state: &'a State<'_>, entry: &'a Entry, safe: bool) -> TaskInfo<'a> {
    TaskInfo::new(entry, &state.execution.options.hostname, safe)
}

fn infos(state: &State<'_>, entries: &[Entry], safe: bool) -> Done {
    let infos = entries.iter().map(|entry| info(state, entry, safe));
    value(infos.collect::<Vec<_>>())
}

pub(super) fn active(state: &State<'_>, arguments: &Arguments<'_>) -> Done {
    let active = entries(state, |entry| entry.progress == Progress::Active);
    infos(state, &active, arguments.flag("safe"))
}

pub(super) fn reserved(state: &State<'_>, _: &Arguments<'_>) -> Done {
    let reserved = entries(state, |entry| entry.progress == Progress::Reserved);
    infos(state, &reserved, false)
}

pub(super) fn scheduled(state: &State<'_>, _: &Arguments<'_>) -> Done {
    let entries = entries(state, |entry| entry.progress == Progress::Scheduled);
    let all = entries
        .iter()
        .map(|entry| Scheduled::new(entry, info(state, entry, false)));
    value(all.collect::<Vec<_>>())
}

pub(super) fn query_task(state: &State<'_>, arguments: &Arguments<'_>) -> Done {
    let ids: std::collections::HashSet<&str> = arguments.ids("ids")?.into_iter().collect();
    let found = entries(state, |entry| ids.contains(entry.request.id.as_str()));
    let found = found.iter().filter_map(|entry| {
        let progress = match entry.progress {
            Progress::Active => "active",
            Progress::Scheduled => "scheduled",
            Progress::Reserved => "reserved",
            // Celery knows nothing of a task that waits for its rate limit.
            Progress::Received => return None,
        };
        Some((entry.request.id.as_str(), (progress, info(state, entry, false))))
    });
    value(found.collect::<BTreeMap<_, _>>())
}

pub(super) fn registered(state: &State<'_>, arguments: &Arguments<'_>) -> Done {
    let items = shown::attributes(arguments.get("taskinfoitems"));
    let registry = state.execution.tasks.registry();
    let mut definitions: Vec<_> = registry.definitions().collect();
    if !arguments.flag("builtins") {
        definitions.retain(|definition| !definition.name.starts_with("celery."));
    }
    definitions.sort_by(|one, other| one.name.cmp(&other.name));
    let defaults = &state.execution.options.defaults;
    let lines = definitions
        .iter()
        .map(|definition| shown::line(definition, &items, defaults));
    value(lines.collect::<Vec<_>>())
}

pub(super) fn active_queues(state: &State<'_>, _: &Arguments<'_>) -> Done {
    let queues = state.execution.consuming.queues();
    value(queues.iter().map(queues::shown).collect::<Vec<_>>())
}

pub(super) fn conf(state: &State<'_>, arguments: &Arguments<'_>) -> Done {
    value(match arguments.flag("with_defaults") {
        true => &state.about.conf_with_defaults,
        false => &state.about.conf,
    })
}

pub(super) fn report(state: &State<'_>, _: &Arguments<'_>) -> Done {
    ok(&state.about.report())
}

pub(super) fn memdump(state: &State<'_>, arguments: &Arguments<'_>) -> Done {
    let samples = arguments.count("samples")?.unwrap_or(10);
    value(state.samples.dump(samples as usize))
}

pub(super) fn objgraph(_: &State<'_>, _: &Arguments<'_>) -> Done {
    let text =
        "objgraph: there are no Python objects in this worker; memsample tells how much memory it uses";
    Err(Refused::new("NotImplementedError", text))
}

/// Contract section 6.4.
pub(super) fn stats(state: &State<'_>, _: &Arguments<'_>) -> Done {
    let execution = state.execution;
    let (total, pid) = (execution.active.begun(), std::process::id());
    let begun: u64 = total.values().sum();
    let defaults = &execution.options.defaults;
    let mut stats = Map::new();
    let mut put = |name: &str, value: Value| stats.insert(name.to_owned(), value);
    put("total", json!(total));
    put("pid", json!(pid));
    put("clock", json!(execution.clock.now().to_string()));
    put("uptime", json!(state.about.started.elapsed().as_secs()));
    if let Some(scale) = execution.slots.autoscale() {
        let reserved = execution.active.reserved();
        let current = execution.slots.size();
        put(
            "autoscaler",
            json!({"max": scale.max, "min": scale.min, "current": current, "qty": reserved}),
        );
    }
    // One process, so all writes are its own.
    let share = if begun == 0 { "0.00" } else { "1.00" };
    put(
        "pool",
        json!({
            "implementation": "celerybox:sandboxes",
            "max-concurrency": execution.slots.size(),
            "processes": [pid],
            // A sandbox runs one task and is gone.
            "max-tasks-per-child": 1,
            "put-guarded-by-semaphore": true,
            "timeouts": [defaults.soft_time_limit.unwrap_or(0.0), defaults.time_limit.unwrap_or(0.0)],
            "writes": {
                "total": begun,
                "avg": share,
                "all": share,
                "raw": begun.to_string(),
                "strategy": "fair",
                "inqueues": {"total": 0, "active": 0},
            },
        }),
    );
    put("broker", state.about.broker.clone());
    put("prefetch_count", json!(execution.prefetch.current()));
    put(
        "rusage",
        resources::usage().map_or(json!("N/A"), |usage| json!(usage)),
    );
    value(stats)
}
