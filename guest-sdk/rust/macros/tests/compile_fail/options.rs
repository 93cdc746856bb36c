//! Options that are unknown or have a wrong value.
#![allow(unused)]

use celerybox_guest_macros::task;

#[task(max_retry = 3)]
fn unknown() {}

#[task(colour = "red")]
fn strange() {}

#[task("proj.add")]
fn bare_name() {}

#[task(name = 3)]
fn number_name() {}

#[task(name = "")]
fn empty_name() {}

#[task(max_retries = -1)]
fn negative_retries() {}

#[task(max_retries)]
fn no_retries() {}

#[task(time_limit = "10s")]
fn text_limit() {}

#[task(default_retry_delay = -2.0)]
fn negative_delay() {}

#[task(time_limit = 10, soft_time_limit = 20)]
fn soft_above_hard() {}

#[task(rate_limit = "10/d")]
fn per_day() {}

#[task(priority = 10)]
fn priority() {}

#[task(acks_late = "yes")]
fn not_a_boolean() {}

#[task(acks_late, acks_late = false)]
fn twice() {}

#[task(serializer = true)]
fn serializer() {}

#[task(retry_backoff = 2)]
fn backoff_alone() {}

#[task(autoretry_for(OSError), retry_backoff = 0.5)]
fn fraction() {}

#[task(autoretry_for = "OSError")]
fn no_list() {}

#[task(autoretry_for("OSError"))]
fn texts() {}

#[task(autoretry_for())]
fn nothing() {}

#[task(autoretry_for(OSError), retry_jitter = 1)]
fn jitter() {}

#[task(autoretry_for(OSError), retry_kwargs(queue = "other"))]
fn other_kwargs() {}

#[task(autoretry_for(OSError), retry_kwargs(max_retries = "many"))]
fn many() {}

#[task(acks_late(yes))]
fn in_parentheses() {}

#[task(max_retries = 1, bogus, priority = 11)]
fn all_at_once(#[default(1)] x: u8, y: &str) {}

fn main() {}
