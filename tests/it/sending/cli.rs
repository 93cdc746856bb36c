//! `celerybox call --signature`: canvases that Celery itself wrote down.

use std::io::Write;
use std::process::{Command, Stdio};

use celerybox_tests::{Place, celerybox, python};
use serde_json::json;

use super::{results, worker};

fn call(place: &Place, arguments: &[&str], input: &str) -> Result<Vec<String>, String> {
    let mut process = Command::new(celerybox())
        .arg("call")
        .args(place.arguments())
        .args(arguments)
        .current_dir(place.folder())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("it starts");
    process
        .stdin
        .take()
        .expect("a pipe")
        .write_all(input.as_bytes())
        .expect("it reads");
    let output = process.wait_with_output().expect("it ends");
    if !output.status.success() {
        return Err(String::from_utf8_lossy(&output.stderr).into_owned());
    }
    Ok(String::from_utf8_lossy(&output.stdout)
        .lines()
        .map(str::to_owned)
        .collect())
}

#[test]
fn signatures_of_real_celery_are_sent_from_a_file_and_from_standard_input() {
    let place = Place::redis();
    let _worker = worker(&place, json!({}));
    let signatures = python(&place, "sending.py", &["signatures"]);
    for (kind, expected) in [
        ("task", vec![json!(5)]),
        ("chain", vec![json!(20)]),
        ("group", vec![json!(2), json!(4), json!(6)]),
        ("chord", vec![json!(6)]),
    ] {
        let text = signatures[kind].to_string();
        let ids = call(&place, &["--signature", "-"], &text).unwrap();
        let ids: Vec<&str> = ids.iter().map(String::as_str).collect();
        assert_eq!(results(&place, &ids), expected, "{kind}");
        let file = place.folder().join(format!("{kind}.json"));
        std::fs::write(&file, &text).unwrap();
        let ids = call(&place, &["--signature", file.to_str().unwrap()], "").unwrap();
        assert_eq!(ids.len(), expected.len(), "{kind}");
    }
    let partial = json!({"task": "arithmetic.add", "args": [1]}).to_string();
    let ids = call(
        &place,
        &["--signature", "-", "-a", "[41]", "--countdown", "0.1"],
        &partial,
    )
    .unwrap();
    assert_eq!(results(&place, &[&ids[0]]), [json!(42)]);
}

#[test]
fn what_is_no_signature_is_refused() {
    let place = Place::files();
    for (arguments, input, part) in [
        (vec!["--signature", "-"], "[]", "signature"),
        (vec!["--signature", "-"], "{", "not JSON"),
        (vec!["--signature", "no-such-file"], "", "no-such-file"),
        (vec!["--signature", "-", "a.task"], "{}", "cannot be used with"),
        (vec![], "", "required"),
    ] {
        let error = call(&place, &arguments, input).unwrap_err();
        assert!(error.contains(part), "{arguments:?}: {error}");
    }
}
