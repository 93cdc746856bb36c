//! Exchange files in the control folder: which queues an exchange leads to (contract section 2.3).

use std::fs::{File, TryLockError};
use std::io::{self, Seek, Write};
use std::time::{Duration, Instant};

use cap_std::fs::Dir;

use super::folder;
use crate::broker::Bound;
use crate::queue::{ExchangeKind, Queue, topic};

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

/// Binds a queue to its exchanges, as kombu does when somebody declares it.
pub(super) fn bind(control: &Dir, queue: &Queue) -> io::Result<()> {
    for (exchange, routing_key, _) in queue.all_bindings() {
        // kombu refuses such an exchange, so nobody could publish to it; the queue works without.
        if is_name(&exchange.name) {
            let pattern = match exchange.kind {
                ExchangeKind::Topic => topic::pattern(routing_key),
                _ => String::new(),
            };
            add(
                control,
                &exchange.name,
                (routing_key.to_owned(), pattern, queue.name.clone()),
            )?;
        }
    }
    Ok(())
}

/// The end of the bindings of a queue.
pub(super) fn unbind(control: &Dir, queue: &Queue) -> io::Result<()> {
    for (exchange, ..) in queue.all_bindings() {
        unbind_from(control, &exchange.name, &queue.name)?;
    }
    Ok(())
}

/// The end of the bindings of a queue to one exchange.
pub(super) fn unbind_from(control: &Dir, exchange: &str, queue: &str) -> io::Result<()> {
    if !is_name(exchange) {
        return Ok(());
    }
    change(control, exchange, |table| {
        table.retain(|(_, _, bound)| bound != queue);
    })
}

fn add(control: &Dir, exchange: &str, binding: Binding) -> io::Result<()> {
    change(control, exchange, |table| {
        if !table.contains(&binding) {
            table.insert(0, binding.clone());
        }
    })
}

/// Changes the table of an exchange.
fn change(control: &Dir, exchange: &str, change: impl Fn(&mut Vec<Binding>)) -> io::Result<()> {
    let name = file_name(exchange);
    if !control.exists(&name) {
        let mut table = Vec::new();
        change(&mut table);
        // kombu would take a file without a table for a broken one. Where it cannot be linked into its place, or somebody
        // was faster, the way is that of a file that is there.
        let text = serde_json::to_vec(&table).map_err(io::Error::other)?;
        if table.is_empty() || matches!(folder::create(control, &name, &text), Ok(true)) {
            return Ok(());
        }
    }
    let mut file = folder::open_file(control, &name, true)?;
    within_patience(|| file.try_lock())?;
    // Written in place: kombu locks the file itself, and would go on with the old one if it were replaced.
    let mut table = match read_table(&mut file) {
        Ok(table) => table,
        Err(error) if error.kind() == io::ErrorKind::InvalidData => {
            tracing::warn!("the file of exchange {exchange:?} is damaged and written anew: {error}");
            Vec::new()
        }
        Err(error) => return Err(error),
    };
    let before = table.clone();
    change(&mut table);
    if table == before {
        return Ok(());
    }
    let text = serde_json::to_vec(&table).map_err(io::Error::other)?;
    file.rewind()?;
    file.write_all(&text)?;
    file.set_len(text.len() as u64)
}

/// The queues that a message for `exchange` with `routing_key` goes to, without duplicates; all of them with `fanout`.
pub(super) fn lookup(
    control: &Dir,
    exchange: &str,
    routing_key: &str,
    fanout: bool,
) -> io::Result<Vec<String>> {
    let mut file = match folder::open_file(control, &file_name(exchange), false) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    within_patience(|| file.try_lock_shared())?;
    let mut queues = Vec::new();
    for (key, pattern, queue) in read_table(&mut file)? {
        let matches = match pattern.as_str() {
            _ if fanout => true,
            "" => key == routing_key,
            _ => topic::matches(&key, routing_key),
        };
        if matches && !queues.contains(&queue) {
            queues.push(queue);
        }
    }
    Ok(queues)
}

/// The queues of an exchange with their routing keys.
pub(super) fn bindings(control: &Dir, exchange: &str) -> io::Result<Vec<Bound>> {
    if !is_name(exchange) {
        return Ok(Vec::new());
    }
    let mut file = match folder::open_file(control, &file_name(exchange), false) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    within_patience(|| file.try_lock_shared())?;
    let table = read_table(&mut file)?.into_iter();
    Ok(table
        .map(|(routing_key, _, queue)| Bound { queue, routing_key })
        .collect())
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::queue::{Binding, Exchange};

    fn folder() -> (tempfile::TempDir, Dir) {
        let path = tempfile::tempdir().unwrap();
        let dir = folder::open(path.path(), false).unwrap();
        (path, dir)
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
        bind(&dir, &Queue::named("celery")).unwrap();
        bind(&dir, &Queue::named("celery")).unwrap();
        let table: serde_json::Value = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
        assert_eq!(
            table,
            serde_json::json!([
                ["celery", "", "celery"],
                ["k", "", "other"],
                ["t.*", "^t\\.[^\\.]+$", "topic"]
            ])
        );
        assert_eq!(lookup(&dir, "celery", "celery", false).unwrap(), ["celery"]);
        assert_eq!(lookup(&dir, "celery", "t.x", false).unwrap(), ["topic"]);
        assert!(lookup(&dir, "celery", "t.x.y", false).unwrap().is_empty());
        assert!(lookup(&dir, "none", "k", false).unwrap().is_empty());
    }

    #[test]
    fn every_binding_is_written_as_kombu_writes_it() {
        let (path, dir) = folder();
        let media = Exchange::new("media", ExchangeKind::Topic);
        let mut queue = Queue::bound("q", media, "video.#");
        queue.bindings.push(Binding {
            exchange: Exchange::new("all", ExchangeKind::Fanout),
            routing_key: "x".into(),
            arguments: crate::message::JsonMap::new(),
        });
        bind(&dir, &queue).unwrap();
        bind(
            &dir,
            &Queue::bound("other", Exchange::new("all", ExchangeKind::Fanout), ""),
        )
        .unwrap();
        let text = |name: &str| std::fs::read_to_string(path.path().join(name)).unwrap();
        assert_eq!(text("media.exchange"), r#"[["video.#","^video\\..*?$","q"]]"#);
        assert_eq!(text("all.exchange"), r#"[["","","other"],["x","","q"]]"#);
        assert_eq!(lookup(&dir, "media", "video.a.b", false).unwrap(), ["q"]);
        assert_eq!(lookup(&dir, "all", "whatever", true).unwrap(), ["other", "q"]);
    }

    /// kombu reads without waiting for who writes, and an empty file is an error to it.
    #[test]
    fn nobody_sees_a_table_without_its_content() {
        let (path, dir) = folder();
        unbind(&dir, &Queue::named("celery")).unwrap();
        assert_eq!(std::fs::read_dir(path.path()).unwrap().count(), 0);
        let seen = std::thread::scope(|scope| {
            let binding = scope.spawn(|| {
                for n in 0..500 {
                    bind(&dir, &Queue::named(format!("q{n}"))).unwrap();
                }
            });
            let (mut seen, mut empty) = (0, 0);
            while !binding.is_finished() {
                for file in std::fs::read_dir(path.path()).unwrap().flatten() {
                    if file.path().extension().is_some_and(|end| end == "exchange") {
                        seen += 1;
                        empty += usize::from(file.metadata().unwrap().len() == 0);
                    }
                }
            }
            (seen, empty)
        });
        assert!(seen.0 > 0 && seen.1 == 0, "{seen:?}");
    }

    #[test]
    fn a_damaged_file_is_written_anew() {
        let (path, dir) = folder();
        let file = path.path().join("celery.exchange");
        std::fs::write(&file, r#"[["celery", "", "cel"#).unwrap();
        bind(&dir, &Queue::named("celery")).unwrap();
        assert_eq!(
            std::fs::read_to_string(&file).unwrap(),
            r#"[["celery","","celery"]]"#
        );
    }
}
