//! Where a task is sent to: `task_routes` and the rules of contract section 1.8.

use std::collections::HashMap;

use regex::Regex;
use toml::{Table, Value};

use super::glob::glob;
use super::read::shown;
use super::{ExchangeKind, Queue, Queues, exchange_type};
use crate::message::Route;
use crate::nearest::did_you_mean;

/// What a route or a caller says about sending a task; `None` leaves it to the next in line.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Sending {
    /// The queue.
    pub queue: Option<String>,
    /// The exchange, instead of the queue's.
    pub exchange: Option<String>,
    /// Its type, where no queue tells it.
    pub exchange_type: Option<ExchangeKind>,
    /// The routing key, instead of the queue's.
    pub routing_key: Option<String>,
    /// 0 to 255.
    pub priority: Option<u8>,
    /// 1 transient, 2 persistent.
    pub delivery_mode: Option<u8>,
    /// Name of the serializer.
    pub serializer: Option<String>,
    /// Name of the compression.
    pub compression: Option<String>,
}

/// What a route may hold.
const KEYS: [&str; 8] = [
    "queue",
    "exchange",
    "exchange_type",
    "routing_key",
    "priority",
    "delivery_mode",
    "serializer",
    "compression",
];

/// Where a task goes, and what is declared before it is sent there.
#[derive(Debug, Clone, PartialEq)]
pub struct Destination {
    /// The queue to declare.
    pub declare: Option<Queue>,
    /// Exchange and routing key.
    pub route: Route,
    /// 1 transient, 2 persistent.
    pub delivery_mode: u8,
    /// The priority, when somebody said one.
    pub priority: Option<u8>,
    /// The serializer, when somebody said one.
    pub serializer: Option<String>,
    /// The compression, when somebody said one.
    pub compression: Option<String>,
}

/// `task_routes`: which options a task has by its name.
#[derive(Debug, Default)]
pub struct Router {
    maps: Vec<Map>,
}

/// One map of routes: names first, then patterns in their order.
#[derive(Debug, Default)]
struct Map {
    names: HashMap<String, Sending>,
    patterns: Vec<(Regex, Sending)>,
}

impl Router {
    /// Reads `task_routes`: a table of routes by task name, glob (a name with a `*`) or regular expression (`re:…`,
    /// which has to match from the name's start); or a list of such tables and of lists of pairs
    /// `["name", route]`, tried one after the other. A route is the name of a queue or a table of options. What makes
    /// no sense is added to `wrong`.
    pub fn read(value: &Value, wrong: &mut Vec<String>) -> Self {
        let mut maps = Vec::new();
        match value {
            Value::Table(table) => maps.push(Map::read("task_routes", entries(table), wrong)),
            Value::Array(list) => {
                for (index, entry) in list.iter().enumerate() {
                    let at = format!("task_routes[{index}]");
                    match entry {
                        Value::Table(table) => maps.push(Map::read(&at, entries(table), wrong)),
                        Value::Array(list) => {
                            let pairs = pairs(&at, list, wrong);
                            maps.push(Map::read(&at, pairs, wrong));
                        }
                        _ => wrong.push(format!(
                            "{at}: expected a table or a list of pairs; Python routers cannot be called here"
                        )),
                    }
                }
            }
            _ => wrong.push("task_routes: expected a table or a list of tables".into()),
        }
        Self { maps }
    }

    /// Where a task with these options goes. An option of the caller wins over one of the route.
    pub fn destination(&self, queues: &Queues, task: &str, asked: Sending) -> Result<Destination, String> {
        let routed = self.maps.iter().find_map(|map| map.find(task));
        let sending = asked.or(routed.cloned().unwrap_or_default());
        let queue = match (&sending.queue, &sending.exchange) {
            (Some(name), _) => Some(name.clone()),
            (None, None) => Some(queues.default_queue().to_owned()),
            (None, Some(_)) => None,
        };
        let queue = queue.map(|name| queues.get(&name)).transpose();
        let queue = queue.map_err(|unknown| format!("task {task}: {unknown}"))?;
        let exchange = queue.as_ref().map(|queue| &queue.exchange);
        Ok(Destination {
            route: route(&sending, queue.as_ref(), queues),
            delivery_mode: sending
                .delivery_mode
                .or(exchange.and_then(|exchange| exchange.delivery_mode))
                .unwrap_or(queues.rules().delivery_mode),
            declare: queue,
            priority: sending.priority,
            serializer: sending.serializer,
            compression: sending.compression,
        })
    }
}

/// Exchange and routing key of a message (contract section 1.8).
fn route(sending: &Sending, queue: Option<&Queue>, queues: &Queues) -> Route {
    let own = queue.map(|queue| queue.exchange.kind);
    let direct = sending.exchange_type.or(own).unwrap_or_default() == ExchangeKind::Direct;
    let named = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
    let (exchange, routing_key) = (named(&sending.exchange), named(&sending.routing_key));
    match (queue, &exchange, &routing_key) {
        (Some(queue), None, _) | (Some(queue), _, None) if direct => Route::to_queue(&queue.name),
        // An exchange without a queue and a key: Celery sends such a message nowhere.
        _ => Route {
            exchange: exchange.unwrap_or_else(|| match queue {
                Some(queue) if !queue.exchange.name.is_empty() => queue.exchange.name.clone(),
                _ => queues.default_exchange().name,
            }),
            routing_key: routing_key
                .or_else(|| queue.map(|queue| queue.routing_key.clone()))
                .unwrap_or_else(|| queues.default_routing_key().to_owned()),
        },
    }
}

impl Sending {
    /// These options, and where they say nothing the others.
    #[must_use]
    pub fn or(self, other: Self) -> Self {
        Self {
            queue: self.queue.or(other.queue),
            exchange: self.exchange.or(other.exchange),
            exchange_type: self.exchange_type.or(other.exchange_type),
            routing_key: self.routing_key.or(other.routing_key),
            priority: self.priority.or(other.priority),
            delivery_mode: self.delivery_mode.or(other.delivery_mode),
            serializer: self.serializer.or(other.serializer),
            compression: self.compression.or(other.compression),
        }
    }

    fn read(at: &str, value: &Value, wrong: &mut Vec<String>) -> Self {
        let table = match value {
            Value::String(queue) => {
                return Self {
                    queue: Some(queue.clone()),
                    ..Self::default()
                };
            }
            Value::Table(table) => table,
            _ => {
                wrong.push(format!(
                    "{at}: expected the name of a queue or a table of options"
                ));
                return Self::default();
            }
        };
        let mut sending = Self::default();
        for (key, value) in table {
            let text = || value.as_str().map(str::to_owned);
            let small = || value.as_integer().and_then(|number| u8::try_from(number).ok());
            let fits = match key.as_str() {
                "queue" => set(&mut sending.queue, text()),
                "exchange" => set(&mut sending.exchange, text()),
                "exchange_type" => set(&mut sending.exchange_type, value.as_str().and_then(exchange_type)),
                "routing_key" => set(&mut sending.routing_key, text()),
                "priority" => set(&mut sending.priority, small()),
                "delivery_mode" => {
                    let mode = small().filter(|mode| matches!(mode, 1 | 2));
                    set(&mut sending.delivery_mode, mode)
                }
                "serializer" => set(&mut sending.serializer, text()),
                "compression" => set(&mut sending.compression, text()),
                unknown => {
                    let nearest = did_you_mean(unknown, KEYS.into_iter());
                    let hint = "the name of a task with dots in it stands in quotes";
                    wrong.push(format!("{at}: unknown option {unknown}{nearest} ({hint})"));
                    continue;
                }
            };
            if !fits {
                wrong.push(format!("{at}.{key}: {} makes no sense here", shown(value)));
            }
        }
        sending
    }
}

fn set<T>(field: &mut Option<T>, value: Option<T>) -> bool {
    *field = value;
    field.is_some()
}

type Entries<'a> = Vec<(&'a str, &'a Value)>;

fn entries(table: &Table) -> Entries<'_> {
    table.iter().map(|(name, route)| (name.as_str(), route)).collect()
}

fn pairs<'a>(at: &str, list: &'a [Value], wrong: &mut Vec<String>) -> Entries<'a> {
    let mut entries = Vec::new();
    for pair in list {
        match pair.as_array().map(Vec::as_slice) {
            Some([Value::String(name), route]) => entries.push((name.as_str(), route)),
            _ => wrong.push(format!(
                "{at}: expected pairs of a name and a route, not {}",
                shown(pair)
            )),
        }
    }
    entries
}

impl Map {
    fn read(at: &str, entries: Entries<'_>, wrong: &mut Vec<String>) -> Self {
        let mut map = Self::default();
        for (name, route) in entries {
            let at = format!("{at}.{name:?}");
            let sending = Sending::read(&at, route, wrong);
            let pattern = match name.strip_prefix("re:") {
                Some(expression) => format!("^(?:{expression})"),
                None if name.contains('*') => glob(name),
                None => {
                    map.names.insert(name.to_owned(), sending);
                    continue;
                }
            };
            match Regex::new(&pattern) {
                Ok(regex) => map.patterns.push((regex, sending)),
                Err(error) => wrong.push(format!("{at}: no pattern: {error}")),
            }
        }
        map
    }

    fn find(&self, task: &str) -> Option<&Sending> {
        let by_pattern = || self.patterns.iter().find(|(regex, _)| regex.is_match(task));
        self.names
            .get(task)
            .or_else(|| by_pattern().map(|(_, sending)| sending))
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Exchange, Rules};
    use super::*;

    fn router(text: &str) -> (Router, Vec<String>) {
        let table: Table = toml::from_str(text).unwrap();
        let mut wrong = Vec::new();
        let router = Router::read(&table["task_routes"], &mut wrong);
        (router, wrong)
    }

    fn queue_of(router: &Router, task: &str) -> String {
        let queues = Queues::new(Rules::default(), Vec::new());
        let destination = router.destination(&queues, task, Sending::default()).unwrap();
        destination.route.routing_key
    }

    #[test]
    fn the_first_pattern_wins_and_a_name_wins_over_all() {
        let (router, wrong) = router(
            r#"[task_routes]
            "video.*" = "video"
            "re:(web|img)\\..*" = { queue = "web" }
            "*" = "rest"
            "video.cut" = "cut"
            "a[0-9!]?*" = "never"
            "#,
        );
        assert!(wrong.is_empty(), "{wrong:?}");
        for (task, queue) in [
            ("video.a.b", "video"),
            ("video.cut", "cut"),
            ("web.x", "web"),
            ("my.web.x", "rest"),
            ("a1x", "rest"),
        ] {
            assert_eq!(queue_of(&router, task), queue, "{task}");
        }
    }

    #[test]
    fn lists_are_tried_in_order_and_may_hold_pairs() {
        let (router, wrong) = router(
            r#"task_routes = [{ "a.*" = "one" }, [["b.*", "two"], ["b.c", { queue = "three" }]], { "*" = "four" }]"#,
        );
        assert!(wrong.is_empty(), "{wrong:?}");
        for (task, queue) in [("a.b.c", "one"), ("b.x", "two"), ("b.c", "three"), ("c", "four")] {
            assert_eq!(queue_of(&router, task), queue, "{task}");
        }
    }

    #[test]
    fn what_makes_no_sense_is_named() {
        let (_, wrong) = router(
            r#"task_routes = [{ a = { que = "x", priority = 300 }, "re:(" = "x", b = 1 }, "proj.router", [["x"]]]"#,
        );
        assert_eq!(wrong.len(), 6, "{wrong:#?}");
        assert!(wrong[0].contains("did you mean queue?"), "{wrong:?}");
    }

    #[test]
    fn what_the_caller_says_wins_and_the_rest_is_the_routes_and_the_queues() {
        let (router, _) =
            router(r#"task_routes = { t = { queue = "topics", priority = 3, routing_key = "a.b" } }"#);
        let topics = Queue::bound("topics", Exchange::new("media", ExchangeKind::Topic), "a.#");
        let send = |task: &str, asked: Sending| {
            let queues = Queues::new(Rules::default(), vec![topics.clone(), Queue::named("celery")]);
            let sent = router.destination(&queues, task, asked).unwrap();
            (sent.route.exchange, sent.route.routing_key, sent.priority)
        };
        let routed = |exchange: &str, key: &str, priority| (exchange.to_owned(), key.to_owned(), priority);
        assert_eq!(send("t", Sending::default()), routed("media", "a.b", Some(3)));
        assert_eq!(send("u", Sending::default()), routed("", "celery", None));
        let asked = Sending {
            queue: Some("other".into()),
            priority: Some(9),
            ..Sending::default()
        };
        // As in Celery: to a direct exchange without an exchange of its own, the queue's name is the key.
        assert_eq!(send("t", asked), routed("", "other", Some(9)));
        let asked = Sending {
            exchange: Some("x".into()),
            routing_key: Some("k".into()),
            ..Sending::default()
        };
        assert_eq!(send("u", asked), routed("x", "k", None));
    }
}
