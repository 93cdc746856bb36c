//! Loading a folder, and the compiled code on disk.

use std::path::PathBuf;
use std::sync::Arc;

use celerybox::sandbox::registry::load_all;
use celerybox::sandbox::{Limits, LoadError, Sandbox};
use celerybox_tests::tasks;
use serde_json::json;

use super::component::Guest;
use super::{Attack, Lab, value};

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_serves_without_its_broken_components() {
    let lab = Lab::new().await;
    let folder = lab.folder().join("tasks");
    std::fs::create_dir(&folder).unwrap();
    let write = |name: &str, bytes: &[u8]| std::fs::write(folder.join(name), bytes).unwrap();
    let named = |task: &'static str| {
        Guest {
            task,
            ..Guest::default()
        }
        .component()
    };
    write("a.wasm", &named("one.run"));
    write("b.wasm", b"torn");
    write("c.wasm", &named("two.run"));
    write("d.wasm", &named("one.run"));
    write("notes.txt", b"not a component, and not asked for");
    let missing = lab.folder().join("missing.wasm");
    let registry = load_all(lab.sandbox(), &[folder.clone(), missing.clone()], false).await;

    assert_eq!(registry.names().collect::<Vec<_>>(), ["one.run", "two.run"]);
    let components: Vec<_> = registry
        .components()
        .iter()
        .map(|component| component.name())
        .collect();
    assert_eq!(components, ["a", "c"]);
    let (component, definition) = registry.get("two.run").unwrap();
    assert_eq!((component.name(), definition.name.as_str()), ("c", "two.run"));
    assert!(registry.get("three.run").is_none());

    let mut broken: Vec<(PathBuf, String)> = registry
        .broken()
        .iter()
        .map(|(path, error)| (path.clone(), error.to_string()))
        .collect();
    broken.sort();
    let paths: Vec<_> = broken.iter().map(|(path, _)| path.clone()).collect();
    assert_eq!(paths, [missing, folder.join("b.wasm"), folder.join("d.wasm")]);
    let duplicate = &broken[2].1;
    assert!(
        duplicate.contains("one.run") && duplicate.contains("a.wasm"),
        "{duplicate}"
    );
    lab.is_well().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_example_tasks_load_and_one_of_them_adds() {
    let lab = Lab::new().await;
    let registry = load_all(lab.sandbox(), &[tasks()], false).await;
    assert!(registry.broken().is_empty(), "{:?}", registry.broken());
    let (arithmetic, _) = registry.get("arithmetic.add").unwrap();
    let run = lab
        .attack(&arithmetic, "arithmetic.add", Attack::with(json!([2, 3])))
        .await;
    assert_eq!(value(&run), json!(5));
}

#[tokio::test(flavor = "multi_thread")]
async fn t31_compiled_code_is_used_again_and_never_when_it_was_altered() {
    let lab = Lab::new().await;
    let file = lab.file(&Guest::default().component());
    let cache = lab.folder().join("cache");
    let load = async || {
        let sandbox = Sandbox::new(Limits::default(), 4, Some(cache.clone())).unwrap();
        let component = Arc::new(sandbox.load(&file).await.unwrap());
        let run = component
            .run(lab.call(&component, "guest.run", &Attack::with(json!([7]))))
            .await;
        assert_eq!(value(&run), json!([7]));
    };
    let code = || {
        let entries = std::fs::read_dir(&cache)
            .unwrap()
            .map(|entry| entry.unwrap().path());
        let code: Vec<PathBuf> = entries
            .filter(|path| path.extension().is_some_and(|e| e == "code"))
            .collect();
        assert_eq!(code.len(), 1, "{code:?}");
        code.into_iter().next().unwrap()
    };
    load().await;
    let first = std::fs::metadata(code()).unwrap().modified().unwrap();
    load().await;
    assert_eq!(
        std::fs::metadata(code()).unwrap().modified().unwrap(),
        first,
        "it was compiled again"
    );

    let good = std::fs::read(code()).unwrap();
    for damaged in [good[..good.len() / 2].to_vec(), {
        let mut bytes = good.clone();
        let at = bytes.len() / 2;
        bytes[at] ^= 0x80;
        bytes
    }] {
        std::fs::write(code(), &damaged).unwrap();
        load().await;
        let again = std::fs::read(code()).unwrap();
        assert_ne!(again, damaged, "it is replaced");
        assert_eq!(again.len(), good.len());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn more_places_than_there_are_addresses_is_an_error_with_a_hint() {
    let error = match Sandbox::new(Limits::default(), 60_000, None) {
        Ok(_) => panic!("60,000 memories of 4 GiB fit into a process"),
        Err(error) => error.to_string(),
    };
    assert!(
        error.contains("60000 sandboxes") && error.contains("lower the concurrency"),
        "{error}"
    );
    let missing = Lab::new()
        .await
        .sandbox()
        .load("/nowhere.wasm".as_ref())
        .await
        .unwrap_err();
    assert!(matches!(missing, LoadError::Read(_)), "{missing}");
}
