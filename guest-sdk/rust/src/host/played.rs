//! A worker played in memory, for native unit tests. `crate::testing` sets it up and reads it.

use std::cell::{RefCell, RefMut};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::bindings::celerybox::task::context::{
    DeliveryInfo, Level, Request, RetryError, RetryOptions, TimeLeft,
};
use crate::bindings::celerybox::task::types::{Error, Failure, RetryLimit};

#[derive(Debug, Clone)]
pub(crate) struct Host(Rc<RefCell<Played>>);

/// What the worker knows of the run, and what the task asked for.
#[derive(Debug)]
pub(crate) struct Played {
    pub(crate) request: Request,
    pub(crate) max_retries: RetryLimit,
    pub(crate) soft: Option<Duration>,
    pub(crate) hard: Option<Duration>,
    pub(crate) refusal: Option<Error>,
    pub(crate) states: Vec<(String, String)>,
    pub(crate) retry: Option<RetryOptions>,
    /// The signatures that were sent, with the arguments in front.
    pub(crate) sent: Vec<Value>,
    pub(crate) replacement: Option<Value>,
    /// Result documents by task id.
    pub(crate) results: BTreeMap<String, Value>,
    pub(crate) slept: Duration,
    started: Instant,
    soft_limit_told: bool,
}

impl Host {
    pub(crate) fn played(&self) -> RefMut<'_, Played> {
        self.0.borrow_mut()
    }

    pub(crate) fn request(&self) -> Request {
        self.played().request.clone()
    }

    pub(crate) fn update_state(&self, state: &str, meta: &str) -> Result<(), Error> {
        let mut played = self.played();
        played.answer()?;
        played.states.push((state.to_owned(), meta.to_owned()));
        Ok(())
    }

    pub(crate) fn retry(&self, options: &RetryOptions) -> Result<(), RetryError> {
        let mut played = self.played();
        played.answer().map_err(RetryError::Other)?;
        let limit = options.max_retries.unwrap_or(played.max_retries);
        if let RetryLimit::AtMost(most) = limit
            && played.request.retries >= most
        {
            let failure = options.exc.clone();
            let failure = failure.unwrap_or_else(|| played.too_many_retries());
            return Err(RetryError::MaxRetriesExceeded(failure));
        }
        played.retry = Some(options.clone());
        Ok(())
    }

    pub(crate) fn apply(&self, signature: &str, args: &str) -> Result<String, Error> {
        let mut played = self.played();
        played.answer()?;
        let mut signature = json(signature)?;
        let own = signature["args"].as_array().cloned().unwrap_or_default();
        let mut args = json(args)?.as_array().cloned().unwrap_or_default();
        args.extend(own);
        signature["args"] = Value::Array(args);
        played.send(signature)
    }

    pub(crate) fn replace(&self, signature: &str) -> Result<(), Error> {
        let mut played = self.played();
        played.answer()?;
        played.replacement = Some(json(signature)?);
        Ok(())
    }

    pub(crate) fn add_to_chord(&self, signature: &str) -> Result<String, Error> {
        let mut played = self.played();
        played.answer()?;
        if played.request.chord.is_none() {
            return Err(Error::Invalid("the task is no part of a chord".to_owned()));
        }
        played.send(json(signature)?)
    }

    pub(crate) fn result(&self, id: &str) -> Result<Option<String>, Error> {
        let mut played = self.played();
        played.answer()?;
        Ok(played.results.get(id).map(Value::to_string))
    }

    pub(crate) fn forget(&self, id: &str) -> Result<(), Error> {
        let mut played = self.played();
        played.answer()?;
        played.results.remove(id);
        Ok(())
    }

    pub(crate) fn time_left(&self) -> TimeLeft {
        let played = self.played();
        TimeLeft {
            soft: played.left(played.soft),
            hard: played.left(played.hard),
        }
    }

    pub(crate) fn soft_time_limit_exceeded(&self) -> bool {
        self.time_left().soft == Some(0)
    }

    /// Does not really sleep: the run's clock is put forward.
    pub(crate) fn sleep(&self, time: Duration) {
        self.played().slept += time;
    }

    pub(crate) fn log(level: Level, message: &str) {
        eprintln!("[{level:?}] {message}");
    }
}

fn json(text: &str) -> Result<Value, Error> {
    serde_json::from_str(text).map_err(|error| Error::Invalid(error.to_string()))
}

impl Played {
    /// Remembers what is sent; its id is its own, or `sent-1`, `sent-2` ….
    fn send(&mut self, signature: Value) -> Result<String, Error> {
        self.sent.push(signature.clone());
        let own = signature["options"]["task_id"].as_str().map(str::to_owned);
        let id = own.unwrap_or_else(|| format!("sent-{}", self.sent.len()));
        let members = match signature["subtask_type"] == "group" {
            true => signature["kwargs"]["tasks"].as_array().map(|tasks| {
                let members =
                    (1..=tasks.len()).map(|n| serde_json::json!([[format!("{id}.{n}"), null], null]));
                members.collect::<Vec<Value>>()
            }),
            false => None,
        };
        Ok(serde_json::json!([[id, null], members]).to_string())
    }

    /// As the worker does before every call: the soft time limit is told once.
    fn answer(&mut self) -> Result<(), Error> {
        if !self.soft_limit_told && self.left(self.soft) == Some(0) {
            self.soft_limit_told = true;
            return Err(Error::SoftTimeLimitExceeded);
        }
        self.refusal.clone().map_or(Ok(()), Err)
    }

    /// Milliseconds until a limit, rounded up so that 0 says it has passed.
    fn left(&self, limit: Option<Duration>) -> Option<u64> {
        let used = self.started.elapsed() + self.slept;
        limit.map(|limit| {
            let left = limit.saturating_sub(used).as_nanos().div_ceil(1_000_000);
            u64::try_from(left).unwrap_or(u64::MAX)
        })
    }

    fn too_many_retries(&self) -> Failure {
        let Request { task, id, .. } = &self.request;
        let text = format!("Can't retry {task}[{id}]");
        Failure {
            exc_type: "MaxRetriesExceededError".to_owned(),
            exc_module: Some("celery.exceptions".to_owned()),
            exc_args: serde_json::Value::from(vec![text]).to_string(),
            traceback: None,
        }
    }
}

impl Default for Host {
    fn default() -> Self {
        let map = || "{}".to_owned();
        let request = Request {
            id: "00000000-0000-0000-0000-000000000000".to_owned(),
            task: "test".to_owned(),
            shadow: None,
            retries: 0,
            eta: None,
            expires: None,
            time_limit: None,
            soft_time_limit: None,
            root_id: None,
            parent_id: None,
            group: None,
            group_index: None,
            origin: None,
            reply_to: None,
            correlation_id: None,
            hostname: "celery@test".to_owned(),
            delivery_info: DeliveryInfo {
                exchange: String::new(),
                routing_key: "celery".to_owned(),
                priority: None,
                redelivered: false,
            },
            callbacks: None,
            errbacks: None,
            chain: None,
            chord: None,
            ignore_result: false,
            replaced_task_nesting: 0,
            stamped_headers: Vec::new(),
            stamps: map(),
            headers: map(),
            properties: map(),
            args: "[]".to_owned(),
            kwargs: map(),
        };
        Self(Rc::new(RefCell::new(Played {
            request,
            max_retries: RetryLimit::AtMost(3),
            soft: None,
            hard: None,
            refusal: None,
            states: Vec::new(),
            retry: None,
            sent: Vec::new(),
            replacement: None,
            results: BTreeMap::new(),
            slept: Duration::ZERO,
            started: Instant::now(),
            soft_limit_told: false,
        })))
    }
}
