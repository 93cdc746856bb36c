//! What is in a body: serializers, compression and signatures (contract sections 1.5 to 1.7).
//!
//! The rest of the worker knows JSON only. A body in another serializer is rewritten as JSON with kombu's typed
//! values, and what this worker sends is written from JSON; a JSON body is passed on as it came.
//!
//! Everything here is bounded by [`Reader::limit`], whatever a sender wrote: nothing is inflated, expanded or built
//! beyond it, and no depth of nesting costs stack.

pub mod auth;
pub mod compression;
mod graph;
pub(in crate::message) mod json;
mod msgpack;
mod pickle;
mod yaml;

use std::borrow::Cow;
use std::sync::Arc;

use jiff::Timestamp;
use serde_json::Value;

use super::Message;
use compression::Compression;
use graph::Graph;

/// How large a body may be unless the settings say otherwise, bytes.
pub const BODY_LIMIT: usize = 8 << 20;

/// Content types that kombu never refuses: they hold text or bytes.
const TRUSTED: [&str; 2] = ["application/data", "application/text"];

/// Why content cannot be read or written.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ContentError {
    /// Its type is not accepted.
    #[error("{0}")]
    Disallowed(String),
    /// It is not what its type says.
    #[error("{0}")]
    Malformed(String),
    /// It would do more than say what it is.
    #[error("{0}")]
    Refused(String),
    /// It is larger, or nested deeper, than it may be.
    #[error("{0}")]
    TooLarge(String),
}

/// Celery's serializers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Serializer {
    /// JSON with kombu's typed values.
    Json,
    /// YAML.
    Yaml,
    /// msgpack.
    Msgpack,
    /// Python's pickle, plain data only.
    Pickle,
    /// A signature around JSON.
    Auth,
}

impl Serializer {
    const ALL: [(Serializer, &str, &str, &str); 5] = [
        (Serializer::Json, "json", "application/json", "utf-8"),
        (Serializer::Yaml, "yaml", "application/x-yaml", "utf-8"),
        (Serializer::Msgpack, "msgpack", "application/x-msgpack", "binary"),
        (
            Serializer::Pickle,
            "pickle",
            "application/x-python-serialize",
            "binary",
        ),
        (Serializer::Auth, "auth", "application/data", "utf-8"),
    ];

    /// The serializer of this name or content type.
    pub fn named(name: &str) -> Option<Self> {
        let mut all = Self::ALL.iter();
        all.find_map(|(serializer, short, content_type, _)| {
            (name == *short || name == *content_type).then_some(*serializer)
        })
    }

    /// The names that settings take, for messages to people.
    pub fn names() -> String {
        Self::ALL.map(|(_, name, ..)| format!("{name:?}")).join(", ")
    }

    /// What messages call it.
    pub fn content_type(self) -> &'static str {
        self.row().0
    }

    /// The encoding that goes with it.
    pub fn content_encoding(self) -> &'static str {
        self.row().1
    }

    fn row(self) -> (&'static str, &'static str) {
        let mut all = Self::ALL.iter();
        all.find_map(|(serializer, _, content_type, encoding)| {
            (*serializer == self).then_some((*content_type, *encoding))
        })
        .unwrap_or_default()
    }
}

/// How bodies are read.
#[derive(Debug, Clone)]
pub struct Reader {
    /// `accept_content`.
    pub accept: Vec<Serializer>,
    /// `limits.body`: bytes of a body once it is inflated, and as JSON. A JSON body that came as it is has no limit
    /// but the broker's.
    pub limit: usize,
    /// Whose signatures count; without it signed messages are not read.
    pub trust: Option<Arc<auth::Trust>>,
}

/// Celery's own defaults.
impl Default for Reader {
    fn default() -> Self {
        Self {
            accept: vec![Serializer::Json],
            limit: BODY_LIMIT,
            trust: None,
        }
    }
}

/// A reader of messages that are parsed whole: no body has more bytes than the limit, not even JSON that came as it is.
#[derive(Debug, Clone)]
pub struct BoundedReader(Reader);

impl BoundedReader {
    /// As [`Reader::body`].
    pub fn body<'a>(&self, message: &'a Message, now: Timestamp) -> Result<Cow<'a, str>, ContentError> {
        let (size, limit) = (message.body.len(), self.0.limit);
        if size > limit {
            let text = format!("the body has {size} bytes, {limit} are allowed");
            return Err(ContentError::TooLarge(text));
        }
        self.0.body(message, now)
    }
}

impl Reader {
    /// The same reader for bodies of at most so many bytes.
    pub fn bounded(self, bytes: usize) -> BoundedReader {
        BoundedReader(Self {
            limit: self.limit.min(bytes),
            ..self
        })
    }

    /// The body of a message as JSON, in Python's form when it came so. `now` decides which certificates have expired.
    pub fn body<'a>(&self, message: &'a Message, now: Timestamp) -> Result<Cow<'a, str>, ContentError> {
        let properties = &message.properties;
        let content_type = properties.content_type.as_deref().filter(|name| !name.is_empty());
        let content_type = content_type.unwrap_or("application/data");
        self.check(content_type)?;
        let compression = message
            .headers
            .as_ref()
            .and_then(|headers| headers.get("compression"));
        let body = match compression {
            None | Some(Value::Null) => Cow::Borrowed(message.body.as_slice()),
            Some(Value::String(name)) if name.is_empty() => Cow::Borrowed(message.body.as_slice()),
            Some(Value::String(name)) => {
                let compression = Compression::named(name).ok_or_else(|| {
                    ContentError::Malformed(format!("the compression {name:.100?} is not known"))
                })?;
                Cow::Owned(compression.inflate(&message.body, self.limit)?)
            }
            Some(other) => {
                return Err(ContentError::Malformed(format!(
                    "the compression {other} is no name"
                )));
            }
        };
        let encoding = properties.content_encoding.as_deref().unwrap_or("utf-8");
        match body {
            Cow::Borrowed(body) => self.content(body, content_type, encoding, now),
            Cow::Owned(body) => {
                let text = self.content(&body, content_type, encoding, now)?;
                Ok(Cow::Owned(text.into_owned()))
            }
        }
    }

    fn check(&self, content_type: &str) -> Result<(), ContentError> {
        let accepted = |serializer: &Serializer| serializer.content_type() == content_type;
        if TRUSTED.contains(&content_type) || self.accept.iter().any(accepted) {
            return Ok(());
        }
        let accepted: Vec<&str> = self
            .accept
            .iter()
            .map(|serializer| serializer.content_type())
            .collect();
        Err(ContentError::Disallowed(format!(
            "{content_type:.100} (accepted: {}; the setting is accept_content)",
            accepted.join(", ")
        )))
    }

    fn content<'a>(
        &self,
        body: &'a [u8],
        content_type: &str,
        encoding: &str,
        now: Timestamp,
    ) -> Result<Cow<'a, str>, ContentError> {
        if body.is_empty() {
            return Ok("\"\"".into());
        }
        match (Serializer::named(content_type), &self.trust) {
            (Some(Serializer::Auth), Some(trust)) => {
                let signed = trust.open(body, now)?;
                let inner =
                    Serializer::named(&signed.content_type).filter(|inner| *inner != Serializer::Auth);
                let inner = inner.ok_or_else(|| {
                    ContentError::Malformed(format!("signed content of type {:.100}", signed.content_type))
                })?;
                decode(&signed.payload, inner, self.limit).map(|text| text.into_owned().into())
            }
            (Some(Serializer::Auth), None) => Err(ContentError::Disallowed(format!(
                "{content_type}, which is plain data; for signed messages set security_cert_store, security_key and \
                 security_certificate"
            ))),
            (Some(serializer), _) => decode(body, serializer, self.limit),
            // Text is read as far as Python reads it. It is no task.
            (None, _) => text(body, encoding).map(|text| json::string(&text).into()),
        }
    }
}

/// Content of a serializer as JSON; JSON itself as it is.
fn decode(body: &[u8], serializer: Serializer, limit: usize) -> Result<Cow<'_, str>, ContentError> {
    let (graph, root) = match serializer {
        Serializer::Json => {
            let text =
                std::str::from_utf8(body).map_err(|error| ContentError::Malformed(error.to_string()))?;
            return Ok(text.into());
        }
        Serializer::Yaml => yaml::decode(body, limit)?,
        Serializer::Msgpack => msgpack::decode(body, limit)?,
        Serializer::Pickle => pickle::decode(body, limit)?,
        Serializer::Auth => return Err(ContentError::Malformed("a signature within a signature".into())),
    };
    graph.to_json(root).map(Cow::Owned)
}

/// Text in one of the encodings that senders of text use.
fn text<'a>(body: &'a [u8], encoding: &str) -> Result<Cow<'a, str>, ContentError> {
    let malformed = || ContentError::Malformed(format!("the text is not {encoding:.100}"));
    match encoding.to_ascii_lowercase().replace('_', "-").as_str() {
        "utf-8" | "utf8" => std::str::from_utf8(body)
            .map(Cow::Borrowed)
            .map_err(|_| malformed()),
        "us-ascii" | "ascii" if body.is_ascii() => Ok(String::from_utf8_lossy(body)),
        "us-ascii" | "ascii" => Err(malformed()),
        "latin-1" | "latin1" | "iso-8859-1" | "binary" | "ascii-8bit" => {
            Ok(body.iter().copied().map(char::from).collect::<String>().into())
        }
        _ => Err(ContentError::Malformed(format!(
            "the text encoding {encoding:.100?} is not known; utf-8, us-ascii and latin-1 are"
        ))),
    }
}

/// How this worker writes what it sends or stores.
#[derive(Debug, Clone)]
pub struct Writer {
    /// `task_serializer` or `result_serializer`.
    pub serializer: Serializer,
    /// `task_compression` or `result_compression`.
    pub compression: Option<Compression>,
    /// Who signs; needed for [`Serializer::Auth`] only.
    pub signer: Option<Arc<auth::Signer>>,
}

/// Celery's own defaults.
impl Default for Writer {
    fn default() -> Self {
        Self {
            serializer: Serializer::Json,
            compression: None,
            signer: None,
        }
    }
}

/// Two writers are equal when they write the same; there is one signer in a worker.
impl PartialEq for Writer {
    fn eq(&self, other: &Self) -> bool {
        (self.serializer, self.compression) == (other.serializer, other.compression)
    }
}

impl Writer {
    /// Writes JSON text in this writer's serializer; not compressed.
    pub fn serialize(&self, text: &str) -> Result<Vec<u8>, ContentError> {
        let encode = match self.serializer {
            Serializer::Json => return Ok(json::python(text).into_owned().into_bytes()),
            Serializer::Auth => {
                let signer = self.signer.as_ref().ok_or_else(|| {
                    ContentError::Refused("there is no key to sign with; set security_key".into())
                })?;
                let inner = Serializer::Json;
                let payload = json::python(text);
                return signer.sign(payload.as_bytes(), inner.content_type(), inner.content_encoding());
            }
            Serializer::Yaml => yaml::write::encode,
            Serializer::Msgpack => msgpack::encode,
            Serializer::Pickle => pickle::write::encode,
        };
        // What is written is this worker's own and has its limits already.
        let (graph, root) = Graph::of_json(text, usize::MAX)?;
        encode(&graph, root)
    }

    /// Puts JSON text into a message: its body, the two properties and the header that say how to read it.
    pub fn fill(&self, message: &mut Message, text: &str) -> Result<(), ContentError> {
        let serialized = self.serialize(text)?;
        let headers = message.headers.get_or_insert_default();
        headers.remove("compression");
        message.body = match self.compression {
            None => serialized,
            Some(compression) => {
                headers.insert("compression".into(), compression.content_type().into());
                compression.deflate(&serialized)?
            }
        };
        message.properties.content_type = Some(self.serializer.content_type().into());
        message.properties.content_encoding = Some(self.serializer.content_encoding().into());
        Ok(())
    }
}

/// JSON as a value, Python's included: what no value holds (integers beyond 64 bits, NaN, lone surrogates) in its typed
/// form. `None` for what is no JSON, or nested deeper than 128 levels.
pub fn value(text: &str) -> Option<Value> {
    json::value(text)
}

/// JSON with such typed forms as Python writes it: the way back of [`value()`].
pub fn python(text: &str) -> Cow<'_, str> {
    json::python(text)
}

/// Reads a stored result in whatever form it is: the form is not stored with it (contract section 5.2). `trust` is
/// asked about signed ones.
pub fn read_result(
    stored: &[u8],
    limit: usize,
    trust: Option<&auth::Trust>,
    now: Timestamp,
) -> Result<String, ContentError> {
    let inflated;
    let body = match compression::prefixed(stored) {
        Some((name, rest)) => {
            let compression = Compression::named(name).ok_or_else(|| {
                ContentError::Malformed(format!("the compression {name:.100?} is not known"))
            })?;
            inflated = compression.inflate(rest, limit)?;
            inflated.as_slice()
        }
        None => stored,
    };
    // A document is a map, a part of a chord a list of four: JSON starts with a bracket, a pickle with its protocol,
    // msgpack with the size.
    let (serializer, signed);
    let body = match body {
        [0x80, 2..=5, ..] => {
            serializer = Serializer::Pickle;
            body
        }
        [0x81..=0x8f | 0x94 | 0xde | 0xdf, ..] => {
            serializer = Serializer::Msgpack;
            body
        }
        _ if matches!(body.trim_ascii_start().first(), Some(b'{' | b'[')) && strict_or_pythons(body) => {
            serializer = Serializer::Json;
            body
        }
        _ => match trust.map(|trust| trust.open(body, now)) {
            Some(Ok(content)) => {
                serializer = Serializer::named(&content.content_type).unwrap_or(Serializer::Json);
                signed = content.payload;
                signed.as_slice()
            }
            _ => {
                serializer = Serializer::Yaml;
                body
            }
        },
    };
    let text = decode(body, serializer, limit)?;
    Ok(
        match serde_json::from_str::<&serde_json::value::RawValue>(&text) {
            Ok(_) => text.into_owned(),
            Err(_) => json::strict(&text),
        },
    )
}

/// Whether it is JSON, and not YAML that starts like it.
fn strict_or_pythons(body: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(body) else {
        return false;
    };
    let is_json = |text: &str| serde_json::from_str::<serde::de::IgnoredAny>(text).is_ok();
    is_json(text) || is_json(&json::strict(text))
}

#[cfg(test)]
mod tests;
