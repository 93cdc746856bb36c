//! The three elements of a protocol 2 body, and what older protocols have in their place.

use serde_json::Value;
use serde_json::value::RawValue;

use super::content::json;
use super::raw::RawMap;
use super::{JsonMap, Unusable, repr};

/// The three elements of a protocol 2 body, as raw JSON text.
#[derive(Debug, Clone)]
pub struct Body {
    /// Positional arguments, a JSON list.
    pub args: Box<RawValue>,
    /// Keyword arguments, a JSON map.
    pub kwargs: Box<RawValue>,
    /// Signatures called on success.
    pub callbacks: Option<Box<RawValue>>,
    /// Signatures called on failure.
    pub errbacks: Option<Box<RawValue>>,
    /// The rest of the chain, in reverse order.
    pub chain: Option<Box<RawValue>>,
    /// The chord's body.
    pub chord: Option<Box<RawValue>>,
}

/// A body of any protocol.
pub(super) enum Parsed {
    /// Protocol 2: a list.
    List(Body),
    /// Protocol 1, or the hybrid of both: a map.
    Map {
        /// The arguments.
        body: Body,
        /// What would be headers in protocol 2.
        headers: JsonMap,
        /// Whether the arguments were there.
        has_args: bool,
    },
}

/// The keys of a protocol 1 body that are no headers.
const BODY_KEYS: [&str; 8] = [
    "args",
    "kwargs",
    "callbacks",
    "errbacks",
    "chord",
    "chain",
    "taskset",
    "utc",
];

/// Reads a body. `Err` of the inner result: it is not JSON, and why.
pub(super) fn parse(text: &str) -> Result<Result<Parsed, Unusable>, serde_json::Error> {
    match parse_strict(text) {
        // Perhaps it has Python's NaN and the like.
        Err(error) => parse_strict(&json::strict(text)).map_err(|_| error),
        parsed => parsed,
    }
}

fn parse_strict(text: &str) -> Result<Result<Parsed, Unusable>, serde_json::Error> {
    if text.trim_ascii_start().starts_with('{') {
        return serde_json::from_str(text).map(|map: RawMap<'_>| of_map(&map));
    }
    match serde_json::from_str::<Vec<&RawValue>>(text) {
        Ok(parts) => Ok(of_list(&parts)),
        Err(error) if error.is_data() => Ok(Err(invalid(format!("the body is not a list: {error}")))),
        Err(error) => Err(error),
    }
}

fn invalid(text: impl Into<String>) -> Unusable {
    Unusable::Invalid(text.into())
}

fn of_list(parts: &[&RawValue]) -> Result<Parsed, Unusable> {
    let [args, kwargs, embed] = parts else {
        return Err(invalid(format!(
            "the body has {} parts instead of 3",
            parts.len()
        )));
    };
    let embed: Option<RawMap<'_>> = match embed.get() {
        "null" => None,
        embed => Some(
            serde_json::from_str(embed).map_err(|_| invalid("the third part of the body is not a map"))?,
        ),
    };
    let link = |name: &str| embed.as_ref().and_then(|embed| embed.get(name));
    Ok(Parsed::List(Body {
        args: arguments(args)?,
        kwargs: keywords(kwargs)?,
        callbacks: present(link("callbacks")),
        errbacks: present(link("errbacks")),
        chain: present(link("chain")),
        chord: present(link("chord")),
    }))
}

/// A chain is null in older protocols: they link tasks through callbacks.
fn of_map(map: &RawMap<'_>) -> Result<Parsed, Unusable> {
    let body = Body {
        args: map.get("args").map_or_else(|| Ok(raw("[]")), arguments)?,
        kwargs: map.get("kwargs").map_or_else(|| Ok(raw("{}")), keywords)?,
        callbacks: present(map.get("callbacks")),
        errbacks: present(map.get("errbacks")),
        chain: None,
        chord: present(map.get("chord")),
    };
    let mut headers = JsonMap::new();
    for (name, value) in &map.0 {
        if !BODY_KEYS.contains(&name.as_ref()) {
            let value =
                json::value(value.get()).ok_or_else(|| invalid(format!("{name:.100?} cannot be read")))?;
            headers.insert(name.clone().into_owned(), value);
        }
    }
    if let Some(taskset) = map.get("taskset") {
        headers.insert("group".into(), json::value(taskset.get()).unwrap_or_default());
    }
    if !headers.contains_key("argsrepr") {
        let shown = match json::value(body.args.get()) {
            Some(Value::Array(args)) => repr::args(&args),
            _ => "?".to_owned(),
        };
        headers.insert("argsrepr".into(), shown.into());
        let kwargs = json::value(body.kwargs.get()).unwrap_or_default();
        headers.insert("kwargsrepr".into(), repr::value(&kwargs).into());
    }
    Ok(Parsed::Map {
        body,
        headers,
        has_args: map.get("args").is_some(),
    })
}

fn arguments(raw: &RawValue) -> Result<Box<RawValue>, Unusable> {
    match raw.get().starts_with('[') {
        true => Ok(raw.to_owned()),
        false => Err(invalid("the positional arguments are not a list")),
    }
}

fn keywords(raw: &RawValue) -> Result<Box<RawValue>, Unusable> {
    match raw.get().starts_with('{') {
        true => Ok(raw.to_owned()),
        false => Err(invalid("the keyword arguments are not a map")),
    }
}

fn present(raw: Option<&RawValue>) -> Option<Box<RawValue>> {
    raw.filter(|raw| raw.get() != "null").map(ToOwned::to_owned)
}

fn raw(text: &str) -> Box<RawValue> {
    RawValue::from_string(text.to_owned()).unwrap_or_else(|_| RawValue::NULL.to_owned())
}

impl Body {
    /// The body as protocol 2 writes it, with other arguments where some are given.
    pub fn to_json(&self, args: Option<&str>, kwargs: Option<&str>) -> String {
        let part = |part: &Option<Box<RawValue>>| part.as_ref().map_or("null", |raw| raw.get()).to_owned();
        format!(
            r#"[{}, {}, {{"callbacks": {}, "errbacks": {}, "chain": {}, "chord": {}}}]"#,
            args.unwrap_or(self.args.get()),
            kwargs.unwrap_or(self.kwargs.get()),
            part(&self.callbacks),
            part(&self.errbacks),
            part(&self.chain),
            part(&self.chord),
        )
    }
}
