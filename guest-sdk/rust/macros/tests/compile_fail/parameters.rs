//! Parameters that cannot take an argument.
#![allow(unused)]

use celerybox_guest_macros::task;
use std::collections::HashMap;

/// Stands for celerybox-guest's, which is not needed to see the messages.
struct Context;

#[task]
fn pattern((x, y): (u8, u8)) {}

#[task]
fn nameless(_: u8) {}

#[task]
fn text(x: &str) {}

#[task]
fn slice(x: &[u8]) {}

#[task]
fn reference(x: &HashMap<String, u8>) {}

#[task]
fn inside(x: Option<Vec<&str>>) {}

#[task]
fn unknown(x: impl Into<String>) {}

#[task]
fn context_last(x: u8, ctx: &Context) {}

#[task]
fn order(#[default(1)] x: u8, y: u8) {}

#[task]
fn order_option(x: Option<u8>, y: u8) {}

#[task]
fn no_value(#[default] x: u8) {}

#[task]
fn two_defaults(#[default(1)] #[default(2)] x: u8) {}

#[task]
fn both(#[args] #[keyword_only] x: Vec<u8>) {}

#[task]
fn two_rests(#[args] x: Vec<u8>, #[args] y: Vec<u8>) {}

#[task]
fn late_rest(#[keyword_only] x: u8, #[args] y: Vec<u8>) {}

#[task]
fn default_rest(#[default(vec![])] #[args] y: Vec<u8>) {}

#[task]
fn after_kwargs(#[kwargs] x: HashMap<String, u8>, y: u8) {}

#[task]
fn value_of_a_marker(#[args(1)] x: Vec<u8>) {}

fn main() {}
