//! The black-box tests: real servers, real workers, real Python clients.

mod amqp;
mod cli;
mod conformance;
mod filesystem;
mod fleet;
mod golden;
mod harness;
mod interop;
mod layers;
mod load;
mod readme;
mod redis;
mod sandbox;
mod shutdown;
