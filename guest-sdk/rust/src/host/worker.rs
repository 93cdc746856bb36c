//! The real worker, behind the component's imports.

use std::time::Duration;

use crate::bindings::celerybox::task::context::{self, Level, Request, RetryError, RetryOptions, TimeLeft};
use crate::bindings::celerybox::task::types::Error;

#[derive(Debug, Clone, Default)]
pub(crate) struct Host;

impl Host {
    pub(crate) fn request(&self) -> Request {
        context::get_request()
    }

    pub(crate) fn update_state(&self, state: &str, meta: &str) -> Result<(), Error> {
        context::update_state(state, meta)
    }

    pub(crate) fn retry(&self, options: &RetryOptions) -> Result<(), RetryError> {
        context::retry(options)
    }

    pub(crate) fn time_left(&self) -> TimeLeft {
        context::get_time_left()
    }

    pub(crate) fn soft_time_limit_exceeded(&self) -> bool {
        context::soft_time_limit_exceeded()
    }

    pub(crate) fn sleep(&self, time: Duration) {
        std::thread::sleep(time);
    }

    pub(crate) fn log(level: Level, message: &str) {
        context::log(level, message);
    }
}
