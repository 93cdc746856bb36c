//! The file of `worker_state_db`: revoked ids between two runs of a worker (contract section 3.8). It is this worker's
//! own form: a JSON map.

use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use tracing::warn;

/// The largest file that is read, bytes: more than the largest set makes.
const LARGEST: u64 = 64 * 1024 * 1024;

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct State {
    celerybox_worker_state: u32,
    revoked: Vec<String>,
}

/// The ids in the file, oldest first; none when there is no file. A file that cannot be understood (another program's,
/// for example) is moved aside and reported.
pub(crate) fn load(path: &Path) -> Vec<String> {
    match read(path) {
        Ok(Some(ids)) => ids,
        Ok(None) => Vec::new(),
        Err(error) => {
            let aside = beside(path, ".bad");
            warn!(
                "worker_state_db {} is not this worker's ({error}); it is moved to {}",
                path.display(),
                aside.display()
            );
            if let Err(error) = std::fs::rename(path, &aside) {
                warn!("cannot move {}: {error}", path.display());
            }
            Vec::new()
        }
    }
}

/// Writes the ids in one step: whoever reads finds the old file or the new one.
pub(crate) fn save(path: &Path, revoked: &[String]) -> std::io::Result<()> {
    let new = beside(path, ".new");
    let mut file = std::fs::File::create(&new)?;
    file.write_all(&bytes(revoked)?)?;
    file.sync_all()?;
    std::fs::rename(&new, path)
}

fn read(path: &Path) -> std::io::Result<Option<Vec<String>>> {
    let file = match std::fs::File::open(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        opened => opened?,
    };
    let mut bytes = Vec::new();
    file.take(LARGEST + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > LARGEST {
        return Err(std::io::Error::other(format!("larger than {LARGEST} bytes")));
    }
    parse(&bytes).map(Some)
}

/// The content of a file with these ids.
pub(crate) fn bytes(revoked: &[String]) -> std::io::Result<Vec<u8>> {
    let state = State {
        celerybox_worker_state: 1,
        revoked: revoked.to_vec(),
    };
    Ok(serde_json::to_vec(&state)?)
}

/// The ids in the content of a file.
pub(crate) fn parse(bytes: &[u8]) -> std::io::Result<Vec<String>> {
    let state: State = serde_json::from_slice(bytes)?;
    if state.celerybox_worker_state != 1 {
        return Err(std::io::Error::other("of another version"));
    }
    Ok(state.revoked)
}

fn beside(path: &Path, ending: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(ending);
    name.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_saved_is_loaded() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("worker.state");
        assert!(load(&file).is_empty());
        let ids = ["a".to_owned(), "ünïcödé\"\n".to_owned()];
        save(&file, &ids).unwrap();
        assert_eq!(load(&file), ids);
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_torn_or_foreign_file_is_moved_aside_and_not_lost() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("worker.state");
        for content in [
            &b""[..],
            b"{\"celerybox_worker_state\": 1, \"revo",
            b"{\"celerybox_worker_state\": 2, \"revoked\": []}",
            b"\x13\x57\x9a\xce gdbm",
            b"[[[[[[[[",
        ] {
            std::fs::write(&file, content).unwrap();
            assert!(load(&file).is_empty());
            assert!(!file.exists());
            assert_eq!(
                std::fs::read(folder.path().join("worker.state.bad")).unwrap(),
                content
            );
        }
        // A folder of that name is no file, and no panic.
        std::fs::create_dir(folder.path().join("folder")).unwrap();
        assert!(load(&folder.path().join("folder")).is_empty());
    }
}
