//! Functions that cannot be tasks.
#![allow(unused)]

use celerybox_guest_macros::task;

/// Stands for celerybox-guest's, which is not needed to see the messages.
struct Context;

#[task]
async fn asynchronous() {}

#[task]
unsafe fn unsafe_one() {}

#[task]
extern "C" fn foreign() {}

#[task]
fn generic<T: Clone>(x: T) -> T {
    x
}

#[task]
fn lifetime<'a>(x: u8) -> &'a str {
    "x"
}

struct Service;

impl Service {
    #[task]
    fn method(&self, x: u8) {}
}

#[task]
struct NoFunction;

#[task(bind = true)]
fn not_bound(x: u8) {}

#[task(bind = false)]
fn bound(ctx: &Context, x: u8) {}

fn main() {}
