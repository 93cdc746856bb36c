//! Queues of monitors and clients that are gone: without them nobody removes what is still sent there.

use std::collections::HashMap;
use std::io;
use std::time::{Duration, SystemTime};

use cap_std::fs::Dir;

use super::{exchange, listing, name};

/// Which queues those are, and when they go. On a server they would go with their connections.
#[derive(Debug, Clone, PartialEq)]
pub struct Fleeting {
    /// How the names of monitors' queues begin (`event_queue_prefix`), and their exchange (`event_exchange`).
    pub events: (String, String),
    /// The exchange of answers to remote control, which is also how the names of clients' queues end.
    pub replies: String,
    /// After how long nobody reads a queue in which a message waits (`event_queue_expires`).
    pub expires: Duration,
}

impl Fleeting {
    /// The exchange of such a queue.
    fn exchange(&self, queue: &str) -> Option<&str> {
        let ends = |name: &str, end: &str| name.strip_suffix(end).is_some_and(|rest| rest.ends_with('.'));
        let begins =
            |name: &str, start: &str| name.strip_prefix(start).is_some_and(|rest| rest.starts_with('.'));
        let (prefix, events) = &self.events;
        if begins(queue, prefix) {
            return Some(events);
        }
        ends(queue, &self.replies).then_some(&self.replies)
    }
}

/// Removes the queues whose oldest message waits for too long, with their bindings and messages; how many.
pub(super) fn sweep(input: &Dir, control: &Dir, fleeting: &Fleeting) -> io::Result<usize> {
    let mut oldest: HashMap<String, SystemTime> = HashMap::new();
    for entry in input.entries()? {
        let entry = entry?;
        let file = entry.file_name();
        let queue = file.to_str().and_then(name::queue);
        let Some(queue) = queue.filter(|queue| fleeting.exchange(queue).is_some()) else {
            continue;
        };
        // Somebody may have taken it.
        if let Ok(modified) = entry.metadata().and_then(|metadata| metadata.modified()) {
            let modified = modified.into_std();
            let known = oldest.entry(queue.to_owned()).or_insert(modified);
            *known = modified.min(*known);
        }
    }
    let is_over = |time: &SystemTime| time.elapsed().is_ok_and(|age| age > fleeting.expires);
    oldest.retain(|_, time| is_over(time));
    for queue in oldest.keys() {
        if let Some(exchange) = fleeting.exchange(queue) {
            exchange::unbind_from(control, exchange, queue)?;
        }
        listing::purge(input, queue)?;
    }
    Ok(oldest.len())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::queue::{Exchange, ExchangeKind, Queue};

    #[test]
    fn only_queues_of_those_who_are_gone_are_removed() {
        let path = tempfile::tempdir().unwrap();
        let dir = super::super::folder::open(path.path(), false).unwrap();
        let fleeting = Fleeting {
            events: ("celeryev".into(), "celeryev".into()),
            replies: "reply.celery.pidbox".into(),
            expires: Duration::from_secs(60),
        };
        let old = SystemTime::now() - Duration::from_secs(120);
        let put = |queue: &str, time: SystemTime| {
            let file = path.path().join(name::new(queue));
            std::fs::File::create(file).unwrap().set_modified(time).unwrap();
        };
        let (gone, alive, client) = ("celeryev.gone", "celeryev.alive", "x.reply.celery.pidbox");
        for queue in [gone, client, "celery", "celeryevents", "w1@h.celery.pidbox"] {
            put(queue, old);
        }
        put(gone, SystemTime::now());
        put(alive, SystemTime::now());
        for queue in [gone, alive] {
            let exchange = Exchange::new("celeryev", ExchangeKind::Topic);
            exchange::bind(&dir, &Queue::bound(queue, exchange, "#")).unwrap();
        }
        assert_eq!(sweep(&dir, &dir, &fleeting).unwrap(), 2);
        assert_eq!(exchange::lookup(&dir, "celeryev", "a.b", false).unwrap(), [alive]);
        let left = std::fs::read_dir(path.path()).unwrap().flatten();
        let left = left.filter_map(|entry| Some(name::queue(entry.file_name().to_str()?)?.to_owned()));
        let mut left: Vec<String> = left.collect();
        left.sort_unstable();
        assert_eq!(left, ["celery", alive, "celeryevents", "w1@h.celery.pidbox"]);
        assert_eq!(sweep(&dir, &dir, &fleeting).unwrap(), 0);
    }
}
