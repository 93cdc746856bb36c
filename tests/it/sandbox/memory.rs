//! T02, T03 and T04: memory and tables.

use serde_json::json;

use super::component::Guest;
use super::{Attack, Lab, assert_fails, assert_hard_limit, value};
use celerybox::sandbox::{Limits, LoadError};

const MIB: usize = 1024 * 1024;

/// Grows page by page until it is refused; `$pages` then has the number.
const GROW: &str = "
    (block $refused (loop $more
        (br_if $refused (i32.eq (memory.grow (i32.const 1)) (i32.const -1)))
        (br $more)))";

#[tokio::test(flavor = "multi_thread")]
async fn t02_a_guest_that_takes_no_for_an_answer_goes_on() {
    let lab = Lab::new().await;
    let guest = Guest::running(&format!("{GROW} (call $number (i64.extend_i32_u (memory.size)))"));
    let run = lab.run(&guest, Attack::default()).await;
    assert_eq!(value(&run), json!(128 * MIB / 65536));
    assert_eq!(run.peak_memory, 128 * MIB);
}

#[tokio::test(flavor = "multi_thread")]
async fn t02_a_guest_that_aborts_without_memory_fails_with_the_limits_name() {
    let lab = Lab::new().await;
    let guest = Guest::running(&format!("{GROW} unreachable"));
    let run = lab.run(&guest, Attack::default()).await;
    let failure = assert_fails(
        run,
        "MemoryError",
        "memory: the task asked for more than 134217728 bytes (limits.memory)",
    );
    assert_eq!(failure.exc_module.as_deref(), Some("builtins"));
    let run = lab.run_hostile("hostile.greedy", Attack::default()).await;
    let failure = assert_fails(run, "MemoryError", "(limits.memory)");
    assert!(failure.traceback.unwrap().contains("memory allocation of"));
}

#[tokio::test(flavor = "multi_thread")]
async fn t02_memory_that_is_declared_counts_before_it_runs() {
    let lab = Lab::new().await;
    for memory in [
        "(memory (export \"memory\") 65536)",
        "(memory (export \"memory\") 2049)",
    ] {
        let guest = Guest {
            memory,
            ..Guest::default()
        };
        let error = lab.refused(&guest.component()).await.to_string();
        assert!(error.contains("limits.memory"), "{error}");
        assert!(error.contains("134217728"), "{error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn t03_growing_touching_and_failing_leaves_nothing_behind() {
    let lab = Lab::new().await;
    let guest = Guest::running(&format!(
        "{GROW}
         (memory.fill (i32.const 65536) (i32.const 1) (i32.sub (i32.mul (memory.size) (i32.const 65536)) (i32.const 65536)))
         unreachable"
    ));
    let component = lab.load(&guest.component()).await.unwrap();
    let mut resident = Vec::new();
    for _ in 0..40 {
        let run = lab.attack(&component, "guest.run", Attack::default()).await;
        assert_fails(run, "MemoryError", "limits.memory");
        resident.push(resident_bytes());
    }
    // Forty runs of 128 MiB are 5 GiB, were they to stay. Other tests run in this process too, so not to the byte.
    assert!(resident[39] < resident[0] + 1024 * MIB, "{resident:?}");
}

fn resident_bytes() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    let kib: usize = line.split_whitespace().nth(1).unwrap().parse().unwrap();
    kib * 1024
}

#[tokio::test(flavor = "multi_thread")]
async fn t03_growing_and_touching_for_ever_ends_at_the_hard_limit() {
    let lab = Lab::new().await;
    let guest = Guest::running(
        "(loop $for-ever
            (drop (memory.grow (i32.const 16)))
            (i32.store (i32.sub (i32.mul (memory.size) (i32.const 65536)) (i32.const 4)) (i32.const 1))
            (br $for-ever))
         unreachable",
    );
    assert_hard_limit(&lab.run(&guest, Attack::endless()).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn t04_a_table_grows_up_to_the_limit() {
    let lab = Lab::new().await;
    let grow = "(block $refused (loop $more
            (br_if $refused (i32.eq (table.grow $t (ref.null func) (i32.const 1000)) (i32.const -1)))
            (br $more)))";
    let fields = "(table $t 0 funcref)";
    let patient = Guest {
        fields,
        ..Guest::running(&format!(
            "{grow} (call $number (i64.extend_i32_u (table.size $t)))"
        ))
    };
    assert_eq!(value(&lab.run(&patient, Attack::default()).await), json!(100_000));
    let aborting = Guest {
        fields,
        ..Guest::running(&format!("{grow} unreachable"))
    };
    let run = lab.run(&aborting, Attack::default()).await;
    assert_fails(run, "MemoryError", "limits.table_elements");
}

#[tokio::test(flavor = "multi_thread")]
async fn t04_tables_that_are_declared_count_before_it_runs() {
    let lab = Lab::new().await;
    let huge = Guest {
        fields: "(table 1000000 funcref)",
        ..Guest::default()
    };
    let error = lab.refused(&huge.component()).await.to_string();
    assert!(error.contains("limits.table_elements"), "{error}");

    // Each within its limit, together more than it: two modules of one component.
    let two = "(component
        (core module $m (table 90000 funcref))
        (core instance (instantiate $m))
        (core instance (instantiate $m)))";
    let error = lab.refused(&wat::parse_str(two).unwrap()).await.to_string();
    assert!(error.contains("handler") || error.contains("table"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn t04_a_thousand_tables_memories_or_instances_are_refused() {
    let lab = Lab::new().await;
    for (module, count, name) in [
        ("(table 1 funcref)", 17, "limits.tables"),
        ("(memory 1)", 5, "limits.memories"),
        ("", 33, "limits.instances"),
        ("(memory 1) (table 1 funcref)", 1000, "limits.instances"),
    ] {
        let instances = "(core instance (instantiate $m))".repeat(count);
        let text = format!("(component (core module $m {module}) {instances})");
        let error = lab.refused(&wat::parse_str(text).unwrap()).await;
        assert!(matches!(&error, LoadError::Limit(_)), "{error}");
        assert!(error.to_string().contains(name), "{error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn t04_a_huge_element_segment_is_refused_or_harmless() {
    let lab = Lab::new().await;
    let segment = format!(
        "(table $t 10 funcref) (func $f) (elem $e func {})",
        "$f ".repeat(100_000)
    );
    let guest = Guest {
        fields: Box::leak(segment.into_boxed_str()),
        ..Guest::running(
            "(table.init $t $e (i32.const 0) (i32.const 0) (i32.const 100000)) (call $ok (i32.const 0) (i32.const 0))",
        )
    };
    let run = lab.run(&guest, Attack::default()).await;
    assert_fails(run, "RuntimeError", "out of bounds table access");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_smaller_limit_holds_for_a_rust_guest() {
    let lab = Lab::with(Limits {
        memory: 8 * MIB,
        ..Limits::default()
    })
    .await;
    let run = lab.run_hostile("hostile.greedy", Attack::default()).await;
    assert!(run.peak_memory <= 8 * MIB);
    assert_fails(run, "MemoryError", "more than 8388608 bytes (limits.memory)");
}
