//! T07 and T39: what computing costs, and that it costs the same everywhere.

use celerybox::sandbox::Limits;
use serde_json::json;

use super::component::Guest;
use super::{Attack, Lab, assert_fails, assert_hard_limit, value};

const CALLS: &str = "(func $tiny (param i32) (result i32) (i32.add (local.get 0) (i32.const 1)))";

#[tokio::test(flavor = "multi_thread")]
async fn t07_a_storm_of_tiny_calls_ends_at_the_hard_limit() {
    let lab = Lab::new().await;
    let calls = Guest {
        fields: CALLS,
        ..Guest::running("(loop $for-ever (drop (call $tiny (i32.const 1))) (br $for-ever)) unreachable")
    };
    assert_hard_limit(&lab.run(&calls, Attack::endless()).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn t07_a_storm_of_jumps_ends_at_the_hard_limit() {
    let lab = Lab::new().await;
    let targets = "$a $b ".repeat(2000);
    let jumps = Guest::running(&format!(
        "(local $i i32)
         (loop $for-ever
            (block $b (block $a
                (br_table {targets} $a (i32.and (local.get $i) (i32.const 4095)))))
            (local.set $i (i32.add (local.get $i) (i32.const 1)))
            (br $for-ever))
         unreachable"
    ));
    assert_hard_limit(&lab.run(&jumps, Attack::endless()).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn t07_calls_to_the_worker_are_counted() {
    let lab = Lab::with(Limits {
        host_calls: 1000,
        ..Limits::default()
    })
    .await;
    let guest = Guest {
        imports: r#"(import "celerybox:task/context@0.1.0" "log" (func $log (param i32 i32 i32)))"#,
        ..Guest::running(
            "(loop $for-ever (call $log (i32.const 0) (i32.const 0) (i32.const 1)) (br $for-ever)) unreachable",
        )
    };
    let run = lab.run(&guest, Attack::default()).await;
    assert_fails(run, "RuntimeError", "limits.host_calls");
    // Questions about the time are free: a computing task asks in its loop.
    let asking = Guest {
        imports: r#"(import "celerybox:task/context@0.1.0" "soft-time-limit-exceeded" (func $soft (result i32)))"#,
        ..Guest::running(
            "(local $i i32)
             (loop $more
                (drop (call $soft))
                (local.set $i (i32.add (local.get $i) (i32.const 1)))
                (br_if $more (i32.lt_u (local.get $i) (i32.const 100000))))
             (call $number (i64.extend_i32_u (local.get $i)))",
        )
    };
    assert_eq!(value(&lab.run(&asking, Attack::default()).await), json!(100_000));
}

#[tokio::test(flavor = "multi_thread")]
async fn t07_fuel_ends_a_run_that_uses_it_up() {
    let lab = Lab::with(Limits {
        fuel: Some(1_000_000),
        ..Limits::default()
    })
    .await;
    let guest = Guest::running("(loop $for-ever (br $for-ever)) unreachable");
    let run = lab.run(&guest, Attack::default()).await;
    assert_eq!(run.fuel, Some(1_000_000));
    assert_fails(run, "RuntimeError", "limits.fuel");
    // Growing is not free.
    let grows = Guest::running("(drop (memory.grow (i32.const 1000))) (call $number (i64.const 1))");
    assert!(lab.run(&grows, Attack::default()).await.fuel.unwrap() > 200_000);
}

#[tokio::test(flavor = "multi_thread")]
async fn t39_the_same_work_gives_the_same_result_for_the_same_fuel() {
    let work = "(local $i i32) (local $x f64) (local $hash i64)
        (local.set $x (f64.const 1.1))
        (loop $more
            (local.set $x (f64.sqrt (f64.add (f64.mul (local.get $x) (f64.const 1.7)) (f64.convert_i32_u (local.get $i)))))
            (if (i32.eqz (i32.rem_u (local.get $i) (i32.const 7)))
                (then (local.set $x (f64.div (f64.const 0) (f64.const 0)))))
            (local.set $hash (i64.xor (i64.rotl (local.get $hash) (i64.const 5)) (i64.reinterpret_f64 (local.get $x))))
            (local.set $x (f64.const 3.3))
            (local.set $i (i32.add (local.get $i) (i32.const 1)))
            (br_if $more (i32.lt_u (local.get $i) (i32.const 20000))))
        (call $number (i64.shr_u (local.get $hash) (i64.const 1)))";
    let mut seen = std::collections::BTreeSet::new();
    for _ in 0..2 {
        let lab = Lab::with(Limits {
            fuel: Some(100_000_000),
            ..Limits::default()
        })
        .await;
        let guest = lab.load(&Guest::running(work).component()).await.unwrap();
        for _ in 0..3 {
            let run = lab.attack(&guest, "guest.run", Attack::default()).await;
            seen.insert((value(&run).to_string(), run.fuel.unwrap()));
        }
    }
    assert_eq!(seen.len(), 1, "{seen:?}");
    let (result, fuel) = seen.pop_first().unwrap();
    assert_ne!(result, "0");
    assert!(fuel > 20_000);
}
