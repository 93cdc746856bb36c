//! What went wrong in a run, in words for the one who wrote the task. A guest's fault is a failure of the task that
//! names the limit it ran into; only what the guest cannot cause is the worker's.

use std::fmt::Write;

use serde_json::Value;
use wasmtime::component::ResourceTableError;
use wasmtime::{PoolConcurrencyLimitError, Trap, WasmBacktrace};
use wasmtime_wasi::I32Exit;

use super::bindings::celerybox::task::types;
use super::guest::{Guest, TooManyCalls};
use super::limiter::Refused;
use super::output::safe;
use super::{Limits, json};
use crate::outcome::{Failure, Nameable, Outcome};

/// The longest traceback that is stored, bytes.
const TRACEBACK: usize = 64 * 1024;

/// An error of the guest's own, as it may be stored.
pub(super) fn failure(failure: types::Failure, limits: &Limits, nameable: &Nameable) -> Failure {
    if failure.exc_args.len() > limits.result {
        let detail = format!(
            "the arguments of a {} are {} bytes of JSON, {} are allowed",
            cut(&safe(failure.exc_type.as_bytes()), 128),
            failure.exc_args.len(),
            limits.result
        );
        return Failure::limit("ValueError", "limits.result", detail);
    }
    let exc_args = match json::check(&failure.exc_args, limits.depth) {
        Ok(()) => serde_json::from_str(&failure.exc_args).ok(),
        Err(_) => None,
    };
    Failure {
        exc_type: failure.exc_type,
        exc_module: failure.exc_module,
        // What is no list is still what the task had to say.
        exc_args: exc_args.unwrap_or_else(|| vec![Value::String(failure.exc_args)]),
        traceback: failure
            .traceback
            .map(|text| cut(&safe(text.as_bytes()), TRACEBACK).to_owned()),
        limit: None,
    }
    .with_nameable_class(nameable)
}

/// The value of a run, when it can be stored.
pub(super) fn result(value: String, limits: &Limits) -> Outcome {
    if value.len() > limits.result {
        let detail = format!(
            "the result is {} bytes of JSON, {} are allowed",
            value.len(),
            limits.result
        );
        return Outcome::Failure(Failure::limit("ValueError", "limits.result", detail));
    }
    match json::check(&value, limits.depth) {
        Ok(()) => Outcome::Success(value.into_boxed_str()),
        Err(json::Fault::Deep) => Outcome::Failure(Failure::limit(
            "ValueError",
            "limits.depth",
            format!("the result is nested deeper than {}", limits.depth),
        )),
        Err(json::Fault::Malformed(reason)) => Outcome::Failure(Failure::new(
            "builtins",
            "ValueError",
            format!("the task returned something that is not JSON: {reason}"),
        )),
    }
}

/// The ending of a run that broke off.
pub(super) fn broken(error: &wasmtime::Error, guest: &Guest, limits: &Limits) -> Outcome {
    match judge(error, guest, limits) {
        Some(mut failure) => {
            failure.traceback = traceback(error, guest);
            Outcome::Failure(failure)
        }
        None => Outcome::WorkerLost(format!("the sandbox failed: {error:#}")),
    }
}

/// The guest's fault; nothing when it is none.
fn judge(error: &wasmtime::Error, guest: &Guest, limits: &Limits) -> Option<Failure> {
    if let Some(TooManyCalls(limit)) = error.downcast_ref() {
        let detail = format!("the task called the worker more than {limit} times");
        return Some(Failure::limit("RuntimeError", "limits.host_calls", detail));
    }
    if let Some(I32Exit(code)) = error.downcast_ref() {
        // A language that is out of memory often ends with exit.
        return Some(if *code == 0 {
            exit(*code)
        } else {
            refused(guest, limits).unwrap_or_else(|| exit(*code))
        });
    }
    if let Some(trap) = error.downcast_ref::<Trap>() {
        return Some(trapped(*trap, guest, limits));
    }
    if let Some(ResourceTableError::Full) = error.downcast_ref() {
        let (most, limit) = guest.most_handles();
        return Some(handles(most, limit));
    }
    if is_ours(error) {
        return None;
    }
    Some(
        named_limit(error, limits)
            .or_else(|| refused(guest, limits))
            .unwrap_or_else(|| {
                let text = format!("{:#}", error.root_cause());
                Failure::new("builtins", "RuntimeError", cut(&safe(text.as_bytes()), 4096))
            }),
    )
}

fn trapped(trap: Trap, guest: &Guest, limits: &Limits) -> Failure {
    match trap {
        Trap::OutOfFuel => {
            let fuel = limits.fuel.unwrap_or_default();
            Failure::limit(
                "RuntimeError",
                "limits.fuel",
                format!("the task used up {fuel} units of fuel"),
            )
        }
        Trap::StackOverflow => Failure::new(
            "builtins",
            "RecursionError",
            "maximum recursion depth exceeded: the task's stack is full",
        ),
        // What a guest does that got no more memory: most languages abort.
        Trap::UnreachableCodeReached | Trap::MemoryOutOfBounds | Trap::AllocationTooLarge => {
            refused(guest, limits)
                .or_else(|| panicked(guest))
                .unwrap_or_else(|| trap_failure(trap))
        }
        _ => trap_failure(trap),
    }
}

fn trap_failure(trap: Trap) -> Failure {
    Failure::new("builtins", "RuntimeError", trap.to_string())
}

/// A Rust panic: it prints where and why to stderr and then traps.
fn panicked(guest: &Guest) -> Option<Failure> {
    let message = panic_message(&guest.output.as_ref()?.tail())?;
    Some(Failure::new("builtins", "RuntimeError", message))
}

/// `panicked at src/lib.rs:3:5: why`, out of what Rust's panic handler prints.
fn panic_message(stderr: &str) -> Option<String> {
    let start = stderr.rfind("panicked at ")?;
    let lines = stderr.get(start..)?.lines();
    let lines: Vec<&str> = lines.take_while(|line| !line.starts_with("note: ")).collect();
    Some(cut(&lines.join(" "), 1024).trim_end().to_owned())
}

fn exit(code: i32) -> Failure {
    Failure {
        exc_type: "SystemExit".into(),
        exc_module: None,
        exc_args: vec![code.into()],
        traceback: None,
        limit: None,
    }
}

/// The limit that the guest's last request for more ran into.
fn refused(guest: &Guest, limits: &Limits) -> Option<Failure> {
    guest.usage.refused().map(|refused| match refused {
        Refused::Memory => Failure::limit(
            "MemoryError",
            "memory",
            format!(
                "the task asked for more than {} bytes (limits.memory)",
                limits.memory
            ),
        ),
        Refused::Elements => Failure::limit(
            "MemoryError",
            "table_elements",
            format!(
                "the task asked for more than {} elements (limits.table_elements)",
                limits.table_elements
            ),
        ),
    })
}

fn handles(most: usize, limit: &'static str) -> Failure {
    let detail = format!("the task has more than {most} handles open");
    Failure::limit("MemoryError", limit, detail)
}

/// Limits that wasmtime tells of in words only.
fn named_limit(error: &wasmtime::Error, limits: &Limits) -> Option<Failure> {
    let text = format!("{:#}", error.root_cause());
    let says = |part: &str| text.contains(part);
    let memory = |name: &'static str, detail: String| Some(Failure::limit("MemoryError", name, detail));
    if says("store handle limit exceeded") {
        Some(handles(limits.handles, "limits.handles"))
    } else if says("fuel allocated for hostcalls") {
        let detail = format!(
            "one call between the task and the worker carried more than {} bytes",
            limits.host_call_bytes
        );
        Some(Failure::limit("ValueError", "limits.host_call_bytes", detail))
    } else if says("instance count too high") {
        memory(
            "limits.instances",
            format!("the task has more than {} instances", limits.instances),
        )
    } else if says("memory count too high") {
        memory(
            "limits.memories",
            format!("the task has more than {} memories", limits.memories),
        )
    } else if says("table count too high") {
        memory(
            "limits.tables",
            format!("the task has more than {} tables", limits.tables),
        )
    } else {
        None
    }
}

/// What no guest can cause: a full pool, an operating system without memory, a bug in wasmtime.
fn is_ours(error: &wasmtime::Error) -> bool {
    error.is::<PoolConcurrencyLimitError>()
        || error.is::<wasmtime::WasmtimeBug>()
        || error.chain().any(|cause| cause.is::<std::io::Error>())
}

/// The end of what the guest wrote to stderr (a Rust panic does), and where it was.
fn traceback(error: &wasmtime::Error, guest: &Guest) -> Option<String> {
    let mut text = guest
        .output
        .as_ref()
        .map(|output| output.tail())
        .unwrap_or_default();
    if let Some(backtrace) = error.downcast_ref::<WasmBacktrace>() {
        if !text.is_empty() && !text.ends_with('\n') {
            text.push('\n');
        }
        let _ = write!(
            text,
            "wasm backtrace:\n{}",
            safe(backtrace.to_string().as_bytes())
        );
    }
    (!text.is_empty()).then(|| cut(&text, TRACEBACK).to_owned())
}

/// At most so many bytes of a text.
pub(super) fn cut(text: &str, most: usize) -> &str {
    text.get(..text.floor_char_boundary(most)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits() -> Limits {
        Limits {
            result: 100,
            depth: 3,
            ..Limits::default()
        }
    }

    fn raised(module: &str, class: &str, args: &str, traceback: &str) -> Failure {
        let raised = types::Failure {
            exc_type: class.into(),
            exc_module: Some(module.into()),
            exc_args: args.into(),
            traceback: Some(traceback.into()),
        };
        failure(raised, &limits(), &Nameable::default())
    }

    #[test]
    fn a_guest_names_only_what_a_client_may_import() {
        let fine = raised("builtins", "ValueError", r#"["boom", 42]"#, "line 1\n");
        assert_eq!(fine.exc_module.as_deref(), Some("builtins"));
        assert_eq!(fine.repr(), "ValueError('boom', 42)");
        assert_eq!(raised("os", "system", r#"["rm"]"#, "").exc_module, None);
    }

    #[test]
    fn odd_errors_of_a_guest_are_stored_safely() {
        assert_eq!(
            raised("builtins", "ValueError", "nonsense", "").exc_args,
            vec![Value::String("nonsense".into())]
        );
        assert_eq!(
            raised("builtins", "ValueError", "[[[[[]]]]]", "").exc_args.len(),
            1
        );
        let large = raised(
            "builtins",
            "ValueError",
            &format!("[\"{}\"]", "x".repeat(200)),
            "",
        );
        assert!(large.repr().contains("limits.result"), "{}", large.repr());
        let long = raised("builtins", "ValueError", "[]", &"\x1b[31m".repeat(100_000));
        let traceback = long.traceback.unwrap();
        assert!(traceback.len() <= TRACEBACK && !traceback.contains('\x1b'));
    }

    #[test]
    fn a_rust_panic_is_told_in_one_line() {
        let stderr = "before\nthread '<unnamed>' (1) panicked at src/lib.rs:3:5:\noh no\nnote: run with `RUST_BACKTRACE=1`\n";
        assert_eq!(
            panic_message(stderr).as_deref(),
            Some("panicked at src/lib.rs:3:5: oh no")
        );
        assert_eq!(panic_message("all is well\n"), None);
    }

    #[test]
    fn a_result_is_json_within_its_limits() {
        let outcome = |value: &str| result(value.to_owned(), &limits());
        assert_eq!(outcome("[1]"), Outcome::Success("[1]".into()));
        for (value, part) in [
            (format!("\"{}\"", "x".repeat(99)), "limits.result"),
            ("[[[[]]]]".into(), "limits.depth"),
            ("NaN".into(), "not JSON"),
            (String::new(), "not JSON"),
        ] {
            match outcome(&value) {
                Outcome::Failure(failure) => assert!(failure.repr().contains(part), "{}", failure.repr()),
                other => panic!("{value}: {other:?}"),
            }
        }
    }
}
