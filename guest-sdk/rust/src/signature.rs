//! What `#[task]` writes down about a function's parameters.

/// A task's parameters, in the order of the function.
#[derive(Debug)]
pub struct Signature {
    /// The function's name, used in error messages as Python does: `add() missing …`.
    pub function: &'static str,
    /// Whether the function takes a context first. Python counts it as an argument, and so do the messages.
    pub bound: bool,
    /// The parameters, without the context.
    pub parameters: &'static [Parameter],
    /// The parameters as Python would write them, for example `(x, y=3)`.
    pub text: &'static str,
}

/// One parameter of a task.
#[derive(Debug)]
pub struct Parameter {
    /// Its name, by which callers may pass it.
    pub name: &'static str,
    /// How callers may pass it.
    pub kind: Kind,
    /// Whether callers may leave it out.
    pub optional: bool,
}

/// How a parameter takes its value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// By position or by name.
    Positional,
    /// By name only: what follows `*` in Python.
    KeywordOnly,
    /// All positional arguments that are left, Python's `*args`.
    Args,
    /// All keyword arguments that are left, Python's `**kwargs`.
    Kwargs,
}

impl Signature {
    /// The parameters that may be passed by position. They always come first.
    pub(crate) fn positional(&self) -> impl Iterator<Item = &Parameter> + Clone {
        self.of_kind(Kind::Positional)
    }

    /// Whether the function has a parameter of this kind.
    pub(crate) fn has(&self, kind: Kind) -> bool {
        self.of_kind(kind).next().is_some()
    }

    /// The index of the parameter that callers may pass under this name.
    pub(crate) fn named(&self, name: &str) -> Option<usize> {
        self.parameters.iter().position(|parameter| {
            parameter.name == name && matches!(parameter.kind, Kind::Positional | Kind::KeywordOnly)
        })
    }

    pub(crate) fn of_kind(&self, kind: Kind) -> impl Iterator<Item = &Parameter> + Clone {
        self.parameters
            .iter()
            .filter(move |parameter| parameter.kind == kind)
    }
}
