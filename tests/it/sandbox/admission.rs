//! T05, T30, T31, T33 and T35: what is not even loaded.

use std::time::{Duration, Instant};

use celerybox::sandbox::{Limits, LoadError, Sandbox};

use super::component::Guest;
use super::{Attack, Lab, value};

#[tokio::test(flavor = "multi_thread")]
async fn t05_and_t33_components_of_refused_proposals_are_refused() {
    let lab = Lab::new().await;
    for (what, module) in [
        (
            "garbage collection",
            "(type $a (array (mut i8))) (func (drop (array.new_default $a (i32.const 9))))",
        ),
        ("garbage collection", "(func (drop (ref.i31 (i32.const 1))))"),
        ("exceptions", "(tag $e) (func (throw $e))"),
        ("threads", "(memory 1 1 shared)"),
        (
            "threads",
            "(memory 1) (func (drop (i32.atomic.rmw.add (i32.const 0) (i32.const 1))))",
        ),
        ("64-bit memory", "(memory i64 1)"),
        ("several memories", "(memory 1) (memory 1)"),
        ("small pages", "(memory 1 (pagesize 1))"),
        (
            "stack switching",
            "(type $f (func)) (type $k (cont $f)) (func $g) (elem declare func $g) (func (drop (cont.new $k (ref.func $g))))",
        ),
    ] {
        let text = format!("(component (core module $m {module}) (core instance (instantiate $m)))");
        let bytes = wat::parse_str(&text).unwrap_or_else(|error| panic!("{what}: {error}"));
        let error = lab.refused(&bytes).await;
        assert!(matches!(&error, LoadError::Invalid(_)), "{what}: {error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn t30_a_large_file_is_not_read_to_its_end() {
    let lab = Lab::with(Limits {
        component_size: 1_000_000,
        ..Limits::default()
    })
    .await;
    let file = lab.folder().join("large.wasm");
    // A terabyte, as far as the file system says.
    std::fs::File::create(&file).unwrap().set_len(1 << 40).unwrap();
    let started = Instant::now();
    let error = lab.sandbox().load(&file).await.unwrap_err();
    assert!(matches!(error, LoadError::TooLarge(1_000_000)), "{error}");
    assert!(started.elapsed() < Duration::from_secs(2));
    lab.is_well().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn t31_and_t33_only_components_in_the_binary_format_are_taken() {
    let lab = Lab::new().await;
    let machine_code = compiled(&lab).await;
    let own = std::fs::read(std::env::current_exe().unwrap()).unwrap();
    for (bytes, part) in [
        (b"(component)".to_vec(), "not a WebAssembly component"),
        (Vec::new(), "not a WebAssembly component"),
        (wat::parse_str("(module)").unwrap(), "core module"),
        (machine_code, "machine code"),
        (own.get(..4096).unwrap().to_vec(), "not a WebAssembly component"),
    ] {
        let error = lab.refused(&bytes).await;
        assert!(matches!(&error, LoadError::NotAComponent(_)), "{error}");
        assert!(error.to_string().contains(part), "{error}");
    }
}

/// Code that wasmtime made, out of a cache's file: it is behind 8 bytes that say so and a HMAC of 32.
async fn compiled(lab: &Lab) -> Vec<u8> {
    let cache = lab.folder().join("cache");
    let sandbox = Sandbox::new(Limits::default(), 1, Some(cache.clone())).unwrap();
    sandbox
        .load(&lab.file(&Guest::default().component()))
        .await
        .unwrap();
    let mut files = std::fs::read_dir(cache)
        .unwrap()
        .map(|entry| entry.unwrap().path());
    let file = files.find(|file| file.extension().is_some_and(|extension| extension == "code"));
    std::fs::read(file.unwrap()).unwrap().split_off(8 + 32)
}

#[tokio::test(flavor = "multi_thread")]
async fn t35_an_import_that_is_not_granted_is_refused_by_its_name() {
    let lab = Lab::new().await;
    let sockets = Guest {
        imports: r#"(import "wasi:sockets/instance-network@0.2.6" "instance-network" (func $network (result i32)))"#,
        ..Guest::running("(drop (call $network)) unreachable")
    };
    let error = lab.refused(&sockets.component()).await.to_string();
    assert!(
        error.starts_with(
            "imports wasi:sockets/instance-network@0.2.6, which is not granted; to grant it, write"
        ),
        "{error}"
    );
    let evil = Guest {
        imports: r#"(import "evil:host/power@1.0.0" "seize" (func $seize))"#,
        ..Guest::running("(call $seize) unreachable")
    };
    let error = lab.refused(&evil.component()).await.to_string();
    assert_eq!(error, "imports evil:host/power@1.0.0, which is not granted");
    // The name of something granted, but another type.
    let changed =
        r#"(component (import "wasi:cli/exit@0.2.6" (instance (export "exit" (func (param "a" string))))))"#;
    let error = lab.refused(&wat::parse_str(changed).unwrap()).await;
    assert!(matches!(&error, LoadError::Invalid(_)), "{error}");
    assert!(error.to_string().contains("wasi:cli/exit"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_granted_is_an_answer_and_not_a_trap() {
    let lab = Lab::new().await;
    // result<_, error> at 2048: discriminant, then the error's variant; 2 is denied.
    let guest = Guest {
        imports: r#"(import "celerybox:task/publisher@0.1.0" "replace" (func $replace (param i32 i32 i32)))"#,
        ..Guest::running(
            "(call $replace (i32.const 0) (i32.const 0) (i32.const 2048))
             (call $number (i64.extend_i32_u (i32.add
                (i32.mul (i32.load8_u (i32.const 2048)) (i32.const 10)) (i32.load8_u (i32.const 2052)))))",
        )
    };
    assert_eq!(
        value(&lab.run(&guest, Attack::default()).await),
        serde_json::json!(12)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn random_bytes_are_bounded() {
    let lab = Lab::new().await;
    let asks = |bytes: u64| Guest {
        imports: r#"(import "wasi:random/random@0.2.6" "get-random-bytes" (func $random (param i64 i32)))"#,
        ..Guest::running(&format!(
            "(call $random (i64.const {bytes}) (i32.const 2048))
             (call $number (i64.extend_i32_u (i32.load (i32.const 2052))))"
        ))
    };
    assert_eq!(
        value(&lab.run(&asks(65536), Attack::default()).await),
        serde_json::json!(65536)
    );
    let run = lab.run(&asks(65537), Attack::default()).await;
    super::assert_fails(run, "RuntimeError", "exceeds limit");
}
