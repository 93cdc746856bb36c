//! The real worker, behind the component's imports.

use std::time::Duration;

use crate::bindings::celerybox::task::context::{self, Level, Request, RetryError, RetryOptions, TimeLeft};
use crate::bindings::celerybox::task::types::Error;
use crate::bindings::celerybox::task::{publisher, results};

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

    pub(crate) fn apply(&self, signature: &str, args: &str) -> Result<String, Error> {
        publisher::apply(signature, args, "{}", "{}")
    }

    pub(crate) fn replace(&self, signature: &str) -> Result<(), Error> {
        publisher::replace(signature)
    }

    pub(crate) fn add_to_chord(&self, signature: &str) -> Result<String, Error> {
        publisher::add_to_chord(signature)
    }

    pub(crate) fn result(&self, id: &str) -> Result<Option<String>, Error> {
        results::get(id)
    }

    pub(crate) fn forget(&self, id: &str) -> Result<(), Error> {
        results::forget(id)
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
