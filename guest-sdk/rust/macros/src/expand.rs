//! What `#[task]` writes beside the function: the few lines that call `celerybox_guest`.

use proc_macro2::{Span, TokenStream};
use quote::{quote, quote_spanned};
use syn::ext::IdentExt;
use syn::spanned::Spanned;
use syn::{Attribute, Error, Expr, ExprLit, Ident, ItemFn, Lit, Meta, Result, ReturnType, Signature};

use crate::options::{Checked, Given};
use crate::parameter::{self, Bound, Parameter, Problems};

/// The function, and its task or what is wrong with it.
pub(crate) fn task(options: &Given, mut function: ItemFn) -> TokenStream {
    let mut problems = Problems(None);
    check_signature(&function.sig, &mut problems);
    // This also takes our attributes off the parameters, so that the function itself always compiles.
    let parameters = note(parameter::read(function.sig.inputs.iter_mut()), &mut problems);
    let options = note(options.check(), &mut problems);
    if let (Some((bound, _)), Some(options)) = (&parameters, &options) {
        note(check_bind(options, *bound), &mut problems);
    }
    let task = match (problems.0, parameters, options) {
        (None, Some((bound, parameters)), Some(options)) => write(&function, bound, &parameters, &options),
        (problems, _, _) => problems.map(|error| error.to_compile_error()).unwrap_or_default(),
    };
    quote! {
        #function
        #task
    }
}

fn note<T>(result: Result<T>, problems: &mut Problems) -> Option<T> {
    result.map_err(|error| problems.add(error)).ok()
}

/// Refuses functions that cannot be called with JSON.
fn check_signature(signature: &Signature, problems: &mut Problems) {
    if let Some(token) = &signature.asyncness {
        problems.add(Error::new(
            token.span(),
            "a task cannot be async; remove `async`: other tasks run while this one waits",
        ));
    }
    if let Some(token) = &signature.unsafety {
        problems.add(Error::new(
            token.span(),
            "a task cannot be unsafe; move the unsafe part into its body",
        ));
    }
    if let Some(abi) = &signature.abi {
        problems.add(Error::new(
            abi.span(),
            "a task is an ordinary Rust function; remove `extern`",
        ));
    }
    if !signature.generics.params.is_empty() {
        problems.add(Error::new(
            signature.generics.params.span(),
            "a task cannot be generic: its arguments arrive as JSON, so their types have to be known; write concrete types",
        ));
    }
}

fn check_bind(options: &Checked, bound: Bound) -> Result<()> {
    match (options.bind, bound) {
        (Some((true, span)), Bound::No) => Err(Error::new(
            span,
            "a bound task takes the context: add `ctx: &Context` as the first parameter",
        )),
        (Some((false, span)), Bound::ByReference | Bound::ByValue) => Err(Error::new(
            span,
            "a task whose first parameter is the context is bound; remove one of the two",
        )),
        _ => Ok(()),
    }
}

fn write(function: &ItemFn, bound: Bound, parameters: &[Parameter], options: &Checked) -> TokenStream {
    let visibility = &function.vis;
    let ident = &function.sig.ident;
    let function_name = ident.unraw().to_string();
    // Full paths and hygienic locals, so that a task, a parameter's type or a default may have any name.
    let library = quote!(::celerybox_guest::__private);
    let local = |name| Ident::new(name, Span::mixed_site());
    let (context, arguments, output) = (local("context"), local("arguments"), local("output"));

    let name = match &options.name {
        Some(name) => quote!(#name),
        None => quote!(::celerybox_guest::__task_name!(#function_name)),
    };
    let constants = parameters.iter().map(Parameter::constant);
    let text = parameter::python(parameters);
    let (is_bound, first) = match bound {
        Bound::No => (false, None),
        Bound::ByReference => (true, Some(quote!(#context,))),
        Bound::ByValue => (true, Some(quote!(::core::clone::Clone::clone(#context),))),
    };
    let values = parameters
        .iter()
        .enumerate()
        .map(|(index, parameter)| parameter.value(&arguments, index));
    let fields = &options.fields;
    let doc = summary(&function.attrs).map(|doc| quote!(doc: ::core::option::Option::Some(#doc),));
    // A type that is no JSON is then reported where it is written.
    let returned = match &function.sig.output {
        ReturnType::Default => ident.span(),
        ReturnType::Type(_, ty) => ty.span(),
    };
    let outcome = quote_spanned!(returned=> (&#output).kind().outcome(#output));
    let render = quote_spanned!(returned=> .and_then(|value| #library::to_json(&value)));
    let comment = format!("The task `{function_name}`, for `tasks!` and for tests.");
    let partial = format!("A signature of `{function_name}`: Celery's `{function_name}.s(…)`.");
    let immutable =
        format!("One that takes nothing from the task before it: Celery's `{function_name}.si(…)`.");
    let delay = format!("Sends `{function_name}`: Celery's `{function_name}.delay(…)`.");
    quote! {
        #[doc = #comment]
        #[doc(hidden)]
        #[allow(non_camel_case_types)]
        #visibility struct #ident {}

        impl #ident {
            #[doc = #comment]
            #[allow(clippy::needless_update)]
            #visibility const TASK: ::celerybox_guest::Task = ::celerybox_guest::Task {
                name: #name,
                signature: &#library::Signature {
                    function: #function_name,
                    bound: #is_bound,
                    parameters: &[#(#constants),*],
                    text: #text,
                },
                options: #library::Options { #doc #(#fields,)* ..#library::Options::NONE },
                #[allow(unused_variables, unused_imports, clippy::unit_arg, clippy::let_unit_value)]
                call: |#context, #arguments| {
                    use #library::{ReturnsResult as _, ReturnsValue as _};
                    let #output = #ident(#first #(#values),*);
                    #outcome #render
                },
            };

            #[doc = #partial]
            #[must_use]
            #[allow(dead_code, clippy::should_implement_trait)]
            #visibility fn s(args: impl ::celerybox_guest::canvas::Arguments) -> ::celerybox_guest::canvas::Signature {
                ::celerybox_guest::canvas::signature(Self::TASK.name).args(args)
            }

            #[doc = #immutable]
            #[must_use]
            #[allow(dead_code)]
            #visibility fn si(args: impl ::celerybox_guest::canvas::Arguments) -> ::celerybox_guest::canvas::Signature {
                Self::s(args).immutable(true)
            }

            #[doc = #delay]
            #[allow(dead_code)]
            #[track_caller]
            #visibility fn delay(
                ctx: &::celerybox_guest::Context,
                args: impl ::celerybox_guest::canvas::Arguments,
            ) -> ::core::result::Result<::celerybox_guest::canvas::AsyncResult, ::celerybox_guest::TaskError> {
                Self::s(args).apply_async(ctx)
            }
        }
    }
}

/// The first paragraph of a function's doc comment in one line, or nothing.
fn summary(attributes: &[Attribute]) -> Option<String> {
    let lines = attributes.iter().filter_map(|attribute| match &attribute.meta {
        Meta::NameValue(pair) if pair.path.is_ident("doc") => match &pair.value {
            Expr::Lit(ExprLit {
                lit: Lit::Str(text), ..
            }) => Some(text.value()),
            _ => None,
        },
        _ => None,
    });
    let words: Vec<String> = lines
        .map(|line| line.trim().to_owned())
        .skip_while(String::is_empty)
        .take_while(|line| !line.is_empty())
        .collect();
    (!words.is_empty()).then(|| words.join(" "))
}
