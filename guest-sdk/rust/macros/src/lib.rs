//! The `#[task]` attribute of `celerybox-guest`, which documents and re-exports it.

mod expand;
mod options;
mod parameter;

use proc_macro::TokenStream;
use syn::spanned::Spanned;
use syn::{Error, Item, parse_macro_input};

/// Marks a function as a task; see `celerybox_guest::task`.
#[proc_macro_attribute]
pub fn task(attribute: TokenStream, item: TokenStream) -> TokenStream {
    let options = parse_macro_input!(attribute as options::Given);
    match parse_macro_input!(item as Item) {
        Item::Fn(function) => expand::task(&options, function).into(),
        other => Error::new(other.span(), "`#[task]` marks a function; move it to one")
            .to_compile_error()
            .into(),
    }
}
