//! T13, T15, T16 and T19: what a task prints, stores and sees.

use celerybox::sandbox::Limits;
use serde_json::json;

use super::{Attack, Lab, failure, value};

#[tokio::test(flavor = "multi_thread")]
async fn t15_a_flood_of_output_is_cut_off_and_the_task_goes_on() {
    let lab = Lab::with(Limits {
        output: 10_000,
        ..Limits::default()
    })
    .await;
    let run = lab
        .run_hostile("hostile.floods", Attack::with(json!([50_000_000])))
        .await;
    assert_eq!(value(&run), json!(50_000_000));
    assert!(
        run.output
            .ends_with("\n… output truncated (limit output: 10000 bytes)\n"),
        "{}",
        run.output.len()
    );
    assert!(run.output.len() < 10_100);
    let run = lab
        .run_hostile("hostile.floods", Attack::with(json!([5000])))
        .await;
    assert_eq!(run.output.replace('\n', "").len(), 10_000);
    assert!(!run.output.contains("truncated"));
}

#[tokio::test(flavor = "multi_thread")]
async fn t16_what_fools_terminals_and_logs_is_escaped() {
    let lab = Lab::new().await;
    let text = "\u{1b}[2J\u{1b}]0;owned\u{7}fine\rfake\u{202e}\u{2028}[ERROR] celery\n";
    let run = lab
        .run_hostile("hostile.prints", Attack::with(json!([text])))
        .await;
    assert_eq!(run.output.lines().count(), 1, "{:?}", run.output);
    assert!(
        !run.output.chars().any(|c| c != '\n' && c.is_control()),
        "{:?}",
        run.output
    );
    assert!(!run.output.contains(['\u{202e}', '\u{2028}']), "{:?}", run.output);
}

#[tokio::test(flavor = "multi_thread")]
async fn t19_there_is_nothing_to_see() {
    let lab = Lab::new().await;
    let seen = value(&lab.run_hostile("hostile.looks_around", Attack::default()).await);
    assert_eq!(
        seen,
        json!({
            "args": [], "env": [], "stdin": ["Some(0)", ""],
            "root": false, "here": false, "proc": false, "write": false,
        })
    );
    assert!(!std::path::Path::new("/tmp/celerybox-hostile").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn t13_states_are_bounded_and_the_workers_own_are_not_to_be_had() {
    let lab = Lab::with(Limits {
        state_updates: 10,
        ..Limits::default()
    })
    .await;
    let run = lab
        .run_hostile("hostile.updates", Attack::with(json!(["PROGRESS", 11])))
        .await;
    assert!(failure(run).repr().contains("limits.state_updates"));
    assert_eq!(lab.states().len(), 10);
    assert_eq!(lab.states()[9], ("PROGRESS".into(), "9".into()));
    for state in ["SUCCESS", "failure", "RETRY", "REVOKED", "STARTED", "\u{1b}[31m"] {
        let run = lab
            .run_hostile("hostile.updates", Attack::with(json!([state, 1])))
            .await;
        assert!(failure(run).repr().contains("not a name that a task may store"));
    }
    assert_eq!(lab.states().len(), 10);
}
