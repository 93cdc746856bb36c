//! Sends messages, those of many callers in one round trip.

use std::sync::Arc;
use std::time::Duration;

use redis::{RedisError, RedisResult, Value};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep};

use super::keys::Keys;
use super::restore::{bindings, queues};
use crate::broker::BrokerError;
use crate::message::Route;
use crate::redis_link::{Link, is_passing};

/// At most this many messages in one round trip.
const BATCH: usize = 128;

/// How long to try while the server is away.
const PATIENCE: Duration = Duration::from_secs(30);

/// The longest pause between attempts, as somebody waits.
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// A message on its way, and who waits for it.
#[derive(Debug)]
pub(super) struct Letter {
    pub(super) route: Route,
    pub(super) priority: u8,
    /// The sealed envelope.
    pub(super) text: String,
    pub(super) answer: oneshot::Sender<Result<(), BrokerError>>,
}

/// Sends letters until nobody can write any.
pub(super) async fn run(mut letters: mpsc::Receiver<Letter>, mut link: Link, keys: Arc<Keys>) {
    let mut batch = Vec::with_capacity(BATCH);
    while letters.recv_many(&mut batch, BATCH).await > 0 {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let problem = match send(&mut link, &keys, &batch).await {
                Ok(outcomes) => answer(&mut batch, outcomes),
                Err(error) => Some(error),
            };
            let Some(error) = problem else {
                link.worked();
                break;
            };
            let pause = link.failed().min(LONGEST_PAUSE);
            if Instant::now() + pause >= deadline {
                for letter in batch.drain(..) {
                    let reason = format!("Cannot publish to {}: {error}", link.url());
                    let _ = letter.answer.send(Err(BrokerError::Connection(reason)));
                }
                break;
            }
            tracing::warn!(
                "Cannot publish to {}: {error}. Trying again in {:.2} seconds...",
                link.url(),
                pause.as_secs_f64()
            );
            sleep(pause).await;
        }
    }
}

/// Answers the letters that were sent or refused for good. Those refused for a reason that passes stay; the reason.
fn answer(batch: &mut Vec<Letter>, outcomes: Vec<RedisResult<()>>) -> Option<RedisError> {
    let (mut left, mut problem) = (Vec::new(), None);
    for (letter, outcome) in batch.drain(..).zip(outcomes) {
        match outcome {
            Err(error) if is_passing(&error) => {
                left.push(letter);
                problem = Some(error);
            }
            // A caller that stopped waiting does not want its answer.
            outcome => {
                let refused = |error: RedisError| BrokerError::Refused(error.to_string());
                let _ = letter.answer.send(outcome.map_err(refused));
            }
        }
    }
    *batch = left;
    problem
}

/// One attempt; an outcome for each letter. A message that no queue is bound for goes nowhere, as in kombu.
async fn send(link: &mut Link, keys: &Keys, letters: &[Letter]) -> RedisResult<Vec<RedisResult<()>>> {
    let connection = link.up().await?;
    let exchanges = letters.iter().map(|letter| letter.route.exchange.as_str());
    let bindings = bindings(connection, keys, exchanges).await?;
    let mut pipeline = redis::pipe();
    let mut copies = Vec::with_capacity(letters.len());
    for letter in letters {
        let queues = queues(keys, &bindings, &letter.route.exchange, &letter.route.routing_key);
        copies.push(queues.len());
        for queue in &queues {
            pipeline
                .cmd("LPUSH")
                .arg(keys.list(queue, letter.priority))
                .arg(&letter.text);
        }
    }
    let answers: Vec<RedisResult<Value>> = match pipeline.is_empty() {
        true => Vec::new(),
        false => pipeline.ignore_errors().query_async(connection).await?,
    };
    let mut answers = answers.into_iter();
    let of_letter = |copies: usize| {
        let failed = answers.by_ref().take(copies).filter_map(Result::err).last();
        failed.map_or(Ok(()), Err)
    };
    Ok(copies.into_iter().map(of_letter).collect())
}
