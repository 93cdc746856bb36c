//! Lines in the worker's log, each with the task's name and id in front.
//!
//! Natively, in unit tests, they go to stderr.
//!
//! ```
//! celerybox_guest::log::info("half way there");
//! ```

use crate::bindings::celerybox::task::context::Level;
use crate::host::Host;

/// Something for developers.
pub fn debug(message: impl AsRef<str>) {
    Host::log(Level::Debug, message.as_ref());
}

/// Something normal.
pub fn info(message: impl AsRef<str>) {
    Host::log(Level::Info, message.as_ref());
}

/// Something to look at.
pub fn warning(message: impl AsRef<str>) {
    Host::log(Level::Warning, message.as_ref());
}

/// Something failed.
pub fn error(message: impl AsRef<str>) {
    Host::log(Level::Error, message.as_ref());
}
