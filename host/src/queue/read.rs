//! Queues as settings write them: `task_queues` as a table or a list, with kombu's names.

use toml::{Table, Value};

use super::{Binding, Exchange, ExchangeKind, Queue};
use crate::message::JsonMap;
use crate::nearest::did_you_mean;

/// What an entry of `task_queues` may hold.
const QUEUE_KEYS: [&str; 27] = [
    "name",
    "alias",
    "exchange",
    "exchange_type",
    "exchange_durable",
    "exchange_auto_delete",
    "exchange_arguments",
    "delivery_mode",
    "routing_key",
    "binding_key",
    "bindings",
    "durable",
    "queue_durable",
    "exclusive",
    "auto_delete",
    "queue_auto_delete",
    "no_declare",
    "no_ack",
    "queue_arguments",
    "binding_arguments",
    "consumer_arguments",
    "expires",
    "message_ttl",
    "max_length",
    "max_length_bytes",
    "max_priority",
    "unbind_arguments",
];
const EXCHANGE_KEYS: [&str; 6] = [
    "name",
    "type",
    "durable",
    "auto_delete",
    "arguments",
    "delivery_mode",
];

/// Reads `task_queues`: a table of queues by name, or a list of queues with a `name`. What makes no sense is added to
/// `wrong`. An empty exchange name or routing key stands for the default ones.
///
/// As in Celery, a queue of a table without a routing key has its own name as key, and one of a list the default key.
pub fn queues(value: &Value, wrong: &mut Vec<String>) -> Vec<Queue> {
    let mut found: Vec<Queue> = Vec::new();
    match value {
        Value::Table(table) => {
            for (name, entry) in table {
                let at = format!("task_queues.{name}");
                let Value::Table(entry) = entry else {
                    wrong.push(format!(
                        "{at}: expected a table such as {{ routing_key = \"{name}\" }}"
                    ));
                    continue;
                };
                let mut queue = queue(&at, name, entry, wrong);
                if queue.routing_key.is_empty() {
                    queue.routing_key.clone_from(&queue.name);
                }
                found.push(queue);
            }
        }
        Value::Array(list) => {
            for (index, entry) in list.iter().enumerate() {
                let at = format!("task_queues[{index}]");
                let empty = Table::new();
                let (name, entry) = match entry {
                    Value::String(name) => (name.as_str(), &empty),
                    Value::Table(table) => match table.get("name").and_then(Value::as_str) {
                        Some(name) => (name, table),
                        None => {
                            wrong.push(format!("{at}.name: expected the name of the queue"));
                            continue;
                        }
                    },
                    _ => {
                        wrong.push(format!("{at}: expected a name or a table with a name"));
                        continue;
                    }
                };
                found.push(queue(&at, name, entry, wrong));
            }
        }
        _ => wrong.push("task_queues: expected a table of queues by name, or a list of queues".into()),
    }
    for (index, queue) in found.iter().enumerate() {
        if found.iter().take(index).any(|other| other.name == queue.name) {
            wrong.push(format!("task_queues: {:?} is there twice", queue.name));
        }
    }
    found
}

fn queue(at: &str, name: &str, table: &Table, wrong: &mut Vec<String>) -> Queue {
    if name.is_empty() || name.len() > 255 {
        wrong.push(format!("{at}: the name of a queue has 1 to 255 bytes"));
    }
    let mut fields = Fields { at, table, wrong };
    fields.only(&QUEUE_KEYS);
    let durable = fields.flag("durable");
    let auto_delete = fields.flag("auto_delete");
    let mut exchange = fields.exchange("exchange");
    exchange.durable = fields
        .flag("exchange_durable")
        .or(durable)
        .unwrap_or(exchange.durable);
    exchange.auto_delete = fields
        .flag("exchange_auto_delete")
        .or(auto_delete)
        .unwrap_or(exchange.auto_delete);
    exchange.arguments.extend(fields.map("exchange_arguments"));
    exchange.delivery_mode = fields.delivery_mode("delivery_mode").or(exchange.delivery_mode);
    let exclusive = fields.flag("exclusive").unwrap_or(false);
    if fields.flag("no_ack") == Some(true) {
        let why = "a message is acknowledged when its task says so, or a crash would lose it";
        tracing::warn!("{at}.no_ack has no effect: {why}");
    }
    Queue {
        routing_key: fields
            .text("binding_key")
            .or(fields.text("routing_key"))
            .unwrap_or_default(),
        bindings: fields.bindings(),
        alias: fields.text("alias"),
        durable: fields.flag("queue_durable").or(durable).unwrap_or(true),
        exclusive,
        // As kombu has it: an exclusive queue goes with its connection anyway.
        auto_delete: exclusive || fields.flag("queue_auto_delete").or(auto_delete).unwrap_or(false),
        no_declare: fields.flag("no_declare").unwrap_or(false),
        queue_arguments: fields.map("queue_arguments"),
        binding_arguments: fields.map("binding_arguments"),
        consumer_arguments: fields.map("consumer_arguments"),
        expires: fields.seconds("expires"),
        message_ttl: fields.seconds("message_ttl"),
        max_length: fields.whole("max_length"),
        max_length_bytes: fields.whole("max_length_bytes"),
        max_priority: fields.whole("max_priority"),
        ..Queue::bound(name, exchange, "")
    }
}

/// The fields of one table, and where it is.
struct Fields<'a> {
    at: &'a str,
    table: &'a Table,
    wrong: &'a mut Vec<String>,
}

impl Fields<'_> {
    fn only(&mut self, known: &[&str]) {
        for name in self.table.keys() {
            if !known.contains(&name.as_str()) {
                let nearest = did_you_mean(name, known.iter().copied());
                self.wrong
                    .push(format!("{}: unknown key {name}{nearest}", self.at));
            }
        }
    }

    /// A field, read by `read`; what it cannot read is no `expected`.
    fn field<T>(&mut self, name: &str, expected: &str, read: impl Fn(&Value) -> Option<T>) -> Option<T> {
        let value = self.table.get(name)?;
        let read = read(value);
        if read.is_none() {
            self.wrong.push(format!(
                "{}.{name}: expected {expected}, not {}",
                self.at,
                shown(value)
            ));
        }
        read
    }

    fn text(&mut self, name: &str) -> Option<String> {
        self.field(name, "a text of at most 255 bytes", |value| {
            let text = value.as_str().filter(|text| text.len() <= 255)?;
            Some(text.to_owned())
        })
    }

    fn flag(&mut self, name: &str) -> Option<bool> {
        self.field(name, "true or false", Value::as_bool)
    }

    fn whole(&mut self, name: &str) -> Option<u64> {
        let whole = |value: &Value| u64::try_from(value.as_integer()?).ok();
        self.field(name, "a whole number from 0 on", whole)
    }

    fn seconds(&mut self, name: &str) -> Option<f64> {
        self.field(name, "a number of seconds", |value| {
            let number = value.as_float().or(value.as_integer().map(|n| n as f64))?;
            (number.is_finite() && number >= 0.0).then_some(number)
        })
    }

    fn map(&mut self, name: &str) -> JsonMap {
        let map = self.field(name, "a table", |value| {
            match serde_json::to_value(value.as_table()?).ok()? {
                serde_json::Value::Object(map) => Some(map),
                _ => None,
            }
        });
        map.unwrap_or_default()
    }

    fn delivery_mode(&mut self, name: &str) -> Option<u8> {
        self.field(name, "\"transient\" (1) or \"persistent\" (2)", |value| {
            match (value.as_str(), value.as_integer()) {
                (Some("transient"), _) | (_, Some(1)) => Some(1),
                (Some("persistent"), _) | (_, Some(2)) => Some(2),
                _ => None,
            }
        })
    }

    fn kind(&mut self, name: &str) -> Option<ExchangeKind> {
        let expected = "one of direct, topic, fanout and headers";
        self.field(name, expected, |value| exchange_type(value.as_str()?))
    }

    /// An exchange by its name, with its type in `exchange_type`, or as a table.
    fn exchange(&mut self, name: &str) -> Exchange {
        let kind = self.kind("exchange_type").unwrap_or_default();
        if let Some(Value::Table(table)) = self.table.get(name) {
            let at = format!("{}.{name}", self.at);
            let mut fields = Fields {
                at: &at,
                table,
                wrong: self.wrong,
            };
            fields.only(&EXCHANGE_KEYS);
            return Exchange {
                durable: fields.flag("durable").unwrap_or(true),
                auto_delete: fields.flag("auto_delete").unwrap_or(false),
                arguments: fields.map("arguments"),
                delivery_mode: fields.delivery_mode("delivery_mode"),
                ..Exchange::new(
                    fields.text("name").unwrap_or_default(),
                    fields.kind("type").unwrap_or(kind),
                )
            };
        }
        Exchange::new(self.text(name).unwrap_or_default(), kind)
    }

    fn bindings(&mut self) -> Vec<Binding> {
        let list = |value: &Value| value.as_array().cloned();
        let entries = self
            .field("bindings", "a list of tables", list)
            .unwrap_or_default();
        let mut bindings = Vec::new();
        for (index, entry) in entries.iter().enumerate() {
            let at = format!("{}.bindings[{index}]", self.at);
            let Some(table) = entry.as_table() else {
                self.wrong.push(format!("{at}: expected a table"));
                continue;
            };
            let mut fields = Fields {
                at: &at,
                table,
                wrong: self.wrong,
            };
            fields.only(&[
                "exchange",
                "exchange_type",
                "routing_key",
                "arguments",
                "unbind_arguments",
            ]);
            let exchange = fields.exchange("exchange");
            if exchange.name.is_empty() {
                fields
                    .wrong
                    .push(format!("{at}.exchange: expected the name of an exchange"));
            }
            bindings.push(Binding {
                exchange,
                routing_key: fields.text("routing_key").unwrap_or_default(),
                arguments: fields.map("arguments"),
            });
        }
        bindings
    }
}

/// A value for people.
pub(super) fn shown(value: &Value) -> String {
    serde_json::to_string(value).unwrap_or_default()
}

/// An exchange type by its name.
pub fn exchange_type(name: &str) -> Option<ExchangeKind> {
    Some(match name {
        "direct" => ExchangeKind::Direct,
        "topic" => ExchangeKind::Topic,
        "fanout" => ExchangeKind::Fanout,
        "headers" => ExchangeKind::Headers,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> (Vec<Queue>, Vec<String>) {
        let table: Table = toml::from_str(text).unwrap();
        let mut wrong = Vec::new();
        let found = queues(&table["task_queues"], &mut wrong);
        (found, wrong)
    }

    #[test]
    fn everything_that_makes_no_sense_is_named_at_once() {
        let (_, wrong) = read(
            r#"
            [task_queues]
            a = { durabel = true, exchange_type = "star", expires = -1, max_length = "x" }
            b = "text"
            c = { bindings = [{ routing_key = "k" }], delivery_mode = 3 }
            "#,
        );
        let expected = [
            "task_queues.a: unknown key durabel; did you mean durable?",
            "task_queues.a.exchange_type: expected one of direct, topic, fanout and headers, not \"star\"",
            "task_queues.a.expires: expected a number of seconds, not -1",
            "task_queues.a.max_length: expected a whole number from 0 on, not \"x\"",
            "task_queues.b: expected a table such as { routing_key = \"b\" }",
            "task_queues.c.delivery_mode: expected \"transient\" (1) or \"persistent\" (2), not 3",
            "task_queues.c.bindings[0].exchange: expected the name of an exchange",
        ];
        assert_eq!(wrong, expected);
        let (_, wrong) = read("task_queues = [{ routing_key = \"x\" }, \"a\", { name = \"a\" }, 1]");
        assert_eq!(wrong.len(), 3, "{wrong:?}");
    }

    #[test]
    fn an_exchange_is_a_name_or_a_table() {
        let (queues, wrong) = read(
            r#"task_queues = [
                { name = "a", exchange = "media", exchange_type = "topic", durable = false },
                { name = "b", exchange = { name = "media", type = "topic", durable = false }, alias = "bee" },
            ]"#,
        );
        assert!(wrong.is_empty(), "{wrong:?}");
        assert_eq!(queues[0].exchange, queues[1].exchange);
        assert_eq!((queues[0].durable, queues[1].durable), (false, true));
    }
}
