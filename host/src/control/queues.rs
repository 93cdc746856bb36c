//! What `active_queues` says of a queue (contract section 6.6): kombu's words.

use serde_json::{Map, Value, json};

use crate::queue::{Exchange, Queue};

/// A queue as kombu writes it.
pub(super) fn shown(queue: &Queue) -> Value {
    let bindings = queue.bindings.iter().map(|binding| {
        json!({
            "exchange": exchange(&binding.exchange),
            "routing_key": binding.routing_key,
            "arguments": map(&binding.arguments),
            "unbind_arguments": null,
        })
    });
    json!({
        "name": queue.name,
        "exchange": exchange(&queue.exchange),
        "routing_key": queue.routing_key,
        "queue_arguments": map(&queue.queue_arguments),
        "binding_arguments": map(&queue.binding_arguments),
        "consumer_arguments": map(&queue.consumer_arguments),
        "durable": queue.durable,
        "exclusive": queue.exclusive,
        "auto_delete": queue.auto_delete,
        "no_ack": false,
        "alias": queue.alias,
        "bindings": bindings.collect::<Vec<_>>(),
        "no_declare": queue.no_declare.then_some(true),
        "expires": queue.expires,
        "message_ttl": queue.message_ttl,
        "max_length": queue.max_length,
        "max_length_bytes": queue.max_length_bytes,
        "max_priority": queue.max_priority,
    })
}

fn exchange(exchange: &Exchange) -> Value {
    json!({
        "name": exchange.name,
        "type": exchange.kind.as_str(),
        "arguments": map(&exchange.arguments),
        "durable": exchange.durable,
        "passive": false,
        "auto_delete": exchange.auto_delete,
        "delivery_mode": exchange.delivery_mode,
        "no_declare": false,
    })
}

/// kombu has nothing where we have an empty map.
fn map(map: &Map<String, Value>) -> Value {
    match map.is_empty() {
        true => Value::Null,
        false => Value::Object(map.clone()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_queue_is_what_celery_shows() {
        let sample = include_str!("../../../tests/cases/wire/pidbox-active-queues.json");
        let sample: Value = serde_json::from_str(sample).unwrap();
        let theirs = &sample["reply"][0]["body_json"]["w1@example"][0];
        assert_eq!(shown(&Queue::named("celery")), *theirs);
    }
}
