//! Random workflows, with failures in them, come to the same with our worker as with a real Celery worker: which tasks ran,
//! how often and for whom, their results, states, errors and `children`, and what nothing ever came of. Every node of every
//! workflow is compared.

use std::collections::BTreeSet;

use celerybox_tests::{Place, Worker, python};
use serde_json::{Value, json};

/// Starts the workers of a place.
type Start = fn(&Place) -> Vec<Worker>;

fn settings() -> Value {
    json!({
        "worker_prefetch_multiplier": 1,
        "result_extended": true,
        "worker_send_task_events": true,
        "component": {"sender": {"send_to": {"queues": ["celery"], "tasks": ["*"]}}},
    })
}

fn ours(place: &Place) -> Vec<Worker> {
    vec![Worker::start(place, &settings(), &["-c", "4"])]
}

fn theirs(place: &Place) -> Vec<Worker> {
    vec![Worker::python(place, &settings(), &["-c", "2"])]
}

fn both(place: &Place) -> Vec<Worker> {
    vec![
        Worker::start(place, &settings(), &["-c", "1", "-n", "ours@test"]),
        Worker::python(place, &settings(), &["-c", "1", "-n", "theirs@test"]),
    ]
}

/// What becomes of so many workflows from `seed` on.
fn came(place: &Place, start: Start, seed: u32, number: u32) -> Value {
    let _workers = start(place);
    python(place, "workflows.py", &[&seed.to_string(), &number.to_string()])
}

/// The nodes of a workflow, none where there is no such workflow.
fn nodes(came: &Value, workflow: &str) -> serde_json::Map<String, Value> {
    came["workflows"][workflow]
        .as_object()
        .cloned()
        .unwrap_or_default()
}

/// Compares the workflows of `ours` with those of Celery that have the same seeds.
fn compare(what: &str, ours: &Value, theirs: &Value, seed: u32, number: u32) {
    let mut differ = Vec::new();
    for workflow in (seed..seed + number).map(|each| format!("w{each}")) {
        let (ours, theirs) = (nodes(ours, &workflow), nodes(theirs, &workflow));
        assert!(!theirs.is_empty(), "{workflow} left nothing");
        let names: BTreeSet<&String> = ours.keys().chain(theirs.keys()).collect();
        for name in names {
            let (ours, theirs) = (ours.get(name), theirs.get(name));
            if ours != theirs {
                let text = |node: Option<&Value>| node.map_or("nothing".to_owned(), Value::to_string);
                differ.push(format!(
                    "{name}\n  {}\n  {} with Celery",
                    text(ours),
                    text(theirs)
                ));
            }
        }
    }
    // What belongs to no workflow would be compared with nothing.
    let workflows = ours["workflows"].as_object().unwrap().len();
    assert_eq!(workflows, usize::try_from(number).unwrap(), "{what}");
    assert!(
        differ.is_empty(),
        "{what}: {} nodes differ:\n{}",
        differ.len(),
        differ.join("\n")
    );
}

/// The same workflows with each of these fleets and with Celery, all at the same time; `least` is how much of what they must
/// have held with Celery, so that the comparison is not one of nothing.
fn same(fleets: &[(&str, Place, Start, u32)], seed: u32, number: u32, least: &[(&str, u64)]) {
    std::thread::scope(|scope| {
        let running: Vec<_> = fleets
            .iter()
            .map(|(what, place, start, number)| {
                (
                    *what,
                    *number,
                    scope.spawn(move || came(place, *start, seed, *number)),
                )
            })
            .collect();
        let theirs = came(&Place::redis(), theirs, seed, number);
        for (kind, least) in least {
            let count = theirs["counts"][*kind].as_u64().unwrap_or(0);
            assert!(count >= *least, "only {count} {kind}");
        }
        for (what, number, came) in running {
            compare(what, &came.join().unwrap(), &theirs, seed, number);
        }
    });
}

#[test]
fn random_workflows_come_to_the_same_as_with_celery() {
    let fleets = [
        ("ours", Place::redis(), ours as Start, 60),
        ("ours and Celery's", Place::redis(), both as Start, 30),
        ("ours on RabbitMQ", Place::amqp(), ours as Start, 20),
    ];
    let least = [
        ("tasks", 400),
        ("failures", 110),
        ("chord errors", 30),
        ("never run", 40),
        ("task-retried", 40),
        ("replaced", 10),
    ];
    same(&fleets, 1, 60, &least);
}

/// `CELERYBOX_SEED` and `CELERYBOX_SEEDS` choose others; a hundred at a time.
#[test]
#[ignore = "takes long"]
fn many_random_workflows_come_to_the_same_as_with_celery() {
    let number = |name: &str, default: u32| std::env::var(name).map_or(default, |text| text.parse().unwrap());
    let (seed, seeds) = (number("CELERYBOX_SEED", 1000), number("CELERYBOX_SEEDS", 400));
    for first in (seed..seed + seeds).step_by(100) {
        let fleets = [
            ("ours", Place::redis(), ours as Start, 100),
            ("ours and Celery's", Place::redis(), both as Start, 100),
            ("both on RabbitMQ", Place::amqp(), both as Start, 100),
        ];
        same(&fleets, first, 100, &[("tasks", 500)]);
    }
}
