//! How a task ends when it does not return a value.

use std::error::Error;
use std::fmt;

use crate::bindings::celerybox::task::types as wit;
use crate::bindings::exports::celerybox::task::handler::{Ending, Reject};
use crate::failure::Failure;

/// How a task ends when it does not return a value: with an error, or as one of Celery's `Retry`, `Reject`, `Ignore`.
///
/// Every [`std::error::Error`] becomes one with `?`: its type's name is the exception's type, its message the
/// exception's argument, and its sources are told in the traceback.
///
/// ```
/// use celerybox_guest::TaskError;
///
/// fn port(text: &str) -> Result<u16, TaskError> {
///     let port: u16 = text.parse()?;
///     if port == 0 {
///         return Err(TaskError::new("ValueError", "port 0 cannot be used"));
///     }
///     Ok(port)
/// }
///
/// assert_eq!(port("0").unwrap_err().to_string(), "ValueError: port 0 cannot be used");
/// assert_eq!(port("x").unwrap_err().to_string(), "ParseIntError: invalid digit found in string");
/// ```
#[derive(Debug)]
#[non_exhaustive]
pub enum TaskError {
    /// The task failed: FAILURE with this error.
    Failure(Failure),
    /// The worker accepted a retry and sends it: RETRY. Made by [`Context::retry`](crate::Context::retry).
    Retry(AcceptedRetry),
    /// Refuse the message: Celery's `Reject(reason, requeue)`.
    Reject {
        /// Why.
        reason: Option<String>,
        /// True puts the message back on the queue.
        requeue: bool,
    },
    /// Acknowledge the message and store nothing: Celery's `Ignore`.
    Ignore,
    /// The worker accepted another task in the place of this one. Made by [`Context::replace`](crate::Context::replace).
    Replaced(AcceptedReplacement),
}

/// The proof that the worker accepted a replacement.
#[derive(Debug)]
pub struct AcceptedReplacement(pub(crate) ());

/// The proof that the worker accepted a retry.
#[derive(Debug)]
pub struct AcceptedRetry(pub(crate) ());

impl TaskError {
    /// An exception of this type with one argument, its message.
    ///
    /// A name of Python's own (`ValueError`, `KeyError` …) is that exception: a client catches it with `except
    /// ValueError`. For any other name the client makes up a class, unless [`Failure::with_module`] says where it is.
    #[track_caller]
    pub fn new(exc_type: impl Into<String>, message: impl Into<String>) -> Self {
        Self::Failure(Failure::new(exc_type, message))
    }

    /// An error of a type that is no [`std::error::Error`] itself but becomes one, such as `anyhow::Error` or
    /// `Box<dyn Error>`: `fetch().map_err(TaskError::from_boxed)?`. Its exception type is `Exception`.
    #[track_caller]
    pub fn from_boxed(error: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self::Failure(Failure::from_error("Exception", &*error.into()))
    }

    /// The exception that ends a task at its soft time limit.
    #[must_use]
    pub fn soft_time_limit_exceeded() -> Self {
        Self::Failure(Failure::bare("SoftTimeLimitExceeded").with_module("billiard.exceptions"))
    }

    /// Refuses the message: Celery's `Reject(reason, requeue)`.
    pub fn reject(reason: impl Into<String>, requeue: bool) -> Self {
        Self::Reject {
            reason: Some(reason.into()),
            requeue,
        }
    }

    /// The error, when this is one.
    #[must_use]
    pub fn failure(&self) -> Option<&Failure> {
        match self {
            Self::Failure(failure) => Some(failure),
            Self::Retry(_) | Self::Reject { .. } | Self::Ignore | Self::Replaced(_) => None,
        }
    }

    /// Whether this is the end by the soft time limit.
    #[must_use]
    pub fn is_soft_time_limit_exceeded(&self) -> bool {
        self.failure()
            .is_some_and(|failure| failure.exc_type() == "SoftTimeLimitExceeded")
    }

    /// What the worker answered to a call it did not do.
    #[track_caller]
    pub(crate) fn from_worker(error: wit::Error) -> Self {
        match error {
            wit::Error::SoftTimeLimitExceeded => Self::soft_time_limit_exceeded(),
            wit::Error::NotSupported(what) => Self::new("NotImplementedError", what),
            wit::Error::Denied(what) => Self::new("PermissionError", what),
            wit::Error::Invalid(what) => Self::new("ValueError", what),
            wit::Error::LimitExceeded(what) => Self::new("RuntimeError", what),
            wit::Error::Unavailable(what) => Self::new("ConnectionError", what),
        }
    }

    /// The ending as the contract has it; `function` is named in the traceback.
    pub(crate) fn into_ending(self, function: &str) -> Ending {
        match self {
            Self::Failure(failure) => Ending::Failure(failure.into_wit(function)),
            Self::Retry(_) => Ending::Retry,
            Self::Reject { reason, requeue } => Ending::Reject(Reject { reason, requeue }),
            Self::Ignore => Ending::Ignore,
            Self::Replaced(_) => Ending::Replaced,
        }
    }
}

impl<E: Error> From<E> for TaskError {
    #[track_caller]
    fn from(error: E) -> Self {
        let name = crate::failure::type_name_of(std::any::type_name::<E>());
        Self::Failure(Failure::from_error(name, &error))
    }
}

impl From<Failure> for TaskError {
    fn from(failure: Failure) -> Self {
        Self::Failure(failure)
    }
}

impl fmt::Display for TaskError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Failure(failure) => failure.fmt(f),
            Self::Retry(_) => f.write_str("Retry"),
            Self::Reject { reason, requeue } => {
                write!(
                    f,
                    "Reject: {} (requeue: {requeue})",
                    reason.as_deref().unwrap_or("no reason")
                )
            }
            Self::Ignore => f.write_str("Ignore"),
            Self::Replaced(_) => f.write_str("Replaced"),
        }
    }
}
