//! The SDK: its signatures are those of the Celery that is installed, and a component imports only what it uses.

use std::process::Command;

use celerybox::sandbox::{Limits, Sandbox};
use celerybox_tests::{root, tasks, venv_python};

#[test]
fn the_signatures_that_the_sdk_is_compared_with_are_celerys() {
    let folder = root().join("guest-sdk/rust/tests/canvas");
    let made = Command::new(venv_python())
        .arg(folder.join("make.py"))
        .output()
        .expect("the interpreter starts");
    let errors = String::from_utf8_lossy(&made.stderr);
    assert!(made.status.success(), "{errors}");
    let expected = std::fs::read_to_string(folder.join("signatures.jsonl")).expect("the file");
    assert_eq!(String::from_utf8_lossy(&made.stdout), expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn only_a_component_that_sends_imports_the_publisher() {
    let sandbox = Sandbox::new(Limits::default(), 1, None).expect("a sandbox");
    for (name, sends) in [("arithmetic", false), ("progress", false), ("workflow", true)] {
        let component = sandbox
            .load(&tasks().join(format!("{name}.wasm")))
            .await
            .expect("a component");
        for interface in ["publisher", "results"] {
            let wanted = format!("celerybox:task/{interface}@");
            let imported = component
                .imports()
                .iter()
                .any(|import| import.starts_with(&wanted));
            assert_eq!(imported, sends, "{name} {interface}: {:?}", component.imports());
        }
    }
}
