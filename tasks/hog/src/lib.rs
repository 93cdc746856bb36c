//! Tasks that want too much: memory, output, a value that is too long.

use std::hint::black_box;
use std::io::Write;

use celerybox_guest::{Context, TaskError, task, tasks};

const MIB: usize = 1 << 20;

/// Takes memory until it is refused more, or has `most` MiB, and returns how many MiB it got.
#[task]
fn memory(most: Option<usize>) -> usize {
    let mut blocks: Vec<Vec<u8>> = Vec::new();
    while most.is_none_or(|most| blocks.len() < most) {
        let mut block = Vec::new();
        if block.try_reserve_exact(MIB).is_err() {
            break;
        }
        // Written to, so that it is really there.
        block.resize(MIB, 1);
        blocks.push(black_box(block));
    }
    blocks.len()
}

/// Takes memory without asking whether it may: ends as Rust programs do, by aborting.
#[task]
fn greedy() {
    let mut blocks: Vec<Vec<u8>> = Vec::new();
    loop {
        blocks.push(black_box(vec![1; MIB]));
    }
}

/// Writes so many bytes to its standard output, in lines.
#[task]
fn print(bytes: usize) -> Result<usize, TaskError> {
    let line = format!("{}\n", "o".repeat(99));
    let mut out = std::io::stdout().lock();
    let mut left = bytes;
    while left > 0 {
        let part = left.min(line.len());
        out.write_all(&line.as_bytes()[line.len() - part..])?;
        left -= part;
    }
    out.flush()?;
    Ok(bytes)
}

/// Returns a text of so many bytes.
#[task]
fn value(bytes: usize) -> String {
    "v".repeat(bytes)
}

/// Stores a state with a text of so many bytes.
#[task]
fn state(ctx: &Context, bytes: usize) -> Result<usize, TaskError> {
    ctx.update_state("PROGRESS", &"s".repeat(bytes))?;
    Ok(bytes)
}

tasks![memory, greedy, print, value, state];

#[cfg(test)]
mod tests {
    use super::*;
    use celerybox_guest::testing::{Error, TestContext};

    #[test]
    fn takes_what_it_is_told() {
        assert_eq!(memory(Some(3)), 3);
        assert_eq!(value(5), "vvvvv");
        assert_eq!(print(250).unwrap(), 250);
    }

    #[test]
    fn a_refused_state_is_an_error() {
        let ctx = TestContext::new();
        assert_eq!(state(&ctx, 2).unwrap(), 2);
        assert_eq!(ctx.states(), [("PROGRESS".into(), r#""ss""#.into())]);
        let ctx = ctx.with_refusal(Error::LimitExceeded("max_state_bytes".into()));
        let error = state(&ctx, 2).unwrap_err();
        assert_eq!(error.to_string(), "RuntimeError: max_state_bytes");
    }
}
