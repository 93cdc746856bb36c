use std::time::{Duration, Instant};

/// Asks until there is an answer, and returns it.
///
/// # Panics
/// After `limit`, with `what` was waited for.
pub fn within<T>(limit: Duration, what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + limit;
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(Instant::now() < end, "not within {limit:?}: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Waits up to a minute for a fact.
///
/// # Panics
/// After that minute, with `what` was waited for.
pub fn eventually(what: &str, mut fact: impl FnMut() -> bool) {
    within(Duration::from_secs(60), what, || fact().then_some(()));
}
