//! The black-box tests: real servers, real workers, real Python clients.

mod harness;
mod interop;
