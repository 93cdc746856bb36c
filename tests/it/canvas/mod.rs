//! Canvas: what workers send one another (contract section 4).

mod fleet;
mod messages;
mod workflows;
