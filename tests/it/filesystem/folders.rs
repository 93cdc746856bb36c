//! Folders that are missing, vanish, or hold strange things; names that lead elsewhere.

use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use celerybox::broker::filesystem::{FilesystemBroker, Options};
use celerybox::broker::{Broker, BrokerError};
use celerybox::message::Route;
use celerybox::queue::Queue;

use super::{Folder, names, options_in};
use crate::conformance::{LONGEST, close, id, message, next, next_within, nothing, publish, until_queued};

fn queues(name: &str) -> Vec<Queue> {
    vec![name.into()]
}

#[tokio::test]
async fn the_first_use_makes_the_folders_for_this_user_only() {
    let folder = Folder::new();
    let options = Options {
        data_folder_in: folder.path().join("new/in"),
        data_folder_out: folder.path().join("new/out"),
        control_folder: folder.path().join("new/control"),
        processed_folder: folder.path().join("new/processed"),
        store_processed: true,
        ..Options::default()
    };
    let broker: Box<dyn Broker> = Box::new(FilesystemBroker::new(&options).unwrap());
    assert!(folder.names("new").is_empty(), "nothing is touched before");
    broker.publish(message("q", "1")).await.unwrap();
    assert_eq!(folder.names("new"), ["out"]);
    let deliveries = broker.consume(&queues("q"), 1).await.unwrap();
    for made in ["control", "in", "in/unacked", "out", "processed"] {
        let mode = folder
            .path()
            .join("new")
            .join(made)
            .metadata()
            .unwrap()
            .permissions();
        assert_eq!(mode.mode() & 0o777, 0o700, "{made}");
    }
    drop(deliveries);
    close(broker).await;
}

#[tokio::test]
async fn no_name_leads_out_of_the_folder() {
    let folder = Folder::new();
    let inner = folder.path().join("a/b");
    let broker = FilesystemBroker::new(&options_in(&inner)).unwrap();
    let long = "x".repeat(201);
    for bad in ["../x", "..", "x/../../y", "/tmp/x", "", "a\0b", "a\\b", &long] {
        let consumed = broker.consume(&queues(bad), 1).await.unwrap_err();
        assert!(
            matches!(&consumed, BrokerError::Config(text) if text.starts_with("the queue name ")),
            "{consumed}"
        );
        let published = broker.publish(message(bad, "1")).await.unwrap_err();
        assert!(
            matches!(&published, BrokerError::Refused(text) if text.starts_with("the queue name ")),
            "{published}"
        );
        if !bad.is_empty() {
            let mut sent = message("q", "1");
            sent.route = Route {
                exchange: bad.to_owned(),
                routing_key: "q".into(),
            };
            let published = broker.publish(sent).await.unwrap_err();
            assert!(matches!(published, BrokerError::Refused(_)), "{published}");
        }
    }
    // A table that somebody else wrote is no better.
    std::fs::create_dir_all(inner.join("control")).unwrap();
    std::fs::write(
        inner.join("control/evil.exchange"),
        r#"[["k", "", "../../evil"]]"#,
    )
    .unwrap();
    let mut sent = message("q", "1");
    sent.route = Route {
        exchange: "evil".into(),
        routing_key: "k".into(),
    };
    let published = broker.publish(sent).await.unwrap_err();
    assert!(matches!(published, BrokerError::Refused(_)), "{published}");
    assert_eq!(names(folder.path()), ["a", "queue"]);
    assert_eq!(names(&folder.path().join("a")), ["b"]);
    assert!(
        names(&inner.join("queue"))
            .iter()
            .all(|name| !name.contains("evil"))
    );
}

#[tokio::test]
async fn options_that_make_no_sense_are_refused() {
    let parse = |text: &str| serde_json::from_str::<Options>(text);
    let options =
        parse(r#"{"data_folder_in": "x", "store_processed": true, "polling_interval": 1}"#).unwrap();
    assert_eq!(options.data_folder_in.as_os_str(), "x");
    assert_eq!(options.data_folder_out.as_os_str(), "data_out");
    assert!(
        parse(r#"{"data_folder": "x"}"#)
            .unwrap_err()
            .to_string()
            .contains("unknown field `data_folder`")
    );
    for bad in [
        r#"{"polling_interval": 0}"#,
        r#"{"polling_interval": -1}"#,
        r#"{"control_folder": ""}"#,
    ] {
        let error = FilesystemBroker::new(&parse(bad).unwrap()).unwrap_err();
        assert!(matches!(error, BrokerError::Config(_)), "{error}");
    }
}

/// The worker waits for the folder, and does not make it anew: it may be a disk that is not mounted.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_folder_that_vanishes_is_used_again_when_it_is_back() {
    let folder = Folder::new();
    let inner = folder.path().join("inner");
    let broker: Box<dyn Broker> = Box::new(FilesystemBroker::new(&options_in(&inner)).unwrap());
    let mut deliveries = broker.consume(&queues("q"), 0).await.unwrap();
    broker.publish(message("q", "held")).await.unwrap();
    let held = next(&mut deliveries).await;
    broker.publish(message("q", "settled later")).await.unwrap();
    let later = next(&mut deliveries).await;

    let away = folder.path().join("away");
    std::fs::rename(&inner, &away).unwrap();
    let error = broker.publish(message("q", "2")).await.unwrap_err();
    assert!(matches!(error, BrokerError::Connection(_)), "{error}");
    nothing(&mut deliveries).await;
    assert!(!inner.exists());
    // Another, empty folder in its place works as well.
    std::fs::create_dir_all(inner.join("queue")).unwrap();
    std::fs::create_dir_all(inner.join("control")).unwrap();
    broker.publish(message("q", "3")).await.unwrap();
    let delivery = next_within(&mut deliveries, Duration::from_secs(15)).await;
    assert_eq!(id(&delivery), "3");
    delivery.receipt.ack();
    // What was taken from the first one is settled there.
    later.receipt.ack();
    held.receipt.reject(true);
    close(broker).await;
    let back: Vec<String> = names(&away.join("queue"))
        .into_iter()
        .filter(|name| name.ends_with(".q.msg"))
        .collect();
    assert_eq!(back.len(), 1);
    assert!(
        names(&inner.join("queue"))
            .iter()
            .all(|name| !name.ends_with(".msg"))
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn consuming_waits_for_a_folder_that_cannot_be_made() {
    let folder = Folder::new();
    let blocked = folder.path().join("file");
    std::fs::write(&blocked, "").unwrap();
    let broker: Box<dyn Broker> = Box::new(FilesystemBroker::new(&options_in(&blocked.join("in"))).unwrap());
    let queues = queues("q");
    let mut waiting = broker.consume(&queues, 1);
    let waited = tokio::time::timeout(Duration::from_millis(300), &mut waiting).await;
    assert!(waited.is_err(), "there is no folder to consume from");
    std::fs::remove_file(&blocked).unwrap();
    let waited = tokio::time::timeout(LONGEST, waiting).await;
    let mut deliveries = waited.expect("the folder can be made now").unwrap();
    publish(&*broker, "q", 1).await;
    next(&mut deliveries).await.receipt.ack();
    close(broker).await;
}

#[tokio::test]
async fn a_broker_that_waits_for_its_folder_can_be_closed() {
    let folder = Folder::new();
    let blocked = folder.path().join("file");
    std::fs::write(&blocked, "").unwrap();
    let broker: Box<dyn Broker> = Box::new(FilesystemBroker::new(&options_in(&blocked.join("in"))).unwrap());
    let queues = queues("q");
    let consuming = broker.consume(&queues, 1);
    let closing = async {
        tokio::task::yield_now().await;
        broker.close().await
    };
    let both = async { tokio::join!(consuming, closing) };
    let (consumed, closed) = tokio::time::timeout(LONGEST, both).await.expect("both end");
    assert!(matches!(consumed, Err(BrokerError::Connection(_))));
    closed.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn done_messages_are_kept_with_store_processed() {
    let folder = Folder::new();
    let options = Options {
        store_processed: true,
        ..folder.options()
    };
    let broker: Box<dyn Broker> = Box::new(FilesystemBroker::new(&options).unwrap());
    publish(&*broker, "q", 3).await;
    let files = folder.messages();
    let mut deliveries = broker.consume(&queues("q"), 1).await.unwrap();
    next(&mut deliveries).await.receipt.ack();
    next(&mut deliveries).await.receipt.reject(false);
    drop(next(&mut deliveries).await);
    close(broker).await;
    assert_eq!(folder.names("processed"), files[..2]);
    assert_eq!(folder.messages(), files[2..]);
}

/// Links, pipes and folders with a message's name are left alone, and do not block.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_regular_files_are_messages() {
    let folder = Folder::new();
    let secret = folder.queue().join("secret");
    std::fs::write(&secret, "secret").unwrap();
    std::os::unix::fs::symlink(&secret, folder.queue().join("1_link.q.msg")).unwrap();
    std::fs::create_dir(folder.queue().join("1_folder.q.msg")).unwrap();
    let pipe = folder.queue().join("1_pipe.q.msg");
    rustix::fs::mkfifoat(rustix::fs::CWD, &pipe, rustix::fs::Mode::RWXU).unwrap();
    let broker: Box<dyn Broker> = Box::new(folder.broker());
    publish(&*broker, "q", 1).await;
    let mut deliveries = broker.consume(&queues("q"), 1).await.unwrap();
    let delivery = next(&mut deliveries).await;
    assert_eq!(id(&delivery), "0");
    delivery.receipt.ack();
    nothing(&mut deliveries).await;
    close(broker).await;
    assert_eq!(
        folder.messages(),
        ["1_folder.q.msg", "1_link.q.msg", "1_pipe.q.msg"]
    );
}

/// kombu makes the file, locks it, writes it, unlocks it. It is taken after that, and whole.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_that_is_being_written_is_not_taken() {
    use std::io::Write;
    let folder = Folder::new();
    let broker: Box<dyn Broker> = Box::new(folder.broker());
    publish(&*broker, "other", 1).await;
    let other = folder.queue().join(folder.messages().remove(0));
    let text = std::fs::read(&other).unwrap();

    let mut deliveries = broker.consume(&queues("q"), 1).await.unwrap();
    let mut file = std::fs::File::create(folder.queue().join("1_x.q.msg")).unwrap();
    nothing(&mut deliveries).await;
    file.lock().unwrap();
    nothing(&mut deliveries).await;
    let (start, end) = text.split_at(text.len() / 2);
    file.write_all(start).unwrap();
    nothing(&mut deliveries).await;
    file.write_all(end).unwrap();
    nothing(&mut deliveries).await;
    file.unlock().unwrap();
    let delivery = next(&mut deliveries).await;
    assert_eq!(id(&delivery), "0");
    delivery.receipt.ack();

    // A writer without a lock gets a moment.
    let mut file = std::fs::File::create(folder.queue().join("2_x.q.msg")).unwrap();
    file.write_all(start).unwrap();
    nothing(&mut deliveries).await;
    file.write_all(end).unwrap();
    let delivery = next(&mut deliveries).await;
    assert_eq!(id(&delivery), "0");
    delivery.receipt.ack();
    until_queued(&folder, "q", 0).await;
    close(broker).await;
}

/// Receipts of a folder that was removed are lost; those of the one that takes its place are not. With a dead-letter
/// queue, what no queue is bound for is kept.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn receipts_are_lost_with_their_folder() {
    let folder = Folder::new();
    let options = Options {
        deadletter_queue: Some("dead".into()),
        ..options_in(folder.path())
    };
    let broker = FilesystemBroker::new(&options).unwrap();
    publish(&broker, "q", 1).await;
    let mut deliveries = broker.consume(&queues("q"), 2).await.unwrap();
    let held = next(&mut deliveries).await;
    assert!(!held.receipt.is_lost());
    std::fs::remove_dir_all(&options.data_folder_in).unwrap();
    let lost = tokio::time::timeout(LONGEST, held.receipt.lost());
    lost.await.expect("the folder is gone");
    std::fs::create_dir_all(&options.data_folder_in).unwrap();
    celerybox::broker::send(&broker, message("q", "again"), &crate::conformance::PATIENT)
        .await
        .unwrap();
    let again = next_within(&mut deliveries, Duration::from_secs(60)).await;
    assert_eq!((id(&again).as_str(), again.receipt.is_lost()), ("again", false));
    held.receipt.ack();
    again.receipt.ack();
    let mut nowhere = message("", "1");
    nowhere.route.exchange = "nobody".into();
    nowhere.route.routing_key = "x".into();
    broker.publish(nowhere).await.unwrap();
    let names = names(&options.data_folder_out);
    assert!(names.iter().any(|name| name.ends_with(".dead.msg")), "{names:?}");
    close(Box::new(broker)).await;
}
