//! Tasks that send tasks: chains, groups, chords, replacement and results. The component has to be granted what it sends, in
//! the worker's configuration:
//!
//! ```toml
//! [component.workflow]
//! send_to = { queues = ["celery"], tasks = ["workflow.*"] }
//! results = true      # for `workflow.state` only
//! ```

use celerybox_guest::canvas::{AsyncResult, chain, chord, group};
use celerybox_guest::{Context, TaskError, task, tasks};

/// The words of a page. A real one would fetch it.
#[task]
fn fetch(page: u32) -> Vec<String> {
    (0..page).map(|word| format!("word{word}")).collect()
}

/// How many words these are.
#[task]
fn count(words: Vec<String>) -> usize {
    words.len()
}

/// The sum of some numbers.
#[task]
fn total(counts: Vec<usize>) -> usize {
    counts.iter().sum()
}

/// Counts the words of so many pages, all at the same time, and sums up. Returns the id of the sum.
#[task]
fn words(ctx: &Context, pages: u32) -> Result<String, TaskError> {
    let header = (1..=pages).map(|page| chain([fetch::s(page), count::s(())]));
    let sum = chord(header, total::s(()).link_error(complain::s(()))).apply_async(ctx)?;
    Ok(sum.id().to_owned())
}

/// The errback of `words`: it gets the id of the task that failed.
#[task]
fn complain(id: String) -> String {
    celerybox_guest::log::error(format!("the pages were not counted: {id} failed"));
    id
}

/// Fetches some pages at the same time, each not before `countdown` seconds. Returns the group's id and its members' ids.
#[task]
fn pages(
    ctx: &Context,
    pages: u32,
    #[default(0.0)] countdown: f64,
) -> Result<(String, Vec<String>), TaskError> {
    let members = (1..=pages).map(|page| fetch::s(page).countdown(countdown));
    let sent = group(members).apply_async(ctx)?;
    let ids = sent.results().iter().map(|result| result.id().to_owned());
    Ok((sent.id().to_owned(), ids.collect()))
}

/// `n!`, one task for each step, each in the place of the one before: the caller waits for the first and gets the value
/// of the last.
#[task]
fn factorial(ctx: &Context, n: u64, #[default(1)] product: u64) -> Result<u64, TaskError> {
    match product.checked_mul(n.max(1)) {
        None => Err(TaskError::new("OverflowError", "too large for 64 bits")),
        Some(product) if n <= 1 => Ok(product),
        Some(product) => Err(ctx.replace(factorial::s((n - 1, product)))),
    }
}

/// A part of a chord that adds another part to it: the body gets the results of both.
#[task]
fn more(ctx: &Context, page: u32) -> Result<usize, TaskError> {
    ctx.add_to_chord(fetch::s(page) | count::s(()))?;
    Ok(0)
}

/// The state of a task, and its value when it has one.
#[task]
fn state(ctx: &Context, id: String) -> Result<(String, Option<serde_json::Value>), TaskError> {
    let result = AsyncResult::new(id);
    Ok((result.state(ctx)?, result.get(ctx)?))
}

tasks![
    fetch, count, total, words, complain, pages, factorial, more, state
];

#[cfg(test)]
mod tests {
    use celerybox_guest::testing::TestContext;

    use super::*;

    #[test]
    fn a_chord_counts_the_words() {
        let ctx = TestContext::new();
        words(&ctx, 3).unwrap();
        let chord = &ctx.sent()[0];
        assert_eq!(chord["kwargs"]["header"].as_array().unwrap().len(), 3);
        assert_eq!(chord["kwargs"]["body"]["task"], "workflow.total");
    }

    #[test]
    fn a_factorial_is_replaced_until_it_is_done() {
        let ctx = TestContext::new();
        assert!(matches!(factorial(&ctx, 5, 1), Err(TaskError::Replaced(_))));
        assert_eq!(ctx.replacement().unwrap()["args"], serde_json::json!([4, 5]));
        assert_eq!(factorial(&ctx, 1, 120).unwrap(), 120);
    }
}
