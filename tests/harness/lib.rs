//! What the tests stand on: private servers, workers and real Python clients, each a process of its own that ends with
//! the test, whatever way the test ends.
//!
//! Everything listens on 127.0.0.1 only, on a free port, and keeps its files in a temporary folder. Nothing here uses a
//! server that was running before. A failure of the harness is a panic with a sentence: there is nobody to handle it.

mod broker;
mod certificate;
mod collector;
mod place;
mod port;
mod process;
mod python;
mod rabbitmq;
mod redis;
mod wait;
mod worker;

pub use broker::Place;
pub use certificate::Certificate;
pub use collector::{Collector, Span};
pub use place::{celerybox, guests, root, tasks, venv_python};
pub use port::free_port;
pub use process::Process;
pub use python::{
    check, check_old, flower, interpreter, interpreter_for, python, python_of, python_with, send,
};
pub use rabbitmq::{RabbitMq, Vhost};
pub use redis::{Redis, RedisConnection, Reply, Sentinel};
pub use rustix::process::Signal;
pub use wait::{eventually, within};
pub use worker::{PYTHON_WORKER, Worker, against_real_celery};
