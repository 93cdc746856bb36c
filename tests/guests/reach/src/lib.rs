//! A guest that reaches for what only a grant gives: the network, files, the environment. Errors are Rust's own, by kind.

use std::collections::BTreeMap;
use std::ffi::{CString, c_char, c_int};
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream, ToSocketAddrs, UdpSocket};
use std::path::PathBuf;

use celerybox_guest::{TaskError, task, tasks};

type Answer = Result<String, TaskError>;

fn kind(error: std::io::Error) -> TaskError {
    TaskError::new("OSError", format!("{:?}", error.kind()))
}

unsafe extern "C" {
    // Of the C library; Rust's own is not stable for this target.
    fn symlink(to: *const c_char, from: *const c_char) -> c_int;
}

fn link_to(to: PathBuf, from: PathBuf) -> std::io::Result<()> {
    let text = |path: PathBuf| CString::new(path.to_string_lossy().into_owned());
    let (to, from) = (text(to)?, text(from)?);
    // SAFETY: both are texts that end with a null byte.
    match unsafe { symlink(to.as_ptr(), from.as_ptr()) } {
        0 => Ok(()),
        _ => Err(std::io::Error::last_os_error()),
    }
}

/// Connects, sends a line and reads what comes back until the other side closes.
#[task]
fn talk(address: String, line: String) -> Answer {
    let mut stream = TcpStream::connect(&address).map_err(kind)?;
    stream.write_all(line.as_bytes()).map_err(kind)?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).map_err(kind)?;
    Ok(answer)
}

/// How many of so many connections to one address can be open at once.
#[task]
fn connections(address: String, number: usize) -> usize {
    let streams = (0..number).map(|_| TcpStream::connect(&address));
    streams
        .collect::<Vec<_>>()
        .iter()
        .filter(|stream| stream.is_ok())
        .count()
}

/// The addresses of a name.
#[task]
fn lookup(name: String) -> Result<Vec<String>, TaskError> {
    let addresses = (name.as_str(), 1).to_socket_addrs().map_err(kind)?;
    Ok(addresses.map(|address| address.ip().to_string()).collect())
}

/// Listens on a port of the system's choice.
#[task]
fn listen(address: String) -> Answer {
    TcpListener::bind(address)
        .map(|_| "listens".to_owned())
        .map_err(kind)
}

/// Sends a datagram.
#[task]
fn datagram(address: String) -> Answer {
    let socket = UdpSocket::bind("0.0.0.0:0").map_err(kind)?;
    socket.send_to(b"x", address).map_err(kind)?;
    Ok("sent".to_owned())
}

/// The text of a file.
#[task]
fn read(path: PathBuf) -> Answer {
    std::fs::read_to_string(path).map_err(kind)
}

/// Writes a file.
#[task]
fn write(path: PathBuf, text: String) -> Answer {
    std::fs::write(path, text)
        .map(|()| "written".to_owned())
        .map_err(kind)
}

/// The names in a folder, sorted.
#[task]
fn list(path: PathBuf) -> Result<Vec<String>, TaskError> {
    let mut names = Vec::new();
    for entry in std::fs::read_dir(path).map_err(kind)? {
        names.push(entry.map_err(kind)?.file_name().to_string_lossy().into_owned());
    }
    names.sort();
    Ok(names)
}

/// One change of the file system.
#[task]
fn change(what: String, from: PathBuf, to: PathBuf) -> Answer {
    let done = match what.as_str() {
        "rename" => std::fs::rename(from, to),
        "link" => std::fs::hard_link(from, to),
        "symlink" => link_to(from, to),
        "remove" => std::fs::remove_file(from),
        "mkdir" => std::fs::create_dir(from),
        "rmdir" => std::fs::remove_dir(from),
        "truncate" => std::fs::OpenOptions::new()
            .write(true)
            .truncate(true)
            .open(from)
            .map(drop),
        other => panic!("{other} is no change"),
    };
    done.map(|()| "done".to_owned()).map_err(kind)
}

/// Writes a file and reads it back, for ever.
#[task]
fn churn(path: PathBuf) -> Answer {
    let bytes = vec![b'x'; 1 << 20];
    loop {
        std::fs::write(&path, &bytes).map_err(kind)?;
        std::fs::read(&path).map_err(kind)?;
    }
}

/// How many files can be open at once.
#[task]
fn open(path: PathBuf, number: usize) -> usize {
    let files = (0..number).map(|_| std::fs::File::open(&path));
    files
        .collect::<Vec<_>>()
        .iter()
        .filter(|file| file.is_ok())
        .count()
}

/// All there is in the environment.
#[task]
fn environment() -> BTreeMap<String, String> {
    std::env::vars().collect()
}

tasks![
    talk,
    connections,
    lookup,
    listen,
    datagram,
    read,
    write,
    list,
    change,
    churn,
    open,
    environment
];
