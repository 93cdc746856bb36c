//! A message that a component made itself (`publisher.publish`): read far enough to know what it asks for.

use serde_json::Value;

use crate::canvas::{Publication, Signature};
use crate::message::envelope::properties_from_json;
use crate::message::{JsonMap, Message, Outgoing, Route, content};
use crate::sandbox::{ErrandError, RawMessage};

use super::{id, invalid, nested};

/// The message, and the signatures that its body embeds. Only what the worker can read is taken: protocol 2 with a plain
/// JSON body.
pub(super) fn publication(raw: RawMessage) -> Result<(Publication, Vec<Signature>), ErrandError> {
    let map = |text: &str, what: &str| match content::value(text) {
        Some(Value::Object(map)) => Ok(map),
        _ => Err(invalid(format!("{what}: not a JSON map"))),
    };
    let headers = map(&raw.headers, "headers")?;
    let mut properties = map(&raw.properties, "properties")?;
    // Where it goes is said once; the rest of these is the broker's.
    for own in ["delivery_info", "delivery_tag", "body_encoding"] {
        properties.remove(own);
    }
    let text = |header: &str| headers.get(header).and_then(Value::as_str).map(str::to_owned);
    let task = text("task").filter(|task| !task.is_empty());
    let task = task.ok_or_else(|| invalid("headers: no task; only protocol 2 is taken"))?;
    let task_id = id(text("id").unwrap_or_default(), "headers: id")?;
    let is_json = raw.content_type == "application/json"
        && ["utf-8", "UTF-8", "utf8"].contains(&raw.content_encoding.as_str());
    let compressed = headers
        .get("compression")
        .is_some_and(|compression| !compression.is_null());
    if !is_json || compressed {
        let text = "publish takes messages in JSON and UTF-8 without compression, so that the worker can see what they \
                    ask for";
        return Err(ErrandError::NotSupported(text.into()));
    }
    let body = std::str::from_utf8(&raw.body).ok().and_then(content::value);
    let Some(Value::Array(parts)) = body else {
        return Err(invalid(
            "body: not a JSON list of arguments, keyword arguments and embedded signatures",
        ));
    };
    let embed = match <[Value; 3]>::try_from(parts) {
        Ok([Value::Array(_), Value::Object(_), Value::Object(embed)]) => embed,
        Ok([Value::Array(_), Value::Object(_), Value::Null]) => JsonMap::new(),
        _ => return Err(invalid("body: not [args, kwargs, embed]")),
    };
    let renamed = [
        ("callbacks", "link"),
        ("errbacks", "link_error"),
        ("chain", "chain"),
        ("chord", "chord"),
    ];
    let options = renamed
        .into_iter()
        .filter_map(|(from, to)| Some((to.to_owned(), embed.get(from)?.clone())));
    let embedded = nested::embedded(&options.collect())?;
    let mut properties = properties_from_json(properties);
    properties.content_type = Some(raw.content_type);
    properties.content_encoding = Some(raw.content_encoding);
    let publication = Publication {
        task,
        id: task_id,
        declare: None,
        outgoing: Outgoing {
            route: Route {
                exchange: raw.exchange,
                routing_key: raw.routing_key,
            },
            message: Message {
                headers: Some(headers),
                properties,
                body: raw.body,
            },
        },
    };
    Ok((publication, embedded))
}
