//! The table "What of Celery works" in the README: every setting, option, environment variable, signal, header and
//! property of the contract, and what becomes of it. It is made from the code and from `tests/cases/compliance.json`,
//! which also names the test that shows each thing that works.
//!
//! After a change: `CELERYBOX_UPDATE_README=1 cargo test -p celerybox -p celerybox-tests --test it compliance`.

use std::collections::BTreeMap;
use std::fmt::Write;

use celerybox::broker::options::COMMON;
use celerybox::broker::{amqp, filesystem, redis};
use celerybox::cli::worker_options;
use celerybox::config::SETTINGS;
use celerybox::config::elsewhere::{ELSEWHERE, Reason};
use celerybox_tests::root;
use serde_json::Value;

const BEGIN: &str = "<!-- compliance: made by tests/it/compliance.rs -->\n";
const END: &str = "<!-- compliance: end -->\n";

/// The data file: for each part of the table, what each name has.
fn cases() -> BTreeMap<String, BTreeMap<String, Value>> {
    let text = std::fs::read_to_string(root().join("tests/cases/compliance.json")).unwrap();
    serde_json::from_str(&text).unwrap()
}

/// Checks that a test exists that is named as `path: function`.
fn shown_by(test: &Value, of: &str) {
    let test = test.as_str().unwrap_or_else(|| panic!("{of}: no test is named"));
    let (path, function) = test.split_once(": ").unwrap_or_else(|| panic!("{of}: {test:?}"));
    let source =
        std::fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{of}: {path}: {error}"));
    let found = [format!("fn {function}("), format!("def {function}(")]
        .iter()
        .any(|definition| source.contains(definition));
    assert!(found, "{of}: {path} has no test {function}");
}

fn row(out: &mut String, name: &str, state: &str, what: &str) {
    let what = what.trim().replace('|', "\\|");
    writeln!(out, "| `{name}` | {state} | {what} |").unwrap();
}

fn part(out: &mut String, title: &str) {
    writeln!(out, "\n**{title}**\n\n| | | |\n|---|---|---|").unwrap();
}

const WORKS: &str = "works";
const NOT_APPLICABLE: &str = "not applicable";
const NOT_YET: &str = "not yet";

/// The table as it has to be.
fn table() -> String {
    let cases = cases();
    let tests = |part: &str| cases.get(part).unwrap_or_else(|| panic!("no part {part:?}"));
    let mut out = String::new();

    part(&mut out, "Settings");
    let of_settings = tests("settings");
    let mut rows = BTreeMap::new();
    for (name, what) in SETTINGS {
        shown_by(of_settings.get(*name).unwrap_or(&Value::Null), name);
        rows.insert(*name, (WORKS, *what));
    }
    for name in of_settings.keys() {
        assert!(rows.contains_key(name.as_str()), "{name} is no setting");
    }
    for (name, reason) in ELSEWHERE {
        let (state, what) = match reason {
            Reason::NotApplicable(why) => (NOT_APPLICABLE, *why),
            Reason::NotYet(why) => (NOT_YET, *why),
        };
        assert!(
            rows.insert(name, (state, what)).is_none(),
            "{name} is in both tables"
        );
    }
    for (name, (state, what)) in rows {
        row(&mut out, name, state, what);
    }

    part(&mut out, "Options of `worker`");
    let of_options = tests("options");
    for option in worker_options() {
        if option.works {
            shown_by(of_options.get(&option.name).unwrap_or(&Value::Null), &option.name);
        }
        let state = if option.works { WORKS } else { NOT_APPLICABLE };
        row(&mut out, &option.name, state, &option.help.replace('\n', " "));
    }

    part(&mut out, "Transport options of every broker");
    for (name, why) in COMMON {
        row(&mut out, name, NOT_APPLICABLE, why);
    }

    for (key, title, names) in [
        ("redis", "Transport options of Redis", redis::NAMES),
        ("amqp", "Transport options of AMQP", amqp::NAMES),
        (
            "filesystem",
            "Transport options of `filesystem://`",
            filesystem::NAMES,
        ),
    ] {
        part(&mut out, title);
        let named = tests(key);
        for name in names.works {
            shown_by(named.get(*name).unwrap_or(&Value::Null), name);
            row(&mut out, name, WORKS, "");
        }
        for (name, why) in names.ignored {
            row(&mut out, name, NOT_APPLICABLE, why);
        }
    }

    for (key, title) in [
        ("queues", "Options of a queue"),
        ("environment", "Environment"),
        ("signals", "Signals"),
        ("messages", "Messages"),
        ("headers", "Headers"),
        ("properties", "Properties"),
        ("body", "Body"),
        ("states", "States and endings"),
    ] {
        part(&mut out, title);
        for (name, entry) in tests(key) {
            let text = |field: &str| entry.get(field).and_then(Value::as_str).unwrap_or_default();
            let state = text("state");
            assert!(
                [WORKS, NOT_APPLICABLE, NOT_YET].contains(&state),
                "{key} {name}: {state:?}"
            );
            if state == WORKS {
                shown_by(entry.get("test").unwrap_or(&Value::Null), name);
            } else {
                assert!(!text("what").is_empty(), "{key} {name}: say why");
            }
            row(&mut out, name, state, text("what"));
        }
    }
    out
}

#[test]
fn the_readme_says_of_each_part_of_the_contract_what_becomes_of_it() {
    let path = root().join("README.md");
    let readme = std::fs::read_to_string(&path).unwrap();
    let (before, rest) = readme
        .split_once(BEGIN)
        .expect("the README has the table's begin");
    let (found, after) = rest.split_once(END).expect("the README has the table's end");
    let table = table();
    if std::env::var_os("CELERYBOX_UPDATE_README").is_some() {
        std::fs::write(&path, format!("{before}{BEGIN}{table}{END}{after}")).unwrap();
        return;
    }
    assert!(
        found == table,
        "the table of the README is not what the code does; run this test with CELERYBOX_UPDATE_README=1"
    );
}
