//! T36: a component that is asked for its tasks.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use super::Lab;
use super::component::Guest;
use celerybox::sandbox::LoadError;

async fn refused(guest: Guest) -> String {
    let lab = Lab::new().await;
    let started = Instant::now();
    let error = lab.refused(&guest.component()).await.to_string();
    assert!(started.elapsed() < Duration::from_secs(20));
    error
}

fn declaring(names: &[&str]) -> Guest {
    Guest {
        names: names.iter().map(|name| (*name).to_owned()).collect(),
        ..Guest::default()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn t36_a_declaration_that_traps_loops_or_grows_is_refused() {
    let describe = |describe| Guest {
        describe,
        ..Guest::default()
    };
    let error = refused(describe("unreachable")).await;
    assert!(error.contains("unreachable"), "{error}");
    let error = refused(describe("(loop $for-ever (br $for-ever))")).await;
    assert!(error.contains("longer than 5 s"), "{error}");
    let error = refused(describe("(drop (call $allocate (i32.const 200000000)))")).await;
    assert!(error.contains("134217728 bytes of memory"), "{error}");
    let error = refused(Guest {
        fields: "(func $down (call $down))",
        ..describe("(call $down)")
    })
    .await;
    assert!(error.contains("call stack exhausted"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn t36_a_declaration_has_no_request_and_no_results() {
    let error = refused(Guest {
        imports: r#"(import "celerybox:task/context@0.1.0" "get-request" (func $request (param i32)))"#,
        describe: "(call $request (i32.const 2048))",
        ..Guest::default()
    })
    .await;
    assert!(error.contains("there is no request"), "{error}");
    // A state that it stores goes nowhere: there is no task yet.
    let lab = Lab::new().await;
    let guest = Guest {
        imports: r#"(import "celerybox:task/context@0.1.0" "update-state" (func $update (param i32 i32 i32 i32 i32)))"#,
        fields: r#"(data (i32.const 0) "PROGRESS1")"#,
        describe: "(call $update (i32.const 0) (i32.const 8) (i32.const 8) (i32.const 1) (i32.const 2048))",
        ..Guest::default()
    };
    lab.load(&guest.component()).await.unwrap();
    assert!(lab.states().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn t36_too_many_tasks_are_refused() {
    let many: Vec<String> = (0..300).map(|n| format!("guest.task{n}")).collect();
    let error = refused(Guest {
        memory: "(memory (export \"memory\") 4)",
        names: many,
        ..Guest::default()
    })
    .await;
    assert!(error.contains("256 are allowed"), "{error}");
    // A million of them, all in the same place in memory.
    let error = refused(Guest {
        describe: "(i32.store offset=4 (i32.const 1024) (i32.const 1000000))",
        ..Guest::default()
    })
    .await;
    assert!(!error.is_empty());
    let error = refused(Guest {
        memory: "(memory (export \"memory\") 1000)",
        describe: "(i32.store offset=4 (i32.const 1024) (i32.const 200000))",
        ..Guest::default()
    })
    .await;
    assert!(error.contains("too much data"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn t36_names_that_cannot_be_served_are_refused() {
    let long = "x".repeat(256);
    for (names, part) in [
        (vec!["guest.run"], "guest.run is declared twice"),
        (vec!["celery.chord_unlock"], "Celery's own"),
        (vec![""], "a name of 0 bytes"),
        (vec!["two words"], "no spaces"),
        (vec!["line\nbreak"], "no control characters"),
        (vec![long.as_str()], "a name of 256 bytes"),
    ] {
        let error = refused(declaring(&names)).await;
        assert!(error.contains(part), "{error}");
        assert!(!error.contains('\n'), "{error:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn t36_a_component_without_tasks_or_without_a_handler_is_refused() {
    let error = refused(Guest {
        describe: "(i32.store offset=4 (i32.const 1024) (i32.const 0))",
        ..Guest::default()
    })
    .await;
    assert!(error.contains("it has none"), "{error}");
    let lab = Lab::new().await;
    let empty = lab.refused(&wat::parse_str("(component)").unwrap()).await;
    assert!(matches!(&empty, LoadError::NoHandler(_)), "{empty}");
}

#[tokio::test(flavor = "multi_thread")]
async fn t36_what_is_declared_first_counts() {
    let lab = Lab::new().await;
    // Its answer would change with each call of the same instance; it is asked once.
    let guest = Guest {
        fields: "(global $calls (mut i32) (i32.const 0))",
        describe: "(global.set $calls (i32.add (global.get $calls) (i32.const 1)))
                   (if (i32.gt_u (global.get $calls) (i32.const 1)) (then unreachable))",
        ..declaring(&["guest.other"])
    };
    let component = lab.load(&guest.component()).await.unwrap();
    let names: HashSet<_> = component
        .definitions()
        .iter()
        .map(|task| task.name.as_str())
        .collect();
    assert_eq!(names, HashSet::from(["guest.run", "guest.other"]));
}
