//! T01, T06 and T10: what only time ends.

use std::time::Duration;

use celerybox::outcome::Outcome;
use futures_util::future::join_all;
use serde_json::json;

use super::component::Guest;
use super::{Attack, HARD, LATE, Lab, assert_hard_limit, value};

const LOOP: &str = "(loop $for-ever (br $for-ever))";

#[tokio::test(flavor = "multi_thread")]
async fn t01_an_endless_loop_ends_at_the_hard_limit() {
    let lab = Lab::new().await;
    let guest = Guest::running("(loop $for-ever (br $for-ever)) unreachable");
    assert_hard_limit(&lab.run(&guest, Attack::endless()).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn t01_an_endless_loop_before_and_after_the_task_ends_too() {
    let lab = Lab::new().await;
    let guests = [
        // It must not loop when it is asked for its tasks, or it would not be loaded.
        Guest {
            realloc: LOOP,
            ..Guest::default()
        },
        Guest {
            post: LOOP,
            ..Guest::default()
        },
    ];
    for guest in guests {
        assert_hard_limit(
            &lab.run(
                &guest,
                Attack {
                    args: "[1]".into(),
                    ..Attack::endless()
                },
            )
            .await,
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn t01_an_endless_loop_in_the_start_function_is_not_loaded() {
    let lab = Lab::new().await;
    let guest = Guest {
        fields: "(func $start (loop $for-ever (br $for-ever))) (start $start)",
        ..Guest::default()
    };
    let error = lab.refused(&guest.component()).await.to_string();
    assert!(error.contains("longer than 5 s"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn t01_many_endless_loops_leave_room_for_others() {
    let lab = Lab::new().await;
    let guest = lab
        .load(&Guest::running("(loop $for-ever (br $for-ever)) unreachable").component())
        .await
        .unwrap();
    let loops: Vec<_> = (0..16)
        .map(|_| {
            let call = lab.call(
                &guest,
                "guest.run",
                &Attack {
                    hard: Some(3 * HARD),
                    ..Attack::default()
                },
            );
            let guest = std::sync::Arc::clone(&guest);
            tokio::spawn(async move { guest.run(call).await })
        })
        .collect();
    // All places are taken: who comes now waits for one, and does not fail.
    lab.ask_neighbour().await;
    for run in join_all(loops).await {
        let run = run.unwrap();
        assert_eq!(run.outcome, Outcome::TimeLimit((3 * HARD).as_secs_f64()));
        assert!(run.duration < 3 * HARD + LATE, "after {:?}", run.duration);
    }
    lab.is_well().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn t01_short_tasks_do_not_wait_for_endless_ones() {
    let lab = Lab::new().await;
    let guest = lab
        .load(&Guest::running("(loop $for-ever (br $for-ever)) unreachable").component())
        .await
        .unwrap();
    let loops: Vec<_> = (0..12)
        .map(|_| {
            let call = lab.call(
                &guest,
                "guest.run",
                &Attack {
                    hard: Some(4 * HARD),
                    ..Attack::default()
                },
            );
            let guest = std::sync::Arc::clone(&guest);
            tokio::spawn(async move { guest.run(call).await })
        })
        .collect();
    let mut waits = Vec::new();
    while !loops.iter().any(|run| run.is_finished()) {
        waits.push(lab.ask_neighbour().await);
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    join_all(loops).await;
    waits.sort();
    let median = waits[waits.len() / 2];
    assert!(waits.len() > 10, "the neighbour answered {} times", waits.len());
    assert!(
        median < Duration::from_millis(50),
        "the neighbour waited {median:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn the_soft_limit_is_seen_by_a_guest_that_listens() {
    let lab = Lab::new().await;
    let attack = Attack {
        soft: Some(Duration::from_millis(100)),
        ..Attack::default()
    };
    let run = lab.run_hostile("hostile.listens", attack.clone()).await;
    assert_eq!(value(&run), json!(true));
    assert!(run.duration >= Duration::from_millis(100), "{:?}", run.duration);
    // As an error it is told once.
    let run = lab.run_hostile("hostile.counts_soft_limits", attack).await;
    assert_eq!(value(&run), json!(1));
    assert_eq!(lab.states().len(), 99);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_knows_how_much_time_is_left() {
    let lab = Lab::new().await;
    let attack = Attack {
        hard: Some(Duration::from_secs(50)),
        soft: Some(Duration::from_secs(40)),
        ..Attack::default()
    };
    let left = value(&lab.run_hostile("hostile.time_left", attack).await);
    let seconds = |i: usize| left[i].as_f64().unwrap();
    assert!(
        (39.0..=40.0).contains(&seconds(0)) && (49.0..=50.0).contains(&seconds(1)),
        "{left}"
    );
    let none = Attack {
        hard: None,
        ..Attack::default()
    };
    assert_eq!(
        value(&lab.run_hostile("hostile.time_left", none).await),
        json!([null, null])
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn t06_filling_all_memory_again_and_again_ends_at_the_hard_limit() {
    let lab = Lab::new().await;
    let guest = Guest {
        memory: "(memory (export \"memory\") 1600)",
        ..Guest::running(
            "(loop $for-ever
                (memory.fill (i32.const 65536) (i32.const 7) (i32.const 104792064))
                (memory.copy (i32.const 65536) (i32.const 65537) (i32.const 104792063))
                (br $for-ever))
             unreachable",
        )
    };
    assert_hard_limit(&lab.run(&guest, Attack::endless()).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn t10_a_sleep_without_end_ends_at_the_hard_limit() {
    let lab = Lab::new().await;
    assert_hard_limit(&lab.run_hostile("hostile.sleeps", Attack::endless()).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_nobody_waits_for_any_more_leaves_nothing() {
    let lab = Lab::new().await;
    let guest = lab.hostile().await;
    let spinning = lab
        .load(&Guest::running("(loop $for-ever (br $for-ever)) unreachable").component())
        .await
        .unwrap();
    for (component, task) in [(&guest, "hostile.sleeps"), (&spinning, "guest.run")] {
        let run = component.run(lab.call(component, task, &Attack::default()));
        assert!(
            tokio::time::timeout(Duration::from_millis(50), run)
                .await
                .is_err()
        );
        lab.is_well().await;
    }
}
