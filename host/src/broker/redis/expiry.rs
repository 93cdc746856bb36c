//! Queues that go when nobody uses them, by their argument `x-expires`, and their bindings (contract section 2.2.4).
//!
//! kombu renews a list when somebody sends to it or fetches from it. A worker of ours also renews it as long as it consumes
//! the queue, so that messages that wait for a busy worker stay, as they do on RabbitMQ.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use redis::{Pipeline, RedisResult};
use serde_json::Value;
use tokio::sync::watch;
use tokio::time::{Instant, sleep};

use super::fanout;
use super::fetch::stopped;
use super::keys::Keys;
use crate::broker::consumed::Follower;
use crate::queue::{Queue, Queues};
use crate::redis_link::{Link, RESPONSE_TIMEOUT};
use crate::redis_url::RedisUrl;

const BIND: &str = include_str!("bind.lua");
const UNBIND: &str = include_str!("unbind.lua");

/// Bindings last twice as long as their queue, and at least so many milliseconds.
const SHORTEST_BINDING: i64 = 60 * 60 * 1000;
/// Longer than this is for ever, milliseconds.
const LONGEST: i64 = 1 << 40;
/// How often bindings without a queue are removed.
const SWEEP_PERIOD: Duration = Duration::from_secs(60);
/// One sweep looks at this many exchanges.
const SWEEP_LIMIT: usize = 100;

/// The queues that expire, and after how many milliseconds.
#[derive(Debug, Default)]
pub(super) struct Expiring(Mutex<BTreeMap<String, i64>>);

impl Expiring {
    /// What the settings say.
    pub(super) fn new(queues: Option<&Queues>) -> Self {
        let known = Self::default();
        known.learn(queues.map_or(&[], Queues::all));
        known
    }

    /// Learns of declarations; the latest one counts.
    pub(super) fn learn(&self, queues: &[Queue]) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for queue in queues {
            match after(queue) {
                Some(after) => known.insert(queue.name.clone(), after),
                None => known.remove(&queue.name),
            };
        }
    }

    /// After how many milliseconds a queue expires.
    pub(super) fn after(&self, queue: &str) -> Option<i64> {
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.get(queue).copied()
    }
}

/// After how many milliseconds a queue is declared to expire.
fn after(queue: &Queue) -> Option<i64> {
    let after = match queue.arguments().get("x-expires")? {
        Value::String(text) => text.trim().parse().ok()?,
        value => value.as_f64()? as i64,
    };
    (after > 0).then(|| after.min(LONGEST))
}

/// Makes a queue known to those who publish to its exchanges. The bindings of one that expires have a deadline.
pub(super) fn bind(pipeline: &mut Pipeline, keys: &Keys, queue: &Queue) {
    for (exchange, routing_key, _) in queue.all_bindings() {
        let binding = keys.binding(exchange.kind, routing_key, &queue.name);
        let bindings = keys.bindings(&exchange.name);
        if let Some(after) = after(queue) {
            let script = pipeline.cmd("EVAL").arg(BIND).arg(2);
            let script = script.arg(bindings).arg(keys.binding_deadlines());
            script.arg(binding).arg(&exchange.name).arg(lasts(after)).ignore();
        } else {
            pipeline.cmd("SADD").arg(bindings).arg(&binding).ignore();
            let permanent = keys.permanent_bindings(&exchange.name);
            pipeline.cmd("SADD").arg(permanent).arg(&binding).ignore();
        }
    }
}

/// The end of the bindings of a queue.
pub(super) fn unbind(pipeline: &mut Pipeline, keys: &Keys, queue: &Queue) {
    for (exchange, routing_key, _) in queue.all_bindings() {
        let binding = keys.binding(exchange.kind, routing_key, &queue.name);
        for bindings in [
            keys.bindings(&exchange.name),
            keys.permanent_bindings(&exchange.name),
        ] {
            pipeline.cmd("SREM").arg(bindings).arg(&binding).ignore();
        }
    }
}

/// How long the bindings of a queue last, milliseconds.
fn lasts(after: i64) -> i64 {
    (2 * after).max(SHORTEST_BINDING)
}

/// Renews the queues that are consumed, and their bindings, until stopped, and removes bindings that nobody renews.
pub(super) async fn keep(
    mut consumed: Follower,
    keys: Arc<Keys>,
    url: RedisUrl,
    mut stop: watch::Receiver<bool>,
) {
    loop {
        let (_, queues) = consumed.queues();
        let keeping = renew(&queues, &keys, Link::new(url.clone(), RESPONSE_TIMEOUT));
        tokio::select! {
            () = keeping => {}
            () = consumed.changed() => continue,
            () = stopped(&mut stop) => return,
        }
        // None of them expires.
        tokio::select! {
            () = consumed.changed() => {}
            () = stopped(&mut stop) => return,
        }
    }
}

/// Renews these; ends only when there is nothing to renew.
async fn renew(queues: &[Queue], keys: &Keys, mut link: Link) {
    let expire: Vec<(&Queue, i64)> = queues
        .iter()
        .filter_map(|queue| Some((queue, after(queue)?)))
        .collect();
    let Some(shortest) = expire.iter().map(|(_, after)| *after).min() else {
        return;
    };
    let third = |milliseconds: i64| Duration::from_millis(milliseconds.unsigned_abs() / 3);
    let listed: Vec<&Queue> = expire
        .iter()
        .map(|(queue, _)| *queue)
        .filter(|queue| !fanout::is_alone(queue))
        .collect();
    let period = match listed.is_empty() {
        true => SWEEP_PERIOD,
        false => third(shortest).clamp(Duration::from_millis(20), SWEEP_PERIOD),
    };
    let (mut bound, mut swept) = (Instant::now(), None::<Instant>);
    loop {
        let mut pipeline = redis::pipe();
        for queue in &listed {
            keys.renew(&mut pipeline, &queue.name);
        }
        let rebind = bound.elapsed() >= third(lasts(shortest));
        if rebind {
            expire
                .iter()
                .for_each(|(queue, _)| bind(&mut pipeline, keys, queue));
        }
        // After binding, so that it is never our own bindings that go.
        let sweep = swept.is_none_or(|swept| swept.elapsed() >= SWEEP_PERIOD);
        if sweep {
            let script = pipeline
                .cmd("EVAL")
                .arg(UNBIND)
                .arg(1)
                .arg(keys.binding_deadlines());
            script
                .arg(keys.bindings(""))
                .arg(keys.permanent_bindings(""))
                .arg(SWEEP_LIMIT);
        }
        let done: RedisResult<()> = match (pipeline.is_empty(), link.up().await) {
            (true, _) => Ok(()),
            (false, Ok(connection)) => pipeline.query_async(connection).await,
            (false, Err(error)) => Err(error),
        };
        let pause = match done {
            Ok(()) => {
                link.worked();
                let now = Instant::now();
                bound = if rebind { now } else { bound };
                swept = if sweep { Some(now) } else { swept };
                period
            }
            Err(error) => {
                tracing::warn!("Could not renew queues that expire on {}: {error}", link.url());
                link.failed().min(period)
            }
        };
        sleep(pause).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn expiry_is_read_as_kombu_reads_it() {
        let with = |value: Value| {
            let mut queue = Queue::named("q");
            queue.queue_arguments.insert("x-expires".into(), value);
            after(&queue)
        };
        assert_eq!(after(&Queue::named("q")), None);
        assert_eq!(with(Value::from(1500)), Some(1500));
        assert_eq!(with(Value::from(" 20 ")), Some(20));
        assert_eq!(with(Value::from(1e300)), Some(LONGEST));
        // A list that expires at once would take its message along.
        for none in [Value::from(0), Value::from(-5), Value::from("soon"), Value::Null] {
            assert_eq!(with(none), None);
        }
        let mut queue = Queue::named("q");
        queue.expires = Some(0.25);
        assert_eq!(after(&queue), Some(250));
    }

    #[test]
    fn the_latest_declaration_counts() {
        let expiring = Expiring::default();
        let mut queue = Queue::named("q");
        queue.expires = Some(1.0);
        expiring.learn(std::slice::from_ref(&queue));
        assert_eq!(expiring.after("q"), Some(1000));
        expiring.learn(&[Queue::named("q")]);
        assert_eq!(expiring.after("q"), None);
    }
}
