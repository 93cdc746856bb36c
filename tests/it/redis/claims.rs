//! A message is in its queue or recorded as unacknowledged at every moment, whoever dies when.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use celerybox::broker::redis::Options;
use celerybox_tests::Redis;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use super::{broker, broker_at, until, visibility};
use crate::conformance::{close, id, next, next_many, nothing, publish};

/// A way to the server that is cut for good after so many bytes from the client, in the middle of a command if need be.
struct Cut {
    port: u16,
    is_cut: watch::Receiver<bool>,
}

impl Cut {
    async fn after(server: &Redis, bytes: usize) -> Cut {
        let address = server.url().replace("redis://", "").replace("/0", "");
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (cut, is_cut) = watch::channel(false);
        let left = Arc::new(AtomicUsize::new(bytes));
        let listening = is_cut.clone();
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                if *listening.borrow() {
                    continue;
                }
                let upstream = TcpStream::connect(&address).await.unwrap();
                tokio::spawn(carry(
                    client,
                    upstream,
                    Arc::clone(&left),
                    cut.clone(),
                    listening.clone(),
                ));
            }
        });
        Cut { port, is_cut }
    }
}

async fn carry(
    client: TcpStream,
    upstream: TcpStream,
    left: Arc<AtomicUsize>,
    cut: watch::Sender<bool>,
    mut is_cut: watch::Receiver<bool>,
) {
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_server, mut to_server) = upstream.into_split();
    let back = tokio::io::copy(&mut from_server, &mut to_client);
    let forth = async {
        let mut buffer = vec![0; 65_536];
        while let Ok(count) = from_client.read(&mut buffer).await {
            let before = left.load(Ordering::SeqCst);
            let passes = count.min(before);
            left.store(before - passes, Ordering::SeqCst);
            if count == 0 || to_server.write_all(&buffer[..passes]).await.is_err() {
                return;
            }
            if passes < count {
                cut.send_replace(true);
                return;
            }
        }
    };
    tokio::select! {
        _ = back => {}
        () = forth => {}
        _ = is_cut.wait_for(|cut| *cut) => {}
    }
}

fn waiting_and_unacked(server: &Redis, queue: &str) -> (i64, i64, i64) {
    let both = r"return {redis.call('LLEN', KEYS[1]), redis.call('HLEN', 'unacked'), redis.call('ZCARD', 'unacked_index')}";
    let celerybox_tests::Reply::List(numbers) = server.command(&["EVAL", both, "1", queue]) else {
        panic!("the script returns a list");
    };
    (numbers[0].integer(), numbers[1].integer(), numbers[2].integer())
}

/// The worker disappears after every number of bytes it might have sent: at that moment and afterwards each of ten
/// messages is in the queue or recorded, and no record is half a one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_that_dies_between_any_two_commands_loses_nothing() {
    const COUNT: usize = 10;
    let server = Redis::start();
    let sender = broker(&server);
    let mut complete = false;
    let mut cuts = 0;
    for bytes in (0..).step_by(61) {
        server.command(&["FLUSHDB"]);
        publish(&*sender, "q", COUNT).await;
        let mut way = Cut::after(&server, bytes).await;
        let dying = broker_at(&format!("redis://127.0.0.1:{}/0", way.port), &Options::default());
        let all = async {
            let mut deliveries = dying.consume(&["q".into()], 3).await.unwrap();
            let mut held = next_many(&mut deliveries, 3).await;
            // Room for more, so that taking goes on; nothing is acknowledged.
            dying.set_prefetch(7);
            held.extend(next_many(&mut deliveries, 4).await);
            dying.set_prefetch(0);
            held.extend(next_many(&mut deliveries, 3).await);
            held
        };
        tokio::select! {
            held = all => complete = held.len() == COUNT,
            _ = way.is_cut.wait_for(|cut| *cut) => cuts += 1,
        }
        drop(dying);
        let (waiting, unacked, index) = waiting_and_unacked(&server, "q");
        assert_eq!(
            waiting + unacked,
            COUNT as i64,
            "after {bytes} bytes: {waiting} wait, {unacked} are recorded"
        );
        assert_eq!(unacked, index, "after {bytes} bytes");
        if complete {
            assert_eq!((waiting, unacked), (0, COUNT as i64));
            break;
        }
    }
    assert!(cuts > 20, "cut at {cuts} places only");
    close(sender).await;
}

/// A connection that breaks while a batch is on its way: the batch is delivered all the same, at once, without waiting
/// for the visibility timeout of an hour.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_batch_whose_answer_is_lost_comes_again_at_once() {
    let server = Redis::start();
    let broker = broker(&server);
    let mut deliveries = broker.consume(&["q".into()], 0).await.unwrap();
    nothing(&mut deliveries).await;
    let started = Instant::now();
    // The server takes its time for the script, and its connections end meanwhile.
    for round in 0..20 {
        publish(&*broker, "q", 5).await;
        server.command(&["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"]);
        let mut seen: Vec<String> = Vec::new();
        while seen.len() < 5 {
            let delivery = next(&mut deliveries).await;
            if !seen.contains(&id(&delivery)) {
                seen.push(id(&delivery));
            }
            delivery.receipt.ack();
        }
        assert!(
            started.elapsed() < Duration::from_secs(60),
            "round {round} took too long"
        );
    }
    until("nothing is left", || {
        waiting_and_unacked(&server, "q") == (0, 0, 0)
    })
    .await;
    close(broker).await;
}

/// A task that takes longer than the visibility timeout is not delivered a second time while its worker lives.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_that_is_worked_on_stays_with_its_worker() {
    let server = Redis::start();
    let options = visibility(Duration::from_secs(1));
    let (one, two) = (
        broker_at(&server.url(), &options),
        broker_at(&server.url(), &options),
    );
    publish(&*one, "q", 1).await;
    let mut of_one = one.consume(&["q".into()], 1).await.unwrap();
    let held = next(&mut of_one).await;
    let mut of_two = two.consume(&["q".into()], 1).await.unwrap();
    // Four visibility timeouts. What must not happen has no event.
    let waited = tokio::time::timeout(Duration::from_secs(4), of_two.recv()).await;
    assert!(waited.is_err(), "the message was delivered twice");
    assert_eq!(waiting_and_unacked(&server, "q"), (0, 1, 1));
    // Its worker dies: now it comes.
    drop(one);
    let delivery = next(&mut of_two).await;
    assert!(delivery.redelivered);
    delivery.receipt.ack();
    // The one who is dead would have settled what is not its own any more.
    held.receipt.ack();
    close(two).await;
    assert_eq!(waiting_and_unacked(&server, "q"), (0, 0, 0));
}

/// Somebody gave a message back to its queue meanwhile: its acknowledgement is too late, and that of another one is not.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_acknowledgement_that_comes_too_late_is_told_so() {
    let server = Redis::start();
    let broker = broker(&server);
    publish(&*broker, "q", 3).await;
    let mut deliveries = broker.consume(&["q".into()], 3).await.unwrap();
    let mut held = next_many(&mut deliveries, 3).await.into_iter();
    let tags = r"return redis.call('ZRANGE', 'unacked_index', 0, -1)";
    let celerybox_tests::Reply::List(tags) = server.command(&["EVAL", tags, "0"]) else {
        panic!("the script returns a list");
    };
    // Tags of one worker sort as they were given.
    let second = tags[1].text();
    server.command(&["HDEL", "unacked", second]);
    server.command(&["ZREM", "unacked_index", second]);
    let answers: Vec<_> = held
        .by_ref()
        .map(|delivery| delivery.receipt.ack_told())
        .collect();
    let mut arrived = Vec::new();
    for answer in answers {
        arrived.push(answer.await.is_ok());
    }
    assert_eq!(arrived, [true, false, true]);
    assert_eq!(waiting_and_unacked(&server, "q"), (0, 0, 0));
    close(broker).await;
}

/// The server goes away while an acknowledgement is on its way: it arrives when the server is back.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_acknowledgement_waits_for_its_server() {
    let server = Redis::start();
    let broker = broker(&server);
    publish(&*broker, "q", 20).await;
    let mut deliveries = broker.consume(&["q".into()], 0).await.unwrap();
    for delivery in next_many(&mut deliveries, 20).await {
        let answer = delivery.receipt.ack_told();
        server.command(&["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"]);
        answer.await.expect("it is acknowledged");
    }
    assert_eq!(waiting_and_unacked(&server, "q"), (0, 0, 0));
    close(broker).await;
}

/// What nobody can understand is removed, and what is beside it comes back.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn garbage_among_the_records_does_not_stop_the_sweep() {
    let server = Redis::start();
    let dead = broker_at(&server.url(), &visibility(Duration::from_secs(3600)));
    publish(&*dead, "q", 2).await;
    let mut deliveries = dead.consume(&["q".into()], 0).await.unwrap();
    next_many(&mut deliveries, 2).await;
    drop(dead);
    for (n, record) in [
        "",
        "null",
        "[]",
        "not JSON",
        "[1, 2, 3]",
        r#"[{"body": 1}, null, null]"#,
        r#"[{}, "", ""]"#,
        r#"["text", "", "q"]"#,
    ]
    .iter()
    .enumerate()
    {
        server.command(&["HSET", "unacked", &format!("garbage {n}"), record]);
        server.command(&["ZADD", "unacked_index", "1", &format!("garbage {n}")]);
    }
    server.command(&["ZADD", "unacked_index", "1", "a time without a message"]);
    server.command(&[
        "EVAL",
        r"return redis.call('HSET', 'unacked', '\255', '\255')",
        "0",
    ]);
    server.command(&[
        "EVAL",
        r"return redis.call('ZADD', 'unacked_index', 1, '\255')",
        "0",
    ]);
    let broker = broker_at(&server.url(), &visibility(Duration::from_secs(1)));
    let mut deliveries = broker.consume(&["q".into()], 0).await.unwrap();
    for delivery in next_many(&mut deliveries, 2).await {
        assert!(delivery.redelivered);
        delivery.receipt.ack();
    }
    close(broker).await;
    // Two records are whole and lead nowhere: they stay, as somebody may bind a queue.
    let (_, unacked, index) = waiting_and_unacked(&server, "q");
    assert_eq!((unacked, index), (2, 2));
}

/// Of several sweeping workers one gives a message back, once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_sweepers_restore_a_message_once() {
    let server = Redis::start();
    let dead = broker_at(&server.url(), &visibility(Duration::from_secs(3600)));
    publish(&*dead, "q", 50).await;
    let mut deliveries = dead.consume(&["q".into()], 0).await.unwrap();
    next_many(&mut deliveries, 50).await;
    drop(dead);
    // They consume another queue, so that what they restore stays where it is.
    let options = visibility(Duration::from_secs(1));
    let mut sweepers = Vec::new();
    for _ in 0..5 {
        let broker = broker_at(&server.url(), &options);
        let deliveries = broker.consume(&["other".into()], 1).await.unwrap();
        sweepers.push((broker, deliveries));
    }
    until("all are back", || waiting_and_unacked(&server, "q") == (50, 0, 0)).await;
    for (broker, _) in sweepers {
        close(broker).await;
    }
    assert_eq!(waiting_and_unacked(&server, "q"), (50, 0, 0));
    // Delivered in the order in which they were sent.
    let broker = broker_at(&server.url(), &Options::default());
    let mut deliveries = broker.consume(&["q".into()], 0).await.unwrap();
    let mut ids = Vec::new();
    for delivery in next_many(&mut deliveries, 50).await {
        ids.push(id(&delivery).parse::<usize>().unwrap());
        delivery.receipt.ack();
    }
    ids.sort_unstable();
    assert_eq!(ids, (0..50).collect::<Vec<_>>());
    close(broker).await;
}

/// A lock that its owner never released holds up the sweep only until it expires.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_lock_of_a_dead_sweeper_expires() {
    let server = Redis::start();
    server.command(&["SET", "unacked_mutex", "somebody", "PX", "1500"]);
    server.command(&[
        "HSET",
        "unacked",
        "tag",
        r#"[{"body": "", "headers": {"id": "1"}, "properties": {}}, "", "q"]"#,
    ]);
    server.command(&["ZADD", "unacked_index", "1", "tag"]);
    let options = Options {
        // Locks for ten seconds, so that only a release ends the lock of our own within this test.
        unacked_restore_interval: Duration::from_millis(100),
        unacked_restore_throttle: 1,
        ..visibility(Duration::from_secs(40))
    };
    let broker = broker_at(&server.url(), &options);
    let mut deliveries = broker.consume(&["q".into()], 0).await.unwrap();
    nothing(&mut deliveries).await;
    next(&mut deliveries).await.receipt.ack();
    close(broker).await;
    assert_eq!(server.command(&["EXISTS", "unacked_mutex"]).integer(), 0);
}
