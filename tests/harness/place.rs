use std::path::{Path, PathBuf};

/// The repository's top folder.
pub fn root() -> PathBuf {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR"));
    tests.parent().unwrap_or(tests).to_path_buf()
}

/// The binary under test: `CELERYBOX_BIN`, or what cargo built beside the running test.
pub fn celerybox() -> PathBuf {
    if let Some(named) = std::env::var_os("CELERYBOX_BIN") {
        return named.into();
    }
    let test = std::env::current_exe().expect("the running test has a path");
    let built = test.ancestors().nth(2).map(|profile| profile.join("celerybox"));
    existing(
        built.unwrap_or_default(),
        "make test (or cargo build -p celerybox)",
    )
}

/// The folder of the example tasks as components.
pub fn tasks() -> PathBuf {
    existing(root().join(".build/tasks"), "make guests")
}

/// The folder of the hostile and odd test guests as components.
pub fn guests() -> PathBuf {
    existing(root().join(".build/guests"), "make guests")
}

/// The interpreter of the environment with real Celery.
pub fn venv_python() -> PathBuf {
    existing(root().join(".build/venv/bin/python"), "make python")
}

/// The interpreter of the environment with an old line of Celery, `4.4` for example.
pub(crate) fn venv_python_of(line: &str) -> PathBuf {
    existing(
        root().join(format!(".build/venv-{line}/bin/python")),
        "make python",
    )
}

/// A server's program: on the `PATH`, or where Debian puts servers, which is not on everybody's `PATH`.
pub(crate) fn program(name: &str) -> PathBuf {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/sbin".into(), "/usr/local/sbin".into()])
        .map(|folder| folder.join(name))
        .find(|file| file.is_file())
        .unwrap_or_else(|| panic!("{name} is missing; run: make servers"))
}

fn existing(path: PathBuf, how: &str) -> PathBuf {
    assert!(path.exists(), "{} is missing; run: {how}", path.display());
    path
}
