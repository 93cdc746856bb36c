//! The harness itself: what a test starts must answer, and must be gone afterwards.

use celerybox_tests::{Process, RabbitMq, Redis, Reply, Signal, eventually};
use std::process::Command;
use std::time::Duration;

#[test]
fn a_redis_is_private_and_ends_with_its_value() {
    let (one, two) = (Redis::start(), Redis::start());
    assert_eq!(one.command(&["SET", "who", "one"]), Reply::Text("OK".into()));
    assert_eq!(one.command(&["GET", "who"]).text(), "one");
    assert_eq!(two.command(&["GET", "who"]), Reply::Nil);
    assert!(one.socket().exists());
    let address = one.url().replace("redis://", "").replace("/0", "");
    assert!(std::net::TcpStream::connect(&address).is_ok());
    drop(one);
    assert!(std::net::TcpStream::connect(&address).is_err());
}

#[test]
fn virtual_hosts_share_a_node_and_nothing_else() {
    let (one, two) = (RabbitMq::vhost(), RabbitMq::vhost());
    assert_ne!(one.url(), two.url());
    assert!(one.exchanges().is_empty());
    assert!(one.queue("celery").is_none());
}

#[test]
fn a_process_that_ends_by_itself_says_how() {
    let mut command = Command::new("sh");
    command.args(["-c", "echo started; echo to stderr >&2; exit 7"]);
    let mut process = Process::start("sh", &mut command, None);
    process.wait_for_line("started");
    process.wait_for_line("to stderr");
    assert_eq!(process.wait(Duration::from_secs(10)).code(), Some(7));
}

#[test]
fn dropping_a_process_ends_its_children_too() {
    let mut command = Command::new("sh");
    command.args(["-c", "sleep 1000 & echo child $!; wait"]);
    let mut process = Process::start("sh", &mut command, None);
    let line = process.wait_for_line("child ");
    let child = line.trim_start_matches("child ").to_owned();
    let folder = std::path::PathBuf::from(format!("/proc/{child}"));
    assert!(folder.exists());
    process.signal(Signal::CONT);
    drop(process);
    eventually("the child is gone", || !folder.exists());
}

/// The harness's promise for a test program that is killed, or that ends with a `static` still holding a server. The
/// program here is this test program itself, told to run only the ignored test below.
#[test]
fn nothing_outlives_a_test_program_that_is_killed() {
    let mut command = Command::new(std::env::current_exe().expect("a path"));
    command.args([
        "--ignored",
        "--exact",
        "harness::holds_a_redis_for_ever",
        "--nocapture",
    ]);
    let mut program = Process::start("another test program", &mut command, None);
    let line = program.wait_for_line("redis at ");
    let (_, address) = line.split_once("redis at ").expect("just found");
    let connects = || std::net::TcpStream::connect(address).is_ok();
    assert!(connects());
    program.signal(Signal::KILL);
    eventually("the server is gone", || !connects());
}

#[test]
#[ignore = "is the program that the test above kills"]
fn holds_a_redis_for_ever() {
    let server = Redis::start();
    println!(
        "redis at {}",
        server.url().replace("redis://", "").replace("/0", "")
    );
    loop {
        std::thread::park();
    }
}
