//! Messages that were taken and not settled: files in a folder of the worker that took them.
//!
//! kombu keeps them in memory and loses them when a worker is killed. Here taking a message is one `rename` into
//! `<data_folder_in>/unacked/<worker>/`. The worker holds a lock on a file in there as long as it lives; a folder
//! whose lock can be had belongs to a dead worker, and whoever has it puts the messages back.

use std::fs::{File, TryLockError};
use std::io;

use cap_std::fs::{Dir, DirBuilder, DirBuilderExt, Metadata};
use uuid::Uuid;

use super::{folder, name};
use crate::message::envelope;

/// The folder of all workers' folders. kombu's readers pass over it: its name has no dot.
const FOLDER: &str = "unacked";
/// The file that a living worker holds locked.
const LOCK: &str = ".lock";

/// The folder of this worker. Dropping it releases the lock: others then take its messages.
pub(super) struct Unacked {
    dir: Dir,
    path: String,
    lock: File,
}

impl Unacked {
    /// Makes a folder and locks it.
    pub(super) fn create(input: &Dir) -> io::Result<Self> {
        make_folder(input, FOLDER)?;
        for _ in 0..10 {
            let path = format!("{FOLDER}/{}", Uuid::new_v4());
            make_folder(input, &path)?;
            let created = input.open_dir(&path).and_then(|dir| {
                let lock = folder::open_file(&dir, LOCK, true)?;
                Ok(Self { dir, path, lock })
            });
            match created {
                // Before the lock was ours, a sweeper may have removed the folder as one of a dead worker.
                Ok(unacked) if unacked.lock.try_lock().is_ok() && unacked.is_there(input) => {
                    return Ok(unacked);
                }
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        Err(io::Error::other(
            "cannot make a folder for unacknowledged messages",
        ))
    }

    /// Whether the folder can still be reached from `input`.
    pub(super) fn is_there(&self, input: &Dir) -> bool {
        let own = self.lock.metadata().map(Metadata::from_just_metadata);
        let found = input.metadata(format!("{}/{LOCK}", self.path));
        own.is_ok_and(|own| found.is_ok_and(|found| folder::same(&own, &found)))
    }

    /// Takes a message file out of `input`. False when somebody else has it.
    pub(super) fn take(&self, input: &Dir, file: &str) -> io::Result<bool> {
        match input.rename(file, &self.dir, file) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                // Which of the two ends was missing?
                self.dir.try_exists(LOCK)?.then_some(false).ok_or(error)
            }
            Err(error) => Err(error),
        }
    }

    /// Puts a message file back as it came, as if it had not been taken.
    pub(super) fn put_back(&self, input: &Dir, file: &str) -> io::Result<()> {
        self.dir.rename(file, input, file)
    }

    /// Puts a message back to be delivered again.
    pub(super) fn give_back(&self, input: &Dir, file: &str) -> io::Result<()> {
        give_back(&self.dir, input, file)
    }

    /// Removes a settled message, or moves it to the folder of processed ones.
    pub(super) fn finish(&self, file: &str, processed: Option<&Dir>) -> io::Result<()> {
        let Some(processed) = processed else {
            return self.dir.remove_file(file);
        };
        match self.dir.rename(file, processed, file) {
            Err(error) if error.kind() == io::ErrorKind::CrossesDevices => {
                self.dir.copy(file, processed, file)?;
                self.dir.remove_file(file)
            }
            renamed => renamed,
        }
    }

    /// Removes the folder, which must be empty, and releases the lock.
    pub(super) fn leave(self, input: &Dir) -> io::Result<()> {
        self.dir.remove_file(LOCK)?;
        match input.remove_dir(&self.path) {
            // A sweeper came in between and made a lock file of its own; it removes both.
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::DirectoryNotEmpty | io::ErrorKind::NotFound
                ) =>
            {
                Ok(())
            }
            removed => removed,
        }
    }
}

/// Puts back the messages of dead workers; how many.
pub(super) fn sweep(input: &Dir) -> io::Result<usize> {
    let mut count = 0;
    let folders = match input.read_dir(FOLDER) {
        Ok(folders) => folders,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(0),
        Err(error) => return Err(error),
    };
    for worker in folders {
        let worker = worker?;
        if !worker.file_type()?.is_dir() {
            continue;
        }
        match worker.open_dir().and_then(|dir| sweep_folder(&dir, input)) {
            Ok(Some((restored, lock))) => {
                count += restored;
                // The lock is held until the folder is gone, so that nobody else sweeps it too. Removing fails when
                // another sweeper came in between; then that one removes it.
                let _ = worker.remove_dir();
                drop(lock);
            }
            Ok(None) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => tracing::error!("cannot put back the messages of a dead worker: {error}"),
        }
    }
    Ok(count)
}

/// Puts back what is in a folder, when its worker is dead; the lock comes along.
fn sweep_folder(dir: &Dir, input: &Dir) -> io::Result<Option<(usize, File)>> {
    let lock = folder::open_file(dir, LOCK, true)?;
    match lock.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => return Ok(None),
        Err(TryLockError::Error(error)) => return Err(error),
    }
    let mut count = 0;
    for entry in dir.entries()? {
        let file = entry?.file_name();
        match file.to_str() {
            Some(message) if name::queue(message).is_some() => {
                give_back(dir, input, message)?;
                count += 1;
            }
            Some(LOCK) => {}
            _ => {
                let _ = dir.remove_file(&file);
            }
        }
    }
    dir.remove_file(LOCK)?;
    Ok(Some((count, lock)))
}

/// Marks a message as delivered before, and only then moves it: a crash between the two loses and doubles nothing.
fn give_back(dir: &Dir, input: &Dir, file: &str) -> io::Result<()> {
    let content = folder::open_file(dir, file, false).and_then(|mut file| folder::read(&mut file));
    match content.map(String::from_utf8) {
        Ok(Ok(text)) => folder::write(dir, file, envelope::mark_redelivered(&text).as_bytes())?,
        // Not text, or too large: whoever takes it next finds that out as well.
        Ok(Err(_)) => {}
        Err(error) if error.kind() == io::ErrorKind::FileTooLarge => {}
        Err(error) => return Err(error),
    }
    dir.rename(file, input, file)
}

fn make_folder(input: &Dir, path: &str) -> io::Result<()> {
    let mut builder = DirBuilder::new();
    builder.mode(0o700);
    match input.create_dir_with(path, &builder) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MESSAGE: &str = "1_x.q.msg";

    /// A folder with one message that a worker took.
    fn taken() -> (tempfile::TempDir, Dir, Unacked) {
        let path = tempfile::tempdir().unwrap();
        let input = folder::open(path.path(), false).unwrap();
        let unacked = Unacked::create(&input).unwrap();
        folder::write(
            &input,
            MESSAGE,
            br#"{"headers": {}, "properties": {"delivery_info": {}}}"#,
        )
        .unwrap();
        assert!(unacked.take(&input, MESSAGE).unwrap());
        (path, input, unacked)
    }

    #[test]
    fn a_message_is_taken_once() {
        let (_path, input, unacked) = taken();
        let other = Unacked::create(&input).unwrap();
        assert!(!other.take(&input, MESSAGE).unwrap());
        assert!(!unacked.take(&input, MESSAGE).unwrap());
        // A worker whose folder was removed notices, and does not believe that all messages are taken by others.
        input.remove_dir_all(&other.path).unwrap();
        unacked.put_back(&input, MESSAGE).unwrap();
        assert!(other.take(&input, MESSAGE).is_err());
        assert!(input.exists(MESSAGE) && !other.is_there(&input));
    }

    #[test]
    fn the_living_are_left_alone_and_the_dead_are_swept() {
        let (_path, input, unacked) = taken();
        assert_eq!(sweep(&input).unwrap(), 0);
        assert!(!input.exists(MESSAGE) && unacked.is_there(&input));
        drop(unacked);
        assert_eq!(sweep(&input).unwrap(), 1);
        assert!(
            input
                .read_to_string(MESSAGE)
                .unwrap()
                .contains(r#""redelivered":true"#)
        );
        assert_eq!(input.read_dir(FOLDER).unwrap().count(), 0);
        assert_eq!(sweep(&input).unwrap(), 0);
    }

    /// A sweeper may look at a folder just when its worker leaves.
    #[test]
    fn leaving_beside_a_sweeper_is_no_error() {
        let (_path, input, unacked) = taken();
        unacked.finish(MESSAGE, None).unwrap();
        let path = unacked.path.clone();
        unacked.dir.write("a sweeper's", "").unwrap();
        unacked.leave(&input).unwrap();
        assert!(input.exists(&path));
        assert_eq!(sweep(&input).unwrap(), 0);
        assert!(!input.exists(&path), "the sweeper removes the rest");
    }

    /// Everybody sweeps, and everybody restores at the same time: each message comes back once.
    #[test]
    fn many_sweepers_restore_once() {
        let path = tempfile::tempdir().unwrap();
        let input = folder::open(path.path(), false).unwrap();
        for round in 0..15 {
            let dead = Unacked::create(&input).unwrap();
            for n in 0..10 {
                dead.dir.write(format!("{n}_x.q.msg"), "{}").unwrap();
            }
            drop(dead);
            let restored: usize = std::thread::scope(|scope| {
                let sweepers: Vec<_> = (0..4).map(|_| scope.spawn(|| sweep(&input).unwrap())).collect();
                sweepers.into_iter().map(|sweeper| sweeper.join().unwrap()).sum()
            });
            assert_eq!(restored, 10, "round {round}");
            for n in 0..10 {
                input.remove_file(format!("{n}_x.q.msg")).unwrap();
            }
        }
    }
}
