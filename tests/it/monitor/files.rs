//! The dashboard and the alerts speak of metrics that there are.

use std::collections::BTreeSet;

use celerybox_tests::{Place, python};
use serde_json::json;

use super::metrics::one_of_everything;
use super::watched;

/// The names that a scrape can find: each line's, without labels.
fn exposed(text: &str) -> BTreeSet<String> {
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    lines
        .filter_map(|line| line.split(['{', ' ']).next().map(str::to_owned))
        .collect()
}

#[test]
fn dashboard_and_alerts_load_and_name_metrics_that_there_are() {
    let place = Place::redis();
    let (_worker, address) = watched(&place, json!({}), &["-c", "2"]);
    let exposed = exposed(&one_of_everything(&place, address));
    // Prometheus's files are YAML; the script loads both and prints the names in their expressions.
    let named = python(&place, "watched_files.py", &[]);
    for file in ["dashboard", "alerts"] {
        let names: Vec<&str> = named[file]
            .as_array()
            .unwrap()
            .iter()
            .filter_map(|name| name.as_str())
            .collect();
        assert!(names.len() >= 5, "{file}: {names:?}");
        for name in names {
            assert!(
                exposed.contains(name),
                "{file} names {name}, which is none of {exposed:?}"
            );
        }
    }
}
