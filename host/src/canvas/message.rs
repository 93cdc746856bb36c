//! The message of one task (contract sections 1.2 and 4.1).

use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

use super::results::Node;
use super::signature::maybe_list;
use super::{CanvasError, Kind, Partial, Publication, Signature, Step, Work};
use crate::message::content::Serializer;
use crate::message::content::compression::Compression;
use crate::message::request::{PROTOCOL_HEADERS, format_time, parse_time};
use crate::message::{JsonMap, Message, Outgoing, Properties, repr};
use crate::queue::{Sending, exchange_type};

/// Options that say something here; all others become properties of the message, as in Celery.
const OPTIONS: [&str; 36] = [
    "task_id",
    "group_id",
    "group_index",
    "root_id",
    "parent_id",
    "reply_to",
    "chord",
    "chain",
    "link",
    "link_error",
    "queue",
    "exchange",
    "exchange_type",
    "routing_key",
    "priority",
    "countdown",
    "eta",
    "expires",
    "time_limit",
    "soft_time_limit",
    "serializer",
    "compression",
    "retries",
    "shadow",
    "headers",
    "ignore_result",
    "delivery_mode",
    "replaced_task_nesting",
    "stamped_headers",
    "add_to_parent",
    "route_name",
    "argsrepr",
    "kwargsrepr",
    "retry",
    "retry_policy",
    "declare",
];

/// Options that a caller's value never replaces when the signature has its own.
const KEPT: [&str; 2] = ["group_id", "stamped_headers"];

/// Whether a signature that has this option keeps it (contract section 4.1): also each of its stamps.
pub(super) fn keeps(own: &JsonMap, option: &str) -> bool {
    let stamped = || maybe_list(own.get("stamped_headers")).contains(&Value::from(option));
    own.contains_key(option) && (KEPT.contains(&option) || stamped())
}

/// `own` with the options of a caller over it.
pub(super) fn merge_options(own: &JsonMap, given: &JsonMap) -> JsonMap {
    let mut merged = own.clone();
    for (option, value) in given {
        if !keeps(own, option) {
            merged.insert(option.clone(), value.clone());
        }
    }
    merged
}

impl Signature {
    /// Adds partial arguments and options. Whatever was null in them is ignored for a task.
    pub(super) fn merge(&mut self, mut partial: Partial) {
        if !self.immutable {
            partial.args.append(&mut self.args);
            self.args = partial.args;
            self.kwargs.extend(partial.kwargs);
        }
        self.options = merge_options(&self.options, &partial.options);
    }
}

impl Work<'_, '_> {
    /// Applies a task, a map or a starmap: one message.
    pub(super) fn task(
        &mut self,
        mut signature: Signature,
        mut partial: Partial,
    ) -> Result<Node, CanvasError> {
        partial.options.retain(|_, value| !value.is_null());
        let mut route_name = partial.options.remove("route_name");
        if signature.kind == Kind::Map {
            (partial.args, partial.kwargs) = Default::default();
            let mapped = signature.kwargs.get("task").and_then(|task| task.get("task"));
            route_name = route_name.or_else(|| mapped.cloned());
            signature.args.clear();
        }
        signature.merge(partial);
        let id = match signature.text("task_id") {
            Some(id) => id.to_owned(),
            None => (self.context.new_id)(),
        };
        let publication = self.publication(&signature, &id, route_name.as_ref().and_then(Value::as_str))?;
        self.steps.push(Step::Publish(Box::new(publication)));
        let node = self.results.task(id);
        if signature.options.get("add_to_parent") != Some(&Value::Bool(false)) {
            self.children.push(node);
        }
        Ok(node)
    }

    fn publication(
        &mut self,
        signature: &Signature,
        id: &str,
        route_name: Option<&str>,
    ) -> Result<Publication, CanvasError> {
        let defaults = self.context.defaults;
        let definition = defaults.definitions.get(&signature.task);
        let definition = definition.map(|definition| &**definition);
        let options = Options {
            task: &signature.task,
            map: &signature.options,
        };
        let lineage = self.lineage(&options, id);
        let inherited = self.inherited_priority(&options);
        let own = |value: Option<&String>| value.cloned();
        let priority = match options.small("priority")? {
            Some(priority) => Some(priority),
            None => inherited.or(definition.and_then(|definition| definition.priority.or(defaults.priority))),
        };
        let asked = Sending {
            queue: options.text("queue")?,
            exchange: options.text("exchange")?,
            exchange_type: options.text("exchange_type")?.as_deref().and_then(exchange_type),
            routing_key: options.text("routing_key")?,
            priority,
            delivery_mode: options.small("delivery_mode")?,
            serializer: options
                .text("serializer")?
                .or_else(|| own(definition?.serializer.as_ref())),
            compression: options
                .text("compression")?
                .or_else(|| own(definition?.compression.as_ref())),
        };
        let destination = defaults
            .router
            .destination(&defaults.queues, route_name.unwrap_or(&signature.task), asked)
            .map_err(CanvasError::Invalid)?;

        let mut writer = defaults.writer.clone();
        if let Some(name) = &destination.serializer {
            writer.serializer = Serializer::named(name)
                .ok_or_else(|| options.wrong("serializer", &json!(name), &Serializer::names()))?;
        }
        if let Some(name) = &destination.compression {
            let compression = Compression::named(name);
            let unknown = || options.wrong("compression", &json!(name), &Compression::names());
            writer.compression = Some(compression.ok_or_else(unknown)?);
        }
        let now = self.context.now;
        let expires = options.expires(now)?;
        let seconds_left = expires.as_deref().and_then(parse_time).map(|expires| {
            let left = expires.duration_since(now).as_millis().max(0);
            left.to_string()
        });
        let mut message = Message {
            headers: Some({
                let mut headers = headers(
                    &options, signature, id, lineage, definition, defaults, expires, now,
                )?;
                // As instrumented clients do, over what was there.
                let trace = self.context.sender.iter().flat_map(|sender| &sender.trace);
                headers.extend(trace.map(|(name, value)| (name.clone(), value.clone())));
                headers
            }),
            properties: Properties {
                correlation_id: Some(id.to_owned()),
                reply_to: Some(options.text("reply_to")?.unwrap_or_default()),
                priority: Some(destination.priority.unwrap_or(0)),
                delivery_mode: Some(destination.delivery_mode),
                expiration: seconds_left,
                other: options.others(),
                ..Properties::default()
            },
            body: Vec::new(),
        };
        let text = body(signature);
        self.spend(text.len())?;
        writer
            .fill(&mut message, &text)
            .map_err(|error| CanvasError::Invalid(format!("{}: {error}", signature.task)))?;
        Ok(Publication {
            task: signature.task.clone(),
            id: id.to_owned(),
            declare: destination.declare,
            outgoing: Outgoing {
                route: destination.route,
                message,
            },
        })
    }

    /// `root_id` and `parent_id`: the option, or else what the sender is.
    fn lineage(&self, options: &Options<'_>, id: &str) -> (String, Option<String>) {
        let sender = self.context.sender.as_ref();
        let root = options.id("root_id").or_else(|| {
            let sender = sender?;
            Some(sender.root_id.clone().unwrap_or_else(|| sender.id.clone()))
        });
        let parent = options
            .id("parent_id")
            .or_else(|| sender.map(|sender| sender.id.clone()));
        (root.unwrap_or_else(|| id.to_owned()), parent)
    }

    /// `task_inherit_parent_priority`: where the sender is not named already.
    fn inherited_priority(&self, options: &Options<'_>) -> Option<u8> {
        let named = options.id("root_id").is_some() && options.id("parent_id").is_some();
        let sender = self.context.sender.as_ref();
        let sender = sender.filter(|_| self.context.defaults.inherit_parent_priority && !named);
        sender.and_then(|sender| sender.priority)
    }
}

/// The body as JSON.
fn body(signature: &Signature) -> String {
    let options = &signature.options;
    let links = |option: &str| match options.get(option) {
        None | Some(Value::Null) => Value::Null,
        Some(Value::Array(list)) => Value::Array(list.clone()),
        Some(one) => Value::Array(vec![one.clone()]),
    };
    let kept = |option: &str| options.get(option).cloned().unwrap_or_default();
    let embed = json!({
        "callbacks": links("link"),
        "errbacks": links("link_error"),
        "chain": kept("chain"),
        "chord": kept("chord"),
    });
    let args = Value::Array(signature.args.clone());
    format!("[{args}, {}, {embed}]", Value::Object(signature.kwargs.clone()))
}

/// The headers in Celery's order, with nulls (contract section 1.2).
#[expect(clippy::too_many_arguments, reason = "one place, called once")]
fn headers(
    options: &Options<'_>,
    signature: &Signature,
    id: &str,
    (root_id, parent_id): (String, Option<String>),
    definition: Option<&crate::task::Definition>,
    defaults: &super::Defaults,
    expires: Option<String>,
    now: Timestamp,
) -> Result<JsonMap, CanvasError> {
    let limit = |option: &str, own: Option<f64>| match options.get(option) {
        Some(limit) => limit.clone(),
        None => own.map_or(Value::Null, |own| json!(own)),
    };
    let ignore_result = options.get("ignore_result").cloned().unwrap_or_else(|| {
        definition.map_or(Value::Null, |definition| {
            json!(definition.ignore_result.unwrap_or(defaults.ignore_result))
        })
    });
    let stamped = options.get("stamped_headers").cloned();
    let stamps: JsonMap = maybe_list(stamped.as_ref())
        .iter()
        .filter_map(Value::as_str)
        .filter_map(|name| Some((name.to_owned(), signature.options.get(name)?.clone())))
        .collect();
    let kwargs = Value::Object(signature.kwargs.clone());
    let number = |option: &str| options.get(option).and_then(Value::as_u64);
    let mut headers = JsonMap::new();
    if let Some(own) = options.get("headers") {
        let own = own
            .as_object()
            .ok_or_else(|| options.wrong("headers", own, "a map"))?;
        let own = own
            .iter()
            .filter(|(name, _)| !PROTOCOL_HEADERS.contains(&name.as_str()));
        headers.extend(own.map(|(name, value)| (name.clone(), value.clone())));
    }
    let value = json!({
        "lang": "py",
        "task": signature.task,
        "id": id,
        "shadow": options.text("shadow")?,
        "eta": options.eta(now)?,
        "expires": expires,
        "group": options.id("group_id"),
        "group_index": number("group_index"),
        "retries": number("retries").unwrap_or(0),
        "timelimit": [
            limit("time_limit", definition.and_then(|definition| definition.time_limit)),
            limit("soft_time_limit", definition.and_then(|definition| definition.soft_time_limit)),
        ],
        "root_id": root_id,
        "parent_id": parent_id,
        "argsrepr": options.text("argsrepr")?.unwrap_or_else(|| repr::args(&signature.args)),
        "kwargsrepr": options.text("kwargsrepr")?.unwrap_or_else(|| repr::value(&kwargs)),
        "origin": defaults.origin,
        "ignore_result": ignore_result,
        "replaced_task_nesting": number("replaced_task_nesting").unwrap_or(0),
        "stamped_headers": stamped,
        "stamps": stamps,
    });
    if let Value::Object(protocol) = value {
        headers.extend(protocol);
    }
    Ok(headers)
}

/// The options of one task.
struct Options<'a> {
    task: &'a str,
    map: &'a JsonMap,
}

impl Options<'_> {
    /// An option; null is none.
    fn get(&self, option: &str) -> Option<&Value> {
        self.map.get(option).filter(|value| !value.is_null())
    }

    /// An option that is a text, whatever else it is; an empty one is none.
    fn id(&self, option: &str) -> Option<String> {
        let text = self.get(option).and_then(Value::as_str);
        text.filter(|text| !text.is_empty()).map(str::to_owned)
    }

    fn text(&self, option: &str) -> Result<Option<String>, CanvasError> {
        match self.get(option) {
            None => Ok(None),
            Some(Value::String(text)) if text.is_empty() => Ok(None),
            Some(Value::String(text)) => Ok(Some(text.clone())),
            Some(other) => Err(self.wrong(option, other, "a text")),
        }
    }

    fn small(&self, option: &str) -> Result<Option<u8>, CanvasError> {
        let Some(value) = self.get(option) else {
            return Ok(None);
        };
        let small = value.as_u64().and_then(|number| u8::try_from(number).ok());
        small
            .map(Some)
            .ok_or_else(|| self.wrong(option, value, "a number from 0 to 255"))
    }

    /// `countdown` before `eta`; a countdown of 0 is none.
    fn eta(&self, now: Timestamp) -> Result<Option<String>, CanvasError> {
        match self.get("countdown") {
            Some(Value::Number(number)) => match number.as_f64().filter(|seconds| *seconds != 0.0) {
                Some(seconds) => self.after("countdown", now, seconds).map(Some),
                None => self.time("eta"),
            },
            Some(other) => Err(self.wrong("countdown", other, "a number of seconds")),
            None => self.time("eta"),
        }
    }

    /// A time, or seconds from now.
    fn expires(&self, now: Timestamp) -> Result<Option<String>, CanvasError> {
        match self.get("expires") {
            Some(Value::Number(number)) => {
                let seconds = number.as_f64().unwrap_or_default();
                self.after("expires", now, seconds).map(Some)
            }
            _ => self.time("expires"),
        }
    }

    fn after(&self, option: &str, now: Timestamp, seconds: f64) -> Result<String, CanvasError> {
        let after = SignedDuration::try_from_secs_f64(seconds).ok();
        let time = after.and_then(|after| now.checked_add(after).ok());
        time.map(format_time)
            .ok_or_else(|| self.wrong(option, &json!(seconds), "seconds within the calendar"))
    }

    /// ISO 8601, or kombu's typed form of a time.
    fn time(&self, option: &str) -> Result<Option<String>, CanvasError> {
        let typed = |value: &Value| value.get("__value__")?.as_str().map(str::to_owned);
        let text = match self.get(option) {
            None => return Ok(None),
            Some(Value::String(text)) if text.is_empty() => return Ok(None),
            Some(Value::String(text)) => Some(text.clone()),
            Some(other) => typed(other),
        };
        let time = text.filter(|text| parse_time(text).is_some());
        time.map(Some).ok_or_else(|| {
            let value = self.get(option).cloned().unwrap_or_default();
            self.wrong(option, &value, "a time in ISO 8601")
        })
    }

    /// What becomes properties of the message.
    fn others(&self) -> JsonMap {
        let stamps = maybe_list(self.map.get("stamped_headers"));
        let others = self.map.iter().filter(|(name, value)| {
            let is_ours = OPTIONS.contains(&name.as_str()) || stamps.contains(&Value::from(name.as_str()));
            !is_ours && !value.is_null()
        });
        others
            .map(|(name, value)| (name.clone(), value.clone()))
            .collect()
    }

    fn wrong(&self, option: &str, value: &Value, expected: &str) -> CanvasError {
        CanvasError::Invalid(format!(
            "{option} of {}: {} is not {expected}",
            self.task,
            repr::value(value)
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::super::fixture::{apply, body, defaults, headers, lines, sender, with_task, within};
    use super::super::{Applied, Defaults};
    use super::*;
    use crate::queue::Router;
    use crate::task::Definition;

    fn add(options: Value) -> Value {
        json!({"task": "proj.add", "args": [3], "kwargs": {"z": 1}, "options": options, "subtask_type": null,
            "immutable": false})
    }

    fn partial(args: Value, options: Value) -> Partial {
        Partial {
            args: args.as_array().cloned().unwrap(),
            kwargs: json!({"y": 2}).as_object().cloned().unwrap(),
            options: options.as_object().cloned().unwrap(),
        }
    }

    fn one(applied: Result<Applied, CanvasError>) -> Step {
        applied.unwrap().steps.remove(0)
    }

    fn sent(options: Value) -> (JsonMap, Properties) {
        sent_by(&defaults(), options)
    }

    fn sent_by(defaults: &Defaults, options: Value) -> (JsonMap, Properties) {
        let signature = Signature::read(add(options)).unwrap();
        let applied = within(defaults, Some(sender()), |context| {
            super::super::apply(&signature, Partial::default(), context)
        });
        let step = one(applied);
        let Step::Publish(publication) = &step else {
            panic!()
        };
        (headers(&step), publication.outgoing.message.properties.clone())
    }

    #[test]
    fn partial_arguments_go_in_front_unless_it_is_immutable() {
        let step = one(apply(add(json!({})), partial(json!([1, 2]), json!({}))));
        let expected = json!([[1, 2, 3], {"z": 1, "y": 2},
            {"callbacks": null, "errbacks": null, "chain": null, "chord": null}]);
        assert_eq!(body(&step), expected);
        assert_eq!(headers(&step)["argsrepr"], "(1, 2, 3)");
        let mut immutable = add(json!({}));
        immutable["immutable"] = json!(true);
        let step = one(apply(immutable, partial(json!([1, 2]), json!({}))));
        assert_eq!(
            (&body(&step)[0], &body(&step)[1]),
            (&json!([3]), &json!({"z": 1}))
        );
    }

    #[test]
    fn given_options_win_except_for_the_group_and_the_stamps() {
        let own = json!({"group_id": "g1", "queue": "slow", "stamped_headers": ["s"], "s": 1, "priority": 3});
        let given =
            json!({"group_id": "g2", "queue": "fast", "stamped_headers": ["u"], "s": 2, "priority": null});
        let step = one(apply(add(own), partial(json!([]), given)));
        let headers = headers(&step);
        assert_eq!(headers["group"], "g1");
        assert_eq!(
            (&headers["stamped_headers"], &headers["stamps"]),
            (&json!(["s"]), &json!({"s": 1}))
        );
        let Step::Publish(publication) = &step else {
            panic!()
        };
        assert_eq!(publication.outgoing.route.routing_key, "fast");
        assert_eq!(publication.declare.as_ref().unwrap().name, "fast");
        assert_eq!(publication.outgoing.message.properties.priority, Some(3));
    }

    #[test]
    fn the_sender_is_the_parent_unless_the_options_name_one() {
        let (headers, _) = sent(json!({}));
        assert_eq!(
            (&headers["root_id"], &headers["parent_id"]),
            (&json!("r1"), &json!("p1"))
        );
        let (headers, _) = sent(json!({"root_id": "r2", "parent_id": "p2", "task_id": "t"}));
        assert_eq!(
            (&headers["root_id"], &headers["parent_id"]),
            (&json!("r2"), &json!("p2"))
        );
        let client = Signature::read(add(json!({}))).unwrap();
        let applied = within(&defaults(), None, |context| {
            super::super::apply(&client, Partial::default(), context)
        });
        let applied = applied.unwrap();
        assert_eq!(lines(&applied), ["n1 proj.add [3] root=n1"]);
        assert_eq!(applied.result, json!([["n1", null], null]));
        assert_eq!(applied.children, [json!([["n1", null], null])]);
    }

    #[test]
    fn every_option_has_its_place() {
        let (headers, properties) = sent(json!({
            "task_id": "t", "group_index": 4, "countdown": 1.5, "eta": "2020-01-01T00:00:00", "expires": 60,
            "time_limit": 30, "soft_time_limit": 20, "shadow": "other", "retries": 2, "replaced_task_nesting": 3,
            "ignore_result": true, "reply_to": "r", "priority": 5, "delivery_mode": 1, "app_id": "x", "nothing": null,
            "headers": {"mine": 1, "task": "evil", "id": "evil"}, "add_to_parent": true,
        }));
        let expected = json!({
            "mine": 1, "lang": "py", "task": "proj.add", "id": "t", "shadow": "other",
            "eta": "2026-11-21T10:00:01.500000+00:00", "expires": "2026-11-21T10:01:00+00:00", "group": null,
            "group_index": 4, "retries": 2, "timelimit": [30, 20], "root_id": "r1", "parent_id": "p1",
            "argsrepr": "(3,)", "kwargsrepr": "{'z': 1}", "origin": "gen1@h", "ignore_result": true,
            "replaced_task_nesting": 3, "stamped_headers": null, "stamps": {},
        });
        assert_eq!(Value::Object(headers), expected);
        assert_eq!(Value::Object(properties.other), json!({"app_id": "x"}));
        assert_eq!(
            (properties.priority, properties.delivery_mode),
            (Some(5), Some(1))
        );
        assert_eq!(properties.expiration.as_deref(), Some("60000"));
        assert_eq!(
            (
                properties.correlation_id.as_deref(),
                properties.reply_to.as_deref()
            ),
            (Some("t"), Some("r"))
        );
        let typed = json!({"__type__": "datetime", "__value__": "2030-01-01T00:00:00+00:00"});
        let (headers, _) = sent(json!({"countdown": 0, "eta": typed}));
        assert_eq!(headers["eta"], "2030-01-01T00:00:00+00:00");
    }

    #[test]
    fn options_that_make_no_sense_are_named() {
        for (option, value) in [
            ("countdown", json!("soon")),
            ("countdown", json!(1e300)),
            ("eta", json!("soon")),
            ("queue", json!(1)),
            ("priority", json!(-1)),
            ("serializer", json!("xml")),
            ("compression", json!("rar")),
            ("headers", json!([])),
        ] {
            let mut options = json!({});
            options[option] = value;
            let error = apply(add(options), Partial::default()).unwrap_err();
            assert!(
                error.to_string().contains(option) && error.to_string().contains("proj.add"),
                "{error}"
            );
        }
    }

    #[test]
    fn routes_the_task_and_the_settings_say_what_the_signature_does_not() {
        let table: toml::Table =
            toml::from_str("r = { 'proj.*' = { queue = 'math', priority = 2, serializer = 'yaml' } }")
                .unwrap();
        let router = std::sync::Arc::new(Router::read(&table["r"], &mut Vec::new()));
        let unknown = Defaults {
            router: router.clone(),
            ..defaults()
        };
        let (headers, properties) = sent_by(&unknown, json!({}));
        assert_eq!(properties.content_type.as_deref(), Some("application/x-yaml"));
        assert_eq!(
            (properties.priority, &headers["ignore_result"]),
            (Some(2), &Value::Null)
        );
        let own = Definition {
            name: "proj.add".into(),
            priority: Some(8),
            serializer: Some("json".into()),
            time_limit: Some(9.0),
            ..Definition::default()
        };
        let known = Defaults {
            router,
            ..with_task(own)
        };
        let (headers, properties) = sent_by(&known, json!({}));
        assert_eq!(properties.content_type.as_deref(), Some("application/json"));
        assert_eq!(
            (properties.priority, &headers["timelimit"]),
            (Some(8), &json!([9.0, null]))
        );
        assert_eq!(headers["ignore_result"], false);
        let inheriting = Defaults {
            inherit_parent_priority: true,
            ..defaults()
        };
        assert_eq!(sent_by(&inheriting, json!({})).1.priority, Some(7));
        assert_eq!(
            sent_by(&inheriting, json!({"root_id": "r", "parent_id": "p"}))
                .1
                .priority,
            Some(0)
        );
    }

    /// A map is one message of its own task, sent where the mapped task goes.
    #[test]
    fn a_map_takes_no_arguments_and_is_routed_as_its_task() {
        let table: toml::Table = toml::from_str("r = { 'proj.add' = 'math' }").unwrap();
        let router = std::sync::Arc::new(Router::read(&table["r"], &mut Vec::new()));
        let map = json!({"task": "celery.starmap", "args": [], "kwargs": {"task": add(json!({})), "it": [[1], [2]]},
            "options": {}, "subtask_type": "xstarmap", "immutable": true});
        let map = Signature::read(map).unwrap();
        let defaults = Defaults { router, ..defaults() };
        let step = one(within(&defaults, Some(sender()), |context| {
            super::super::apply(&map, partial(json!([5]), json!({})), context)
        }));
        let Step::Publish(publication) = &step else {
            panic!()
        };
        assert_eq!(
            (
                publication.task.as_str(),
                publication.outgoing.route.routing_key.as_str()
            ),
            ("celery.starmap", "math")
        );
        assert_eq!(body(&step)[0], json!([]));
        assert_eq!(body(&step)[1]["it"], json!([[1], [2]]));
    }
}
