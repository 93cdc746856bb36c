use std::io::{BufRead, BufReader, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use tempfile::TempDir;

use crate::certificate::Certificate;
use crate::place::program;
use crate::port::free_port;
use crate::process::Process;
use crate::wait::within;

/// A private redis-server that listens on a TCP port, on a TLS port and on a unix socket.
#[derive(Debug)]
pub struct Redis {
    process: Process,
    command: Box<Command>,
    port: u16,
    tls_port: u16,
    certificate: Certificate,
    folder: TempDir,
}

/// What Redis answers to a command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reply {
    /// No such key, field or element.
    Nil,
    /// A number.
    Integer(i64),
    /// A status or a value, as text.
    Text(String),
    /// Several replies.
    List(Vec<Reply>),
}

impl Reply {
    /// The number.
    ///
    /// # Panics
    /// Where the reply is something else.
    pub fn integer(&self) -> i64 {
        let Reply::Integer(number) = self else {
            panic!("Redis answered {self:?}, not a number");
        };
        *number
    }

    /// The text.
    ///
    /// # Panics
    /// Where the reply is something else.
    pub fn text(&self) -> &str {
        let Reply::Text(text) = self else {
            panic!("Redis answered {self:?}, not a text");
        };
        text
    }
}

impl Redis {
    /// Starts a server and waits until it answers. Nothing is kept when it ends.
    pub fn start() -> Redis {
        Redis::start_with(&[])
    }

    /// Starts a server that finds its data again after [`Redis::restart`].
    pub fn start_durable() -> Redis {
        Redis::start_with(&["--appendonly", "yes"])
    }

    /// Starts a server that follows another one.
    pub fn replica_of(master: &Redis) -> Redis {
        let replica = Redis::start_with(&["--replicaof", &format!("127.0.0.1 {}", master.port)]);
        within(
            Duration::from_secs(30),
            "the replica has its master's data",
            || {
                let role = replica.command(&["INFO", "replication"]);
                role.text().contains("master_link_status:up").then_some(())
            },
        );
        replica
    }

    /// Starts a server with more command-line options.
    fn start_with(options: &[&str]) -> Redis {
        // A port may be taken between the choice and the start: then the server ends, and the next one is tried.
        for _ in 0..10 {
            if let Some(server) = Redis::try_start(options) {
                return server;
            }
        }
        panic!("redis-server did not start in ten attempts");
    }

    fn try_start(options: &[&str]) -> Option<Redis> {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let certificate = Certificate::make(folder.path());
        let (port, tls_port) = (free_port(), free_port());
        let mut command = Command::new(program("redis-server"));
        command.current_dir(folder.path());
        for (name, value) in [
            ("--bind", "127.0.0.1"),
            ("--port", &port.to_string()),
            ("--tls-port", &tls_port.to_string()),
            ("--tls-cert-file", &certificate.certificate.to_string_lossy()),
            ("--tls-key-file", &certificate.key.to_string_lossy()),
            ("--tls-ca-cert-file", &certificate.authority.to_string_lossy()),
            ("--tls-auth-clients", "no"),
            ("--unixsocket", "redis.sock"),
            ("--save", ""),
            ("--appendonly", "no"),
            ("--daemonize", "no"),
        ] {
            command.arg(name).arg(value);
        }
        command.args(options);
        let process = launch(&mut command, folder.path())?;
        Some(Redis {
            process,
            command: Box::new(command),
            port,
            tls_port,
            certificate,
            folder,
        })
    }

    /// Ends the server in good order and starts it again on the same ports.
    ///
    /// # Panics
    /// Where it does not end or start.
    pub fn restart(&mut self) {
        self.process.signal(rustix::process::Signal::TERM);
        self.process.wait(Duration::from_secs(60));
        self.process = launch(&mut self.command, self.folder.path()).expect("redis-server starts again");
    }

    /// `redis://127.0.0.1:PORT/0`.
    pub fn url(&self) -> String {
        self.database_url(0)
    }

    /// `redis://127.0.0.1:PORT/DATABASE`.
    pub fn database_url(&self, database: u8) -> String {
        format!("redis://127.0.0.1:{}/{database}", self.port)
    }

    /// `rediss://` with this server's own authority.
    pub fn tls_url(&self) -> String {
        format!(
            "rediss://localhost:{}/0?ssl_cert_reqs=required&ssl_ca_certs={}",
            self.tls_port,
            self.certificate.authority.display()
        )
    }

    /// The path of the unix socket.
    pub fn socket(&self) -> PathBuf {
        self.folder.path().join("redis.sock")
    }

    /// The authority that signed this server's certificate (PEM).
    pub fn authority(&self) -> PathBuf {
        self.certificate.authority.clone()
    }

    /// Runs one command on a connection of its own, in database 0.
    ///
    /// # Panics
    /// Where the server does not answer or answers an error.
    pub fn command(&self, words: &[&str]) -> Reply {
        self.connect(0).command(words)
    }

    /// A connection to one of the databases.
    ///
    /// # Panics
    /// Where the server does not answer.
    pub fn connect(&self, database: u8) -> RedisConnection {
        let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)).expect("redis-server listens");
        let limit = Some(Duration::from_secs(20));
        stream.set_read_timeout(limit).expect("not zero");
        let mut connection = RedisConnection {
            stream: BufReader::new(stream),
        };
        connection.command(&["SELECT", &database.to_string()]);
        connection
    }

    /// The length of a list; 0 where there is none.
    pub fn list_length(&self, key: &str) -> i64 {
        self.command(&["LLEN", key]).integer()
    }

    /// How many messages Kombu's `unacked` hash holds.
    pub fn unacked(&self) -> i64 {
        self.command(&["HLEN", "unacked"]).integer()
    }

    /// The stored result documents of these tasks, for those that have one, in the same order.
    pub fn stored(&self, ids: &[String]) -> Vec<serde_json::Value> {
        let keys: Vec<String> = ids.iter().map(|id| format!("celery-task-meta-{id}")).collect();
        let mut words = vec!["MGET"];
        words.extend(keys.iter().map(String::as_str));
        let Reply::List(replies) = self.command(&words) else {
            panic!("MGET answers a list");
        };
        let stored = replies.iter().filter(|reply| **reply != Reply::Nil);
        stored
            .map(|reply| serde_json::from_str(reply.text()).expect("a stored result is JSON"))
            .collect()
    }

    /// How many of these tasks have a stored state of this name.
    pub fn count_state(&self, ids: &[String], state: &str) -> usize {
        let stored = self.stored(ids);
        stored
            .iter()
            .filter(|document| document["status"] == state)
            .count()
    }

    /// The server's certificate, which also serves as a client's, its key and its authority.
    pub fn certificate(&self) -> &Certificate {
        &self.certificate
    }

    /// `kill -9` of the server.
    pub fn kill(&mut self) {
        self.process.kill();
    }

    /// Stops answering without closing connections (SIGSTOP), until [`Redis::resume`].
    pub fn pause(&mut self) {
        self.process.signal(rustix::process::Signal::STOP);
    }

    /// Answers again.
    pub fn resume(&mut self) {
        self.process.signal(rustix::process::Signal::CONT);
    }
}

fn launch(command: &mut Command, folder: &Path) -> Option<Process> {
    Process::serve("redis-server", command, folder, "eady to accept connections")
}

/// A sentinel that watches a server, calls it `main` and lets its replica take over when it is gone.
#[derive(Debug)]
pub struct Sentinel {
    _process: Process,
    port: u16,
    _folder: TempDir,
}

impl Sentinel {
    /// Starts a sentinel and waits until it knows of the replica.
    pub fn watch(master: &Redis) -> Sentinel {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let port = free_port();
        let file = folder.path().join("sentinel.conf");
        let settings = format!(
            "port {port}\nbind 127.0.0.1\nprotected-mode no\nsentinel monitor main 127.0.0.1 {} 1\n\
             sentinel down-after-milliseconds main 1000\nsentinel failover-timeout main 10000\n",
            master.port
        );
        std::fs::write(&file, settings).expect("writable");
        let mut command = Command::new(program("redis-server"));
        command.arg(&file).arg("--sentinel").current_dir(folder.path());
        let mut process = Process::start("redis-sentinel", &mut command, Some(folder.path()));
        process.wait_for_line("+slave slave");
        Sentinel {
            _process: process,
            port,
            _folder: folder,
        }
    }

    /// `sentinel://127.0.0.1:PORT`.
    pub fn url(&self) -> String {
        format!("sentinel://127.0.0.1:{}", self.port)
    }
}

/// A connection that stays open, for a test or benchmark that asks often.
#[derive(Debug)]
pub struct RedisConnection {
    stream: BufReader<TcpStream>,
}

impl RedisConnection {
    /// Runs one command.
    ///
    /// # Panics
    /// Where the server does not answer or answers an error.
    pub fn command(&mut self, words: &[&str]) -> Reply {
        let mut request = format!("*{}\r\n", words.len());
        for word in words {
            request.push_str(&format!("${}\r\n{word}\r\n", word.len()));
        }
        let mut exchange = || {
            self.stream.get_mut().write_all(request.as_bytes())?;
            read_reply(&mut self.stream)
        };
        exchange().unwrap_or_else(|error| panic!("redis {words:?}: {error}"))
    }
}

fn read_reply(stream: &mut BufReader<TcpStream>) -> std::io::Result<Reply> {
    let mut line = String::new();
    stream.read_line(&mut line)?;
    let line = line.trim_end();
    let malformed = || std::io::Error::other(format!("malformed reply {line:?}"));
    let (kind, rest) = line.split_at_checked(1).ok_or_else(malformed)?;
    let number = || rest.parse::<i64>().map_err(|_| malformed());
    match kind {
        "+" => Ok(Reply::Text(rest.to_owned())),
        "-" => Err(std::io::Error::other(rest.to_owned())),
        ":" => Ok(Reply::Integer(number()?)),
        "$" => {
            let Ok(length) = usize::try_from(number()?) else {
                return Ok(Reply::Nil);
            };
            let mut bytes = vec![0; length + 2];
            std::io::Read::read_exact(stream, &mut bytes)?;
            bytes.truncate(length);
            Ok(Reply::Text(String::from_utf8_lossy(&bytes).into_owned()))
        }
        "*" => (0..number()?)
            .map(|_| read_reply(stream))
            .collect::<std::io::Result<Vec<_>>>()
            .map(Reply::List),
        _ => Err(malformed()),
    }
}
