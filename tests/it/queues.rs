//! Settings about queues and routes mean what they mean to Celery: its own answer is the expectation.

use celerybox::config::Settings;
use celerybox::queue::{Exchange, Queue, Sending, exchange_type};
use celerybox_tests::{Place, python};
use serde_json::{Value, json};

/// Settings as celerybox reads them.
fn settings(settings: &Value) -> Settings {
    serde_json::from_value(settings.clone()).unwrap()
}

fn names(list: &Value) -> Vec<String> {
    serde_json::from_value(list.clone()).unwrap()
}

fn described(exchange: &Exchange) -> Value {
    let Exchange {
        name,
        kind,
        durable,
        auto_delete,
        arguments,
        ..
    } = exchange;
    json!([name, kind.as_str(), durable, auto_delete, arguments])
}

fn consumed(queue: &Queue) -> Value {
    json!({
        "name": queue.name,
        "exchange": described(&queue.exchange),
        "routing_key": queue.routing_key,
        "durable": queue.durable,
        "exclusive": queue.exclusive,
        "auto_delete": queue.auto_delete,
        "no_declare": queue.no_declare,
        "arguments": queue.queue_arguments,
        "binding_arguments": queue.binding_arguments,
        "consumer_arguments": queue.consumer_arguments,
        "expires": queue.expires,
        "max_priority": queue.max_priority,
    })
}

fn asked(options: &Value) -> Sending {
    let text = |name: &str| options[name].as_str().map(str::to_owned);
    let small = |name: &str| options[name].as_u64().map(|number| u8::try_from(number).unwrap());
    Sending {
        queue: text("queue"),
        exchange: text("exchange"),
        exchange_type: text("exchange_type").and_then(|name| exchange_type(&name)),
        routing_key: text("routing_key"),
        priority: small("priority"),
        delivery_mode: small("delivery_mode"),
        ..Sending::default()
    }
}

/// Asks both sides about the same settings.
fn same(case: &Value) {
    let place = Place::files();
    let none = json!([]);
    let part = |name: &str| if case[name].is_null() { &none } else { &case[name] };
    let theirs = python(
        &place,
        "queues.py",
        &[
            &case["settings"].to_string(),
            &part("Q").to_string(),
            &part("X").to_string(),
            &part("tasks").to_string(),
        ],
    );
    let settings = settings(&case["settings"]);
    let queues = settings.queues().unwrap();
    let ours = queues.select(&names(part("Q")), &names(part("X")), None).unwrap();
    let ours: Vec<Value> = ours.iter().map(consumed).collect();
    assert_eq!(json!(ours), theirs["consumed"], "{case:#}");
    let router = settings.router().unwrap();
    let mut sent = Vec::new();
    for task in part("tasks").as_array().unwrap() {
        let name = task[0].as_str().unwrap();
        let destination = router.destination(&queues, name, asked(&task[1])).unwrap();
        sent.push(json!({
            "exchange": destination.route.exchange,
            "routing_key": destination.route.routing_key,
            "delivery_mode": destination.delivery_mode,
            "priority": destination.priority,
        }));
    }
    assert_eq!(json!(sent), theirs["sent"], "{case:#}");
}

#[test]
fn queues_of_a_map() {
    same(&json!({
        "settings": {
            "task_queues": {
                "plain": {},
                "feeds": {"exchange": "media", "exchange_type": "topic", "routing_key": "feed.#"},
                "old": {"exchange": "media", "binding_key": "old", "durable": false, "auto_delete": true},
                "split": {"exchange": "x", "exchange_durable": false, "queue_auto_delete": true},
                "own": {"exclusive": true, "consumer_arguments": {"x-priority": 5}, "expires": 7.5},
                "more": {"queue_arguments": {"x-max-priority": 3}, "max_priority": 4, "no_declare": true},
            },
            "task_default_queue": "plain",
            "task_queue_max_priority": 10,
            "task_default_exchange": "tasks",
            "task_default_exchange_type": "topic",
            "task_default_routing_key": "task.default",
        },
        "tasks": [
            ["a", {}],
            ["a", {"queue": "feeds"}],
            ["a", {"queue": "feeds", "routing_key": "feed.news"}],
            ["a", {"queue": "unknown", "priority": 7}],
            ["a", {"exchange": "other", "routing_key": "k", "delivery_mode": 1}],
        ],
    }));
}

#[test]
fn queues_of_a_list() {
    same(&json!({
        "settings": {
            "task_queues": [
                {"name": "celery"},
                {"name": "a"},
                {"name": "b", "routing_key": "b", "alias": "bee"},
                {"name": "c", "routing_key": "c.#", "exchange": {"name": "t", "type": "topic", "durable": false,
                    "delivery_mode": 1}},
                {"name": "d", "exchange": {"name": "all", "type": "fanout"}},
            ],
        },
        "Q": ["bee", "c", "d", "new"],
        "X": ["d"],
        "tasks": [["x", {"queue": "bee"}], ["x", {"queue": "c"}], ["x", {"queue": "d"}], ["x", {}]],
    }));
}

#[test]
fn queues_without_any_setting_and_those_that_are_made() {
    same(&json!({"settings": {}, "tasks": [["x", {}]]}));
    same(&json!({
        "settings": {
            "task_default_queue": "main", "task_default_queue_type": "quorum", "task_default_exchange_type": "topic",
            "task_create_missing_queue_type": "quorum", "task_create_missing_queue_exchange_type": "topic",
            "task_default_delivery_mode": 1,
        },
        "Q": ["main", "made"],
        "tasks": [["x", {}], ["x", {"queue": "made"}], ["x", {"queue": "made", "routing_key": "k"}]],
    }));
}

#[test]
fn routes() {
    same(&json!({
        "settings": {
            "task_routes": [
                [["video.cut", {"queue": "cut", "priority": 2}], ["video.*", "video"], ["re:(web|img)\\.", {"queue": "web"}]],
                [["*.x?", {"routing_key": "k", "exchange": "e"}], ["*", {"priority": 5}]],
            ],
        },
        "tasks": [
            ["video.cut", {}], ["video.cut", {"priority": 9}], ["video.a.b", {}], ["img.a", {}], ["my.img.a", {}],
            ["a.xy", {}], ["a.xyz", {}], ["a.xy", {"queue": "q"}], ["video.cut", {"queue": "q"}],
        ],
    }));
    same(&json!({
        "settings": {"task_routes": {"a.*": "one", "a.b": {"queue": "two"}, "zz": {"delivery_mode": 1}}},
        "tasks": [["a.b", {}], ["a.c", {}], ["c", {}], ["zz", {}]],
    }));
}
