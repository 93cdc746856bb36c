//! Binding the arguments of a message to a function's parameters, with Python's rules and Python 3.11's words.
//!
//! The JSON texts are split, not parsed: each value is parsed once, by the parameter that takes it.

use std::borrow::Cow;
use std::fmt;

use serde::de::value::{MapDeserializer, SeqDeserializer};
use serde::de::{DeserializeOwned, Deserializer, MapAccess, Visitor};
use serde::{Deserialize, de};
use serde_json::value::RawValue;

use crate::error::TaskError;
use crate::failure::Failure;
use crate::signature::{Kind, Signature};

/// The arguments of one call, each at its parameter's place.
#[derive(Debug)]
pub struct Bound<'a> {
    signature: &'static Signature,
    values: Vec<Option<&'a RawValue>>,
    rest: Vec<&'a RawValue>,
    extra: Vec<(Cow<'a, str>, &'a RawValue)>,
}

/// Puts `args` (a JSON list) and `kwargs` (a JSON map) at the parameters' places.
///
/// # Errors
///
/// Python's `TypeError` when they do not fit, a `ValueError` when they are not a JSON list and a JSON map.
pub(crate) fn bind<'a>(
    signature: &'static Signature,
    args: &'a str,
    kwargs: &'a str,
) -> Result<Bound<'a>, TaskError> {
    let mut rest: Vec<&RawValue> = parse(args, "args", "list")?;
    let keywords = if kwargs == "{}" {
        Vec::new()
    } else {
        parse::<Keywords>(kwargs, "kwargs", "map")?.0
    };

    let positional = signature.positional().count();
    let given = rest.len();
    let mut values = vec![None; signature.parameters.len()];
    for (place, value) in values.iter_mut().zip(rest.drain(..given.min(positional))) {
        *place = Some(value);
    }

    let mut extra = Vec::new();
    for (name, value) in keywords {
        match signature.named(&name) {
            Some(index) if index < given.min(positional) => {
                return Err(type_error(
                    signature,
                    format_args!("got multiple values for argument '{name}'"),
                ));
            }
            Some(index) => values[index] = Some(value),
            None if signature.has(Kind::Kwargs) => extra.push((name, value)),
            None => {
                return Err(type_error(
                    signature,
                    format_args!("got an unexpected keyword argument '{name}'"),
                ));
            }
        }
    }

    let bound = Bound {
        signature,
        values,
        rest,
        extra,
    };
    if !bound.rest.is_empty() && !signature.has(Kind::Args) {
        return Err(bound.too_many(given));
    }
    bound.missing(Kind::Positional, "positional")?;
    bound.missing(Kind::KeywordOnly, "keyword-only")?;
    Ok(bound)
}

impl Bound<'_> {
    /// The value of a parameter that callers have to pass.
    ///
    /// # Errors
    ///
    /// A `TypeError` that names the parameter when the value is of another type.
    pub fn required<T: DeserializeOwned>(&self, index: usize) -> Result<T, TaskError> {
        // `bind` has refused the call when the value is not there.
        let text = self.values[index].map_or("null", RawValue::get);
        serde_json::from_str(text).map_err(|error| self.wrong_type(index, text, &error))
    }

    /// The value of a parameter that callers may leave out.
    ///
    /// # Errors
    ///
    /// As [`Bound::required`].
    pub fn optional<T: DeserializeOwned>(
        &self,
        index: usize,
        default: impl FnOnce() -> T,
    ) -> Result<T, TaskError> {
        match self.values[index] {
            Some(_) => self.required(index),
            None => Ok(default()),
        }
    }

    /// The positional arguments that no parameter took, Python's `*args`.
    ///
    /// # Errors
    ///
    /// As [`Bound::required`].
    pub fn args<T: DeserializeOwned>(&self, index: usize) -> Result<T, TaskError> {
        T::deserialize(SeqDeserializer::new(self.rest.iter().copied()))
            .map_err(|error| self.wrong_type(index, "", &error))
    }

    /// The keyword arguments that no parameter took, Python's `**kwargs`.
    ///
    /// # Errors
    ///
    /// As [`Bound::required`].
    pub fn kwargs<T: DeserializeOwned>(&self, index: usize) -> Result<T, TaskError> {
        let entries = self.extra.iter().map(|(name, value)| (name.as_ref(), *value));
        T::deserialize(MapDeserializer::new(entries)).map_err(|error| self.wrong_type(index, "", &error))
    }

    fn wrong_type(&self, index: usize, text: &str, error: &serde_json::Error) -> TaskError {
        let parameter = &self.signature.parameters[index];
        let stars = match parameter.kind {
            Kind::Args => "*",
            Kind::Kwargs => "**",
            Kind::Positional | Kind::KeywordOnly => "",
        };
        type_error(
            self.signature,
            format_args!("argument '{stars}{}': {}", parameter.name, describe(text, error)),
        )
    }

    fn missing(&self, kind: Kind, word: &str) -> Result<(), TaskError> {
        let names: Vec<&str> = self
            .signature
            .parameters
            .iter()
            .zip(&self.values)
            .filter(|(parameter, value)| parameter.kind == kind && !parameter.optional && value.is_none())
            .map(|(parameter, _)| parameter.name)
            .collect();
        if names.is_empty() {
            return Ok(());
        }
        let listed = match names.as_slice() {
            [first, second] => format!("'{first}' and '{second}'"),
            [first @ .., last] if !first.is_empty() => {
                format!("'{}', and '{last}'", first.join("', '"))
            }
            _ => format!("'{}'", names.concat()),
        };
        Err(type_error(
            self.signature,
            format_args!(
                "missing {} required {word} argument{}: {listed}",
                names.len(),
                plural(names.len())
            ),
        ))
    }

    fn too_many(&self, given: usize) -> TaskError {
        let signature = self.signature;
        let own = usize::from(signature.bound);
        let most = own + signature.positional().count();
        let given = own + given;
        let optional = signature
            .positional()
            .filter(|parameter| parameter.optional)
            .count();
        let (takes, takes_many) = if optional == 0 {
            (most.to_string(), most != 1)
        } else {
            (format!("from {} to {most}", most - optional), true)
        };
        let by_name = signature
            .parameters
            .iter()
            .zip(&self.values)
            .filter(|(parameter, value)| parameter.kind == Kind::KeywordOnly && value.is_some())
            .count();
        let also = if by_name == 0 {
            String::new()
        } else {
            format!(
                " positional argument{} (and {by_name} keyword-only argument{})",
                plural(given),
                plural(by_name)
            )
        };
        let were = if given == 1 && by_name == 0 { "was" } else { "were" };
        type_error(
            signature,
            format_args!(
                "takes {takes} positional argument{} but {given}{also} {were} given",
                if takes_many { "s" } else { "" }
            ),
        )
    }
}

/// What a value's parser says, without its position (it counts from the value's start, which nobody sees), and short
/// even when the value is long.
fn describe(text: &str, error: &serde_json::Error) -> String {
    const SHOWN: usize = 120;
    let whole = error.to_string();
    let position = format!(" at line {} column {}", error.line(), error.column());
    let said = whole.strip_suffix(&position).unwrap_or(&whole);
    let digits = text.strip_prefix('-').unwrap_or(text);
    let said = match said.split_once(", expected ") {
        // serde_json reads such a number as a float, which would be a puzzling thing to read.
        Some((_, expected)) if digits.len() > 18 && digits.bytes().all(|byte| byte.is_ascii_digit()) => {
            Cow::from(format!("integer `{text}` is too large, expected {expected}"))
        }
        _ => Cow::from(said),
    };
    if said.len() <= 2 * SHOWN {
        return said.into_owned();
    }
    let head = said.floor_char_boundary(SHOWN);
    let tail = said.ceil_char_boundary(said.len() - SHOWN);
    format!("{}…{}", &said[..head], &said[tail..])
}

fn type_error(signature: &Signature, what: fmt::Arguments<'_>) -> TaskError {
    Failure::without_location("TypeError", format!("{}() {what}", signature.function)).into()
}

fn plural(count: usize) -> &'static str {
    if count == 1 { "" } else { "s" }
}

fn parse<'a, T: Deserialize<'a>>(text: &'a str, what: &str, kind: &str) -> Result<T, TaskError> {
    serde_json::from_str(text).map_err(|error| {
        let message = format!("{what} is not a JSON {kind}: {error}");
        Failure::without_location("ValueError", message).into()
    })
}

/// A JSON map in its own order. As in Python, the last of several equal names counts.
struct Keywords<'a>(Vec<(Cow<'a, str>, &'a RawValue)>);

impl<'de> Deserialize<'de> for Keywords<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Entries;

        impl<'de> Visitor<'de> for Entries {
            type Value = Keywords<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a map")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut entries = Vec::new();
                while let Some((Name(name), value)) = map.next_entry()? {
                    entries.push((name, value));
                }
                Ok(Keywords(entries))
            }
        }

        deserializer.deserialize_map(Entries)
    }
}

/// A map's key, borrowed from the text unless it has escapes.
struct Name<'a>(Cow<'a, str>);

impl<'de> Deserialize<'de> for Name<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Text;

        impl<'de> Visitor<'de> for Text {
            type Value = Name<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a name")
            }

            fn visit_borrowed_str<E: de::Error>(self, name: &'de str) -> Result<Self::Value, E> {
                Ok(Name(Cow::Borrowed(name)))
            }

            fn visit_str<E: de::Error>(self, name: &str) -> Result<Self::Value, E> {
                Ok(Name(Cow::Owned(name.to_owned())))
            }
        }

        deserializer.deserialize_str(Text)
    }
}
