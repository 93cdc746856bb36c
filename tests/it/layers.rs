//! The lines of `host/README.md`, section Layers: which module may use which, and who names an outside package.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// The layer of each top-level module of the host.
const LAYERS: [(&str, u8); 31] = [
    ("builtin", 0),
    ("clock", 0),
    ("masked", 0),
    ("nearest", 0),
    ("queue", 0),
    ("tls", 0),
    ("message", 0),
    ("task", 0),
    ("outcome", 0),
    ("document", 0),
    ("policy", 0),
    ("canvas", 0),
    ("settle", 0),
    ("broker", 1),
    ("backend", 1),
    ("redis_link", 1),
    ("redis_url", 1),
    ("sandbox", 1),
    ("shutdown", 1),
    ("happening", 1),
    ("events", 1),
    ("metrics", 1),
    ("trace", 1),
    ("state_db", 1),
    ("execution", 2),
    ("control", 2),
    ("gossip", 2),
    ("monitor", 3),
    ("worker", 3),
    ("config", 3),
    ("cli", 4),
];

/// Packages that only some places may name.
const NAMED_BY: [(&str, &[&str]); 10] = [
    ("wasmtime", &["sandbox/"]),
    ("wasmtime_wasi", &["sandbox/"]),
    ("lapin", &["broker/amqp"]),
    (
        "redis",
        &["broker/redis", "backend/redis", "redis_link", "redis_url"],
    ),
    (
        "cap_std",
        &["broker/filesystem", "backend/filesystem", "sandbox/cache"],
    ),
    ("anyhow", &["cli/", "main.rs"]),
    ("prometheus_client", &["metrics/"]),
    ("hyper", &["monitor/", "trace/"]),
    ("hyper_util", &["monitor/", "trace/"]),
    ("opentelemetry", &["trace/"]),
];

/// The code of every source file of the host, without comments and tests, by its path below `host/src`.
fn sources() -> BTreeMap<PathBuf, String> {
    fn walk(folder: &Path, root: &Path, found: &mut BTreeMap<PathBuf, String>) {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                walk(&path, root, found);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = std::fs::read_to_string(&path).unwrap();
                let code = text.split("#[cfg(test)]").next().unwrap_or_default();
                let lines = code.lines().filter(|line| !line.trim_start().starts_with("//"));
                let path = path.strip_prefix(root).unwrap().to_owned();
                found.insert(path, lines.collect::<Vec<_>>().join("\n"));
            }
        }
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../host/src");
    let mut found = BTreeMap::new();
    walk(&root, &root, &mut found);
    assert!(
        found.len() > 20,
        "the sources of the host are not where they were"
    );
    found
}

/// The words that follow `prefix` in `code`.
fn words_after<'a>(code: &'a str, prefix: &str) -> Vec<&'a str> {
    let word = |rest: &'a str| rest.split(|c: char| !c.is_alphanumeric() && c != '_').next();
    code.split(prefix)
        .skip(1)
        .filter_map(word)
        .filter(|word| !word.is_empty())
        .collect()
}

#[test]
fn a_lower_layer_never_uses_a_higher_one() {
    let layer = |module: &str| {
        LAYERS
            .iter()
            .find(|(name, _)| *name == module)
            .map(|(_, layer)| *layer)
    };
    let mut wrong = Vec::new();
    for (path, code) in sources() {
        let first = path.components().next().unwrap();
        let module = Path::new(first.as_os_str())
            .file_stem()
            .unwrap()
            .to_str()
            .unwrap();
        if matches!(module, "lib" | "main") {
            continue;
        }
        let own = layer(module).unwrap_or_else(|| panic!("{module} has no layer in this test"));
        for used in words_after(&code, "crate::") {
            if layer(used).is_some_and(|used| used > own) {
                wrong.push(format!("{} (layer {own}) uses crate::{used}", path.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn only_its_adapter_names_an_outside_package() {
    let mut wrong = Vec::new();
    for (path, code) in sources() {
        let path = path.to_str().unwrap();
        for (package, places) in NAMED_BY {
            let own = places.iter().any(|place| path.starts_with(place));
            let named = [
                format!("use {package}::"),
                format!("use {package};"),
                format!(" {package}::"),
            ]
            .iter()
            .any(|text| code.contains(text) && !code.contains(&format!("self, {package}")));
            // Modules of ours are called redis too; what is imported from the crate root is one of those.
            let ours =
                code.contains(&format!("::{package}::{{self")) || code.contains(&format!("::{package};"));
            if named && !own && !ours {
                wrong.push(format!("{path} names {package}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn unsafe_code_is_in_the_one_audited_place() {
    let named = sources()
        .into_iter()
        .filter(|(_, code)| code.contains("unsafe {") || code.contains("allow(unsafe"));
    let places: Vec<PathBuf> = named.map(|(path, _)| path).collect();
    assert_eq!(places, [Path::new("sandbox/cache.rs")]);
}
