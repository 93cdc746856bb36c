//! Names of message files, and what may be a part of a file name at all.

use std::sync::Mutex;

use uuid::Uuid;

/// The longest queue, exchange or task id that is taken into a file name, in bytes. With kombu's additions a name
/// stays within the 255 bytes that file systems allow.
const LONGEST: usize = 200;

/// Checks that `name` can be part of a file name and cannot lead out of its folder. The error is a sentence;
/// `what` says what it is, for example `queue name`.
pub(crate) fn check<'a>(what: &str, name: &'a str) -> Result<&'a str, String> {
    let shown: String = name.chars().take(80).collect();
    let problem = if name.is_empty() {
        "is empty".to_owned()
    } else if name.len() > LONGEST {
        format!("is longer than {LONGEST} bytes")
    } else if name == "." || name == ".." {
        "is the name of a folder".to_owned()
    } else if let Some(c) = name.chars().find(|c| matches!(c, '/' | '\\') || c.is_control()) {
        format!("contains {c:?}")
    } else {
        return Ok(name);
    };
    Err(format!(
        "the {what} {shown:?} {problem}: it cannot be part of a file name"
    ))
}

/// A new message file's name: `<monotonic clock in ms>_<uuid4>.<queue>.msg` (contract section 2.3).
///
/// The first 32 bits of the uuid count the names made within one millisecond, so that readers, who sort by name,
/// keep the order in which one process published.
pub(super) fn new(queue: &str) -> String {
    static LAST: Mutex<(u64, u32)> = Mutex::new((0, 0));
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    let now = u64::try_from(now.tv_sec).unwrap_or_default() * 1000
        + u64::try_from(now.tv_nsec).unwrap_or_default() / 1_000_000;
    let (ms, count) = {
        let mut last = LAST.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        *last = match *last {
            (ms, count) if now <= ms => (ms, count.saturating_add(1)),
            _ => (now, 0),
        };
        *last
    };
    let (_, random) = Uuid::new_v4().as_u64_pair();
    let (high, _) = Uuid::new_v4().as_u64_pair();
    let id = Uuid::from_u64_pair((u64::from(count) << 32) | (high & 0xffff_ffff), random);
    format!("{ms}_{id}.{queue}.msg")
}

/// The queue a file belongs to; `None` when it is no message. As kombu: everything after the first dot is
/// `<queue>.msg`.
pub(super) fn queue(file: &str) -> Option<&str> {
    file.split_once('.')?.1.strip_suffix(".msg")
}

/// What files are sorted by. kombu compares names as text, in which 1000000 comes before 999999; the number is
/// compared as a number here.
pub(super) fn order(file: &str) -> (u64, &str) {
    let clock = file.split_once('_').and_then(|(clock, _)| clock.parse().ok());
    (clock.unwrap_or(u64::MAX), file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_name_leads_out_of_the_folder() {
        let long = "x".repeat(LONGEST + 1);
        for bad in [
            "",
            ".",
            "..",
            "a/b",
            "/etc/passwd",
            "../x",
            "a\\b",
            "a\0b",
            "a\nb",
            &long,
        ] {
            let error = check("queue name", bad).unwrap_err();
            assert!(error.starts_with("the queue name \""), "{error}");
        }
        for good in ["celery", "a.b", "a..b", "schlüssel", "w1@host", &long[1..]] {
            assert_eq!(check("queue name", good), Ok(good));
        }
        assert!(new(&long[1..]).len() <= 255);
    }

    #[test]
    fn names_sort_in_the_order_they_were_made_even_as_text() {
        let names: Vec<String> = (0..5000).map(|_| new("a.b")).collect();
        assert!(names.is_sorted());
        assert!(names.is_sorted_by_key(|name| order(name)));
        assert_eq!(queue(&names[0]), Some("a.b"));
        let id = names[0].split(['_', '.']).nth(1).unwrap();
        assert_eq!(Uuid::parse_str(id).unwrap().get_version_num(), 4);
    }

    #[test]
    fn names_of_others() {
        assert_eq!(
            queue("1956173_a157d5cb-56ac-4b03-b307-a1239b8eb534.celery.msg"),
            Some("celery")
        );
        for other in ["unacked", ".x.tmp", "a.msg", "x.celery.msg.tmp"] {
            assert_eq!(queue(other), None, "{other}");
        }
        assert!(order("999999_b.celery.msg") < order("1000000_a.celery.msg"));
        assert!(order("1_b.celery.msg") < order("odd.celery.msg"));
    }
}
