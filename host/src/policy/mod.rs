//! Decisions about one request, as pure functions.

pub mod admit;
pub mod publish;
pub mod retry;
