//! T08: stacks, of the guest and of who reads what it returns.

use celerybox::outcome::Outcome;
use serde_json::json;

use super::component::Guest;
use super::{Attack, Lab, assert_fails, value};

#[tokio::test(flavor = "multi_thread")]
async fn t08_recursion_without_end_is_an_error_of_the_task() {
    let lab = Lab::new().await;
    let guest = Guest {
        fields: "(func $down (param i64 i64 i64 i64) (result i64)
            (i64.add (i64.const 1) (call $down (local.get 0) (local.get 1) (local.get 2) (local.get 3))))",
        ..Guest::running(
            "(call $number (call $down (i64.const 1) (i64.const 2) (i64.const 3) (i64.const 4)))",
        )
    };
    let run = lab.run(&guest, Attack::default()).await;
    let failure = assert_fails(run, "RecursionError", "maximum recursion depth exceeded");
    assert_eq!(failure.exc_module.as_deref(), Some("builtins"));

    let run = lab
        .run_hostile("hostile.recurses", Attack::with(json!([u32::MAX])))
        .await;
    assert!(matches!(&run.outcome, Outcome::Failure(_)), "{:?}", run.outcome);
    let run = lab
        .run_hostile("hostile.recurses", Attack::with(json!([1000])))
        .await;
    assert_eq!(value(&run), json!(1000));
}

#[tokio::test(flavor = "multi_thread")]
async fn t08_recursion_in_the_allocator_is_an_error_of_the_task() {
    let lab = Lab::new().await;
    let guest = Guest {
        fields: "(func $down (result i32) (i32.add (i32.const 1) (call $down)))",
        realloc: "(drop (call $down))",
        ..Guest::default()
    };
    let run = lab
        .run(
            &guest,
            Attack {
                args: "[1]".into(),
                ..Attack::default()
            },
        )
        .await;
    assert_fails(run, "RecursionError", "maximum recursion depth exceeded");
}

#[tokio::test(flavor = "multi_thread")]
async fn t08_deep_json_overflows_nothing() {
    let lab = Lab::new().await;
    let run = lab
        .run_hostile("hostile.nested", Attack::with(json!([100])))
        .await;
    assert!(matches!(run.outcome, Outcome::Success(_)), "{:?}", run.outcome);
    for depth in [101, 10_000, 500_000] {
        let run = lab
            .run_hostile("hostile.nested", Attack::with(json!([depth])))
            .await;
        let failure = super::failure(run);
        assert!(
            failure.repr().contains("limits.depth") || failure.exc_type == "RecursionError" || depth > 101,
            "{failure:?}"
        );
    }
    // In arguments it is the guest's to read.
    let deep = format!("[{}{}]", "[".repeat(200_000), "]".repeat(200_000));
    let echo = Guest::default();
    let run = lab
        .run(
            &echo,
            Attack {
                args: deep,
                ..Attack::default()
            },
        )
        .await;
    assert_fails(run, "ValueError", "limits.depth");
}
