//! An error as Celery stores it.

use std::borrow::Cow;
use std::error::Error;
use std::fmt::{self, Write as _};
use std::panic::Location;

use serde::Serialize;

use crate::bindings::celerybox::task::types as wit;

/// An error as Celery stores it: an exception's type, module and arguments, and a text for people.
///
/// ```
/// use celerybox_guest::{Failure, TaskError};
///
/// fn pay(cents: i64) -> Result<(), TaskError> {
///     Err(Failure::new("CardDeclined", "no money")
///         .with_module("shop.errors")
///         .with_args(&("no money", cents))
///         .into())
/// }
///
/// let error = pay(250).unwrap_err();
/// assert_eq!(error.failure().unwrap().args(), r#"["no money",250]"#);
/// ```
#[derive(Debug)]
pub struct Failure(Box<Parts>);

#[derive(Debug)]
struct Parts {
    exc_type: Cow<'static, str>,
    module: Option<Cow<'static, str>>,
    args: String,
    message: String,
    /// The messages of the error's sources, nearest first.
    causes: Vec<String>,
    /// Where the task's code made it.
    location: Option<&'static Location<'static>>,
    /// A text that takes the place of the one made from the fields above.
    traceback: Option<String>,
}

impl Failure {
    /// An exception of this type with one argument, its message. A name of Python's own is in module `builtins`.
    #[track_caller]
    pub fn new(exc_type: impl Into<String>, message: impl Into<String>) -> Self {
        let mut failure = Self::without_location(exc_type.into(), message.into());
        failure.0.location = Some(Location::caller());
        failure
    }

    /// As [`Failure::new`], for an error that no line of the task's code made.
    pub(crate) fn without_location(exc_type: impl Into<Cow<'static, str>>, message: String) -> Self {
        let mut failure = Self::bare(exc_type);
        failure.0.args = list_of(&message);
        failure.0.message = message;
        failure
    }

    /// An exception without arguments.
    pub(crate) fn bare(exc_type: impl Into<Cow<'static, str>>) -> Self {
        let exc_type = exc_type.into();
        let module = is_builtin(&exc_type).then_some(Cow::Borrowed("builtins"));
        Self(Box::new(Parts {
            exc_type,
            module,
            args: "[]".to_owned(),
            message: String::new(),
            causes: Vec::new(),
            location: None,
            traceback: None,
        }))
    }

    /// An exception of this type with the error's message as its argument and the error's sources as its causes.
    #[track_caller]
    pub(crate) fn from_error(exc_type: impl Into<String>, error: &dyn Error) -> Self {
        let mut failure = Self::new(exc_type, error.to_string());
        let mut source = error.source();
        while let Some(cause) = source {
            failure.0.causes.push(cause.to_string());
            source = cause.source();
        }
        failure
    }

    /// Says in which Python module the exception's class is. Clients look it up there when they imported the module.
    #[must_use]
    pub fn with_module(mut self, module: impl Into<String>) -> Self {
        self.0.module = Some(Cow::Owned(module.into()));
        self
    }

    /// Replaces the exception's arguments. A client calls its class with them: a list, tuple or slice is all of them,
    /// any other value the only one.
    #[must_use]
    pub fn with_args(mut self, args: &(impl Serialize + ?Sized)) -> Self {
        self.0.args = match serde_json::to_string(args) {
            Ok(list) if list.starts_with('[') => list,
            Ok(value) => format!("[{value}]"),
            Err(error) => list_of(&format!("<arguments that are no JSON: {error}>")),
        };
        self
    }

    /// Replaces the text that is stored as the traceback.
    #[must_use]
    pub fn with_traceback(mut self, traceback: impl Into<String>) -> Self {
        self.0.traceback = Some(traceback.into());
        self
    }

    /// The class name, for example `ValueError`.
    #[must_use]
    pub fn exc_type(&self) -> &str {
        &self.0.exc_type
    }

    /// The Python module of the class.
    #[must_use]
    pub fn module(&self) -> Option<&str> {
        self.0.module.as_deref()
    }

    /// The exception's arguments, a JSON list.
    #[must_use]
    pub fn args(&self) -> &str {
        &self.0.args
    }

    /// The text for people, in the form of Python's tracebacks. `function` is the name of the task's function.
    #[must_use]
    pub fn traceback(&self, function: &str) -> String {
        let parts = &*self.0;
        if let Some(traceback) = &parts.traceback {
            return traceback.clone();
        }
        let mut text = String::new();
        for cause in parts.causes.iter().rev() {
            text.push_str(cause);
            text.push_str("\n\nThe above exception was the direct cause of the following exception:\n\n");
        }
        text.push_str("Traceback (most recent call last):\n");
        if let Some(at) = parts.location {
            // Writing to a String does not fail.
            let _ = writeln!(
                text,
                "  File \"{}\", line {}, in {function}",
                at.file(),
                at.line()
            );
        }
        let _ = writeln!(text, "{self}");
        text
    }

    pub(crate) fn into_wit(self, function: &str) -> wit::Failure {
        let traceback = Some(self.traceback(function));
        let parts = *self.0;
        wit::Failure {
            exc_type: parts.exc_type.into_owned(),
            exc_module: parts.module.map(Cow::into_owned),
            exc_args: parts.args,
            traceback,
        }
    }

    pub(crate) fn from_wit(failure: wit::Failure) -> Self {
        let message = match serde_json::from_str::<Vec<String>>(&failure.exc_args) {
            Ok(texts) => texts.join(", "),
            Err(_) => failure.exc_args.clone(),
        };
        Self(Box::new(Parts {
            exc_type: Cow::Owned(failure.exc_type),
            module: failure.exc_module.map(Cow::Owned),
            args: failure.exc_args,
            message,
            causes: Vec::new(),
            location: None,
            traceback: failure.traceback,
        }))
    }
}

/// As the last line of Python's tracebacks.
impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let parts = &*self.0;
        match &parts.module {
            Some(module) if module != "builtins" => write!(f, "{module}.")?,
            _ => {}
        }
        f.write_str(&parts.exc_type)?;
        if parts.message.is_empty() {
            return Ok(());
        }
        write!(f, ": {}", parts.message)
    }
}

/// The exception type for a Rust type: its name without path and generics. Many crates call theirs just `Error`, so
/// that name gets the crate's in front: `csv::Error` is `CsvError`, and `std::io::Error` is Python's `OSError`.
pub(crate) fn type_name_of(path: &str) -> String {
    let path = path.split('<').next().unwrap_or(path).trim_start_matches('&');
    let mut segments = path.split("::");
    let first = segments.next().unwrap_or(path);
    let last = segments.last().unwrap_or(first);
    if path == "std::io::error::Error" {
        return "OSError".to_owned();
    }
    if last != "Error" || first == last {
        return last.to_owned();
    }
    let mut name = String::new();
    for word in first.split('_') {
        let mut letters = word.chars();
        name.extend(letters.next().map(|letter| letter.to_ascii_uppercase()));
        name.push_str(letters.as_str());
    }
    name + "Error"
}

/// A JSON list of one text.
fn list_of(text: &str) -> String {
    format!("[{}]", serde_json::Value::from(text))
}

fn is_builtin(name: &str) -> bool {
    BUILTINS.binary_search(&name).is_ok()
}

/// The exceptions of Python 3.11's `builtins`, sorted. Only those an application raises: no warnings, and not the ones
/// that would end a client's process or loop (`SystemExit`, `KeyboardInterrupt`, `GeneratorExit`, `StopIteration` …).
const BUILTINS: &[&str] = &[
    "ArithmeticError",
    "AssertionError",
    "AttributeError",
    "BlockingIOError",
    "BrokenPipeError",
    "BufferError",
    "ChildProcessError",
    "ConnectionAbortedError",
    "ConnectionError",
    "ConnectionRefusedError",
    "ConnectionResetError",
    "EOFError",
    "Exception",
    "FileExistsError",
    "FileNotFoundError",
    "FloatingPointError",
    "ImportError",
    "IndentationError",
    "IndexError",
    "InterruptedError",
    "IsADirectoryError",
    "KeyError",
    "LookupError",
    "MemoryError",
    "ModuleNotFoundError",
    "NameError",
    "NotADirectoryError",
    "NotImplementedError",
    "OSError",
    "OverflowError",
    "PermissionError",
    "ProcessLookupError",
    "RecursionError",
    "ReferenceError",
    "RuntimeError",
    "SyntaxError",
    "SystemError",
    "TabError",
    "TimeoutError",
    "TypeError",
    "UnboundLocalError",
    "UnicodeError",
    "ValueError",
    "ZeroDivisionError",
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::TaskError;

    #[test]
    fn the_builtins_are_sorted_for_the_search() {
        assert!(BUILTINS.is_sorted());
    }

    #[test]
    fn only_pythons_own_exceptions_are_in_builtins() {
        assert_eq!(Failure::new("KeyError", "x").module(), Some("builtins"));
        assert_eq!(Failure::new("CardDeclined", "x").module(), None);
        let own = Failure::new("KeyError", "x").with_module("shop");
        assert_eq!(own.module(), Some("shop"));
    }

    #[test]
    fn the_message_is_the_only_argument_and_is_escaped() {
        assert_eq!(Failure::new("E", "a \"b\"\n").args(), r#"["a \"b\"\n"]"#);
    }

    #[test]
    fn arguments_become_a_list() {
        let failure = |args: &dyn Fn(Failure) -> Failure| args(Failure::new("E", "x")).0.args;
        assert_eq!(failure(&|f| f.with_args(&(1, "a"))), r#"[1,"a"]"#);
        assert_eq!(failure(&|f| f.with_args(&7)), "[7]");
        assert_eq!(failure(&|f| f.with_args(&[0_u8; 0])), "[]");
        let bad = std::collections::BTreeMap::from([((1, 2), 3)]);
        assert!(failure(&|f| f.with_args(&bad)).contains("no JSON"));
    }

    #[test]
    fn type_names() {
        let cases = [
            ("core::num::error::ParseIntError", "ParseIntError"),
            ("std::io::error::Error", "OSError"),
            ("csv::error::Error", "CsvError"),
            ("serde_json::error::Error", "SerdeJsonError"),
            ("proj::Wrapped<core::fmt::Error>", "Wrapped"),
            ("Error", "Error"),
        ];
        for (path, name) in cases {
            assert_eq!(type_name_of(path), name, "{path}");
        }
    }

    #[derive(Debug)]
    struct Outer(std::num::ParseIntError);

    impl fmt::Display for Outer {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("no port")
        }
    }

    impl Error for Outer {
        fn source(&self) -> Option<&(dyn Error + 'static)> {
            Some(&self.0)
        }
    }

    #[test]
    fn the_traceback_tells_the_causes_and_the_line_of_the_question_mark() {
        let line = line!() + 3;
        let run = || -> Result<(), TaskError> {
            let parsed = "x".parse::<u16>().map_err(Outer);
            parsed?;
            Ok(())
        };
        let error = run().unwrap_err();
        let failure = error.failure().unwrap();
        assert_eq!(failure.exc_type(), "Outer");
        assert_eq!(
            failure.traceback("serve"),
            format!(
                "invalid digit found in string\n\n\
                 The above exception was the direct cause of the following exception:\n\n\
                 Traceback (most recent call last):\n  File \"{}\", line {line}, in serve\nOuter: no port\n",
                file!()
            )
        );
    }

    #[test]
    fn a_failure_of_the_worker_keeps_its_parts() {
        let failure = Failure::from_wit(wit::Failure {
            exc_type: "MaxRetriesExceededError".to_owned(),
            exc_module: Some("celery.exceptions".to_owned()),
            exc_args: r#"["Can't retry"]"#.to_owned(),
            traceback: Some("text".to_owned()),
        });
        assert_eq!(
            failure.to_string(),
            "celery.exceptions.MaxRetriesExceededError: Can't retry"
        );
        let back = failure.into_wit("f");
        assert_eq!(back.exc_args, r#"["Can't retry"]"#);
        assert_eq!(back.traceback.as_deref(), Some("text"));
    }
}
