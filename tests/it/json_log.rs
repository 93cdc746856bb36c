//! `--log-format json`: a log for programs.

use celerybox_tests::{Place, Worker, eventually, send};
use serde_json::{Value, json};

#[test]
fn each_record_is_an_object_that_names_its_task() {
    let place = Place::redis();
    let worker = Worker::command_started(
        &place,
        &json!({"limits": {"output": 30}}),
        &["--log-format", "json"],
    );
    let ids = send(&place, "arithmetic.add", 1, &json!([2, 3]), &json!({}));
    let text = "one\ntwo \u{1b}[2J\u{7} and much that is too much";
    let printed = send(&place, "probe.print", 1, &json!([text]), &json!({}));
    let forged = json!({"shadow": "a\"}\n{\"level\": \"forged\"}"});
    let failed = send(&place, "probe.fail", 1, &json!(["no"]), &forged);
    eventually("all are done", || {
        worker.count_lines("succeeded in") == 2 && worker.count_lines("raised unexpected") == 1
    });
    let lines = worker.lines();
    let first = lines.iter().position(|line| line.starts_with('{')).unwrap();
    let records: Vec<Value> = lines[first..]
        .iter()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}")))
        .collect();
    assert!(
        records
            .iter()
            .any(|record| record["message"].as_str().unwrap().ends_with("ready."))
    );
    let of = |id: &str, text: &str| {
        let found = records
            .iter()
            .find(|record| record["task_id"] == id && record["message"].as_str().unwrap().contains(text));
        found
            .unwrap_or_else(|| panic!("{id} {text}: {records:#?}"))
            .clone()
    };
    // Celery's phrases are the messages.
    let received = of(&ids[0], "received");
    assert_eq!(
        received["message"],
        format!("Task arithmetic.add[{}] received", ids[0])
    );
    assert_eq!(
        (&received["level"], &received["task_name"]),
        (&json!("INFO"), &json!("arithmetic.add"))
    );
    let succeeded = of(&ids[0], " succeeded in ");
    assert!(
        succeeded["message"].as_str().unwrap().ends_with("s: 5"),
        "{succeeded}"
    );
    assert!(succeeded["runtime"].as_f64().unwrap() > 0.0);
    // What a guest printed is a field, safe to show and bounded.
    let output = of(&printed[0], "probe.print");
    let shown = records
        .iter()
        .find_map(|record| record["output"].as_str())
        .unwrap_or_else(|| panic!("{output}"));
    assert!(shown.starts_with("one\ntwo \\u{1b}[2J\\u{7}"), "{shown:?}");
    assert!(
        shown.contains("output truncated (limit output: 30 bytes)"),
        "{shown:?}"
    );
    // A name cannot write a record of its own.
    let raised = of(&failed[0], "raised unexpected");
    assert_eq!(raised["level"], "ERROR");
    assert_eq!(raised["task_name"], forged["shadow"]);
    assert!(records.iter().all(|record| record["level"] != "forged"));
}
