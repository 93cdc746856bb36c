//! Files in a folder, through a handle that no name can lead out of.

use std::fs::{DirBuilder, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;
use std::time::Duration;

use cap_std::ambient_authority;
use cap_std::fs::{Dir, Metadata, MetadataExt, OpenOptions, OpenOptionsExt};
use rustix::fs::OFlags;
use uuid::Uuid;

/// The largest file that is read, in bytes. A larger message is refused: it would cost several times its size in memory.
pub(crate) const LARGEST_FILE: u64 = 128 << 20;

/// Temporary files older than this were left behind by a process that died.
const OLD: Duration = Duration::from_secs(3600);

/// Opens a folder; with `create` it is made first, with its parents, for this user only.
pub(crate) fn open(path: &Path, create: bool) -> io::Result<Dir> {
    if create {
        DirBuilder::new().recursive(true).mode(0o700).create(path)?;
    }
    Dir::open_ambient_dir(path, ambient_authority())
}

/// Opens a regular file for reading (and writing with `write`). Links, pipes and the like are errors: a pipe would
/// block the reader for ever.
pub(crate) fn open_file(dir: &Dir, name: &str, write: bool) -> io::Result<File> {
    let flags = OFlags::NONBLOCK | OFlags::NOFOLLOW;
    let mut options = OpenOptions::new();
    options.read(true).write(write).create(write);
    options.custom_flags(i32::try_from(flags.bits()).map_err(io::Error::other)?);
    let file = dir.open_with(name, &options)?.into_std();
    if !file.metadata()?.is_file() {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            format!("{name:?} is not a regular file"),
        ));
    }
    Ok(file)
}

/// Reads a whole file of at most [`LARGEST_FILE`] bytes.
pub(crate) fn read(file: &mut File) -> io::Result<Vec<u8>> {
    let length = file.metadata()?.len().min(LARGEST_FILE);
    let mut content = Vec::with_capacity(usize::try_from(length).unwrap_or_default() + 1);
    file.take(LARGEST_FILE + 1).read_to_end(&mut content)?;
    if content.len() as u64 > LARGEST_FILE {
        return Err(io::Error::new(
            io::ErrorKind::FileTooLarge,
            format!("larger than {} MiB", LARGEST_FILE >> 20),
        ));
    }
    Ok(content)
}

/// Writes a file so that nobody ever sees half of it: under another name, which is then changed.
///
/// It survives the end of this process, not a power failure: like kombu, it does not wait for the disk.
pub(crate) fn write(dir: &Dir, name: &str, content: &[u8]) -> io::Result<()> {
    let temporary = format!(".{}.tmp", Uuid::new_v4());
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    let mut file = dir.open_with(&temporary, &options)?;
    let written = file
        .write_all(content)
        .and_then(|()| dir.rename(&temporary, dir, name));
    if written.is_err() {
        let _ = dir.remove_file(&temporary);
    }
    written
}

/// Makes a file with its content, which nobody ever sees without; false when there is one of that name already.
pub(crate) fn create(dir: &Dir, name: &str, content: &[u8]) -> io::Result<bool> {
    let temporary = format!(".{}.tmp", Uuid::new_v4());
    write(dir, &temporary, content)?;
    let linked = dir.hard_link(&temporary, dir, name);
    let _ = dir.remove_file(&temporary);
    match linked {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(false),
        Err(error) => Err(error),
    }
}

/// Removes temporary files that a process left behind when it died.
pub(crate) fn remove_old_temporary_files(dir: &Dir) -> io::Result<()> {
    for entry in dir.entries()? {
        let entry = entry?;
        let name = entry.file_name();
        let temporary = name
            .to_str()
            .and_then(|name| name.strip_prefix('.')?.strip_suffix(".tmp"))
            .is_some_and(|id| Uuid::parse_str(id).is_ok());
        if temporary && entry.metadata().is_ok_and(|metadata| is_old(&metadata)) {
            let _ = dir.remove_file(name);
        }
    }
    Ok(())
}

fn is_old(metadata: &Metadata) -> bool {
    let modified = metadata.modified().map(cap_std::time::SystemTime::into_std);
    modified.is_ok_and(|modified| modified.elapsed().is_ok_and(|age| age > OLD))
}

/// Whether two handles lead to the same file or folder.
pub(crate) fn same(a: &Metadata, b: &Metadata) -> bool {
    (a.dev(), a.ino()) == (b.dev(), b.ino())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder() -> (tempfile::TempDir, Dir) {
        let path = tempfile::tempdir().unwrap();
        let dir = open(path.path(), false).unwrap();
        (path, dir)
    }

    #[test]
    fn only_regular_files_inside_are_opened() {
        let (path, dir) = folder();
        std::os::unix::fs::symlink("/etc/passwd", path.path().join("link")).unwrap();
        std::fs::create_dir(path.path().join("sub")).unwrap();
        rustix::fs::mkfifoat(rustix::fs::CWD, path.path().join("pipe"), rustix::fs::Mode::RUSR).unwrap();
        for name in ["link", "sub", "pipe", "../x", "/etc/passwd", "missing"] {
            assert!(open_file(&dir, name, false).is_err(), "{name}");
        }
        write(&dir, "fine", b"text").unwrap();
        assert_eq!(
            read(&mut open_file(&dir, "fine", false).unwrap()).unwrap(),
            b"text"
        );
    }

    #[test]
    fn a_huge_file_is_refused_without_reading_it() {
        let (_path, dir) = folder();
        let mut file = open_file(&dir, "huge", true).unwrap();
        file.set_len(LARGEST_FILE + 1).unwrap();
        assert_eq!(read(&mut file).unwrap_err().kind(), io::ErrorKind::FileTooLarge);
    }

    #[test]
    fn a_write_that_fails_leaves_nothing_behind() {
        let (path, dir) = folder();
        assert!(write(&dir, "no/such/folder", b"x").is_err());
        assert_eq!(std::fs::read_dir(path.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_file_that_is_there_is_not_made_anew() {
        let (path, dir) = folder();
        assert!(create(&dir, "a", b"first").unwrap());
        assert!(!create(&dir, "a", b"second").unwrap());
        assert_eq!(std::fs::read(path.path().join("a")).unwrap(), b"first");
        assert_eq!(std::fs::read_dir(path.path()).unwrap().count(), 1);
    }

    #[test]
    fn only_old_temporary_files_are_removed() {
        let (path, dir) = folder();
        let name = |id: u128| format!(".{}.tmp", Uuid::from_u128(id));
        for file in [name(1), name(2), ".my.tmp".into(), "1_x.celery.msg".into()] {
            let file = File::create(path.path().join(file)).unwrap();
            file.set_modified(std::time::SystemTime::now() - 2 * OLD).unwrap();
        }
        File::create(path.path().join(name(2)))
            .unwrap()
            .set_modified(std::time::SystemTime::now())
            .unwrap();
        remove_old_temporary_files(&dir).unwrap();
        assert!(!dir.exists(name(1)));
        for kept in [name(2), ".my.tmp".into(), "1_x.celery.msg".into()] {
            assert!(dir.exists(&kept), "{kept}");
        }
    }
}
