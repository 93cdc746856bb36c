use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::path::Path;
use std::process::Command;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;

use crate::certificate::Certificate;
use crate::place::program;
use crate::port::free_port;
use crate::process::Process;

/// A private RabbitMQ node with AMQP, AMQP over TLS and the management API, and the Erlang port mapper it needs.
#[derive(Debug)]
pub struct RabbitMq {
    // The node is dropped before the mapper it is registered with.
    node: Process,
    command: Command,
    _port_mapper: Process,
    ports: Ports,
    certificate: Certificate,
    folder: TempDir,
}

#[derive(Debug, Clone, Copy)]
struct Ports {
    amqp: u16,
    tls: u16,
    management: u16,
}

/// A virtual host of its own for one test.
#[derive(Debug)]
pub struct Vhost {
    name: String,
    server: &'static RabbitMq,
}

static SHARED: OnceLock<RabbitMq> = OnceLock::new();
static VHOSTS: AtomicU32 = AtomicU32::new(0);

/// guest:guest in Base64, which is who RabbitMQ's own defaults let in from 127.0.0.1.
const AUTHORIZATION: &str = "Basic Z3Vlc3Q6Z3Vlc3Q=";

impl RabbitMq {
    /// A new virtual host on the node that all tests of this program share: starting one takes seconds.
    pub fn vhost() -> Vhost {
        let server = SHARED.get_or_init(RabbitMq::start);
        let name = format!("test-{}", VHOSTS.fetch_add(1, Ordering::Relaxed));
        server.request("PUT", &format!("vhosts/{name}"), "");
        let everything = r#"{"configure": ".*", "write": ".*", "read": ".*"}"#;
        server.request("PUT", &format!("permissions/{name}/guest"), everything);
        Vhost { name, server }
    }

    /// Starts a node of its own and waits until it answers; for tests that stop or pause it.
    pub fn start() -> RabbitMq {
        RabbitMq::start_with("[rabbitmq_management].", "", "[].")
    }

    /// The same with other plugins (`[name].`), more lines in its configuration file, and the terms of an advanced one.
    pub fn start_configured(plugins: &str, settings: &str, advanced: &str) -> RabbitMq {
        RabbitMq::start_with(plugins, settings, advanced)
    }

    /// The same without the management plugin, which takes CPU time of its own: for benchmarks. Nothing here that asks
    /// the management API works on it.
    pub fn start_bare() -> RabbitMq {
        RabbitMq::start_with("[].", "", "[].")
    }

    fn start_with(plugins: &str, more: &str, advanced: &str) -> RabbitMq {
        // A port may be taken between the choice and the start: then the node ends, and the next one is tried.
        for _ in 0..5 {
            if let Some(server) = RabbitMq::try_start(plugins, more, advanced) {
                return server;
            }
        }
        panic!("rabbitmq-server did not start in five attempts");
    }

    fn try_start(plugins: &str, more: &str, advanced: &str) -> Option<RabbitMq> {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path();
        let certificate = Certificate::make(path);
        let ports = Ports {
            amqp: free_port(),
            tls: free_port(),
            management: free_port(),
        };
        let (mapper_port, distribution_port) = (free_port().to_string(), free_port().to_string());
        let mut settings = settings(ports, &certificate);
        settings.push_str(more);
        if plugins.contains("management") {
            let port = ports.management;
            settings.push_str(&format!(
                "management.tcp.ip = 127.0.0.1\nmanagement.tcp.port = {port}\n"
            ));
        }
        std::fs::write(path.join("rabbitmq.conf"), settings).expect("writable");
        std::fs::write(path.join("plugins"), plugins).expect("writable");
        std::fs::write(path.join("advanced.config"), advanced).expect("writable");

        // RabbitMQ would start a port mapper that outlives it; ours listens on 127.0.0.1 and ends with the test.
        let mut command = Command::new(program("epmd"));
        command.args(["-port", &mapper_port, "-address", "127.0.0.1"]);
        let port_mapper = Process::start("epmd", &mut command, None);

        let mut command = Command::new(server_script());
        command.current_dir(path).env("HOME", path);
        for (name, value) in std::env::vars_os() {
            // Settings of a system-wide RabbitMQ would win over the file.
            if name.to_string_lossy().starts_with("RABBITMQ_") {
                let _ = value;
                command.env_remove(name);
            }
        }
        for (name, value) in [
            ("ERL_EPMD_PORT", mapper_port.as_str()),
            ("ERL_EPMD_ADDRESS", "127.0.0.1"),
            ("RABBITMQ_NODENAME", "celerybox-test@localhost"),
            ("RABBITMQ_DIST_PORT", &distribution_port),
            ("RABBITMQ_CONF_ENV_FILE", "/dev/null"),
            ("RABBITMQ_CONFIG_FILE", &in_folder(path, "rabbitmq.conf")),
            (
                "RABBITMQ_ADVANCED_CONFIG_FILE",
                &in_folder(path, "advanced.config"),
            ),
            ("RABBITMQ_ENABLED_PLUGINS_FILE", &in_folder(path, "plugins")),
            ("RABBITMQ_MNESIA_BASE", &in_folder(path, "mnesia")),
            ("RABBITMQ_LOG_BASE", &in_folder(path, "log")),
            ("RABBITMQ_PID_FILE", &in_folder(path, "pid")),
            ("RABBITMQ_LOGS", "-"),
            (
                "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS",
                "-kernel inet_dist_use_interface {127,0,0,1}",
            ),
        ] {
            command.env(name, value);
        }
        let node = launch(&mut command, path)?;
        Some(RabbitMq {
            node,
            command,
            _port_mapper: port_mapper,
            ports,
            certificate,
            folder,
        })
    }

    /// `amqp://` URL of the default virtual host.
    pub fn url(&self) -> String {
        format!("amqp://guest:guest@127.0.0.1:{}//", self.ports.amqp)
    }

    /// Ends the node in good order and starts it again on the same ports, with its durable queues.
    ///
    /// # Panics
    /// Where it does not end or start.
    pub fn restart(&mut self) {
        self.node.signal_group(rustix::process::Signal::TERM);
        self.node.wait(Duration::from_secs(120));
        self.node = launch(&mut self.command, self.folder.path()).expect("rabbitmq-server starts again");
    }

    /// `amqps://` URL of the default virtual host, without user and password.
    pub fn tls_url(&self) -> String {
        format!("amqps://localhost:{}//", self.ports.tls)
    }

    /// The node's certificate, which also serves as a client's, its key and its authority.
    pub fn certificate(&self) -> &Certificate {
        &self.certificate
    }

    /// Stops answering without closing connections (SIGSTOP), until [`RabbitMq::resume`].
    pub fn pause(&mut self) {
        self.node.signal_group(rustix::process::Signal::STOP);
    }

    /// Answers again.
    pub fn resume(&mut self) {
        self.node.signal_group(rustix::process::Signal::CONT);
    }

    /// What the management API says of a queue of the default virtual host.
    pub fn queue(&self, queue: &str) -> Option<Value> {
        let queues = self.list("queues/%2F").into_iter();
        queues.into_iter().find(|found| found["name"] == queue)
    }

    /// Closes every client connection of the default virtual host, as an operator can.
    pub fn close_connections(&self) {
        for connection in self.list("connections") {
            if let Some(name) = connection["name"].as_str() {
                let name = name.replace(' ', "%20").replace('>', "%3E");
                self.request("DELETE", &format!("connections/{name}"), "");
            }
        }
    }

    fn list(&self, path: &str) -> Vec<Value> {
        match serde_json::from_str(&self.request("GET", path, "")) {
            Ok(Value::Array(items)) => items,
            other => panic!("RabbitMQ answered {other:?} to {path}"),
        }
    }

    /// One request to the management API; returns the body of the answer.
    fn request(&self, method: &str, path: &str, body: &str) -> String {
        let exchange = || -> std::io::Result<String> {
            let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, self.ports.management))?;
            stream.set_read_timeout(Some(Duration::from_secs(60)))?;
            write!(
                stream,
                "{method} /api/{path} HTTP/1.0\r\nHost: localhost\r\nAuthorization: {AUTHORIZATION}\r\n\
                 Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
                body.len()
            )?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer)?;
            Ok(answer)
        };
        let answer = exchange().unwrap_or_else(|error| panic!("{method} {path}: {error}"));
        let (head, content) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
        let status = head.split(' ').nth(1).unwrap_or_default();
        assert!(status.starts_with('2'), "{method} {path}: {answer}");
        content.to_owned()
    }
}

fn launch(command: &mut Command, folder: &Path) -> Option<Process> {
    Process::serve("rabbitmq-server", command, folder, "Server startup complete")
}

impl Vhost {
    /// `amqp://` URL of this virtual host.
    pub fn url(&self) -> String {
        format!(
            "amqp://guest:guest@127.0.0.1:{}/{}",
            self.server.ports.amqp, self.name
        )
    }

    /// `amqps://` URL of this virtual host.
    pub fn tls_url(&self) -> String {
        format!(
            "amqps://guest:guest@localhost:{}/{}",
            self.server.ports.tls, self.name
        )
    }

    /// The authority that signed the node's certificate (PEM).
    pub fn authority(&self) -> std::path::PathBuf {
        self.server.certificate.authority.clone()
    }

    /// What the management API knows of a queue, or `None` where there is no such queue. Its counts are those of the
    /// last few seconds, not of this moment.
    pub fn queue(&self, queue: &str) -> Option<Value> {
        self.server
            .list(&format!("queues/{}", self.name))
            .into_iter()
            .find(|found| found["name"] == queue)
    }

    /// The bindings of this virtual host, without those to the default exchange, as
    /// `[source, destination, routing key, arguments]`.
    pub fn bindings(&self) -> Vec<Value> {
        let bindings = self.server.list(&format!("bindings/{}", self.name));
        let named = bindings.iter().filter(|binding| binding["source"] != "");
        named
            .map(|b| {
                Value::Array(
                    ["source", "destination", "routing_key", "arguments"]
                        .map(|name| b[name].clone())
                        .to_vec(),
                )
            })
            .collect()
    }

    /// Closes the client connections of this virtual host that the management API knows of, as an operator can; how
    /// many. It hears of a new one after some seconds.
    pub fn close_connections(&self) -> usize {
        let mut closed = 0;
        for connection in self.server.list("connections") {
            if let Some(name) = connection["name"].as_str()
                && connection["vhost"] == self.name
            {
                let name = name.replace(' ', "%20").replace('>', "%3E");
                self.server.request("DELETE", &format!("connections/{name}"), "");
                closed += 1;
            }
        }
        closed
    }

    /// The exchanges of this virtual host by name, without RabbitMQ's own.
    pub fn exchanges(&self) -> Vec<Value> {
        let mut exchanges = self.server.list(&format!("exchanges/{}", self.name));
        exchanges.retain(|exchange| {
            let name = exchange["name"].as_str().unwrap_or_default();
            !name.is_empty() && !name.starts_with("amq.")
        });
        exchanges
    }
}

fn settings(ports: Ports, certificate: &Certificate) -> String {
    let Ports { amqp, tls, .. } = ports;
    format!(
        "listeners.tcp.1 = 127.0.0.1:{amqp}\n\
         listeners.ssl.1 = 127.0.0.1:{tls}\n\
         ssl_options.cacertfile = {}\n\
         ssl_options.certfile = {}\n\
         ssl_options.keyfile = {}\n\
         ssl_options.verify = verify_peer\n\
         ssl_options.fail_if_no_peer_cert = false\n\
         disk_free_limit.absolute = 50MB\n\
         collect_statistics_interval = 5000\n",
        certificate.authority.display(),
        certificate.certificate.display(),
        certificate.key.display()
    )
}

fn in_folder(folder: &Path, name: &str) -> String {
    folder.join(name).to_string_lossy().into_owned()
}

/// Debian's command on the `PATH` changes to the system's own user and folder; the script behind it does neither.
fn server_script() -> std::path::PathBuf {
    let behind = Path::new("/usr/lib/rabbitmq/bin/rabbitmq-server");
    if behind.is_file() {
        behind.to_path_buf()
    } else {
        program("rabbitmq-server")
    }
}
