//! celerybox: a Celery worker that runs each task as a WebAssembly component in a sandbox of its own.
//!
//! The way of a message is [`execution::handle`]. `host/README.md` is the architecture page.

// Nothing a sender, a guest or a file can contain may stop the worker.
#![warn(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::todo,
    clippy::unimplemented,
    clippy::unreachable
)]

pub mod backend;
pub mod broker;
pub mod builtin;
pub mod canvas;
pub mod cli;
pub mod clock;
pub mod config;
pub mod control;
pub mod document;
pub mod events;
pub mod execution;
pub mod gossip;
pub mod happening;
pub mod masked;
pub mod message;
pub mod metrics;
pub mod monitor;
pub mod nearest;
pub mod outcome;
pub mod policy;
pub mod queue;
mod redis_link;
pub mod redis_url;
pub mod sandbox;
pub mod settle;
pub mod shutdown;
mod state_db;
pub mod task;
pub mod tls;
pub mod trace;
pub mod worker;
