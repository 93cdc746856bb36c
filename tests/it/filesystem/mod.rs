//! The filesystem broker and result backend.

mod conformance;
mod crash;
mod folders;
mod kombu;

use std::path::{Path, PathBuf};

use celerybox::backend::filesystem::FilesystemBackend;
use celerybox::broker::filesystem::{FilesystemBroker, Options};
use celerybox_tests::Place;

/// A folder with everything a filesystem broker needs, as celerybox's embedded default has it, gone after the test.
pub(crate) struct Folder {
    place: Place,
    path: PathBuf,
}

impl Folder {
    pub(crate) fn new() -> Self {
        let place = Place::files();
        let path = place.folder().join("data");
        std::fs::create_dir_all(path.join("queue")).unwrap();
        Self { place, path }
    }

    /// Where everything is.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Where the messages are.
    pub(crate) fn queue(&self) -> PathBuf {
        self.path.join("queue")
    }

    pub(crate) fn options(&self) -> Options {
        options_in(self.path())
    }

    pub(crate) fn broker(&self) -> FilesystemBroker {
        FilesystemBroker::new(&self.options()).unwrap()
    }

    pub(crate) fn backend(&self) -> FilesystemBackend {
        FilesystemBackend::new(&self.path().join("results")).unwrap()
    }

    /// Names in a folder in here, sorted; none when it does not exist.
    pub(crate) fn names(&self, folder: &str) -> Vec<String> {
        names(&self.path().join(folder))
    }

    /// Names of the message files of all queues, sorted.
    pub(crate) fn messages(&self) -> Vec<String> {
        let mut names = self.names("queue");
        names.retain(|name| name.ends_with(".msg"));
        names
    }
}

pub(crate) fn options_in(folder: &Path) -> Options {
    Options {
        data_folder_in: folder.join("queue"),
        data_folder_out: folder.join("queue"),
        control_folder: folder.join("control"),
        processed_folder: folder.join("processed"),
        ..Options::default()
    }
}

pub(crate) fn names(folder: &Path) -> Vec<String> {
    let Ok(entries) = std::fs::read_dir(folder) else {
        return Vec::new();
    };
    let mut names: Vec<String> = entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}
