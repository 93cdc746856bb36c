//! The options of `#[task(…)]`.

use proc_macro2::{Span, TokenStream};
use quote::{quote, quote_spanned};
use syn::ext::IdentExt;
use syn::parse::{Parse, ParseStream, Parser};
use syn::punctuated::Punctuated;
use syn::spanned::Spanned;
use syn::{Error, Expr, Ident, Lit, Result, Token, UnOp};

use crate::parameter::Problems;

/// The options as they were written.
pub(crate) struct Given(Punctuated<One, Token![,]>);

struct One {
    name: Ident,
    /// Without a value an option is `true`.
    value: Option<Expr>,
    /// What stands in parentheses behind the name.
    list: Option<TokenStream>,
}

impl Parse for Given {
    fn parse(input: ParseStream<'_>) -> Result<Self> {
        Punctuated::parse_terminated(input).map(Self)
    }
}

impl Parse for One {
    fn parse(input: ParseStream<'_>) -> Result<Self> {
        if input.peek(syn::LitStr) {
            return Err(input.error("write the task's name as `name = \"…\"`"));
        }
        let name = input.call(Ident::parse_any)?;
        let (mut value, mut list) = (None, None);
        if input.peek(syn::token::Paren) {
            let inside;
            syn::parenthesized!(inside in input);
            list = Some(inside.parse()?);
        } else if input.parse::<Option<Token![=]>>()?.is_some() {
            value = Some(input.parse()?);
        }
        Ok(Self { name, value, list })
    }
}

/// The options after checking.
pub(crate) struct Checked {
    pub(crate) name: Option<String>,
    pub(crate) bind: Option<(bool, Span)>,
    /// `field: value` for `celerybox_guest`'s `Options`.
    pub(crate) fields: Vec<TokenStream>,
}

/// What is known of the options that make up automatic retries.
#[derive(Default)]
struct Retrying {
    retry_for: Option<Vec<String>>,
    except_for: Option<Vec<String>>,
    /// The first wait in seconds; 0 is off.
    backoff: Option<u32>,
    maximum: Option<u32>,
    jitter: Option<bool>,
    /// Of `retry_kwargs`.
    countdown: Option<f64>,
    max_retries: Option<TokenStream>,
    /// An option that has no meaning without another one.
    dependent: Vec<Ident>,
}

const NAMES: &[&str] = &[
    "name",
    "bind",
    "max_retries",
    "default_retry_delay",
    "time_limit",
    "soft_time_limit",
    "rate_limit",
    "acks_late",
    "acks_on_failure",
    "acks_on_timeout",
    "reject_on_worker_lost",
    "retry_on_worker_lost",
    "ignore_result",
    "store_errors_even_if_ignored",
    "track_started",
    "trail",
    "send_events",
    "serializer",
    "compression",
    "priority",
    "errback",
    "autoretry_for",
    "dont_autoretry_for",
    "retry_backoff",
    "retry_backoff_max",
    "retry_jitter",
    "retry_kwargs",
];

impl Given {
    /// Checks every option, and reports all problems at once.
    pub(crate) fn check(&self) -> Result<Checked> {
        let mut problems = Problems(None);
        let mut checked = Checked {
            name: None,
            bind: None,
            fields: Vec::new(),
        };
        let mut retrying = Retrying::default();
        let mut limits = Limits::default();
        for (index, one) in self.0.iter().enumerate() {
            if self.0.iter().take(index).any(|other| other.name == one.name) {
                problems.add(Error::new(
                    one.name.span(),
                    format!("`{}` is given twice; remove this one", one.name),
                ));
                continue;
            }
            let taken = one.take(&mut checked, &mut limits).and_then(|known| {
                if known {
                    Ok(true)
                } else {
                    one.take_retrying(&mut retrying)
                }
            });
            match taken {
                Ok(true) => {}
                Ok(false) => problems.add(one.unknown()),
                Err(error) => problems.add(error),
            }
        }
        if let Err(error) = limits.check() {
            problems.add(error);
        }
        match retrying.finish() {
            Ok(autoretry) => checked.fields.extend(autoretry),
            Err(error) => problems.add(error),
        }
        problems.0.map_or(Ok(checked), Err)
    }
}

/// The two time limits, to compare them.
#[derive(Default)]
struct Limits {
    hard: Option<f64>,
    soft: Option<(f64, Span)>,
}

impl Limits {
    fn check(&self) -> Result<()> {
        match (self.hard, self.soft) {
            (Some(hard), Some((soft, span))) if soft > hard => Err(Error::new(
                span,
                "the soft time limit is above `time_limit`; make it shorter",
            )),
            _ => Ok(()),
        }
    }
}

impl One {
    /// Takes an option of the definition. False for any other name.
    fn take(&self, checked: &mut Checked, limits: &mut Limits) -> Result<bool> {
        let name = &self.name;
        let value = match name.to_string().as_str() {
            "name" => {
                let text = self.text("`name = \"proj.add\"`")?;
                if text.len() > 255 {
                    return Err(self.expected("at most 255 bytes"));
                }
                checked.name = Some(text);
                return Ok(true);
            }
            "bind" => {
                checked.bind = Some((self.boolean()?, name.span()));
                return Ok(true);
            }
            "errback" => {
                let yes = self.boolean()?;
                checked.fields.push(quote!(errback: #yes));
                return Ok(true);
            }
            "max_retries" => self.max_retries()?,
            "time_limit" => {
                let seconds = self.seconds()?;
                limits.hard = Some(seconds);
                quote!(#seconds)
            }
            "soft_time_limit" => {
                let seconds = self.seconds()?;
                limits.soft = Some((seconds, self.value.span()));
                quote!(#seconds)
            }
            "default_retry_delay" => {
                let seconds = self.seconds()?;
                quote!(#seconds)
            }
            "rate_limit" => {
                let rate = self.rate()?;
                quote!(#rate)
            }
            "serializer" => {
                let text = self.text("`serializer = \"json\"`")?;
                quote!(#text)
            }
            "compression" => {
                let text = self.text("`compression = \"gzip\"`")?;
                quote!(#text)
            }
            "priority" => match self.whole() {
                Some(priority @ 0..=9) => {
                    let priority = priority as u8;
                    quote!(#priority)
                }
                _ => return Err(self.expected("a number from 0 to 9")),
            },
            "acks_late"
            | "acks_on_failure"
            | "acks_on_timeout"
            | "reject_on_worker_lost"
            | "retry_on_worker_lost"
            | "ignore_result"
            | "store_errors_even_if_ignored"
            | "track_started"
            | "trail"
            | "send_events" => {
                let yes = self.boolean()?;
                quote!(#yes)
            }
            _ => return Ok(false),
        };
        checked
            .fields
            .push(quote!(#name: ::core::option::Option::Some(#value)));
        Ok(true)
    }

    /// Takes an option of automatic retries. False for any other name.
    fn take_retrying(&self, retrying: &mut Retrying) -> Result<bool> {
        match self.name.to_string().as_str() {
            "autoretry_for" => retrying.retry_for = Some(self.classes()?),
            "dont_autoretry_for" => retrying.except_for = Some(self.classes()?),
            "retry_kwargs" => self.take_retry_kwargs(retrying)?,
            "retry_backoff" => {
                retrying.backoff = Some(match self.whole() {
                    Some(seconds) => seconds,
                    None => self
                        .boolean()
                        .map(u32::from)
                        .map_err(|_| self.expected("true, false or whole seconds"))?,
                });
            }
            "retry_backoff_max" => {
                retrying.maximum = Some(self.whole().ok_or_else(|| self.expected("whole seconds"))?);
            }
            "retry_jitter" => retrying.jitter = Some(self.boolean()?),
            _ => return Ok(false),
        }
        if self.name != "autoretry_for" {
            retrying.dependent.push(self.name.clone());
        }
        Ok(true)
    }

    fn take_retry_kwargs(&self, retrying: &mut Retrying) -> Result<()> {
        let wrong = |span| {
            let message = "`retry_kwargs` takes `max_retries` and `countdown`: `retry_kwargs(max_retries = 5, countdown = 2)`";
            Error::new(span, message)
        };
        let list = self.list.clone().ok_or_else(|| wrong(self.name.span()))?;
        let given: Given = syn::parse2(list)?;
        for one in &given.0 {
            match one.name.to_string().as_str() {
                "max_retries" => retrying.max_retries = Some(one.max_retries()?),
                "countdown" => retrying.countdown = Some(one.seconds()?),
                _ => return Err(wrong(one.name.span())),
            }
        }
        Ok(())
    }

    fn unknown(&self) -> Error {
        let name = self.name.to_string();
        let near = NAMES
            .iter()
            .map(|known| (distance(&name, known), known))
            .min()
            .filter(|(distance, _)| *distance <= 3);
        let message = match near {
            Some((_, known)) => format!("unknown option `{name}`; did you mean `{known}`?"),
            None => format!("unknown option `{name}`; there are {}", NAMES.join(", ")),
        };
        Error::new(self.name.span(), message)
    }

    fn expected(&self, what: &str) -> Error {
        let message = format!("`{}` takes {what}", self.name);
        match (&self.value, &self.list) {
            (Some(value), _) => Error::new(value.span(), message),
            (None, Some(list)) if !list.is_empty() => Error::new(list.span(), message),
            (None, _) => Error::new(self.name.span(), message),
        }
    }

    fn boolean(&self) -> Result<bool> {
        match (&self.value, &self.list, self.literal()) {
            (None, None, _) => Ok(true),
            (_, _, Some(Lit::Bool(yes))) => Ok(yes.value),
            _ => Err(self.expected("true or false")),
        }
    }

    fn text(&self, example: &str) -> Result<String> {
        match self.literal() {
            Some(Lit::Str(text)) if !text.value().is_empty() => Ok(text.value()),
            _ => Err(self.expected(&format!("a text that is not empty: {example}"))),
        }
    }

    /// The names of exception classes: `autoretry_for(ConnectionError, TimeoutError)`.
    fn classes(&self) -> Result<Vec<String>> {
        let example = format!(
            "exception classes: `{}(ConnectionError, TimeoutError)`",
            self.name
        );
        let list = self.list.clone().ok_or_else(|| self.expected(&example))?;
        let classes = Punctuated::<Ident, Token![,]>::parse_terminated
            .parse2(list)
            .map_err(|error| Error::new(error.span(), format!("`{}` takes {example}", self.name)))?;
        if classes.is_empty() {
            return Err(self.expected(&example));
        }
        Ok(classes.iter().map(Ident::to_string).collect())
    }

    fn whole(&self) -> Option<u32> {
        match self.literal() {
            Some(Lit::Int(number)) => number.base10_parse().ok(),
            _ => None,
        }
    }

    fn seconds(&self) -> Result<f64> {
        let seconds: Option<f64> = match self.literal() {
            Some(Lit::Int(number)) => number.base10_parse().ok(),
            Some(Lit::Float(number)) => number.base10_parse().ok(),
            _ => None,
        };
        let negative = matches!(&self.value, Some(Expr::Unary(unary)) if matches!(unary.op, UnOp::Neg(_)));
        match seconds {
            Some(seconds) if seconds.is_finite() => Ok(seconds),
            _ if negative => Err(self.expected("seconds, which cannot be negative")),
            _ => Err(self.expected("seconds: a number such as `2` or `0.5`")),
        }
    }

    fn max_retries(&self) -> Result<TokenStream> {
        if let Some(most) = self.whole() {
            return Ok(quote!(::celerybox_guest::__private::RetryLimit::AtMost(#most)));
        }
        match &self.value {
            Some(Expr::Path(path)) if path.path.is_ident("None") => {
                Ok(quote!(::celerybox_guest::__private::RetryLimit::Unlimited))
            }
            _ => Err(self.expected("a number, or `None` for no limit")),
        }
    }

    fn rate(&self) -> Result<String> {
        let wrong = || self.expected("a rate: `\"10/s\"`, `\"100/m\"`, `\"5/h\"`, or a number per second");
        let text = match self.literal() {
            Some(Lit::Int(number)) => number.base10_digits().to_owned(),
            Some(Lit::Float(number)) => number.base10_digits().to_owned(),
            Some(Lit::Str(text)) => text.value(),
            _ => return Err(wrong()),
        };
        let (number, unit) = text.split_once('/').unwrap_or((&text, "s"));
        let number: f64 = number.parse().map_err(|_| wrong())?;
        if !number.is_finite() || number < 0.0 || !matches!(unit, "s" | "m" | "h") {
            return Err(wrong());
        }
        Ok(text)
    }

    fn literal(&self) -> Option<&Lit> {
        match &self.value {
            Some(Expr::Lit(literal)) => Some(&literal.lit),
            _ => None,
        }
    }
}

impl Retrying {
    /// `autoretry: value` for `celerybox_guest`'s `Options`.
    fn finish(self) -> Result<Option<TokenStream>> {
        let Some(retry_for) = self.retry_for else {
            return match self.dependent.first() {
                Some(name) => Err(Error::new(
                    name.span(),
                    format!("`{name}` needs `autoretry_for`: the exceptions that are tried again"),
                )),
                None => Ok(None),
            };
        };
        let except_for = self.except_for.unwrap_or_default();
        let option = |value: Option<TokenStream>| match value {
            Some(value) => quote!(::core::option::Option::Some(#value)),
            None => quote!(::core::option::Option::None),
        };
        let backoff = self.backoff.filter(|factor| *factor > 0);
        let backoff = option(backoff.map(|factor| quote!(#factor)));
        let countdown = option(self.countdown.map(|seconds| quote!(#seconds)));
        let max_retries = option(self.max_retries);
        let maximum = self.maximum.unwrap_or(600);
        let jitter = self.jitter.unwrap_or(true);
        Ok(Some(quote_spanned! {Span::call_site()=>
            autoretry: ::core::option::Option::Some(::celerybox_guest::__private::Autoretry {
                retry_for: &[#(#retry_for),*],
                except_for: &[#(#except_for),*],
                backoff: #backoff,
                backoff_max: #maximum,
                jitter: #jitter,
                countdown: #countdown,
                max_retries: #max_retries,
            })
        }))
    }
}

/// How many letters have to change to make one word of the other (Levenshtein).
fn distance(one: &str, other: &str) -> usize {
    let other: Vec<char> = other.chars().collect();
    let mut row: Vec<usize> = (0..=other.len()).collect();
    for (i, a) in one.chars().enumerate() {
        let mut diagonal = i;
        let mut left = i + 1;
        for (cell, b) in row.iter_mut().skip(1).zip(&other) {
            let above = *cell;
            *cell = (diagonal + usize::from(a != *b)).min(above + 1).min(left + 1);
            diagonal = above;
            left = *cell;
        }
        row[0] = i + 1;
    }
    row[other.len()]
}

#[cfg(test)]
mod tests {
    use super::distance;

    #[test]
    fn distances() {
        for (one, other, expected) in [
            ("", "", 0),
            ("", "abc", 3),
            ("abc", "", 3),
            ("max_retry", "max_retries", 3),
            ("kitten", "sitting", 3),
            ("acks_late", "acks_late", 0),
        ] {
            assert_eq!(distance(one, other), expected, "{one} {other}");
        }
    }
}
