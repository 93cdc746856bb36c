//! Native delayed delivery: RabbitMQ holds messages with an ETA, in 28 levels of queues (contract section 2.1.4).

use futures_util::future::try_join_all;
use jiff::Timestamp;
use lapin::Channel;
use lapin::options::ExchangeBindOptions;
use lapin::types::FieldTable;
use serde_json::{Value, json};

use super::connection::Lost;
use super::declare;
use super::table::short;
use crate::message::request::parse_time;
use crate::message::{Message, Route};
use crate::queue::{Exchange, ExchangeKind, Queue};

/// How many bits a delay in seconds has, and so how many levels there are.
const LEVELS: u32 = 28;
/// The exchange that messages come back to when their time has come.
const DELIVERY: &str = "celery_delayed_delivery";

/// What the names of all exchanges of the levels begin with.
const PREFIX: &str = "celery_delayed_";

fn level_name(level: u32) -> String {
    format!("{PREFIX}{level}")
}

/// `*.` for every bit that a level does not look at, and then its own bit.
fn level_key(level: u32, bit: char) -> String {
    let above = usize::try_from(LEVELS - 1 - level).unwrap_or(0);
    format!("{}{bit}.#", "*.".repeat(above))
}

/// What a level's queue is declared with: its messages stay 2^level seconds and fall to the next level.
fn level_queue(level: u32, quorum: bool) -> Queue {
    let next = level.checked_sub(1).map_or(DELIVERY.to_owned(), level_name);
    let mut arguments = json!({
        "x-queue-type": if quorum { "quorum" } else { "classic" },
        "x-overflow": "reject-publish",
        "x-message-ttl": 1000_u64 << level,
        "x-dead-letter-exchange": next,
    });
    if let (true, Value::Object(arguments)) = (quorum, &mut arguments) {
        arguments.insert("x-dead-letter-strategy".into(), "at-least-once".into());
    }
    let exchange = Exchange::new(level_name(level), ExchangeKind::Topic);
    let mut queue = Queue::bound(level_name(level), exchange, level_key(level, '1'));
    if let Value::Object(arguments) = arguments {
        queue.queue_arguments = arguments;
    }
    queue
}

/// Declares all levels, and leads what comes out of them to these queues. Queues behind direct exchanges are left
/// out, as the key that comes back still carries the bits.
pub(super) async fn set_up(channel: &Channel, queues: &[Queue], quorum: bool) -> Result<(), Lost> {
    let levels: Vec<Queue> = (0..LEVELS).map(|level| level_queue(level, quorum)).collect();
    try_join_all(levels.iter().map(|level| declare::declare(channel, level))).await?;
    let delivery = Exchange::new(DELIVERY, ExchangeKind::Topic);
    declare::exchange(channel, &delivery).await?;
    let steps = (0..LEVELS).map(|level| {
        let next = level.checked_sub(1).map_or(DELIVERY.to_owned(), level_name);
        bind_exchange(channel, next, level_name(level), level_key(level, '0'))
    });
    try_join_all(steps).await?;
    for queue in queues {
        for (exchange, routing_key, _) in queue.all_bindings() {
            if exchange.kind == ExchangeKind::Direct {
                tracing::warn!(
                    "queue {:?} is bound to the direct exchange {:?}, which native delayed delivery does not serve: \
                     its tasks with an ETA are held by workers",
                    queue.name,
                    exchange.name
                );
                continue;
            }
            let key = after_delay(routing_key);
            bind_exchange(channel, exchange.name.clone(), DELIVERY.to_owned(), key.clone()).await?;
            declare::bind(channel, queue, exchange, &key, FieldTable::default()).await?;
        }
    }
    Ok(())
}

/// The binding key that matches what [`set_up`]'s levels leave of a key.
fn after_delay(routing_key: &str) -> String {
    match routing_key.starts_with('#') {
        true => routing_key.to_owned(),
        false => format!("#.{routing_key}"),
    }
}

async fn bind_exchange(channel: &Channel, to: String, from: String, key: String) -> Result<(), Lost> {
    let (to, from, key) = (short(&to)?, short(&from)?, short(&key)?);
    let options = ExchangeBindOptions::default();
    channel
        .exchange_bind(to, from, key, options, FieldTable::default())
        .await?;
    Ok(())
}

/// The way of a message through the levels, when its ETA is at least a second away and `kind`, the type of its
/// exchange, can be served.
pub(super) fn route(route: &Route, message: &Message, kind: ExchangeKind, now: Timestamp) -> Option<Route> {
    if kind == ExchangeKind::Direct {
        return None;
    }
    let eta = message.headers.as_ref()?.get("eta")?.as_str()?;
    let seconds = parse_time(eta)?.duration_since(now).as_secs();
    let delay = u32::try_from(seconds).unwrap_or(u32::MAX).min((1 << LEVELS) - 1);
    if seconds < 1 || route.routing_key.is_empty() {
        return None;
    }
    let mut key = String::new();
    for level in (0..LEVELS).rev() {
        key.push_str(if delay >> level & 1 == 1 { "1." } else { "0." });
    }
    key.push_str(stripped(&route.routing_key).unwrap_or(&route.routing_key));
    Some(Route {
        exchange: level_name(LEVELS - 1),
        routing_key: key,
    })
}

/// Where a message that came out of the levels was published to before: a retry goes there again.
pub(super) fn original(delivered: Route, queue: &Queue) -> Route {
    match stripped(&delivered.routing_key) {
        // The level that let it go is named as its exchange.
        Some(key) if delivered.exchange.starts_with(PREFIX) => Route {
            exchange: queue.exchange.name.clone(),
            routing_key: key.to_owned(),
        },
        _ => delivered,
    }
}

/// The key behind the bits of a delay; `None` where there are none.
fn stripped(key: &str) -> Option<&str> {
    let bits = 2 * LEVELS as usize;
    let (delay, rest) = key.split_at_checked(bits)?;
    let mut pairs = delay.as_bytes().chunks_exact(2);
    pairs
        .all(|pair| matches!(pair, [b'0' | b'1', b'.']))
        .then_some(rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(eta: &str) -> Message {
        Message {
            headers: json!({"eta": eta}).as_object().cloned(),
            ..Message::default()
        }
    }

    fn delayed(key: &str, seconds: f64, kind: ExchangeKind) -> Option<Route> {
        let now: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
        let eta = now + jiff::SignedDuration::from_secs_f64(seconds);
        let to = Route {
            exchange: "tasks".into(),
            routing_key: key.into(),
        };
        route(&to, &message(&eta.to_string()), kind, now)
    }

    #[test]
    fn a_delay_is_28_bits_in_front_of_the_key() {
        let route = delayed("a.b", 5.9, ExchangeKind::Topic).unwrap();
        assert_eq!(route.exchange, "celery_delayed_27");
        assert_eq!(route.routing_key, format!("{}1.0.1.a.b", "0.".repeat(25)));
        // A second retry does not put its bits in front of the first one's.
        let again = delayed(&route.routing_key, 1.0, ExchangeKind::Fanout).unwrap();
        assert_eq!(again.routing_key, format!("{}1.a.b", "0.".repeat(27)));
        let longest = delayed("k", 9e8, ExchangeKind::Topic).unwrap();
        assert_eq!(longest.routing_key, format!("{}k", "1.".repeat(28)));
        assert_eq!(delayed("k", 5.0, ExchangeKind::Direct), None);
        assert_eq!(delayed("k", 0.9, ExchangeKind::Topic), None);
        assert_eq!(delayed("k", -5.0, ExchangeKind::Topic), None);
    }

    #[test]
    fn what_comes_back_is_recognized_by_its_bits_and_exchange() {
        let queue = Queue::bound("q", Exchange::new("tasks", ExchangeKind::Topic), "a.#");
        let delivered = |exchange: &str, key: &str| {
            let route = Route {
                exchange: exchange.into(),
                routing_key: key.into(),
            };
            let route = original(route, &queue);
            (route.exchange, route.routing_key)
        };
        let bits = "0.".repeat(27) + "1.";
        for exchange in [DELIVERY, "celery_delayed_0"] {
            let original = delivered(exchange, &format!("{bits}a.b"));
            assert_eq!(original, ("tasks".into(), "a.b".into()));
        }
        for (exchange, key) in [(DELIVERY, "a.b"), ("tasks", &*format!("{bits}a.b")), ("", "é")] {
            assert_eq!(delivered(exchange, key), (exchange.to_owned(), key.to_owned()));
        }
    }

    /// What Python declares and binds, from a recorded session.
    #[test]
    fn levels_are_declared_as_kombu_does() {
        let text = include_str!("../../../../tests/cases/wire/amqp-quorum-topic.json");
        let sample: Value = serde_json::from_str(text).unwrap();
        let methods = sample["methods"].as_array().unwrap();
        let recorded = |method: &str, key: &str, name: &str| {
            let found = methods
                .iter()
                .find(|m| m["method"] == method && m["args"][key] == name);
            found.unwrap_or_else(|| panic!("{method} {name}"))["args"].clone()
        };
        for level in 0..LEVELS {
            let queue = level_queue(level, true);
            let declared = recorded("Queue.Declare", "queue", &queue.name);
            assert_eq!(Value::Object(queue.arguments()), declared["arguments"], "{level}");
            assert_eq!(declared["durable"], queue.durable);
            let bound = recorded("Queue.Bind", "queue", &queue.name);
            assert_eq!(
                (&bound["exchange"], &bound["routing_key"]),
                (&json!(queue.name), &json!(queue.routing_key))
            );
            let exchange = recorded("Exchange.Declare", "exchange", &queue.name);
            assert_eq!(
                (&exchange["exchange_type"], &exchange["durable"]),
                (&json!("topic"), &json!(true))
            );
            let step = recorded("Exchange.Bind", "source", &queue.name);
            let next = level.checked_sub(1).map_or(DELIVERY.to_owned(), level_name);
            assert_eq!(
                (&step["destination"], &step["routing_key"]),
                (&json!(next), &json!(level_key(level, '0')))
            );
        }
        let classic = level_queue(0, false).arguments();
        assert_eq!(classic["x-queue-type"], "classic");
        assert!(!classic.contains_key("x-dead-letter-strategy"));
        assert_eq!(after_delay("#.x"), "#.x");
        assert_eq!(after_delay("x"), "#.x");
    }
}
