//! The black-box tests: real servers, real workers, real Python clients.

mod fleet;
mod harness;
mod interop;
mod load;
mod sandbox;
mod shutdown;
