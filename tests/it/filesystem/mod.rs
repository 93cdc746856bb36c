//! The filesystem broker and result backend.

mod conformance;

use std::path::{Path, PathBuf};

use celerybox::broker::filesystem::{FilesystemBroker, Options};
use tempfile::TempDir;

/// A folder with everything a filesystem broker needs, gone after the test.
pub(crate) struct Folder {
    path: TempDir,
}

impl Folder {
    pub(crate) fn new() -> Self {
        Self {
            path: tempfile::tempdir().unwrap(),
        }
    }

    pub(crate) fn path(&self) -> &Path {
        self.path.path()
    }

    /// Where the messages are.
    pub(crate) fn messages(&self) -> PathBuf {
        self.path().join("queue")
    }

    pub(crate) fn options(&self) -> Options {
        Options {
            data_folder_in: self.messages(),
            data_folder_out: self.messages(),
            control_folder: self.path().join("control"),
            processed_folder: self.path().join("processed"),
            ..Options::default()
        }
    }

    pub(crate) fn broker(&self) -> FilesystemBroker {
        FilesystemBroker::new(&self.options()).unwrap()
    }

    /// Names in a folder, sorted; none when it does not exist.
    pub(crate) fn names(&self, folder: &str) -> Vec<String> {
        let Ok(entries) = std::fs::read_dir(self.path().join(folder)) else {
            return Vec::new();
        };
        let mut names: Vec<String> = entries
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }
}
