//! Sends messages, those of many callers in one round trip.

use std::sync::Arc;

use redis::{RedisResult, Value};
use tokio::sync::{mpsc, oneshot};

use super::keys::Keys;
use super::restore::{bindings, queues};
use crate::broker::BrokerError;
use crate::broker::exchanges::Exchanges;
use crate::message::Route;
use crate::redis_link::{Link, is_passing};

/// At most this many messages in one round trip.
const BATCH: usize = 128;

/// A message on its way, and who waits for it.
#[derive(Debug)]
pub(super) struct Letter {
    pub(super) route: Route,
    pub(super) priority: u8,
    /// The sealed envelope.
    pub(super) text: String,
    pub(super) answer: oneshot::Sender<Result<(), BrokerError>>,
}

/// Sends letters until nobody can write any. One attempt each: whoever sends decides about more.
pub(super) async fn run(
    mut letters: mpsc::Receiver<Letter>,
    mut link: Link,
    keys: Arc<Keys>,
    exchanges: Arc<Exchanges>,
) {
    let mut batch = Vec::with_capacity(BATCH);
    while letters.recv_many(&mut batch, BATCH).await > 0 {
        // A caller that stopped waiting does not want its answer.
        match send(&mut link, &keys, &exchanges, &batch).await {
            Ok(outcomes) => {
                for (letter, outcome) in batch.drain(..).zip(outcomes) {
                    let answer = outcome.map_err(|error| match is_passing(&error) {
                        true => BrokerError::Connection(error.to_string()),
                        false => BrokerError::Refused(error.to_string()),
                    });
                    let _ = letter.answer.send(answer);
                }
                link.worked();
            }
            Err(error) => {
                for letter in batch.drain(..) {
                    let reason = format!("Cannot publish to {}: {error}", link.url());
                    let _ = letter.answer.send(Err(BrokerError::Connection(reason)));
                }
                link.failed();
            }
        }
    }
}

/// One attempt; an outcome for each letter. A message that no queue is bound for goes nowhere, as in kombu, unless
/// there is a `deadletter_queue`.
async fn send(
    link: &mut Link,
    keys: &Keys,
    exchanges: &Exchanges,
    letters: &[Letter],
) -> RedisResult<Vec<RedisResult<()>>> {
    let connection = link.up().await?;
    let names = letters.iter().map(|letter| letter.route.exchange.as_str());
    let bindings = bindings(connection, keys, names).await?;
    let mut pipeline = redis::pipe();
    // How many commands each letter takes.
    let mut commands = Vec::with_capacity(letters.len());
    for letter in letters {
        let Route {
            exchange,
            routing_key,
        } = &letter.route;
        if exchanges.is_fanout(exchange) {
            commands.push(1);
            let channel = keys.channel(exchange, routing_key);
            pipeline.cmd("PUBLISH").arg(channel).arg(&letter.text);
            continue;
        }
        let queues = queues(keys, &bindings, exchange, routing_key);
        if queues.is_empty() {
            tracing::warn!(
                "a message was dropped: no queue is bound to the exchange {exchange:?} with the routing key \
                 {routing_key:?}"
            );
        }
        let mut count = 0;
        for queue in &queues {
            pipeline
                .cmd("LPUSH")
                .arg(keys.list(queue, letter.priority))
                .arg(&letter.text);
            count += 1 + keys.renew(&mut pipeline, queue);
        }
        commands.push(count);
    }
    let answers: Vec<RedisResult<Value>> = match pipeline.is_empty() {
        true => Vec::new(),
        false => pipeline.ignore_errors().query_async(connection).await?,
    };
    let mut answers = answers.into_iter();
    let of_letter = |commands: usize| {
        let failed = answers.by_ref().take(commands).filter_map(Result::err).last();
        failed.map_or(Ok(()), Err)
    };
    Ok(commands.into_iter().map(of_letter).collect())
}
