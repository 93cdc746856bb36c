//! The options of `#[task(…)]`.

use proc_macro2::{Span, TokenStream};
use quote::{quote, quote_spanned};
use syn::ext::IdentExt;
use syn::parse::{Parse, ParseStream};
use syn::punctuated::Punctuated;
use syn::spanned::Spanned;
use syn::{Error, Expr, ExprArray, ExprLit, Ident, Lit, Result, Token, UnOp};

use crate::parameter::Problems;

/// The options as they were written.
pub(crate) struct Given(Punctuated<One, Token![,]>);

struct One {
    name: Ident,
    /// Without a value an option is `true`.
    value: Option<Expr>,
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
        let value = if input.parse::<Option<Token![=]>>()?.is_some() {
            Some(input.parse()?)
        } else {
            None
        };
        Ok(Self { name, value })
    }
}

/// The options after checking.
pub(crate) struct Checked {
    pub(crate) name: Option<String>,
    pub(crate) bind: Option<(bool, Span)>,
    /// `field: value` for `celerybox_guest`'s `Options`.
    pub(crate) fields: Vec<TokenStream>,
    /// A `celerybox_guest` `Autoretry`.
    pub(crate) autoretry: Option<TokenStream>,
}

/// What is known of the options that make up `autoretry`.
#[derive(Default)]
struct Retrying {
    asked: Option<bool>,
    retry_for: Option<Vec<String>>,
    except_for: Option<Vec<String>>,
    /// The first wait in seconds; 0 is off.
    backoff: Option<u32>,
    maximum: Option<u32>,
    jitter: Option<bool>,
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
    "ignore_result",
    "store_errors_even_if_ignored",
    "track_started",
    "trail",
    "send_events",
    "serializer",
    "compression",
    "priority",
    "errback",
    "autoretry",
    "autoretry_for",
    "dont_autoretry_for",
    "retry_backoff",
    "retry_backoff_max",
    "retry_jitter",
];

impl Given {
    /// Checks every option, and reports all problems at once.
    pub(crate) fn check(&self) -> Result<Checked> {
        let mut problems = Problems(None);
        let mut checked = Checked {
            name: None,
            bind: None,
            fields: Vec::new(),
            autoretry: None,
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
            Ok(autoretry) => checked.autoretry = autoretry,
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
            "autoretry" => retrying.asked = Some(self.boolean()?),
            "autoretry_for" => retrying.retry_for = Some(self.texts()?),
            "dont_autoretry_for" => retrying.except_for = Some(self.texts()?),
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
        if self.name != "autoretry" && self.name != "autoretry_for" {
            retrying.dependent.push(self.name.clone());
        }
        Ok(true)
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
        match &self.value {
            Some(value) => Error::new(value.span(), message),
            None => Error::new(self.name.span(), message),
        }
    }

    fn boolean(&self) -> Result<bool> {
        match (&self.value, self.literal()) {
            (None, _) => Ok(true),
            (_, Some(Lit::Bool(yes))) => Ok(yes.value),
            _ => Err(self.expected("true or false")),
        }
    }

    fn text(&self, example: &str) -> Result<String> {
        match self.literal() {
            Some(Lit::Str(text)) if !text.value().is_empty() => Ok(text.value()),
            _ => Err(self.expected(&format!("a text that is not empty: {example}"))),
        }
    }

    fn texts(&self) -> Result<Vec<String>> {
        let wrong = || self.expected("a list of exception types: `[\"ConnectionError\", \"TimeoutError\"]`");
        let Some(Expr::Array(ExprArray { elems, .. })) = &self.value else {
            return Err(wrong());
        };
        elems
            .iter()
            .map(|element| match element {
                Expr::Lit(ExprLit {
                    lit: Lit::Str(text), ..
                }) => Ok(text.value()),
                _ => Err(wrong()),
            })
            .collect()
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
    fn finish(self) -> Result<Option<TokenStream>> {
        let on = match self.asked {
            Some(asked) => asked,
            None => self.retry_for.is_some(),
        };
        if !on {
            return match self.dependent.first() {
                Some(name) => Err(Error::new(
                    name.span(),
                    format!("`{name}` needs `autoretry` or `autoretry_for`; add one of them"),
                )),
                None => Ok(None),
            };
        }
        let retry_for = match self.retry_for {
            Some(types) => quote!(::core::option::Option::Some(&[#(#types),*])),
            None => quote!(::core::option::Option::None),
        };
        let except_for = self.except_for.unwrap_or_default();
        let backoff = match self.backoff {
            None | Some(0) => quote!(::core::option::Option::None),
            Some(factor) => {
                let maximum = self.maximum.unwrap_or(600);
                let jitter = self.jitter.unwrap_or(true);
                quote!(::core::option::Option::Some(::celerybox_guest::__private::Backoff {
                    factor: #factor,
                    maximum: #maximum,
                    jitter: #jitter,
                }))
            }
        };
        Ok(Some(quote_spanned! {Span::call_site()=>
            ::celerybox_guest::__private::Autoretry {
                retry_for: #retry_for,
                except_for: &[#(#except_for),*],
                backoff: #backoff,
            }
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
