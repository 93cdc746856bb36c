//! The parameters of a task's function.

use proc_macro2::TokenStream;
use quote::{format_ident, quote};
use syn::ext::IdentExt;
use syn::spanned::Spanned;
use syn::{
    Attribute, Error, Expr, ExprLit, FnArg, GenericArgument, Ident, Lit, Pat, PatType, PathArguments, Result,
    Type,
};

/// How callers pass a parameter.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Kind {
    Positional,
    KeywordOnly,
    Args,
    Kwargs,
}

/// One parameter that takes an argument of the message.
pub(crate) struct Parameter {
    pub(crate) name: String,
    pub(crate) kind: Kind,
    ty: Type,
    default: Option<Default>,
}

/// What a parameter is when the caller leaves it out.
enum Default {
    None,
    Expression(Box<Expr>),
}

/// How the function takes its context.
#[derive(Clone, Copy)]
pub(crate) enum Bound {
    No,
    ByReference,
    ByValue,
}

/// Reads the parameters and takes our attributes off them.
pub(crate) fn read<'a>(inputs: impl Iterator<Item = &'a mut FnArg>) -> Result<(Bound, Vec<Parameter>)> {
    let mut bound = Bound::No;
    let mut parameters: Vec<Parameter> = Vec::new();
    let mut problems = Problems(None);
    for (index, input) in inputs.enumerate() {
        let typed = match input {
            FnArg::Typed(typed) => typed,
            FnArg::Receiver(receiver) => {
                problems.add(Error::new(
                    receiver.span(),
                    "a task is a free function; for Celery's `self` take `ctx: &Context` as the first parameter",
                ));
                continue;
            }
        };
        match context(&typed.ty) {
            Bound::No => match Parameter::read(typed, &parameters) {
                Ok(parameter) => parameters.push(parameter),
                Err(error) => problems.add(error),
            },
            found if index == 0 => bound = found,
            _ => problems.add(Error::new(
                typed.ty.span(),
                "the context has to be the first parameter",
            )),
        }
    }
    match problems.0 {
        Some(error) => Err(error),
        None => Ok((bound, parameters)),
    }
}

impl Parameter {
    fn read(typed: &mut PatType, before: &[Self]) -> Result<Self> {
        let attributes = Attributes::take(&mut typed.attrs)?;
        let name = match &*typed.pat {
            Pat::Ident(pattern) if pattern.by_ref.is_none() && pattern.subpat.is_none() => {
                pattern.ident.unraw().to_string()
            }
            other => {
                return Err(Error::new(
                    other.span(),
                    "a task's parameter needs a plain name, because callers may pass it by name; take it apart in the function's body",
                ));
            }
        };
        owned(&typed.ty)?;

        let kind = match &attributes.kind {
            Some((kind, _)) => *kind,
            None if before
                .iter()
                .any(|one| matches!(one.kind, Kind::KeywordOnly | Kind::Args)) =>
            {
                Kind::KeywordOnly
            }
            None => Kind::Positional,
        };
        let default = match attributes.default {
            Some(expression) => Some(Default::Expression(Box::new(expression))),
            None if is_option(&typed.ty) => Some(Default::None),
            None => None,
        };
        let parameter = Self {
            name,
            kind,
            ty: (*typed.ty).clone(),
            default,
        };
        parameter.check_order(typed, before)?;
        Ok(parameter)
    }

    /// Python's rules for the order of parameters.
    fn check_order(&self, typed: &PatType, before: &[Self]) -> Result<()> {
        let fail = |message: &str| Err(Error::new(typed.pat.span(), message));
        let has = |kind| before.iter().any(|one| one.kind == kind);
        if has(Kind::Kwargs) {
            return fail("nothing can follow the parameter marked `#[kwargs]`");
        }
        match self.kind {
            Kind::Args if has(Kind::Args) => {
                return fail("only one parameter can be marked `#[args]`");
            }
            Kind::Args if has(Kind::KeywordOnly) => {
                return fail("the parameter marked `#[args]` comes before the keyword-only ones");
            }
            Kind::Args | Kind::Kwargs if matches!(self.default, Some(Default::Expression(_))) => {
                return fail(
                    "`#[args]` and `#[kwargs]` are empty when nothing is left for them; remove the default",
                );
            }
            _ => {}
        }
        let follows_default = before
            .iter()
            .any(|one| one.kind == Kind::Positional && one.default.is_some());
        if self.kind == Kind::Positional && self.default.is_none() && follows_default {
            return fail(
                "a parameter without a default follows one with a default (an `Option` has the default `None`); move it to the front, or mark it `#[default(…)]` or `#[keyword_only]`",
            );
        }
        Ok(())
    }

    /// The parameter as a constant of `celerybox_guest`.
    pub(crate) fn constant(&self) -> TokenStream {
        let name = &self.name;
        let kind = format_ident!(
            "{}",
            match self.kind {
                Kind::Positional => "Positional",
                Kind::KeywordOnly => "KeywordOnly",
                Kind::Args => "Args",
                Kind::Kwargs => "Kwargs",
            }
        );
        let optional = self.default.is_some();
        quote! {
            ::celerybox_guest::__private::Parameter {
                name: #name,
                kind: ::celerybox_guest::__private::Kind::#kind,
                optional: #optional,
            }
        }
    }

    /// An expression for its value, taken from `arguments`.
    pub(crate) fn value(&self, arguments: &Ident, index: usize) -> TokenStream {
        let ty = &self.ty;
        match (self.kind, &self.default) {
            (Kind::Args, _) => quote!(#arguments.args::<#ty>(#index)?),
            (Kind::Kwargs, _) => quote!(#arguments.kwargs::<#ty>(#index)?),
            (_, None) => quote!(#arguments.required::<#ty>(#index)?),
            (_, Some(Default::None)) => {
                quote!(#arguments.optional::<#ty>(#index, || ::core::option::Option::None)?)
            }
            (_, Some(Default::Expression(value))) => match &**value {
                // So that `#[default("en")] language: String` can be written.
                Expr::Lit(ExprLit {
                    lit: Lit::Str(text), ..
                }) => quote!(#arguments.optional::<#ty>(#index, || ::core::convert::From::from(#text))?),
                value => quote!(#arguments.optional::<#ty>(#index, || #value)?),
            },
        }
    }

    /// The parameter as Python would write it.
    fn python(&self) -> String {
        let stars = match self.kind {
            Kind::Args => "*",
            Kind::Kwargs => "**",
            Kind::Positional | Kind::KeywordOnly => "",
        };
        let default = match &self.default {
            _ if !stars.is_empty() => String::new(),
            None => String::new(),
            Some(Default::None) => "=None".to_owned(),
            Some(Default::Expression(value)) => format!("={}", python_value(value)),
        };
        format!("{stars}{}{default}", self.name)
    }
}

/// The whole signature as Python would write it, for example `(x, y=3, *, base=10)`.
pub(crate) fn python(parameters: &[Parameter]) -> String {
    let mut parts: Vec<String> = Vec::new();
    let mut star = false;
    for parameter in parameters {
        match parameter.kind {
            Kind::Args => star = true,
            Kind::KeywordOnly if !star => {
                parts.push("*".to_owned());
                star = true;
            }
            _ => {}
        }
        parts.push(parameter.python());
    }
    format!("({})", parts.join(", "))
}

/// A default as Python would write it; `...` for what is no plain value.
fn python_value(value: &Expr) -> String {
    match value {
        Expr::Lit(literal) => match &literal.lit {
            Lit::Bool(yes) if yes.value => "True".to_owned(),
            Lit::Bool(_) => "False".to_owned(),
            Lit::Int(number) => number.base10_digits().to_owned(),
            Lit::Float(number) => number.base10_digits().to_owned(),
            Lit::Str(text) if !text.value().contains('\'') => {
                format!("'{}'", text.value().escape_debug())
            }
            _ => "...".to_owned(),
        },
        Expr::Unary(unary) if matches!(unary.op, syn::UnOp::Neg(_)) => {
            match python_value(&unary.expr).as_str() {
                "..." => "...".to_owned(),
                value => format!("-{value}"),
            }
        }
        Expr::Path(path) if path.path.is_ident("None") => "None".to_owned(),
        _ => "...".to_owned(),
    }
}

/// The attributes of a parameter that are ours.
struct Attributes {
    kind: Option<(Kind, Ident)>,
    default: Option<Expr>,
}

impl Attributes {
    fn take(attributes: &mut Vec<Attribute>) -> Result<Self> {
        let mut found = Self {
            kind: None,
            default: None,
        };
        for attribute in std::mem::take(attributes) {
            let Some(name) = attribute.path().get_ident().cloned() else {
                attributes.push(attribute);
                continue;
            };
            let kind = match name.to_string().as_str() {
                "default" => {
                    let value = attribute.parse_args().map_err(|_| {
                        Error::new(
                            attribute.span(),
                            "write the default in parentheses: `#[default(3)]`",
                        )
                    })?;
                    if found.default.replace(value).is_some() {
                        return Err(Error::new(
                            name.span(),
                            "a parameter has one default; remove this one",
                        ));
                    }
                    continue;
                }
                "keyword_only" => Kind::KeywordOnly,
                "args" => Kind::Args,
                "kwargs" => Kind::Kwargs,
                _ => {
                    attributes.push(attribute);
                    continue;
                }
            };
            attribute.meta.require_path_only()?;
            if let Some((_, other)) = &found.kind {
                return Err(Error::new(
                    name.span(),
                    format!("`#[{name}]` and `#[{other}]` exclude each other; remove one"),
                ));
            }
            found.kind = Some((kind, name));
        }
        Ok(found)
    }
}

/// Several problems as one error, so that the compiler shows them all at once.
pub(crate) struct Problems(pub(crate) Option<Error>);

impl Problems {
    pub(crate) fn add(&mut self, error: Error) {
        match &mut self.0 {
            Some(first) => first.combine(error),
            None => self.0 = Some(error),
        }
    }
}

fn context(ty: &Type) -> Bound {
    match ty {
        Type::Reference(reference) if last_is(&reference.elem, "Context") => Bound::ByReference,
        ty if last_is(ty, "Context") => Bound::ByValue,
        _ => Bound::No,
    }
}

fn last_is(ty: &Type, name: &str) -> bool {
    matches!(ty, Type::Path(path) if path.path.segments.last().is_some_and(|last| last.ident == name))
}

fn is_option(ty: &Type) -> bool {
    let Type::Path(path) = ty else { return false };
    let Some(last) = path.path.segments.last() else {
        return false;
    };
    last.ident == "Option"
        && matches!(&last.arguments, PathArguments::AngleBracketed(arguments) if arguments.args.len() == 1)
}

/// Refuses what cannot be made from JSON: borrowed and unknown types.
fn owned(ty: &Type) -> Result<()> {
    match ty {
        Type::Reference(reference) => {
            let instead = match &*reference.elem {
                inner if last_is(inner, "str") => "`String`".to_owned(),
                Type::Slice(slice) => {
                    let item = &slice.elem;
                    format!("`Vec<{}>`", written(item))
                }
                inner => format!("`{}`", written(inner)),
            };
            Err(Error::new(
                ty.span(),
                format!("a task owns its arguments, which arrive as JSON; take {instead}"),
            ))
        }
        Type::ImplTrait(_) => Err(Error::new(
            ty.span(),
            "a task's arguments arrive as JSON, so their types have to be known; write a concrete type",
        )),
        Type::Path(path) => {
            let arguments = path.path.segments.last().map(|last| &last.arguments);
            if let Some(PathArguments::AngleBracketed(arguments)) = arguments {
                for argument in &arguments.args {
                    if let GenericArgument::Type(inner) = argument {
                        owned(inner)?;
                    }
                }
            }
            Ok(())
        }
        _ => Ok(()),
    }
}

/// A type as people write it: tokens print with a space between each.
fn written(ty: &Type) -> String {
    let mut text = quote!(#ty).to_string();
    for (spaced, plain) in [(" :: ", "::"), (" <", "<"), ("< ", "<"), (" >", ">"), (" ,", ",")] {
        text = text.replace(spaced, plain);
    }
    text
}
