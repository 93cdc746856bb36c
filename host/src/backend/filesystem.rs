//! Celery's `file://` result backend: a folder with one file for each result (contract section 5.5).

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;

use super::{BackendError, Chords, Documents, ResultBackend, StoredResult};
use crate::broker::filesystem::{folder, name};

/// What Celery puts before the task id.
const KEY_PREFIX: &str = "celery-task-meta-";

/// What Celery puts before a group's id.
const GROUP_PREFIX: &str = "celery-taskset-meta-";

/// What the files begin with that [`ResultBackend::cleanup`] may remove; the last one is Celery's for chords.
const PREFIXES: [&str; 3] = [KEY_PREFIX, GROUP_PREFIX, "chord-unlock-"];

/// How many results may be stored at the same time; two of one task never are.
const LOCKS: usize = 64;

/// Results in a folder. Python reads them with `result_backend = "file:///path"`.
///
/// A result is written under another name and renamed, so that no reader sees half of one.
#[derive(Debug)]
pub struct FilesystemBackend {
    path: PathBuf,
    documents: Documents,
    expires: Option<Duration>,
    /// Between reading a state and writing over it nobody else of this process may write; chosen by task id.
    locks: Arc<Vec<Mutex<()>>>,
    hash: RandomState,
}

impl FilesystemBackend {
    /// A backend in this folder, which is made, for this user only, when it is not there.
    pub fn new(path: &Path) -> Result<Self, BackendError> {
        folder::open(path, true)
            .and_then(|dir| folder::remove_old_temporary_files(&dir))
            .map_err(|error| {
                BackendError::Config(format!(
                    "cannot use the folder {} for results: {error}",
                    path.display()
                ))
            })?;
        Ok(Self {
            path: path.to_owned(),
            documents: Documents::default(),
            expires: None,
            locks: Arc::new((0..LOCKS).map(|_| Mutex::new(())).collect()),
            hash: RandomState::new(),
        })
    }

    /// `result_serializer` and `result_compression`.
    #[must_use]
    pub fn documents(self, documents: Documents) -> Self {
        Self { documents, ..self }
    }

    /// `result_expires`: how old results may get before [`ResultBackend::cleanup`] removes them; `None`: as old as they
    /// like.
    #[must_use]
    pub fn expires(self, expires: Option<Duration>) -> Self {
        Self { expires, ..self }
    }

    async fn fetch_file(&self, file: String) -> Result<Option<String>, BackendError> {
        let stored = self.blocking(move |path| read(&folder::open(path, false)?, &file));
        let stored = stored.await?;
        stored.map(|stored| self.documents.read(&stored)).transpose()
    }

    /// Runs `work` where it may block.
    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Path) -> io::Result<T> + Send + 'static,
    ) -> Result<T, BackendError> {
        let path = self.path.clone();
        let work = tokio::task::spawn_blocking(move || {
            work(&path).map_err(|error| BackendError::Connection(format!("{}: {error}", path.display())))
        });
        work.await
            .unwrap_or_else(|error| Err(BackendError::Connection(error.to_string())))
    }
}

#[async_trait]
impl ResultBackend for FilesystemBackend {
    async fn store(&self, result: StoredResult) -> Result<(), BackendError> {
        let file = file_name(&result.task_id)?;
        let locks = Arc::clone(&self.locks);
        let documents = self.documents.clone();
        let document = documents.write(&result.meta)?;
        let lock = usize::try_from(self.hash.hash_one(&result.task_id) % LOCKS as u64).unwrap_or_default();
        self.blocking(move |path| {
            let _guard = locks
                .get(lock)
                .map(|lock| lock.lock().unwrap_or_else(PoisonError::into_inner));
            // Opened each time: the folder may have been replaced since.
            let dir = folder::open(path, false)?;
            if read(&dir, &file)?.is_some_and(|stored| documents.is_success(&stored)) {
                return Ok(());
            }
            folder::write(&dir, &file, &document)
        })
        .await
    }

    async fn fetch(&self, task_id: &str) -> Result<Option<String>, BackendError> {
        self.fetch_file(file_name(task_id)?).await
    }

    async fn forget(&self, task_id: &str) -> Result<(), BackendError> {
        let file = file_name(task_id)?;
        self.blocking(move |path| match folder::open(path, false)?.remove_file(&file) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        })
        .await
    }

    async fn cleanup(&self) -> Result<(), BackendError> {
        let Some(expires) = self.expires else {
            return Ok(());
        };
        self.blocking(move |path| remove_expired(&folder::open(path, false)?, expires))
            .await
    }

    async fn save_group(&self, group: &str, tuple: &str) -> Result<(), BackendError> {
        let file = group_name(group)?;
        let document = self.documents.write(&format!(r#"{{"result": {tuple}}}"#))?;
        self.blocking(move |path| folder::write(&folder::open(path, false)?, &file, &document))
            .await
    }

    async fn fetch_group(&self, group: &str) -> Result<Option<String>, BackendError> {
        self.fetch_file(group_name(group)?).await
    }

    fn chords(&self) -> Chords {
        Chords::Unlock
    }
}

fn file_name(task_id: &str) -> Result<String, BackendError> {
    let id = name::check("task id", task_id).map_err(BackendError::Unsupported)?;
    Ok(format!("{KEY_PREFIX}{id}"))
}

fn group_name(group: &str) -> Result<String, BackendError> {
    let id = name::check("group id", group).map_err(BackendError::Unsupported)?;
    Ok(format!("{GROUP_PREFIX}{id}"))
}

/// Removes the results that were written longer ago than `expires`.
fn remove_expired(dir: &cap_std::fs::Dir, expires: Duration) -> io::Result<()> {
    for entry in dir.entries()? {
        let entry = entry?;
        let name = entry.file_name();
        let is_ours = name
            .to_str()
            .is_some_and(|name| PREFIXES.iter().any(|prefix| name.starts_with(prefix)));
        let age = |metadata: cap_std::fs::Metadata| metadata.modified().ok()?.into_std().elapsed().ok();
        // Another worker may have removed it meanwhile.
        let is_old = || {
            entry
                .metadata()
                .ok()
                .and_then(age)
                .is_some_and(|age| age > expires)
        };
        if is_ours && is_old() {
            let _ = dir.remove_file(name);
        }
    }
    Ok(())
}

fn read(dir: &cap_std::fs::Dir, file: &str) -> io::Result<Option<Vec<u8>>> {
    match folder::open_file(dir, file, false).and_then(|mut file| folder::read(&mut file)) {
        Ok(content) => Ok(Some(content)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::outcome::State;

    fn result(id: &str, state: State, n: u32) -> StoredResult {
        StoredResult {
            task_id: id.into(),
            meta: format!(r#"{{"status": "{}", "result": {n}}}"#, state.as_str()),
            state,
            reply_to: None,
            correlation_id: None,
        }
    }

    #[tokio::test]
    async fn nothing_is_written_over_success() {
        let path = tempfile::tempdir().unwrap();
        let backend = FilesystemBackend::new(&path.path().join("new/results")).unwrap();
        assert_eq!(backend.fetch("a").await.unwrap(), None);
        for (state, n, stored) in [
            (State::Failure, 1, 1),
            (State::Started, 2, 2),
            (State::Success, 3, 3),
            (State::Failure, 4, 3),
            (State::Success, 5, 3),
        ] {
            backend.store(result("a", state, n)).await.unwrap();
            let meta = backend.fetch("a").await.unwrap().unwrap();
            assert!(meta.ends_with(&format!("{stored}}}")), "{meta}");
        }
        let files: Vec<_> = std::fs::read_dir(path.path().join("new/results"))
            .unwrap()
            .map(|entry| entry.unwrap().file_name())
            .collect();
        assert_eq!(files, ["celery-task-meta-a"]);
    }

    #[tokio::test]
    async fn nor_over_success_in_another_form() {
        use crate::message::content::compression::Compression;
        use crate::message::content::{Serializer, Writer};
        let path = tempfile::tempdir().unwrap();
        for (id, serializer, compression) in [
            ("a", Serializer::Pickle, None),
            ("b", Serializer::Json, Some(Compression::Bzip2)),
        ] {
            let writer = Writer {
                serializer,
                compression,
                signer: None,
            };
            let documents = Documents { writer, trust: None };
            let backend = FilesystemBackend::new(path.path()).unwrap().documents(documents);
            backend.store(result(id, State::Started, 1)).await.unwrap();
            backend.store(result(id, State::Success, 2)).await.unwrap();
            backend.store(result(id, State::Failure, 3)).await.unwrap();
            let stored = std::fs::read(path.path().join(format!("celery-task-meta-{id}"))).unwrap();
            assert!(!stored.starts_with(b"{"));
            assert_eq!(
                backend.fetch(id).await.unwrap().unwrap(),
                r#"{"status": "SUCCESS", "result": 2}"#
            );
        }
    }

    #[tokio::test]
    async fn a_document_that_is_no_json_is_written_over() {
        let path = tempfile::tempdir().unwrap();
        let backend = FilesystemBackend::new(path.path()).unwrap();
        std::fs::write(path.path().join("celery-task-meta-a"), r#"{"status": "SUCC"#).unwrap();
        backend.store(result("a", State::Failure, 1)).await.unwrap();
        assert!(backend.fetch("a").await.unwrap().unwrap().contains("FAILURE"));
    }

    #[tokio::test]
    async fn an_id_cannot_lead_out_of_the_folder() {
        let path = tempfile::tempdir().unwrap();
        let backend = FilesystemBackend::new(&path.path().join("results")).unwrap();
        for id in ["a/b", "/../../x", "../x", "", "..", "a\0", &"x".repeat(300)] {
            let error = backend.store(result(id, State::Success, 1)).await.unwrap_err();
            assert!(
                matches!(&error, BackendError::Unsupported(text) if text.starts_with("the task id")),
                "{error}"
            );
            assert!(backend.fetch(id).await.is_err());
        }
        assert_eq!(std::fs::read_dir(path.path()).unwrap().count(), 1);
        assert_eq!(std::fs::read_dir(path.path().join("results")).unwrap().count(), 0);
    }

    #[tokio::test]
    async fn a_folder_that_is_gone_is_an_error_until_it_is_back() {
        let path = tempfile::tempdir().unwrap();
        let folder = path.path().join("results");
        let backend = FilesystemBackend::new(&folder).unwrap();
        std::fs::remove_dir(&folder).unwrap();
        let error = backend.store(result("a", State::Success, 1)).await.unwrap_err();
        assert!(matches!(error, BackendError::Connection(_)), "{error}");
        std::fs::create_dir(&folder).unwrap();
        backend.store(result("a", State::Success, 1)).await.unwrap();
        assert!(backend.fetch("a").await.unwrap().is_some());
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn no_reader_sees_half_a_result() {
        let path = tempfile::tempdir().unwrap();
        let backend = FilesystemBackend::new(path.path()).unwrap();
        let file = path.path().join("celery-task-meta-a");
        let (done, is_done) = (
            Arc::new(std::sync::atomic::AtomicBool::new(false)),
            std::sync::atomic::Ordering::SeqCst,
        );
        let writing = Arc::clone(&done);
        let reader = std::thread::spawn(move || {
            let mut seen = 0;
            while !writing.load(is_done) || seen == 0 {
                let Ok(text) = std::fs::read(&file) else { continue };
                serde_json::from_slice::<serde_json::Value>(&text).expect("a whole document");
                seen += 1;
            }
        });
        for n in 0..200 {
            let mut progress = result("a", State::Custom("PROGRESS".into()), n);
            progress.meta =
                serde_json::json!({"status": "PROGRESS", "result": "x".repeat(n as usize * 1000)})
                    .to_string();
            backend.store(progress).await.unwrap();
        }
        done.store(true, is_done);
        reader.join().unwrap();
    }

    #[tokio::test]
    async fn only_results_that_expired_are_cleaned_up() {
        let path = tempfile::tempdir().unwrap();
        let backend = FilesystemBackend::new(path.path())
            .unwrap()
            .expires(Some(Duration::from_secs(60)));
        let age = |name: &str, seconds| {
            let file = std::fs::File::create(path.path().join(name)).unwrap();
            let time = std::time::SystemTime::now() - Duration::from_secs(seconds);
            file.set_modified(time).unwrap();
        };
        age("celery-task-meta-old", 120);
        age("celery-taskset-meta-old", 120);
        age("celery-task-meta-young", 5);
        age("somebody-elses", 120);
        backend.cleanup().await.unwrap();
        let mut left: Vec<_> = std::fs::read_dir(path.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name())
            .collect();
        left.sort();
        assert_eq!(left, ["celery-task-meta-young", "somebody-elses"]);
        let forever = FilesystemBackend::new(path.path()).unwrap();
        age("celery-task-meta-young", 1_000_000);
        forever.cleanup().await.unwrap();
        assert!(path.path().join("celery-task-meta-young").exists());
    }

    #[tokio::test]
    async fn groups_are_kept_and_results_forgotten() {
        let path = tempfile::tempdir().unwrap();
        let backend = FilesystemBackend::new(path.path()).unwrap();
        assert_eq!(backend.fetch_group("g").await.unwrap(), None);
        backend.save_group("g", r#"[["g", null], []]"#).await.unwrap();
        assert_eq!(
            backend.fetch_group("g").await.unwrap().unwrap(),
            r#"{"result": [["g", null], []]}"#
        );
        backend.store(result("a", State::Success, 1)).await.unwrap();
        backend.forget("a").await.unwrap();
        backend.forget("a").await.unwrap();
        assert_eq!(backend.fetch("a").await.unwrap(), None);
        assert!(backend.forget("../a").await.is_err());
    }

    /// Many at once: once SUCCESS was stored, it stays.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_race_does_not_write_over_success() {
        let path = tempfile::tempdir().unwrap();
        let backend = FilesystemBackend::new(path.path()).unwrap();
        for n in 0..50 {
            let id = n.to_string();
            let stores = (0..8).map(|k| {
                let state = if k == 4 { State::Success } else { State::Failure };
                backend.store(result(&id, state, k))
            });
            for stored in futures_util::future::join_all(stores).await {
                stored.unwrap();
            }
            assert!(backend.fetch(&id).await.unwrap().unwrap().contains("SUCCESS"));
        }
    }
}
