//! The parameters of a task, out of the signature that its component declares (`(x, y=3, *, base=10)`), and what a retry
//! that replaces only one kind of arguments inherits (contract section 3.6).

use std::collections::BTreeMap;

use serde_json::value::RawValue;

type List = Vec<Box<RawValue>>;
type Map = BTreeMap<String, Box<RawValue>>;

/// What a task may be given by position.
#[derive(Debug, PartialEq, Eq)]
struct Positional<'a> {
    /// The names, in order.
    names: Vec<&'a str>,
    /// How many of them cannot be given by name.
    only: usize,
    /// Whether there is an `*args` for the rest.
    rest: bool,
}

/// The arguments of a retry, as JSON: those that were replaced, and of the others what does not name the same parameter.
/// `None` stays as it was.
pub fn inherit(
    signature: Option<&str>,
    (args, kwargs): (&str, &str),
    replaced: (Option<String>, Option<String>),
) -> (Option<String>, Option<String>) {
    let Some(positional) = signature.and_then(positional) else {
        return replaced;
    };
    match replaced {
        (Some(new), None) => {
            let kwargs = without_given(&positional, &new, kwargs);
            (Some(new), kwargs)
        }
        (None, Some(new)) => match merged(&positional, args, &new) {
            Some((args, kwargs)) => (Some(args), Some(kwargs)),
            None => (None, Some(new)),
        },
        other => other,
    }
}

/// The keyword arguments without those that new positional ones give.
fn without_given(positional: &Positional<'_>, args: &str, kwargs: &str) -> Option<String> {
    let args: Vec<&RawValue> = serde_json::from_str(args).ok()?;
    let mut kwargs: Map = serde_json::from_str(kwargs).ok()?;
    let before = kwargs.len();
    for name in positional.names.iter().take(args.len()).skip(positional.only) {
        kwargs.remove(*name);
    }
    (kwargs.len() < before).then(|| serde_json::to_string(&kwargs).ok())?
}

/// The positional arguments with those replaced that new keyword ones name, and the keyword ones that are left.
fn merged(positional: &Positional<'_>, args: &str, kwargs: &str) -> Option<(String, String)> {
    let mut args: List = serde_json::from_str(args).ok()?;
    let mut kwargs: Map = serde_json::from_str(kwargs).ok()?;
    if args.len() > positional.names.len() && !positional.rest {
        return None;
    }
    let given = positional.names.iter().zip(args.iter_mut());
    for (name, value) in given.skip(positional.only) {
        if let Some(new) = kwargs.remove(*name) {
            *value = new;
        }
    }
    Some((
        serde_json::to_string(&args).ok()?,
        serde_json::to_string(&kwargs).ok()?,
    ))
}

/// Reads the positional parameters of a signature as Python writes it; `None` for a text that is none.
fn positional(signature: &str) -> Option<Positional<'_>> {
    let inside = signature.trim().strip_prefix('(')?;
    let inside = inside.get(..inside.rfind(')')?)?;
    let mut found = Positional {
        names: Vec::new(),
        only: 0,
        rest: false,
    };
    for parameter in split(inside) {
        let parameter = parameter.trim();
        if parameter == "/" {
            found.only = found.names.len();
        } else if parameter.starts_with('*') {
            found.rest = !parameter.starts_with("**") && parameter.len() > 1;
            break;
        } else if !parameter.is_empty() {
            let end = parameter.find(['=', ':', ' ']).unwrap_or(parameter.len());
            found.names.push(parameter.get(..end)?);
        }
    }
    Some(found)
}

/// The parameters one by one: commas inside of brackets and quotes belong to defaults.
fn split(inside: &str) -> Vec<&str> {
    let (mut parts, mut start, mut depth, mut quote) = (Vec::new(), 0, 0_u32, None);
    let mut escaped = false;
    for (at, c) in inside.char_indices() {
        match (quote, c) {
            _ if escaped => escaped = false,
            (Some(_), '\\') => escaped = true,
            (Some(open), c) if c == open => quote = None,
            (Some(_), _) => {}
            (None, '\'' | '"') => quote = Some(c),
            (None, '(' | '[' | '{') => depth += 1,
            (None, ')' | ']' | '}') => depth = depth.saturating_sub(1),
            (None, ',') if depth == 0 => {
                parts.extend(inside.get(start..at));
                start = at + 1;
            }
            _ => {}
        }
    }
    parts.extend(inside.get(start..));
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIGNATURE: Option<&str> = Some("(x, y=\"a, (b\", z=[1, 2], *, base=10)");

    fn inherited(
        args: &str,
        kwargs: &str,
        new: (Option<&str>, Option<&str>),
    ) -> (Option<String>, Option<String>) {
        let owned = |text: Option<&str>| text.map(str::to_owned);
        inherit(SIGNATURE, (args, kwargs), (owned(new.0), owned(new.1)))
    }

    fn some(args: &str, kwargs: &str) -> (Option<String>, Option<String>) {
        (Some(args.into()), Some(kwargs.into()))
    }

    #[test]
    fn new_positional_arguments_take_the_place_of_keywords() {
        let kwargs = r#"{"x":1,"y":12345678901234567890123,"base":2}"#;
        assert_eq!(
            inherited("[]", kwargs, (Some("[9]"), None)),
            some("[9]", r#"{"base":2,"y":12345678901234567890123}"#)
        );
        assert_eq!(
            inherited("[]", r#"{"y":1}"#, (Some("[9]"), None)),
            (Some("[9]".into()), None)
        );
    }

    #[test]
    fn new_keyword_arguments_take_the_place_of_positional_ones() {
        assert_eq!(
            inherited("[1,2]", "{}", (None, Some(r#"{"y":5,"base":3}"#))),
            some("[1,5]", r#"{"base":3}"#)
        );
        // More than the task takes: its own check says so.
        assert_eq!(
            inherited("[1,2,3,4]", "{}", (None, Some(r#"{"y":5}"#))),
            (None, Some(r#"{"y":5}"#.into()))
        );
    }

    #[test]
    fn both_or_neither_or_no_signature_stay_as_they_are() {
        assert_eq!(inherited("[1]", r#"{"y":2}"#, (None, None)), (None, None));
        assert_eq!(inherited("[1]", "{}", (Some("[]"), Some("{}"))), some("[]", "{}"));
        let new = (Some("[1]".to_owned()), None);
        assert_eq!(inherit(None, ("[]", r#"{"x":1}"#), new.clone()), new);
    }

    #[test]
    fn signatures_are_read_as_python_writes_them() {
        let names = |text| positional(text).map(|found| (found.names, found.only, found.rest));
        assert_eq!(names("()"), Some((vec![], 0, false)));
        assert_eq!(
            names("(a, /, b: int = 3, *rest, c)"),
            Some((vec!["a", "b"], 1, true))
        );
        assert_eq!(names("(a='\\',', **extra)"), Some((vec!["a"], 0, false)));
        for nothing in ["", "x, y", "(x", "x)"] {
            assert_eq!(names(nothing), None, "{nothing:?}");
        }
    }
}
