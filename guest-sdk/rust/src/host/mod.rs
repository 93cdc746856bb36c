//! The worker as a task sees it: through the component's imports, or, natively, played by [`crate::testing`].

#[cfg(target_family = "wasm")]
mod worker;
#[cfg(target_family = "wasm")]
pub(crate) use worker::Host;

#[cfg(not(target_family = "wasm"))]
mod played;
#[cfg(not(target_family = "wasm"))]
pub(crate) use played::Host;
