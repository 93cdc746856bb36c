//! T37 and T38: nothing of one run is found by another.

use serde_json::json;

use super::component::Guest;
use super::{Attack, Lab, failure, value};

/// Answers how many bytes of all its memory, apart from what belongs to it, and of a global and a table are not as in a
/// fresh instance; then leaves marks everywhere. Its own data is below 128 KiB.
fn marks(ending: &str) -> Guest {
    Guest {
        memory: "(memory (export \"memory\") 64)",
        fields: "(global $mark (mut i64) (i64.const 0))
                 (table $table 10 funcref)
                 (func $f) (elem declare func $f)",
        ..Guest::running(&format!(
            "(local $at i32) (local $found i64)
             (local.set $at (i32.const 131072))
             (loop $more
                (if (i64.ne (i64.load (local.get $at)) (i64.const 0))
                    (then (local.set $found (i64.add (local.get $found) (i64.const 1)))))
                (local.set $at (i32.add (local.get $at) (i32.const 8)))
                (br_if $more (i32.lt_u (local.get $at) (i32.const 4194304))))
             (if (i64.ne (global.get $mark) (i64.const 0))
                (then (local.set $found (i64.add (local.get $found) (i64.const 1000000)))))
             (if (i32.eqz (ref.is_null (table.get $table (i32.const 3))))
                (then (local.set $found (i64.add (local.get $found) (i64.const 2000000)))))
             (global.set $mark (i64.const 81985529216486895))
             (table.set $table (i32.const 3) (ref.func $f))
             (memory.fill (i32.const 131072) (i32.const 165) (i32.const 4063232))
             (drop (memory.grow (i32.const 100)))
             (memory.fill (i32.const 4194304) (i32.const 165) (i32.const 6553600))
             {ending}"
        ))
    }
}

/// Everything in fresh memory, also in what it grows by.
const LOOKS: &str = "
    (local $at i32) (local $found i64)
    (drop (memory.grow (i32.const 200)))
    (local.set $at (i32.const 131072))
    (loop $more
        (if (i64.ne (i64.load (local.get $at)) (i64.const 0))
            (then (local.set $found (i64.add (local.get $found) (i64.const 1)))))
        (local.set $at (i32.add (local.get $at) (i32.const 8)))
        (br_if $more (i32.lt_u (local.get $at) (i32.mul (memory.size) (i32.const 65536)))))
    (call $number (local.get $found))";

#[tokio::test(flavor = "multi_thread")]
async fn t37_a_mark_in_memory_is_never_found_by_the_next_run() {
    let lab = Lab::new().await;
    let guest = lab
        .load(&marks("(call $number (local.get $found))").component())
        .await
        .unwrap();
    for _ in 0..40 {
        let run = lab.attack(&guest, "guest.run", Attack::default()).await;
        assert_eq!(value(&run), json!(0));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn t37_a_mark_is_not_found_after_a_trap_or_a_time_limit_either() {
    let lab = Lab::new().await;
    let trapping = lab.load(&marks("unreachable").component()).await.unwrap();
    let looping = lab
        .load(&marks("(loop $for-ever (br $for-ever)) unreachable").component())
        .await
        .unwrap();
    let honest = lab
        .load(&marks("(call $number (local.get $found))").component())
        .await
        .unwrap();
    for _ in 0..5 {
        failure(lab.attack(&trapping, "guest.run", Attack::default()).await);
        assert_eq!(
            value(&lab.attack(&honest, "guest.run", Attack::default()).await),
            json!(0)
        );
        super::assert_hard_limit(&lab.attack(&looping, "guest.run", Attack::endless()).await);
        assert_eq!(
            value(&lab.attack(&honest, "guest.run", Attack::default()).await),
            json!(0)
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn t38_fresh_memory_is_zero_after_another_tenant() {
    let lab = Lab::new().await;
    let marking = lab
        .load(&marks("(call $number (local.get $found))").component())
        .await
        .unwrap();
    let looking = Guest {
        memory: "(memory (export \"memory\") 2)",
        ..Guest::running(LOOKS)
    };
    let looking = lab.load(&looking.component()).await.unwrap();
    for _ in 0..40 {
        lab.attack(&marking, "guest.run", Attack::default()).await;
        assert_eq!(
            value(&lab.attack(&looking, "guest.run", Attack::default()).await),
            json!(0)
        );
    }
}
