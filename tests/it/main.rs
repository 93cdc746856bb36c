//! The black-box tests: real servers, real workers, real Python clients.

mod conformance;
mod filesystem;
mod harness;
mod redis;
