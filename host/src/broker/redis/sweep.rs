//! Keeps the claims on messages that are still worked on, and gives back those that nobody works on any more
//! (contract section 2.2.4).

use std::sync::{Arc, LazyLock};

use redis::{RedisResult, Script};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until};
use uuid::Uuid;

use super::Options;
use super::claims::Claims;
use super::fetch::stopped;
use super::keys::Keys;
use super::restore::{End, restore};
use crate::redis_link::Link;

static OVERDUE: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("overdue.lua")));
static UNLOCK: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("unlock.lua")));
static REFRESH: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("refresh.lua")));

/// So many tags in one command.
const CHUNK: usize = 500;

/// One sweep looks at this many at most; more wait for the next.
const SWEEP_LIMIT: usize = 10_000;

/// Refreshes and sweeps until stopped, but never stops with the lock in hand. The first sweep is at once, for what a
/// worker that died has left.
pub(super) async fn run(
    claims: Arc<Claims>,
    mut link: Link,
    keys: Arc<Keys>,
    options: Options,
    mut stop: watch::Receiver<bool>,
) {
    let mut next_sweep = Instant::now();
    let mut next_refresh = next_sweep + options.refresh_period();
    loop {
        tokio::select! {
            () = sleep_until(next_sweep.min(next_refresh)) => {}
            () = stopped(&mut stop) => return,
        }
        let now = Instant::now();
        let done = async {
            if next_refresh <= now {
                refresh(&mut link, &keys, &claims).await?;
                next_refresh = now + options.refresh_period();
            }
            if next_sweep <= now {
                sweep(&mut link, &keys, &options).await?;
                next_sweep = now + options.sweep_period();
            }
            RedisResult::Ok(())
        };
        match done.await {
            Ok(()) => link.worked(),
            Err(error) => {
                let pause = link.failed().min(options.refresh_period());
                tracing::warn!(
                    "Could not look after unacknowledged messages on {}: {error}",
                    link.url()
                );
                tokio::select! {
                    () = sleep(pause) => {}
                    () = stopped(&mut stop) => return,
                }
            }
        }
    }
}

/// Renews the claims; those whose messages somebody gave back are lost.
async fn refresh(link: &mut Link, keys: &Keys, claims: &Claims) -> RedisResult<()> {
    for numbers in claims.numbers().chunks(CHUNK) {
        let mut script = REFRESH.prepare_invoke();
        script.key(&keys.unacked_index);
        for number in numbers {
            script.arg(claims.tag(*number));
        }
        let gone: Vec<usize> = script.invoke_async(link.up().await?).await?;
        let gone = gone
            .into_iter()
            .filter_map(|place| numbers.get(place.checked_sub(1)?).copied());
        claims.lose(gone);
    }
    Ok(())
}

async fn sweep(link: &mut Link, keys: &Keys, options: &Options) -> RedisResult<()> {
    let connection = link.up().await?;
    let token = Uuid::new_v4().to_string();
    let limit = options
        .unacked_restore_limit
        .filter(|limit| *limit > 0)
        .unwrap_or(SWEEP_LIMIT);
    let tags: Vec<Vec<u8>> = OVERDUE
        .key(&keys.unacked_index)
        .key(&keys.unacked_mutex)
        .arg(options.visibility_timeout.as_secs_f64())
        .arg(&token)
        .arg(options.lock_time().as_millis() as u64)
        .arg(limit)
        .invoke_async(connection)
        .await?;
    if tags.is_empty() {
        return Ok(());
    }
    let restored = restore(
        connection,
        keys,
        &tags,
        End::Next,
        Some(options.visibility_timeout),
    )
    .await;
    UNLOCK
        .key(&keys.unacked_mutex)
        .arg(&token)
        .invoke_async::<i64>(connection)
        .await?;
    let restored = restored?;
    if restored > 0 {
        tracing::info!("Restored {restored} messages that nobody acknowledged in time");
    }
    Ok(())
}
