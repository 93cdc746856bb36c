//! Giving unacknowledged messages back to their queues (contract section 2.2.4).

use std::collections::HashMap;
use std::sync::LazyLock;
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{RedisResult, Script};

use super::keys::Keys;
use super::record::Record;

static RESTORE: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("restore.lua")));

/// So many are in memory at once.
const CHUNK: usize = 100;

/// Which end of its list a message goes back to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    /// Delivered after all that wait.
    Last,
    /// Delivered before all that wait; of several the one that is given back last.
    Next,
}

/// Gives the messages with these tags back, with the mark that they were delivered before, unless they are gone.
/// With `age` only those that nobody claimed for so long. Returns how many went back.
///
/// Records that cannot be understood are logged and removed: nobody could ever deliver them.
pub(super) async fn restore(
    connection: &mut MultiplexedConnection,
    keys: &Keys,
    tags: &[Vec<u8>],
    end: End,
    age: Option<Duration>,
) -> RedisResult<usize> {
    let mut restored = 0;
    for tags in tags.chunks(CHUNK) {
        let records: Vec<Option<Vec<u8>>> = redis::cmd("HMGET")
            .arg(&keys.unacked)
            .arg(tags)
            .query_async(connection)
            .await?;
        let (mut messages, mut garbage) = (Vec::new(), Vec::new());
        for (tag, record) in tags.iter().zip(&records) {
            match record.as_deref().map(Record::read) {
                Some(Ok(message)) => messages.push((tag, message)),
                Some(Err(error)) => {
                    let text = String::from_utf8_lossy(record.as_deref().unwrap_or_default());
                    tracing::error!(
                        "Removed an unacknowledged message that cannot be restored: {error}: {}",
                        cut(&text)
                    );
                    garbage.push(tag);
                }
                // Half a record: a time without a message.
                None => garbage.push(tag),
            }
        }
        if !garbage.is_empty() {
            remove(connection, keys, &garbage).await?;
        }
        let bindings = bindings(
            connection,
            keys,
            messages.iter().map(|(_, m)| m.exchange.as_str()),
        )
        .await?;
        restored += push_back(connection, keys, &messages, &bindings, end, age).await?;
    }
    Ok(restored)
}

async fn push_back(
    connection: &mut MultiplexedConnection,
    keys: &Keys,
    messages: &[(&Vec<u8>, Record)],
    bindings: &HashMap<String, Vec<String>>,
    end: End,
    age: Option<Duration>,
) -> RedisResult<usize> {
    let mut script = RESTORE.prepare_invoke();
    script.key(&keys.unacked).key(&keys.unacked_index);
    script.arg(match end {
        End::Last => "LPUSH",
        End::Next => "RPUSH",
    });
    script.arg(age.map_or(String::new(), |age| age.as_secs_f64().to_string()));
    let (mut any, mut renewal) = (false, redis::pipe());
    for (tag, message) in messages {
        let queues = queues(keys, bindings, &message.exchange, &message.routing_key);
        if queues.is_empty() {
            tracing::warn!(
                "Could not restore message {}: no queue is bound to exchange {:?} with routing key {:?}",
                String::from_utf8_lossy(tag),
                message.exchange,
                message.routing_key
            );
            continue;
        }
        any = true;
        for queue in &queues {
            script.key(keys.list(queue, message.priority));
            keys.renew(&mut renewal, queue);
        }
        script.arg(*tag).arg(&message.text).arg(queues.len());
    }
    if !any {
        return Ok(0);
    }
    let restored = script.invoke_async(connection).await?;
    if !renewal.is_empty() {
        renewal.exec_async(connection).await?;
    }
    Ok(restored)
}

/// Forgets messages for good: what an ack does.
pub(super) async fn remove(
    connection: &mut MultiplexedConnection,
    keys: &Keys,
    tags: &[impl redis::ToRedisArgs],
) -> RedisResult<()> {
    redis::pipe()
        .atomic()
        .cmd("ZREM")
        .arg(&keys.unacked_index)
        .arg(tags)
        .ignore()
        .cmd("HDEL")
        .arg(&keys.unacked)
        .arg(tags)
        .ignore()
        .query_async(connection)
        .await
}

/// The members of the binding sets of these exchanges; the default exchange has none.
pub(super) async fn bindings<'a>(
    connection: &mut MultiplexedConnection,
    keys: &Keys,
    exchanges: impl Iterator<Item = &'a str>,
) -> RedisResult<HashMap<String, Vec<String>>> {
    let mut named: Vec<&str> = exchanges.filter(|exchange| !exchange.is_empty()).collect();
    named.sort_unstable();
    named.dedup();
    if named.is_empty() {
        return Ok(HashMap::new());
    }
    let mut pipeline = redis::pipe();
    for exchange in &named {
        pipeline.cmd("SMEMBERS").arg(keys.bindings(exchange));
    }
    let members: Vec<Vec<Vec<u8>>> = pipeline.query_async(connection).await?;
    let text = |member: Vec<u8>| String::from_utf8(member).ok();
    Ok(named
        .into_iter()
        .zip(members)
        .map(|(exchange, members)| {
            (
                exchange.to_owned(),
                members.into_iter().filter_map(text).collect(),
            )
        })
        .collect())
}

/// The queues a message goes to. With the default exchange the routing key is the queue.
pub(super) fn queues(
    keys: &Keys,
    bindings: &HashMap<String, Vec<String>>,
    exchange: &str,
    routing_key: &str,
) -> Vec<String> {
    let found = match (exchange, routing_key) {
        ("", "") => Vec::new(),
        ("", queue) => vec![queue.to_owned()],
        (exchange, key) => match bindings.get(exchange) {
            Some(members) => keys.bound_queues(members, key),
            None => Vec::new(),
        },
    };
    match &keys.deadletter_queue {
        Some(queue) if found.is_empty() => vec![queue.clone()],
        _ => found,
    }
}

/// At most a kilobyte of a text, for a log line.
pub(super) fn cut(text: &str) -> String {
    match text.char_indices().nth(1024) {
        Some((end, _)) => format!("{}...", text.get(..end).unwrap_or_default()),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_line_is_cut_between_characters() {
        assert_eq!(cut("short"), "short");
        let cut = cut(&"é".repeat(5000));
        assert_eq!(cut.chars().count(), 1027);
    }
}
