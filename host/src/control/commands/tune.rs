//! Commands that change limits, slots, queues, components and events.

use std::sync::Arc;

use serde_json::{Map, Value, json};

use super::arguments::Arguments;
use super::{Answer, Done, Refused, State, nok, ok, value};
use crate::message::repr;
use crate::policy::rate::Rate;
use crate::queue::{self, Queue};

/// Of a worker that neither sends events nor listens to its neighbours.
const NO_DISPATCHER: &str = "event dispatcher unavailable";
/// The longest rate limit, bytes.
const LONGEST_RATE: usize = 100;
/// The largest description of a queue, bytes: a worker remembers those of a thousand.
const LARGEST_QUEUE: usize = 4 << 10;

pub(super) fn rate_limit(state: &State<'_>, arguments: &Arguments<'_>) -> Done {
    let (text, is_off) = match arguments.get("rate_limit") {
        None => (String::new(), true),
        Some(Value::String(text)) => (text.clone(), text.is_empty()),
        Some(Value::Number(number)) => (number.to_string(), number.as_f64() == Some(0.0)),
        Some(other) => {
            let text = format!(
                "a rate limit is a text like 10/m, not {:.100}",
                repr::value(other)
            );
            return Err(Refused::new("TypeError", &text));
        }
    };
    if text.len() > LONGEST_RATE {
        let text = format!("a rate limit has at most {LONGEST_RATE} bytes");
        return Err(Refused::value(&text));
    }
    let Some(rate) = Rate::parse(&text) else {
        let (number, per) = text.split_once('/').unwrap_or((&text, "s"));
        if !matches!(per, "s" | "m" | "h" | "") {
            return Err(Refused::new("KeyError", per));
        }
        let problem = match number.trim().parse::<f64>() {
            Ok(_) => format!("not a number of tasks: {}", repr::value(&number.into())),
            Err(_) => format!(
                "could not convert string to float: {}",
                repr::value(&number.into())
            ),
        };
        let problem = repr::value(&problem.into());
        return nok(&format!("Invalid rate limit string: ValueError({problem})"));
    };
    let name = arguments.name("task_name")?;
    if !state.execution.set_rate_limit(name, rate, &text) {
        tracing::error!("Rate limit attempt for unknown task {name:?}");
        return nok("unknown task");
    }
    if is_off {
        tracing::info!("Rate limits disabled for tasks of type {name}");
        return ok("rate limit disabled successfully");
    }
    tracing::info!("New rate limit for tasks of type {name}: {text}.");
    ok("new rate limit set successfully")
}

pub(super) fn time_limit(state: &State<'_>, arguments: &Arguments<'_>) -> Done {
    let (soft, hard) = (arguments.seconds("soft")?, arguments.seconds("hard")?);
    let name = arguments.text("task_name").unwrap_or_default();
    if !state.execution.tasks.set_time_limits(name, soft, hard) {
        tracing::error!("Change time limit attempt for unknown task {name:.300?}");
        return nok("unknown task");
    }
    tracing::info!("New time limits for tasks of type {name}: soft={soft:?} hard={hard:?}");
    ok("time limits set successfully")
}

/// A queue of the settings, or one that is made of the arguments.
pub(super) fn add_consumer(state: &State<'_>, arguments: &Arguments<'_>) -> Done {
    let name = arguments.name("queue")?;
    let consuming = &state.execution.consuming;
    let queue = match consuming.known().find(name) {
        Some(queue) => queue.clone(),
        None => consuming.known().complete(made(name, arguments.all())?),
    };
    if !consuming.add(queue) {
        return Err(Refused::value("this worker consumes too many queues already"));
    }
    ok(&format!("add consumer {name}"))
}

fn made(name: &str, arguments: &Map<String, Value>) -> Result<Queue, Refused> {
    let bytes: usize = arguments.values().map(|value| value.to_string().len()).sum();
    if bytes > LARGEST_QUEUE {
        let text = format!("the options of a queue have at most {LARGEST_QUEUE} bytes");
        return Err(Refused::value(&text));
    }
    let mut options: Map<String, Value> = arguments
        .iter()
        .filter(|(option, value)| *option != "queue" && !value.is_null())
        .map(|(option, value)| (option.clone(), value.clone()))
        .collect();
    options.entry("exchange").or_insert_with(|| name.into());
    options.entry("exchange_type").or_insert_with(|| "direct".into());
    let table = toml::Value::try_from(json!({ name: options }))
        .map_err(|error| Refused::value(&error.to_string()))?;
    let mut wrong = Vec::new();
    let mut queues = queue::queues(&table, &mut wrong);
    match (queues.pop(), wrong.is_empty()) {
        (Some(queue), true) => Ok(queue),
        _ => Err(Refused::value(&wrong.join("; "))),
    }
}

pub(super) fn cancel_consumer(state: &State<'_>, arguments: &Arguments<'_>) -> Done {
    let name = arguments.name("queue")?;
    state.execution.consuming.cancel(name);
    ok(&format!("no longer consuming from {name}"))
}

/// How many slots a command means.
fn slots(
    state: &State<'_>,
    arguments: &Arguments<'_>,
    command: &str,
) -> Result<Result<u32, String>, Refused> {
    if state.execution.slots.autoscale().is_some() {
        let text = format!("{command} is not supported with autoscale. Adjust autoscale range instead.");
        return Ok(Err(text));
    }
    match arguments.count("n")?.unwrap_or(1) {
        0 => Err(Refused::value("n must be 1 or more")),
        n => Ok(Ok(n)),
    }
}

/// Each slot is a place for a sandbox, and those are made at the start.
pub(super) fn pool_grow(state: &State<'_>, arguments: &Arguments<'_>) -> Done {
    let n = match slots(state, arguments, "pool_grow")? {
        Ok(n) => n,
        Err(text) => return nok(&text),
    };
    let (size, most) = (state.execution.slots.size(), state.execution.slots.most());
    if n > most.saturating_sub(size) {
        let text = format!(
            "the pool has {size} slots and can have at most {most}; the setting worker_max_concurrency allows more at the \
             next start"
        );
        return Err(Refused::value(&text));
    }
    state.execution.resize(n, 0);
    ok("pool will grow")
}

pub(super) fn pool_shrink(state: &State<'_>, arguments: &Arguments<'_>) -> Done {
    let n = match slots(state, arguments, "pool_shrink")? {
        Ok(n) => n,
        Err(text) => return nok(&text),
    };
    let size = state.execution.slots.size();
    if n >= size {
        let text = format!("the pool has {size} slots, and one must be left");
        return Err(Refused::value(&text));
    }
    state.execution.resize(0, n);
    ok("pool will shrink")
}

pub(super) fn autoscale(state: &State<'_>, arguments: &Arguments<'_>) -> Done {
    let (max, min) = (arguments.count("max")?, arguments.count("min")?);
    let (execution, most) = (state.execution, state.execution.slots.most());
    if execution.slots.autoscale().is_none() {
        return Err(Refused::value("Autoscale not enabled"));
    }
    if max.max(min).is_some_and(|wanted| wanted > most) {
        let text = format!(
            "the pool can have at most {most} slots; the setting worker_max_concurrency allows more at the next start"
        );
        return Err(Refused::value(&text));
    }
    let Some(scale) = execution.slots.set_autoscale(max, min) else {
        return Err(Refused::value("Autoscale not enabled"));
    };
    execution.prefetch.set_slots(scale.max);
    ok(&format!("autoscale now max={} min={}", scale.max, scale.min))
}

/// Components are loaded again from their files; what runs goes on with what it has.
pub(super) fn pool_restart(state: &State<'_>, _: &Arguments<'_>) -> Done {
    if !state.about.pool_restarts {
        return Err(Refused::value("Pool restarts not enabled"));
    }
    let execution = Arc::clone(state.execution);
    tokio::spawn(async move {
        match execution.reload().await {
            true => tracing::info!("The components are loaded again"),
            false => tracing::warn!("The components are being loaded already"),
        }
    });
    ok("reload started")
}

pub(super) fn enable_events(state: &State<'_>, _: &Arguments<'_>) -> Done {
    if !state.execution.listeners.events.dispatches() {
        return nok(NO_DISPATCHER);
    }
    match state.execution.listeners.events.enable() {
        true => ok("task events enabled"),
        false => ok("task events already enabled"),
    }
}

pub(super) fn disable_events(state: &State<'_>, _: &Arguments<'_>) -> Done {
    if !state.execution.listeners.events.dispatches() {
        return nok(NO_DISPATCHER);
    }
    match state.execution.listeners.events.disable() {
        true => ok("task events disabled"),
        false => ok("task events already disabled"),
    }
}

pub(super) fn heartbeat(state: &State<'_>, _: &Arguments<'_>) -> Done {
    let (execution, freq) = (state.execution, 5.0);
    let events = &execution.listeners.events;
    events.beat("worker-heartbeat", freq, execution.active.running());
    value(Value::Null)
}

pub(super) fn election(state: &State<'_>, arguments: &Arguments<'_>) -> Done {
    let argument = |name| arguments.get(name).unwrap_or(&Value::Null);
    let (id, topic, action) = (argument("id"), argument("topic"), argument("action"));
    match state.execution.listeners.events.call_election(id, topic, action) {
        true => Ok(Answer::Silence),
        false => Err(Refused::value(
            "the election is too large, or too many are under way",
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn queue(arguments: Value) -> Result<Queue, String> {
        made("q", arguments.as_object().unwrap()).map_err(|error| error.0)
    }

    #[test]
    fn a_queue_is_made_as_celery_makes_it() {
        let made =
            queue(json!({"queue": "q", "exchange": null, "exchange_type": "direct", "routing_key": null}))
                .unwrap();
        assert_eq!(made, Queue::named("q"));
        let topic =
            queue(json!({"exchange": "x", "exchange_type": "topic", "routing_key": "a.#", "durable": false}));
        let topic = topic.unwrap();
        assert_eq!(
            (topic.exchange.name.as_str(), topic.routing_key.as_str()),
            ("x", "a.#")
        );
        assert_eq!(topic.exchange.kind, queue::ExchangeKind::Topic);
        assert!(!topic.durable && !topic.exchange.durable);
        let wrong = queue(json!({"exchange_type": "topics"})).unwrap_err();
        assert!(
            wrong.starts_with("ValueError(") && wrong.contains("topic"),
            "{wrong}"
        );
        assert!(queue(json!({"no_such_option": 1})).is_err());
        let large = json!({"queue_arguments": {"x": "y".repeat(LARGEST_QUEUE)}});
        assert!(queue(large).unwrap_err().contains("4096 bytes"));
    }
}
