//! A worker that is killed: a process of its own, ended with SIGKILL while it holds messages.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use celerybox::broker::Broker;
use celerybox::broker::filesystem::FilesystemBroker;

use super::{Folder, options_in};
use crate::conformance::{close, id, next_many, next_within, nothing, publish};

/// Tells the test below that it is the process to be killed, and where it works.
const FOLDER: &str = "CELERYBOX_TEST_HOLD_IN";

/// How long messages of a dead worker may take to come back: a few times what the sweepers wait.
const RESTORED_WITHIN: Duration = Duration::from_secs(15);

/// Not a test: the process that the tests below start and kill. It holds 5 messages of the queue `q`.
#[tokio::test]
#[ignore = "a process for the other tests"]
async fn holder() {
    let Some(folder) = std::env::var_os(FOLDER) else {
        return;
    };
    let broker = FilesystemBroker::new(&options_in(&PathBuf::from(folder))).unwrap();
    let mut deliveries = broker.consume(&["q".into()], 5).await.unwrap();
    let held = next_many(&mut deliveries, 5).await;
    println!("\nholding {}", held.len());
    std::future::pending::<()>().await;
}

/// A holder that holds its messages.
struct Holder(Child);

impl Holder {
    fn start(folder: &Folder) -> Self {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["filesystem::crash::holder", "--exact", "--ignored", "--nocapture"])
            .env(FOLDER, folder.path())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let holder = Self(child);
        let holding = lines.map_while(Result::ok).any(|line| line == "holding 5");
        assert!(holding, "the process ended");
        holder
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn broker(folder: &Folder) -> Box<dyn Broker> {
    Box::new(folder.broker())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_killed_process_held_is_delivered_to_another() {
    let folder = Folder::new();
    let survivor = broker(&folder);
    publish(&*survivor, "q", 5).await;
    let killed = Holder::start(&folder);
    let mut deliveries = survivor.consume(&["q".into()], 0).await.unwrap();
    nothing(&mut deliveries).await;
    assert_eq!(folder.names("queue/unacked").len(), 2);
    assert!(folder.messages().is_empty());

    drop(killed);
    let mut seen = BTreeSet::new();
    for _ in 0..5 {
        let delivery = next_within(&mut deliveries, RESTORED_WITHIN).await;
        assert!(delivery.redelivered);
        assert_eq!(delivery.message.headers.as_ref().unwrap()["redelivered"], true);
        assert!(seen.insert(id(&delivery)));
        delivery.receipt.ack();
    }
    assert_eq!(
        folder.names("queue/unacked").len(),
        1,
        "the dead worker's folder is gone"
    );
    close(survivor).await;
    assert!(folder.names("queue/unacked").is_empty() && folder.messages().is_empty());
}

/// Two sweepers never both put a message back.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_workers_that_start_at_once_deliver_each_message_once() {
    let folder = Folder::new();
    let sender = broker(&folder);
    publish(&*sender, "q", 20).await;
    let killed: Vec<Holder> = (0..4).map(|_| Holder::start(&folder)).collect();
    assert_eq!(folder.names("queue/unacked").len(), 4);
    drop(killed);

    let workers: Vec<Box<dyn Broker>> = (0..6).map(|_| broker(&folder)).collect();
    let (sending, mut seen) = tokio::sync::mpsc::unbounded_channel();
    for worker in &workers {
        let mut deliveries = worker.consume(&["q".into()], 0).await.unwrap();
        let sending = sending.clone();
        tokio::spawn(async move {
            while let Some(delivery) = deliveries.recv().await {
                let id = id(&delivery);
                // Before it is counted: a worker that closes gives back what was not settled.
                delivery.receipt.ack();
                sending.send(id).unwrap();
            }
        });
    }
    let mut all = BTreeSet::new();
    while all.len() < 20 {
        let id = tokio::time::timeout(RESTORED_WITHIN, seen.recv())
            .await
            .unwrap()
            .unwrap();
        assert!(all.insert(id.clone()), "{id} came twice");
    }
    for worker in workers {
        close(worker).await;
    }
    assert!(seen.try_recv().is_err(), "a message came twice");
    assert!(folder.messages().is_empty());
    assert!(folder.names("queue/unacked").is_empty());
}

/// A crash between the steps of putting a message back leaves files like these.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sweeper_that_died_half_way_is_swept_too() {
    let folder = Folder::new();
    let sender = broker(&folder);
    publish(&*sender, "q", 1).await;
    let dead = folder
        .queue()
        .join("unacked/8f1f5b0e-0000-4000-8000-000000000000");
    std::fs::create_dir_all(&dead).unwrap();
    let file = folder.messages().remove(0);
    std::fs::rename(folder.queue().join(&file), dead.join(&file)).unwrap();
    std::fs::write(dead.join(".5f1f5b0e-0000-4000-8000-000000000000.tmp"), "{\"bo").unwrap();
    std::fs::write(dead.join(format!("1_garbage.{}", "q.msg")), b"\xff").unwrap();
    // No lock file: its worker died before it made one, or a sweeper after it removed it.
    std::fs::create_dir_all(folder.queue().join("unacked/empty")).unwrap();
    std::fs::write(folder.queue().join("unacked/a file"), "").unwrap();

    let mut deliveries = sender.consume(&["q".into()], 0).await.unwrap();
    let delivery = next_within(&mut deliveries, RESTORED_WITHIN).await;
    assert_eq!(id(&delivery), "0");
    assert!(delivery.redelivered);
    delivery.receipt.ack();
    close(sender).await;
    assert_eq!(folder.names("queue/unacked"), ["a file"]);
}
