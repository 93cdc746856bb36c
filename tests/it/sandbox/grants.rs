//! What only a grant gives: the network (T20 to T22), files (T17, T18), the environment (T19), and the imports (T35).

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use celerybox::config::Settings;
use celerybox::policy::grants::Grants;
use celerybox::policy::network::Server;
use celerybox::sandbox::{Component, Granting, LoadError, Run, Sandbox};
use celerybox_tests::guests;
use serde_json::{Value, json};
use tokio::task::JoinHandle;

use super::{Attack, Lab, assert_fails, assert_hard_limit, failure, prepared, value};

/// A sandbox, and the guest that reaches for things with some grants.
pub(super) struct Reach {
    lab: Lab,
    guest: Arc<Component>,
}

impl Reach {
    pub(super) async fn new(config: &str, own: Vec<Server>) -> Reach {
        Self::within(Lab::new().await, config, own).await
    }

    async fn within(lab: Lab, config: &str, own: Vec<Server>) -> Reach {
        let guest = load(lab.sandbox(), config, own).await.expect("the guest");
        let guest = Arc::new(guest);
        Reach { lab, guest }
    }

    async fn run(&self, task: &str, args: Value) -> Run {
        self.lab
            .attack(&self.guest, &format!("reach.{task}"), Attack::with(args))
            .await
    }

    pub(super) async fn ok(&self, task: &str, args: Value) -> Value {
        value(&self.run(task, args).await)
    }

    pub(super) async fn refused(&self, task: &str, args: Value) -> String {
        let what = format!("{task} {args}");
        let failure = failure(self.run(task, args).await);
        assert_eq!(failure.exc_type, "OSError", "{what}: {failure:?}");
        failure.exc_args[0].as_str().expect("a text").to_owned()
    }
}

fn granting(config: &str, own: Vec<Server>) -> Granting {
    let file = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(file.path(), format!("[component]\n{config}\n")).expect("a file");
    let settings = Settings::load(Some(file.path())).expect("settings");
    let granting = settings.granting().expect("grants");
    Granting {
        own: own.into_iter().collect(),
        ..granting
    }
}

async fn load(sandbox: &Sandbox, config: &str, own: Vec<Server>) -> Result<Component, LoadError> {
    let sandbox = sandbox.clone().granting(granting(config, own));
    sandbox.load(&guests().join("reach.wasm")).await
}

/// A server that answers each connection's first bytes with the same in capital letters, `connections` times.
fn server(connections: usize) -> (SocketAddr, thread::JoinHandle<usize>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address");
    let serving = thread::spawn(move || {
        for _ in 0..connections {
            let (mut stream, _) = listener.accept().expect("a connection");
            let mut line = [0; 5];
            stream.read_exact(&mut line).expect("five bytes");
            stream.write_all(&line.to_ascii_uppercase()).expect("it reads");
        }
        listener.set_nonblocking(true).expect("a socket");
        std::iter::from_fn(|| listener.accept().ok()).count()
    });
    (address, serving)
}

#[tokio::test(flavor = "multi_thread")]
async fn t35_sockets_without_a_grant_are_refused_with_what_to_write() {
    let lab = Lab::new().await;
    let error = load(lab.sandbox(), "", Vec::new()).await.expect_err("no grant");
    let text = error.to_string();
    for part in ["wasi:sockets/", "not granted", "[component.reach] network = ["] {
        assert!(text.contains(part), "{part} is not in {text}");
    }
    lab.is_well().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn t20_a_component_connects_to_what_is_listed_and_to_nothing_else() {
    let (listed, serving) = server(2);
    let (other, _unused) = (TcpListener::bind("127.0.0.1:0").unwrap(), ());
    let not_listed = other.local_addr().unwrap();
    let reach = Reach::new(&format!("reach.network = ['{listed}']"), Vec::new()).await;
    assert_eq!(
        reach.ok("talk", json!([listed.to_string(), "hello"])).await,
        "HELLO"
    );
    let port = listed.port();
    for address in [
        not_listed.to_string(),
        format!("127.0.0.2:{port}"),
        format!("0.0.0.0:{port}"),
        format!("[::1]:{port}"),
        format!("[::]:{port}"),
        "10.0.0.1:80".into(),
        "169.254.169.254:80".into(),
    ] {
        let refused = reach.refused("talk", json!([address, "hello"])).await;
        assert!(
            ["PermissionDenied", "InvalidInput"].contains(&refused.as_str()),
            "{address}: {refused}"
        );
    }
    // Every spelling of a listed address is that address, and every spelling of another one is not.
    for host in [
        "2130706434",
        "0x7f000002",
        "0177.0.0.2",
        "127.2",
        "localhost",
        "localhost.",
    ] {
        let refused = failure(
            reach
                .run("talk", json!([format!("{host}:{port}"), "hello"]))
                .await,
        );
        assert_eq!(refused.exc_type, "OSError", "{host}: {refused:?}");
    }
    assert_eq!(
        reach
            .ok("talk", json!([format!("0x7f000001:{port}"), "world"]))
            .await,
        "WORLD"
    );
    assert_eq!(serving.join().unwrap(), 0, "somebody came that was refused");
    other.set_nonblocking(true).unwrap();
    assert!(other.accept().is_err(), "a connection came through");
    for (task, address) in [
        ("listen", "127.0.0.1:0"),
        ("listen", "0.0.0.0:0"),
        ("datagram", "127.0.0.1:9"),
    ] {
        reach.refused(task, json!([address])).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn t20_the_workers_own_servers_are_closed_unless_their_very_address_is_listed() {
    let broker = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = broker.local_addr().unwrap().port();
    let own = vec![("localhost".to_owned(), port)];
    let config = format!("reach.network = ['127.0.0.0/8:{port}', 'localhost:{port}']");
    let reach = Reach::new(&config, own.clone()).await;
    for host in ["127.0.0.1", "127.0.0.2", "localhost"] {
        let refused = reach
            .refused("talk", json!([format!("{host}:{port}"), "hello"]))
            .await;
        assert_eq!(refused, "PermissionDenied", "{host}");
    }
    broker.set_nonblocking(true).unwrap();
    assert!(broker.accept().is_err(), "a connection came through");
    drop(broker);
    let (address, serving) = server(1);
    let own = vec![("localhost".to_owned(), address.port())];
    let reach = Reach::new(&format!("reach.network = ['{address}']"), own).await;
    assert_eq!(
        reach.ok("talk", json!([address.to_string(), "hello"])).await,
        "HELLO"
    );
    serving.join().unwrap();
}

/// A name of this machine's host file that leads to itself and is not `localhost`, where there is one.
fn name_of_this_machine() -> Option<String> {
    let hosts = std::fs::read_to_string("/etc/hosts").ok()?;
    let names = hosts
        .lines()
        .filter(|line| line.starts_with("127."))
        .flat_map(|line| line.split_whitespace().skip(1));
    let mut names = names.filter(|name| !name.contains("localhost") && !name.starts_with('#'));
    names.next().map(str::to_owned)
}

#[tokio::test(flavor = "multi_thread")]
async fn t21_t22_only_listed_names_are_resolved_and_none_leads_to_this_machine() {
    let (listed, serving) = server(1);
    let port = listed.port();
    let rebound = name_of_this_machine();
    let name = rebound.as_deref().unwrap_or("rebound.invalid");
    let config = format!("reach.network = ['localhost:{port}', '{name}:{port}']");
    let reach = Reach::new(&config, Vec::new()).await;
    let found = reach.ok("lookup", json!(["LOCALHOST"])).await;
    assert!(found.as_array().unwrap().contains(&json!("127.0.0.1")), "{found}");
    assert_eq!(
        reach
            .ok("talk", json!([format!("localhost:{port}"), "hello"]))
            .await,
        "HELLO"
    );
    // What a name led to in another run is unknown in this one.
    assert_eq!(
        reach.refused("talk", json!([listed.to_string(), "hello"])).await,
        "PermissionDenied"
    );
    for other in ["secret-data.example", "localhost.example", "xlocalhost"] {
        reach.refused("lookup", json!([other])).await;
    }
    // The name is listed, and whoever answers for it says: this machine.
    let led = reach.run("lookup", json!([name])).await;
    if let celerybox::outcome::Outcome::Success(found) = &led.outcome {
        assert_eq!(&**found, "[]");
    }
    reach
        .refused("talk", json!([format!("{name}:{port}"), "hello"]))
        .await;
    assert_eq!(serving.join().unwrap(), 0, "somebody came that was refused");
}

/// T10, T24: a peer that accepts and never answers is a matter for the hard limit.
#[tokio::test(flavor = "multi_thread")]
async fn t24_a_silent_peer_is_left_at_the_hard_limit() {
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = silent.local_addr().unwrap();
    let reach = Reach::new(&format!("reach.network = ['{address}']"), Vec::new()).await;
    let attack = Attack {
        args: json!([address.to_string(), "hello"]).to_string(),
        ..Attack::endless()
    };
    assert_hard_limit(&reach.lab.attack(&reach.guest, "reach.talk", attack).await);
    let (mut stream, _) = silent.accept().unwrap();
    let mut read = Vec::new();
    // The worker closed its side with the run.
    let _ = stream.read_to_end(&mut read);
    assert_eq!(read, b"hello");
}

#[tokio::test(flavor = "multi_thread")]
async fn t11_descriptors_are_bounded() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("a"), "a").unwrap();
    let config = format!(
        "reach.network = ['{address}']\nreach.files = {{ '/data' = '{}' }}",
        folder.path().display()
    );
    let accepting = thread::spawn(move || {
        let mut held = Vec::new();
        while let Ok((stream, _)) = listener.accept() {
            held.push(stream);
            if held.len() == 3 {
                return;
            }
        }
    });
    let reach = Reach::new(&config, Vec::new()).await;
    assert_eq!(reach.ok("connections", json!([address.to_string(), 3])).await, 3);
    accepting.join().unwrap();
    assert_eq!(reach.ok("open", json!(["/data/a", 20])).await, 20);
    assert_fails(
        reach.run("open", json!(["/data/a", 1000])).await,
        "MemoryError",
        "limits.descriptors",
    );
}

fn folder(files: &[(&str, &str)]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    for (name, text) in files {
        std::fs::write(folder.path().join(name), text).expect("a file");
    }
    folder
}

fn inside(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).expect("a folder");
    let mut names: Vec<String> = entries
        .map(|entry| {
            entry
                .expect("an entry")
                .file_name()
                .into_string()
                .expect("a name")
        })
        .collect();
    names.sort();
    names
}

#[tokio::test(flavor = "multi_thread")]
async fn t17_a_read_only_folder_is_read_and_not_changed() {
    let data = folder(&[("a", "text of a"), ("b", "text of b")]);
    let config = format!(
        "reach.files = {{ '/data' = '{}' }}\nreach.network = ['127.0.0.1:1']",
        data.path().display()
    );
    let reach = Reach::new(&config, Vec::new()).await;
    assert_eq!(reach.ok("list", json!(["/data"])).await, json!(["a", "b"]));
    assert_eq!(reach.ok("read", json!(["/data/a"])).await, "text of a");
    reach.refused("write", json!(["/data/a", "x"])).await;
    reach.refused("write", json!(["/data/new", "x"])).await;
    for (what, from, to) in [
        ("rename", "/data/a", "/data/c"),
        ("link", "/data/a", "/data/c"),
        ("symlink", "/data/c", "a"),
        ("remove", "/data/a", ""),
        ("mkdir", "/data/d", ""),
        ("truncate", "/data/a", ""),
    ] {
        reach.refused("change", json!([what, from, to])).await;
    }
    for path in ["/etc/passwd", "/", "/proc/self/environ", "a", "../a", "/dat"] {
        reach.refused("read", json!([path])).await;
    }
    assert_eq!(inside(data.path()), ["a", "b"]);
    assert_eq!(
        std::fs::read_to_string(data.path().join("a")).unwrap(),
        "text of a"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn t17_nothing_leads_out_of_a_writable_folder() {
    let outside = folder(&[("secret", "canary")]);
    let data = folder(&[("a", "text of a")]);
    let secret = outside.path().join("secret");
    for (name, target) in [
        ("absolute", secret.as_path()),
        ("folder", outside.path()),
        ("root", Path::new("/")),
    ] {
        std::os::unix::fs::symlink(target, data.path().join(name)).unwrap();
    }
    let relative = format!(
        "../{}/secret",
        outside.path().file_name().unwrap().to_str().unwrap()
    );
    std::os::unix::fs::symlink(&relative, data.path().join("relative")).unwrap();
    let config = format!(
        "reach.files = {{ '/out' = {{ path = '{}', writable = true }} }}\nreach.network = ['127.0.0.1:1']",
        data.path().display()
    );
    let reach = Reach::new(&config, Vec::new()).await;
    assert_eq!(
        reach.ok("write", json!(["/out/new", "new text"])).await,
        "written"
    );
    assert_eq!(
        std::fs::read_to_string(data.path().join("new")).unwrap(),
        "new text"
    );
    let outer = outside.path().display();
    for path in [
        "/out/absolute".to_owned(),
        "/out/absolute/".into(),
        "/out/relative".into(),
        "/out/folder/secret".into(),
        "/out/root/etc/passwd".into(),
        format!("/out/{relative}"),
        format!("/out/..{outer}/secret"),
        format!("/out/../../../../..{outer}/secret"),
        "/out/./../../proc/self/environ".into(),
        "/out/a/../../../../etc/passwd".into(),
    ] {
        reach.refused("read", json!([path])).await;
        reach.refused("write", json!([path, "overwritten"])).await;
    }
    let secret_outside = secret.to_str().unwrap().to_owned();
    // A link of the component's own leads nowhere either, whatever it says.
    for (link, target) in [
        ("l1", "../secret"),
        ("l2", relative.as_str()),
        ("l3", secret_outside.as_str()),
    ] {
        let link = format!("/out/{link}");
        let _ = reach.run("change", json!(["symlink", link, target])).await;
        reach.refused("read", json!([link])).await;
    }
    for (what, from, to) in [
        ("rename", "/out/a", "/out/../a"),
        ("rename", "/out/a", "/out/folder/a"),
        ("link", "/out/a", "/out/folder/a"),
        ("link", "/out/absolute", "/out/hard/x"),
        ("mkdir", "/out/folder/d", ""),
        ("remove", "/out/folder/secret", ""),
        ("truncate", "/out/absolute", ""),
    ] {
        reach.refused("change", json!([what, from, to])).await;
    }
    assert_eq!(inside(outside.path()), ["secret"]);
    assert_eq!(std::fs::read_to_string(&secret).unwrap(), "canary");
}

/// The kernel's `openat2` resolves paths inside a folder; without it cap-std does, step by step.
#[test]
fn without_openat2_t17_holds_too() {
    let output = prepared("without_openat2.py", &[], &["sandbox::grants::t17_"]);
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success() && text.contains("3 passed"),
        "{text}{}",
        String::from_utf8_lossy(&output.stderr)
    );
}

/// A folder's link that is turned from an inner to an outer target and back, without a pause, while a component reads
/// through it.
#[tokio::test(flavor = "multi_thread")]
async fn t17_a_link_that_is_swapped_while_it_is_followed_leads_nowhere() {
    let outside = folder(&[("x", "canary")]);
    let data = folder(&[("other", "")]);
    std::fs::create_dir(data.path().join("inner")).unwrap();
    std::fs::write(data.path().join("inner/x"), "inside").unwrap();
    let config = format!(
        "reach.files = {{ '/data' = '{}' }}\nreach.network = ['127.0.0.1:1']",
        data.path().display()
    );
    let reach = Reach::new(&config, Vec::new()).await;
    let (link, spare) = (data.path().join("link"), data.path().join("spare"));
    let outer = outside.path().to_owned();
    let done = Arc::<AtomicBool>::default();
    let stop = Arc::clone(&done);
    let swapping = thread::spawn(move || {
        let mut swaps = 0_u64;
        while !stop.load(Ordering::Relaxed) {
            for target in [Path::new("inner"), &outer] {
                std::os::unix::fs::symlink(target, &spare).unwrap();
                std::fs::rename(&spare, &link).unwrap();
                swaps += 1;
            }
        }
        swaps
    });
    let mut read = 0;
    for _ in 0..300 {
        let run = reach.run("read", json!(["/data/link/x"])).await;
        match run.outcome {
            celerybox::outcome::Outcome::Success(text) => {
                assert_eq!(&*text, "\"inside\"");
                read += 1;
            }
            _ => assert_eq!(failure(run).exc_type, "OSError"),
        }
    }
    done.store(true, Ordering::Relaxed);
    assert!(swapping.join().unwrap() > 300, "too few swaps");
    assert!(read > 0 && read < 300, "{read} of 300 reads saw the inner file");
}

/// T18: who reads and writes without end keeps nobody else from his files.
#[tokio::test(flavor = "multi_thread")]
async fn t18_who_hogs_the_disk_keeps_nobody_else_from_his_files() {
    let (hogged, data) = (folder(&[]), folder(&[("a", "text of a")]));
    let files = |path: &Path| {
        format!(
            "{{ '/out' = {{ path = '{}', writable = true }} }}",
            path.display()
        )
    };
    let config = |path| format!("reach.files = {}\nreach.network = ['127.0.0.1:1']", files(path));
    let hog = Reach::new(&config(hogged.path()), Vec::new()).await;
    let quiet = Reach::new(&config(data.path()), Vec::new()).await;
    let hogs: Vec<_> = (0..16)
        .map(|number| {
            let attack = Attack {
                args: json!([format!("/out/{number}")]).to_string(),
                ..Attack::endless()
            };
            let call = hog.lab.call(&hog.guest, "reach.churn", &attack);
            let guest = Arc::clone(&hog.guest);
            tokio::spawn(async move { guest.run(call).await })
        })
        .collect();
    let mut reads = 0;
    while !hogs.iter().all(JoinHandle::is_finished) {
        assert_eq!(quiet.ok("read", json!(["/out/a"])).await, "text of a");
        reads += 1;
    }
    assert!(reads >= 3, "{reads} reads while others churned");
    for hog in hogs {
        assert_hard_limit(&hog.await.unwrap());
    }
    hog.lab.is_well().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_that_is_not_there_is_told_when_the_component_is_loaded() {
    let lab = Lab::new().await;
    let config = "reach.files = { '/data' = '/no/such/folder' }\nreach.network = ['127.0.0.1:1']";
    let error = load(lab.sandbox(), config, Vec::new())
        .await
        .expect_err("no folder");
    assert!(error.to_string().contains("/no/such/folder"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn t19_only_listed_variables_are_seen() {
    let config = "reach.network = ['127.0.0.1:1']";
    let reach = Reach::new(config, Vec::new()).await;
    assert_eq!(reach.ok("environment", json!([])).await, json!({}));
    assert!(std::env::var("PATH").is_ok(), "this test reads PATH");
    let own = Reach::new(
        &format!("{config}\nreach.environment = ['PATH', 'NO_SUCH_VARIABLE']"),
        Vec::new(),
    )
    .await;
    let expected = json!({"PATH": std::env::var("PATH").unwrap()});
    assert_eq!(own.ok("environment", json!([])).await, expected);
    let given = Reach::new(
        &format!("{config}\nreach.environment = {{ TZ = 'UTC' }}"),
        Vec::new(),
    )
    .await;
    assert_eq!(given.ok("environment", json!([])).await, json!({"TZ": "UTC"}));
}

/// A grant is one component's: another file gets nothing of it.
#[tokio::test(flavor = "multi_thread")]
async fn grants_are_by_the_components_name() {
    let lab = Lab::new().await;
    let sandbox = lab
        .sandbox()
        .clone()
        .granting(granting("reach.network = ['127.0.0.1:1']", Vec::new()));
    let copy = lab.folder().join("other.wasm");
    std::fs::copy(guests().join("reach.wasm"), &copy).unwrap();
    let error = sandbox.load(&copy).await.expect_err("it is not the one");
    assert!(error.to_string().contains("[component.other]"), "{error}");
    let probe = sandbox.load(&guests().join("probe.wasm")).await.unwrap();
    assert!(Grants::is_empty(probe.grants()));
}
