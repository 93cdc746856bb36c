//! Compiled code on disk, so that a component is compiled once.
//!
//! Whoever can write a file that is loaded as machine code owns the worker. So the folder belongs to the user alone,
//! each file carries an HMAC over its bytes and over what it was made from, and the bytes that were verified in memory
//! are the bytes that are loaded: the file is not mapped, and may change afterwards.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{self, Read, Write};
use std::path::Path;

use cap_std::ambient_authority;
use cap_std::fs::{Dir, MetadataExt, OpenOptions, OpenOptionsExt};
use hmac::{Hmac, Mac};
use sha2::Sha256;
use uuid::Uuid;
use wasmtime::Engine;
use wasmtime::component::Component;

/// First bytes of a file; the last one is the version of this format.
const MAGIC: &[u8; 8] = b"cbxcode\x01";
const KEY: &str = "key";
const KEY_LENGTH: usize = 32;
const TAG_LENGTH: usize = 32;
/// Compiled code is larger than its component, but not a hundred times.
const LARGEST: u64 = 1 << 30;

/// The folder of compiled code.
#[derive(Debug)]
pub(super) struct Cache {
    folder: Dir,
    key: [u8; KEY_LENGTH],
}

/// Why a folder is not used.
#[derive(Debug, thiserror::Error)]
pub(super) enum CacheError {
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error("{0} belongs to another user")]
    Owner(&'static str),
    #[error("{0} can be reached by other users: it needs the mode {1}")]
    Mode(&'static str, &'static str),
    #[error("its key is damaged; remove the folder, it will be made anew")]
    Key,
}

impl Cache {
    /// Opens the folder, makes it where there is none, and refuses one that others can change.
    pub(super) fn open(path: &Path) -> Result<Self, CacheError> {
        use std::os::unix::fs::DirBuilderExt;
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(path)?;
        // From here on by its handle: what is checked is what is used.
        let folder = Dir::open_ambient_dir(path, ambient_authority())?;
        let metadata = folder.dir_metadata()?;
        check_owner("the folder", metadata.uid())?;
        if metadata.mode() & 0o022 != 0 {
            return Err(CacheError::Mode("the folder", "0700"));
        }
        let key = match read_key(&folder)? {
            Some(key) => key,
            None => make_key(&folder)?,
        };
        Ok(Self { folder, key })
    }

    /// The compiled code of a component, when there is some that this engine can run and that we wrote.
    pub(super) fn load(&self, engine: &Engine, digest: &str) -> Option<Component> {
        let name = name(engine, digest);
        match self.read(engine, digest, &name) {
            Ok(component) => component,
            Err(reason) => {
                tracing::debug!("cached code {name} is discarded: {reason}");
                let _ = self.folder.remove_file(&name);
                None
            }
        }
    }

    fn read(&self, engine: &Engine, digest: &str, name: &str) -> Result<Option<Component>, String> {
        let file = match self.folder.open(name) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error.to_string()),
        };
        let mut bytes = Vec::new();
        file.take(LARGEST)
            .read_to_end(&mut bytes)
            .map_err(|error| error.to_string())?;
        let code = self
            .verified(name, digest, &bytes)
            .ok_or("it is torn, altered or not ours")?;
        deserialize(engine, code)
            .map(Some)
            .map_err(|error| format!("{error:#}"))
    }

    /// The code within a file, when the file is one that we wrote under this name.
    fn verified<'a>(&self, name: &str, digest: &str, bytes: &'a [u8]) -> Option<&'a [u8]> {
        let rest = bytes.strip_prefix(MAGIC)?;
        let (tag, code) = rest.split_at_checked(TAG_LENGTH)?;
        self.mac(name, digest, code)?.verify_slice(tag).ok()?;
        Some(code)
    }

    fn mac(&self, name: &str, digest: &str, code: &[u8]) -> Option<Hmac<Sha256>> {
        let mut mac = Hmac::<Sha256>::new_from_slice(&self.key).ok()?;
        for part in [MAGIC.as_slice(), name.as_bytes(), digest.as_bytes()] {
            mac.update(&(part.len() as u64).to_le_bytes());
            mac.update(part);
        }
        mac.update(code);
        Some(mac)
    }

    /// Keeps compiled code. That it cannot be kept is no reason not to run it.
    pub(super) fn save(&self, engine: &Engine, digest: &str, component: &Component) {
        let name = name(engine, digest);
        let saved = match component.serialize() {
            Ok(code) => self
                .write(&name, digest, &code)
                .map_err(|error| error.to_string()),
            Err(error) => Err(format!("{error:#}")),
        };
        if let Err(reason) = saved {
            tracing::debug!("compiled code {name} is not kept: {reason}");
        }
    }

    /// Writes under a name of its own and renames, so that no reader sees half a file.
    fn write(&self, name: &str, digest: &str, code: &[u8]) -> io::Result<()> {
        let mac = self.mac(name, digest, code).ok_or(io::ErrorKind::InvalidInput)?;
        let tag = mac.finalize().into_bytes();
        let temporary = temporary(name);
        let written = write_new(&self.folder, &temporary, &[MAGIC, &tag, code])
            .and_then(|()| self.folder.rename(&temporary, &self.folder, name));
        if written.is_err() {
            let _ = self.folder.remove_file(&temporary);
        }
        written
    }
}

/// A component's code for this version and these settings of the engine.
fn name(engine: &Engine, digest: &str) -> String {
    let mut hasher = DefaultHasher::new();
    engine.precompile_compatibility_hash().hash(&mut hasher);
    format!("{digest}-{:016x}.code", hasher.finish())
}

fn temporary(name: &str) -> String {
    format!("{name}.{}.tmp", Uuid::new_v4().simple())
}

fn write_new(folder: &Dir, name: &str, parts: &[&[u8]]) -> io::Result<()> {
    let mut options = OpenOptions::new();
    options.write(true).create_new(true).mode(0o600);
    let mut file = folder.open_with(name, &options)?;
    for part in parts {
        file.write_all(part)?;
    }
    file.sync_data()
}

fn check_owner(what: &'static str, uid: u32) -> Result<(), CacheError> {
    if uid == rustix::process::geteuid().as_raw() {
        Ok(())
    } else {
        Err(CacheError::Owner(what))
    }
}

fn read_key(folder: &Dir) -> Result<Option<[u8; KEY_LENGTH]>, CacheError> {
    let file = match folder.open(KEY) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    let metadata = file.metadata()?;
    check_owner("the key", metadata.uid())?;
    if metadata.mode() & 0o077 != 0 {
        return Err(CacheError::Mode("the key", "0600"));
    }
    let mut bytes = Vec::new();
    file.take(KEY_LENGTH as u64 + 1).read_to_end(&mut bytes)?;
    bytes.try_into().map(Some).map_err(|_| CacheError::Key)
}

/// Makes a key. When another process was quicker, its key is ours.
fn make_key(folder: &Dir) -> Result<[u8; KEY_LENGTH], CacheError> {
    let mut key = [0; KEY_LENGTH];
    std::fs::File::open("/dev/urandom")?.read_exact(&mut key)?;
    let temporary = temporary(KEY);
    write_new(folder, &temporary, &[&key])?;
    // Unlike a rename, a link does not replace.
    let linked = folder.hard_link(&temporary, folder, KEY);
    folder.remove_file(&temporary)?;
    match linked {
        Ok(()) => Ok(key),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            read_key(folder)?.ok_or(CacheError::Key)
        }
        Err(error) => Err(error.into()),
    }
}

/// The one place where bytes become machine code.
#[allow(unsafe_code)]
fn deserialize(engine: &Engine, verified: &[u8]) -> wasmtime::Result<Component> {
    // SAFETY: `deserialize` runs what it is given, so the bytes have to come from `Component::serialize`. The only
    // caller passes what `Cache::verified` let through: bytes whose HMAC was made with a key that only this user can
    // read, and `Cache::save` makes one only for what `Component::serialize` returned. They are in our own memory and
    // cannot change between the check and here; wasmtime copies them. That they fit this engine, it checks itself.
    unsafe { Component::deserialize(engine, verified) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;
    use std::path::PathBuf;

    /// An empty component in the binary format.
    const EMPTY: &[u8] = b"\0asm\x0d\0\x01\0";
    const DIGEST: &str = "00ff";

    fn engine() -> Engine {
        Engine::default()
    }

    fn saved(folder: &Path) -> (Cache, Engine, PathBuf) {
        let (cache, engine) = (Cache::open(folder).unwrap(), engine());
        let component = Component::from_binary(&engine, EMPTY).unwrap();
        cache.save(&engine, DIGEST, &component);
        let file = folder.join(name(&engine, DIGEST));
        (cache, engine, file)
    }

    #[test]
    fn what_was_saved_is_loaded_by_the_next_process() {
        let folder = tempfile::tempdir().unwrap();
        let (cache, engine, _) = saved(folder.path());
        assert!(cache.load(&engine, DIGEST).is_some());
        let again = Cache::open(folder.path()).unwrap();
        assert!(again.load(&engine, DIGEST).is_some());
        assert!(again.load(&engine, "other").is_none());
    }

    #[test]
    fn a_torn_altered_or_foreign_file_is_discarded() {
        type Damage = fn(Vec<u8>) -> Vec<u8>;
        let damages: [Damage; 5] = [
            |bytes| bytes[..bytes.len() / 2].to_vec(),
            |mut bytes| {
                let middle = bytes.len() / 2;
                bytes[middle] ^= 1;
                bytes
            },
            |bytes| bytes[MAGIC.len() + TAG_LENGTH..].to_vec(),
            |_| Vec::new(),
            |mut bytes| {
                bytes.push(0);
                bytes
            },
        ];
        for damage in damages {
            let folder = tempfile::tempdir().unwrap();
            let (cache, engine, file) = saved(folder.path());
            std::fs::write(&file, damage(std::fs::read(&file).unwrap())).unwrap();
            assert!(cache.load(&engine, DIGEST).is_none());
            assert!(!file.exists(), "it is not tried again");
        }
    }

    #[test]
    fn code_of_another_component_or_another_user_is_discarded() {
        let folder = tempfile::tempdir().unwrap();
        let (cache, engine, file) = saved(folder.path());
        std::fs::copy(&file, folder.path().join(name(&engine, "swapped"))).unwrap();
        assert!(cache.load(&engine, "swapped").is_none());

        let foreign = tempfile::tempdir().unwrap();
        let (_, _, foreign) = saved(foreign.path());
        std::fs::copy(foreign, &file).unwrap();
        assert!(cache.load(&engine, DIGEST).is_none());
    }

    #[test]
    fn a_folder_or_key_that_others_can_change_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let set =
            |path: &Path, mode| std::fs::set_permissions(path, PermissionsExt::from_mode(mode)).unwrap();
        Cache::open(folder.path()).unwrap();
        for mode in [0o770, 0o707, 0o777] {
            set(folder.path(), mode);
            assert!(matches!(
                Cache::open(folder.path()),
                Err(CacheError::Mode("the folder", _))
            ));
        }
        set(folder.path(), 0o700);
        set(&folder.path().join(KEY), 0o644);
        assert!(matches!(
            Cache::open(folder.path()),
            Err(CacheError::Mode("the key", _))
        ));
        set(&folder.path().join(KEY), 0o600);
        std::fs::write(folder.path().join(KEY), "short").unwrap();
        assert!(matches!(Cache::open(folder.path()), Err(CacheError::Key)));
    }

    #[test]
    fn a_new_folder_is_for_its_user_alone() {
        let parent = tempfile::tempdir().unwrap();
        let folder = parent.path().join("a/celerybox");
        Cache::open(&folder).unwrap();
        let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&folder), 0o700);
        assert_eq!(mode(&folder.join(KEY)), 0o600);
    }
}
