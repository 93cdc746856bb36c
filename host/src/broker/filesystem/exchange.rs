//! Exchange files in the control folder: which queues an exchange leads to (contract section 2.3).

use std::fs::{File, TryLockError};
use std::io::{self, Seek, Write};
use std::time::{Duration, Instant};

use cap_std::fs::Dir;

use super::folder;

/// One line of an exchange's table: routing key, pattern (topic exchanges only), queue.
type Binding = (String, String, String);

/// How long to wait for somebody who holds a lock. Holders only read or write a small file.
const PATIENCE: Duration = Duration::from_secs(5);

/// Whether kombu takes this name for an exchange.
pub(super) fn is_name(exchange: &str) -> bool {
    exchange.len() <= 200
        && exchange
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'))
        && exchange.bytes().any(|b| b != b'.')
}

/// Binds a queue to the direct exchange of its own name, as kombu does when a worker declares it.
pub(super) fn bind_own(control: &Dir, queue: &str) -> io::Result<()> {
    if !is_name(queue) {
        // kombu refuses such an exchange, so nobody could publish to it; the queue works without.
        return Ok(());
    }
    let mut file = folder::open_file(control, &file_name(queue), true)?;
    within_patience(|| file.try_lock())?;
    let binding = (queue.to_owned(), String::new(), queue.to_owned());
    // Written in place: kombu locks the file itself, and would go on with the old one if it were replaced.
    let mut table = match read_table(&mut file) {
        Ok(table) => table,
        Err(error) if error.kind() == io::ErrorKind::InvalidData => {
            tracing::warn!("the file of exchange {queue:?} is damaged and written anew: {error}");
            Vec::new()
        }
        Err(error) => return Err(error),
    };
    if table.contains(&binding) {
        return Ok(());
    }
    table.insert(0, binding);
    let text = serde_json::to_vec(&table).map_err(io::Error::other)?;
    file.rewind()?;
    file.write_all(&text)?;
    file.set_len(text.len() as u64)
}

/// The queues that a message for `exchange` with `routing_key` goes to, without duplicates.
pub(super) fn lookup(control: &Dir, exchange: &str, routing_key: &str) -> io::Result<Vec<String>> {
    let mut file = match folder::open_file(control, &file_name(exchange), false) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    within_patience(|| file.try_lock_shared())?;
    let mut queues = Vec::new();
    for (key, pattern, queue) in read_table(&mut file)? {
        let matches = if pattern.is_empty() {
            key == routing_key
        } else {
            topic_matches(&key, routing_key)
        };
        if matches && !queues.contains(&queue) {
            queues.push(queue);
        }
    }
    Ok(queues)
}

fn file_name(exchange: &str) -> String {
    format!("{exchange}.exchange")
}

fn read_table(file: &mut File) -> io::Result<Vec<Binding>> {
    let text = folder::read(file)?;
    if text.is_empty() {
        // Somebody made the file and has not come to writing it.
        return Ok(Vec::new());
    }
    serde_json::from_slice(&text).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
}

fn within_patience(try_lock: impl Fn() -> Result<(), TryLockError>) -> io::Result<()> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match try_lock() {
            Ok(()) => return Ok(()),
            Err(TryLockError::Error(error)) => return Err(error),
            Err(TryLockError::WouldBlock) if Instant::now() < deadline => {
                std::thread::sleep(Duration::from_millis(2));
            }
            Err(TryLockError::WouldBlock) => {
                return Err(io::Error::new(
                    io::ErrorKind::TimedOut,
                    "somebody holds the lock of an exchange file",
                ));
            }
        }
    }
}

/// A topic's wildcards: `*` is one word, `#` one or more.
fn topic_matches(pattern: &str, routing_key: &str) -> bool {
    let words: Vec<&str> = routing_key.split('.').collect();
    // reached[i]: the pattern so far takes the first i words.
    let mut reached = vec![false; words.len() + 1];
    if let Some(start) = reached.first_mut() {
        *start = true;
    }
    for part in pattern.split('.') {
        let mut next = vec![false; words.len() + 1];
        let mut open = false;
        for ((before, after), word) in reached.iter().zip(next.iter_mut().skip(1)).zip(&words) {
            open |= *before;
            *after = match part {
                "#" => open,
                "*" => *before,
                literal => *before && literal == *word,
            };
        }
        reached = next;
    }
    reached.last() == Some(&true)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder() -> (tempfile::TempDir, Dir) {
        let path = tempfile::tempdir().unwrap();
        let dir = folder::open(path.path(), false).unwrap();
        (path, dir)
    }

    #[test]
    fn topics() {
        for (pattern, key, matches) in [
            ("a.b", "a.b", true),
            ("a.*", "a.b", true),
            ("a.*", "a.b.c", false),
            ("a.#", "a.b.c", true),
            ("a.#", "a", false),
            ("#", "a.b", true),
            ("#.c", "a.b.c", true),
            ("#.c", "a.b.d", false),
            ("*.b.#", "a.b.c.d", true),
        ] {
            assert_eq!(topic_matches(pattern, key), matches, "{pattern} {key}");
        }
        let many = "#.".repeat(200) + "x";
        assert!(!topic_matches(&many, &"a.".repeat(2000)));
    }

    #[test]
    fn names_as_kombu_takes_them() {
        for good in ["celery", "a.b-c_D9", "..a"] {
            assert!(is_name(good), "{good}");
        }
        for bad in ["", ".", "..", "a/b", "a b", "ä", "w1@host"] {
            assert!(!is_name(bad), "{bad}");
        }
    }

    #[test]
    fn a_binding_goes_in_front_once() {
        let (path, dir) = folder();
        let file = path.path().join("celery.exchange");
        std::fs::write(
            &file,
            r#"[["k", "", "other"], ["t.*", "^t\\.[^\\.]+$", "topic"]]"#,
        )
        .unwrap();
        bind_own(&dir, "celery").unwrap();
        bind_own(&dir, "celery").unwrap();
        let table: serde_json::Value = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
        assert_eq!(
            table,
            serde_json::json!([
                ["celery", "", "celery"],
                ["k", "", "other"],
                ["t.*", "^t\\.[^\\.]+$", "topic"]
            ])
        );
        assert_eq!(lookup(&dir, "celery", "celery").unwrap(), ["celery"]);
        assert_eq!(lookup(&dir, "celery", "t.x").unwrap(), ["topic"]);
        assert!(lookup(&dir, "celery", "t.x.y").unwrap().is_empty());
        assert!(lookup(&dir, "none", "k").unwrap().is_empty());
    }

    #[test]
    fn a_damaged_file_is_written_anew() {
        let (path, dir) = folder();
        let file = path.path().join("celery.exchange");
        std::fs::write(&file, r#"[["celery", "", "cel"#).unwrap();
        bind_own(&dir, "celery").unwrap();
        assert_eq!(
            std::fs::read_to_string(&file).unwrap(),
            r#"[["celery","","celery"]]"#
        );
    }
}
