//! T40 and T09: the ways a run can end, and what it may return.

use celerybox::outcome::Outcome;
use celerybox::sandbox::Limits;
use serde_json::{Value, json};

use super::component::Guest;
use super::{Attack, Lab, assert_fails, failure, value};

#[tokio::test(flavor = "multi_thread")]
async fn t40_exit_is_a_failure_with_its_code() {
    let lab = Lab::new().await;
    // WASI's exit knows success and failure only.
    for (code, seen) in [(0, 0), (255, 1)] {
        let run = lab
            .run_hostile("hostile.exits", Attack::with(json!([code])))
            .await;
        let failure = assert_fails(run, "SystemExit", "SystemExit(");
        assert_eq!(failure.exc_args, vec![Value::from(seen)], "{failure:?}");
    }
    let exits = Guest {
        imports: r#"(import "wasi:cli/exit@0.2.6" "exit" (func $exit (param i32)))"#,
        ..Guest::running("(call $exit (i32.const 1)) unreachable")
    };
    let failure = failure(lab.run(&exits, Attack::default()).await);
    assert_eq!(failure.repr(), "SystemExit(1)");
}

#[tokio::test(flavor = "multi_thread")]
async fn t40_traps_are_failures_that_say_which() {
    let lab = Lab::new().await;
    for (code, part) in [
        ("unreachable", "unreachable"),
        (
            "(drop (i32.div_u (i32.const 1) (i32.const 0))) unreachable",
            "integer divide by zero",
        ),
        (
            "(drop (i32.div_s (i32.const 0x80000000) (i32.const -1))) unreachable",
            "integer overflow",
        ),
        (
            "(drop (i32.load (i32.const -8))) unreachable",
            "out of bounds memory access",
        ),
        (
            "(drop (i32.trunc_f32_s (f32.const nan))) unreachable",
            "invalid conversion",
        ),
    ] {
        let run = lab.run(&Guest::running(code), Attack::default()).await;
        let failure = assert_fails(run, "RuntimeError", part);
        assert_eq!(failure.exc_module.as_deref(), Some("builtins"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn t40_a_rust_panic_tells_where_it_was() {
    let lab = Lab::new().await;
    let run = lab
        .run_hostile("hostile.panics", Attack::with(json!(["oh no"])))
        .await;
    let failure = assert_fails(run, "RuntimeError", "oh no");
    assert!(
        failure
            .repr()
            .contains("panicked at tests/guests/hostile/src/lib.rs"),
        "{failure:?}"
    );
    assert!(failure.traceback.unwrap().contains("wasm backtrace"));
}

#[tokio::test(flavor = "multi_thread")]
async fn t40_a_panic_of_the_worker_ends_one_task_only() {
    let lab = Lab::new().await;
    let guest = lab.hostile().await;
    let mut call = lab.call(&guest, "hostile.updates", &Attack::with(json!(["PROGRESS", 1])));
    call.updates = std::sync::Arc::new(|_, _| Box::pin(async { panic!("a bug of the worker") }));
    let run = guest.run(call).await;
    match run.outcome {
        Outcome::WorkerLost(reason) => assert!(reason.contains("a bug of the worker"), "{reason}"),
        other => panic!("{other:?}"),
    }
    lab.is_well().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_names_only_exceptions_that_a_client_may_make() {
    let lab = Lab::new().await;
    let raised = |module: &str, class: &str| Attack::with(json!([module, class]));
    let error = failure(
        lab.run_hostile("hostile.raises", raised("builtins", "KeyError"))
            .await,
    );
    assert_eq!(
        (error.exc_module.as_deref(), error.exc_type.as_str()),
        (Some("builtins"), "KeyError")
    );
    let error = failure(lab.run_hostile("hostile.raises", raised("os", "system")).await);
    assert_eq!(error.exc_module, None);
    let error = failure(
        lab.run_hostile("hostile.raises", raised("builtins", "eval"))
            .await,
    );
    assert_eq!(error.exc_module, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn t09_a_result_has_to_be_json_of_a_bounded_size() {
    let lab = Lab::new().await;
    let run = lab
        .run_hostile("hostile.long", Attack::with(json!([1024 * 1024 - 2])))
        .await;
    assert!(matches!(run.outcome, Outcome::Success(_)));
    let run = lab
        .run_hostile("hostile.long", Attack::with(json!([1024 * 1024 - 1])))
        .await;
    assert_fails(run, "ValueError", "limits.result");
    let run = lab
        .run_hostile("hostile.long", Attack::with(json!([8_000_000])))
        .await;
    assert_fails(run, "ValueError", "limits.host_call_bytes");

    let text = |text: &str| Guest {
        fields: Box::leak(format!("(data (i32.const 0) {text:?})").into_boxed_str()),
        ..Guest::running(&format!("(call $ok (i32.const 0) (i32.const {}))", text.len()))
    };
    for text_of in ["NaN", "{'a': 1}", "[1, 2", "1 2"] {
        assert_fails(
            lab.run(&text(text_of), Attack::default()).await,
            "ValueError",
            "not JSON",
        );
    }
    // Not UTF-8, outside of memory, longer than memory.
    for result in [
        "(i32.store8 (i32.const 0) (i32.const 255)) (call $ok (i32.const 0) (i32.const 1))",
        "(call $ok (i32.const -8) (i32.const 4))",
        "(call $ok (i32.const 0) (i32.const -1))",
        "(i32.const -4)",
        "(i32.const 3)",
        "(i32.store (i32.const 512) (i32.const 77)) (i32.const 512)",
    ] {
        let failure = failure(lab.run(&Guest::running(result), Attack::default()).await);
        let expected = ["RuntimeError", "ValueError"];
        assert!(expected.contains(&failure.exc_type.as_str()), "{failure:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn arguments_are_bounded() {
    let lab = Lab::with(Limits {
        arguments: 1000,
        ..Limits::default()
    })
    .await;
    let echo = Guest::default();
    let fits = Attack::with(json!(["x".repeat(900)]));
    assert_eq!(value(&lab.run(&echo, fits).await)[0].as_str().unwrap().len(), 900);
    let run = lab.run(&echo, Attack::with(json!(["x".repeat(1000)]))).await;
    assert_fails(run, "ValueError", "limits.arguments");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_ending_that_was_not_accepted_is_a_failure() {
    let lab = Lab::new().await;
    // result<json, ending>: 1 is the error; endings are failure, retry, reject, ignore, replaced.
    let ending = |n: u32| {
        Guest::running(&format!(
            "(i32.store (i32.const 512) (i32.const 1)) (i32.store (i32.const 516) (i32.const {n})) (i32.const 512)"
        ))
    };
    let run = lab.run(&ending(1), Attack::default()).await;
    assert_fails(run, "RuntimeError", "ended with `retry`");
    let run = lab.run(&ending(4), Attack::default()).await;
    assert_fails(run, "RuntimeError", "ended with `replaced`");
    let run = lab.run(&ending(3), Attack::default()).await;
    assert_eq!(run.outcome, Outcome::Ignore);
}
