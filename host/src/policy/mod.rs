//! Decisions about one request, as pure functions.

pub mod admit;
pub mod annotate;
pub mod autoretry;
pub mod autoscale;
pub mod grants;
pub mod limited_set;
pub mod network;
pub mod parameters;
pub mod publish;
pub mod rate;
pub mod retry;
pub mod revoked;
pub mod signal;
