//! The arguments of a command, by name, read as Python reads them and never further than bounds allow.

use serde_json::Value;

use super::Refused;
use crate::message::{JsonMap, repr};
use crate::policy::signal::signal;

/// The longest id or name, bytes.
const LONGEST: usize = 1000;

/// The arguments of one command.
pub(super) struct Arguments<'a>(&'a JsonMap);

impl<'a> Arguments<'a> {
    pub(super) fn new(arguments: &'a JsonMap) -> Self {
        Self(arguments)
    }

    /// That none is missing, and none is there that the command does not take.
    pub(super) fn check(
        &self,
        command: &str,
        required: &[&str],
        only: Option<&[&str]>,
    ) -> Result<(), Refused> {
        let unknown = |name: &&String| only.is_some_and(|only| !only.contains(&name.as_str()));
        if let Some(name) = self.0.keys().find(unknown) {
            let text = format!("{command}() got an unexpected keyword argument '{name:.100}'");
            return Err(Refused::new("TypeError", &text));
        }
        let missing = required.iter().filter(|name| !self.0.contains_key(**name));
        let missing: Vec<String> = missing.map(|name| format!("'{name}'")).collect();
        let text = match &missing[..] {
            [] => return Ok(()),
            [one] => format!("{command}() missing 1 required positional argument: {one}"),
            several => format!(
                "{command}() missing {} required positional arguments: {}",
                several.len(),
                several.join(" and ")
            ),
        };
        Err(Refused::new("TypeError", &text))
    }

    /// All of them.
    pub(super) fn all(&self) -> &'a JsonMap {
        self.0
    }

    /// An argument that is there and not null.
    pub(super) fn get(&self, name: &str) -> Option<&'a Value> {
        self.0.get(name).filter(|value| !value.is_null())
    }

    /// A text.
    pub(super) fn text(&self, name: &str) -> Option<&'a str> {
        self.get(name)?.as_str()
    }

    /// A name of something: a text that is there, and of a sane length.
    pub(super) fn name(&self, name: &str) -> Result<&'a str, Refused> {
        match self.text(name) {
            Some(text) if !text.is_empty() && text.len() <= LONGEST => Ok(text),
            Some(_) => Err(Refused::value(&format!("{name} must have 1 to {LONGEST} bytes"))),
            None => Err(Refused::new("TypeError", &format!("{name} must be a text"))),
        }
    }

    /// Whether something is asked for; Python's idea of truth.
    pub(super) fn flag(&self, name: &str) -> bool {
        match self.get(name) {
            None | Some(Value::Null) => false,
            Some(Value::Bool(flag)) => *flag,
            Some(Value::Number(number)) => number.as_f64() != Some(0.0),
            Some(Value::String(text)) => !text.is_empty(),
            Some(Value::Array(list)) => !list.is_empty(),
            Some(Value::Object(map)) => !map.is_empty(),
        }
    }

    /// A whole number, not negative; one that is larger than any is the largest.
    pub(super) fn count(&self, name: &str) -> Result<Option<u32>, Refused> {
        let Some(value) = self.get(name) else {
            return Ok(None);
        };
        let wrong = || {
            let text = format!("{name} must be a whole number, not {:.100}", repr::value(value));
            Refused::new("TypeError", &text)
        };
        let number = value.as_f64().ok_or_else(wrong)?;
        if number < 0.0 {
            return Err(Refused::value(&format!("{name} must not be negative")));
        }
        match number.fract() == 0.0 {
            // Larger numbers become the largest one.
            true => Ok(Some(number as u32)),
            false => Err(wrong()),
        }
    }

    /// A number of seconds.
    pub(super) fn seconds(&self, name: &str) -> Result<Option<f64>, Refused> {
        let wrong = |value| {
            let text = format!(
                "{name} must be a number of seconds, not {:.100}",
                repr::value(value)
            );
            Refused::new("TypeError", &text)
        };
        self.get(name)
            .map(|value| value.as_f64().ok_or_else(|| wrong(value)))
            .transpose()
    }

    /// Ids, as one or as a list, each once, in their order.
    pub(super) fn ids(&self, name: &str) -> Result<Vec<&'a str>, Refused> {
        let mut ids: Vec<&str> = match self.get(name) {
            Some(Value::Array(ids)) => ids.iter().filter_map(Value::as_str).collect(),
            Some(Value::String(id)) => vec![id],
            _ => Vec::new(),
        };
        if ids.iter().any(|id| id.len() > LONGEST) {
            return Err(Refused::value(&format!("an id has at most {LONGEST} bytes")));
        }
        let mut seen = std::collections::HashSet::new();
        ids.retain(|id| seen.insert(*id));
        Ok(ids)
    }

    /// `signal`: SIGTERM by default.
    pub(super) fn signal(&self) -> Result<i32, Refused> {
        match self.get("signal") {
            Some(value) if self.flag("signal") => signal(value).map_err(Refused),
            _ => Ok(crate::policy::signal::TERM),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn with<T>(arguments: Value, look: impl FnOnce(&Arguments<'_>) -> T) -> T {
        look(&Arguments::new(arguments.as_object().unwrap()))
    }

    #[test]
    fn missing_and_unknown_arguments_read_like_python() {
        let checked = |arguments, required: &[&str], only| {
            with(arguments, |arguments| {
                arguments.check("f", required, only).err().map(|error| error.0)
            })
        };
        assert_eq!(checked(json!({"a": 1, "x": 2}), &["a"], None), None);
        assert_eq!(
            checked(json!({}), &["a"], None).unwrap(),
            r#"TypeError("f() missing 1 required positional argument: 'a'")"#
        );
        assert_eq!(
            checked(json!({}), &["a", "b"], None).unwrap(),
            r#"TypeError("f() missing 2 required positional arguments: 'a' and 'b'")"#
        );
        assert_eq!(
            checked(json!({"x": 1}), &[], Some(&["a"])).unwrap(),
            r#"TypeError("f() got an unexpected keyword argument 'x'")"#
        );
    }

    #[test]
    fn numbers_out_of_range_are_bounded_or_refused() {
        let count = |n: Value| {
            with(json!({"n": n}), |arguments| {
                arguments.count("n").map_err(|error| error.0)
            })
        };
        assert_eq!(count(json!(null)), Ok(None));
        assert_eq!(count(json!(3)), Ok(Some(3)));
        assert_eq!(count(json!(3.0)), Ok(Some(3)));
        assert_eq!(count(json!(1e300)), Ok(Some(u32::MAX)));
        for wrong in [json!(-1), json!(0.5), json!("3"), json!([3])] {
            assert!(count(wrong.clone()).is_err(), "{wrong}");
        }
    }

    #[test]
    fn ids_are_counted_and_there_once() {
        let read = |ids: Value| {
            with(json!({"ids": ids}), |arguments| {
                arguments.ids("ids").map(|ids| ids.len()).map_err(|error| error.0)
            })
        };
        assert_eq!(read(json!(["a", "b", "a", 1])), Ok(2));
        assert_eq!(read(json!("a")), Ok(1));
        assert_eq!(read(json!(null)), Ok(0));
        let many: Vec<String> = (0..60_000).map(|n| n.to_string()).collect();
        assert_eq!(read(json!(many)), Ok(60_000));
        assert!(read(json!(["x".repeat(LONGEST + 1)])).is_err());
    }
}
