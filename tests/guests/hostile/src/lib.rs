//! Tasks that misbehave as ordinary Rust code can. What needs odd machine code is WAT, beside the tests that use it.

use std::hint::black_box;
use std::io::{Read, Write};
use std::time::Duration;

use celerybox_guest::{Context, Failure, TaskError, task, tasks};
use serde_json::{Value, json};

/// Panics.
#[task]
fn panics(message: String) {
    panic!("{message}");
}

/// Ends the program, as far as it can.
#[task]
fn exits(code: i32) {
    std::process::exit(code);
}

/// Takes memory without asking whether it may.
#[task]
fn greedy() {
    let mut blocks: Vec<Vec<u8>> = Vec::new();
    loop {
        blocks.push(black_box(vec![1; 1 << 20]));
    }
}

/// Calls itself until the stack is full.
#[task]
fn recurses(depth: u64) -> u64 {
    fn down(depth: u64) -> u64 {
        if depth == 0 {
            0
        } else {
            black_box(down(black_box(depth - 1)) + 1)
        }
    }
    down(depth)
}

/// A list in a list in a list.
#[task]
fn nested(depth: usize) -> Box<serde_json::value::RawValue> {
    let text = format!("{}{}", "[".repeat(depth), "]".repeat(depth));
    serde_json::value::RawValue::from_string(text).expect("brackets in pairs are JSON")
}

/// A text of so many bytes.
#[task]
fn long(bytes: usize) -> String {
    "x".repeat(bytes)
}

/// Prints so many bytes on each of the two streams.
#[task]
fn floods(bytes: usize) -> Result<usize, TaskError> {
    let block = [b'x'; 4096];
    let mut left = bytes;
    while left > 0 {
        let part = &block[..left.min(block.len())];
        std::io::stdout().write_all(part)?;
        std::io::stderr().write_all(part)?;
        left -= part.len();
    }
    // Nobody else writes what Rust still holds back.
    std::io::stdout().flush()?;
    Ok(bytes)
}

/// Prints this text.
#[task]
fn prints(text: String) {
    print!("{text}");
}

/// Sleeps for ever.
#[task]
fn sleeps() {
    loop {
        std::thread::sleep(Duration::from_secs(u64::MAX / 4_000_000_000));
    }
}

/// Everything it can find out about where it runs.
#[task]
fn looks_around() -> Value {
    let mut input = String::new();
    let read = std::io::stdin().read_to_string(&mut input);
    json!({
        "args": std::env::args().collect::<Vec<_>>(),
        "env": std::env::vars().collect::<Vec<_>>(),
        "stdin": [format!("{:?}", read.ok()), input],
        "root": std::fs::read_dir("/").is_ok(),
        "here": std::fs::read_dir(".").is_ok(),
        "proc": std::fs::read_to_string("/proc/self/environ").is_ok(),
        "write": std::fs::write("/tmp/celerybox-hostile", "x").is_ok(),
    })
}

/// Stores a state so many times, and tells the first error.
#[task]
fn updates(ctx: &Context, state: String, times: u64) -> Result<u64, TaskError> {
    for n in 0..times {
        ctx.update_state(&state, &n)?;
    }
    Ok(times)
}

/// Fails with a class of its choice.
#[task]
fn raises(module: String, class: String) -> Result<(), TaskError> {
    Err(Failure::new(class, "it did").with_module(module).into())
}

/// Asks how much time is left.
#[task]
fn time_left(ctx: &Context) -> Value {
    let left = ctx.time_left();
    json!([
        left.soft.map(|left| left.as_secs_f64()),
        left.hard.map(|left| left.as_secs_f64())
    ])
}

/// Computes until it is told that its soft limit has passed.
#[task]
fn listens(ctx: &Context) -> bool {
    while !ctx.soft_time_limit_exceeded() {
        black_box(());
    }
    true
}

/// Computes until a call that can fail fails, and goes on; says how often that happened in the next 1000 calls.
#[task]
fn counts_soft_limits(ctx: &Context) -> u64 {
    while !ctx.soft_time_limit_exceeded() {
        black_box(());
    }
    (0..100)
        .filter(|n| ctx.update_state("PROGRESS", n).is_err())
        .count() as u64
}

tasks![
    panics,
    exits,
    greedy,
    recurses,
    nested,
    long,
    floods,
    prints,
    sleeps,
    looks_around,
    updates,
    raises,
    time_left,
    listens,
    counts_soft_limits
];
