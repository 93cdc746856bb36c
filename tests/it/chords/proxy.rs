//! A way to a server that ends, and with it the process that uses it, at a chosen request.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::Duration;

/// What becomes of the last request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Last {
    /// The server has it; its answer goes nowhere.
    Answered,
    /// The server never sees it.
    Dropped,
}

/// What counts as a request.
pub(super) type Counts = fn(&[u8]) -> bool;

/// Passes on what a client says until its `at`th request.
pub(super) struct Proxy {
    port: u16,
    reached: Arc<(Mutex<bool>, Condvar)>,
}

impl Proxy {
    /// Between whoever connects and the server at this address.
    pub(super) fn start(server: &str, counts: Counts, at: u32, last: Last) -> Proxy {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let reached = Arc::<(Mutex<bool>, Condvar)>::default();
        let (server, told, requests) = (
            server.to_owned(),
            Arc::clone(&reached),
            Arc::new(AtomicU32::new(0)),
        );
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let Ok(server) = TcpStream::connect(&server) else {
                    return;
                };
                let (told, requests) = (Arc::clone(&told), Arc::clone(&requests));
                let (mut back, mut answers) = (client.try_clone().unwrap(), server.try_clone().unwrap());
                let cut = Arc::clone(&told);
                thread::spawn(move || {
                    let mut buffer = [0; 65536];
                    while let Ok(size @ 1..) = answers.read(&mut buffer) {
                        // Nothing is heard any more from there on.
                        if *cut.0.lock().unwrap() || back.write_all(&buffer[..size]).is_err() {
                            return;
                        }
                    }
                    let _ = back.shutdown(Shutdown::Both);
                });
                thread::spawn(move || {
                    let cut = Cut {
                        counts,
                        at,
                        last,
                        requests: &requests,
                        told: &told,
                    };
                    cut.forward(&client, &server);
                    // The server learns of the client's end only then: until it is killed nothing goes either way.
                    let _ = std::io::copy(&mut &client, &mut std::io::sink());
                    let _ = server.shutdown(Shutdown::Both);
                });
            }
        });
        Proxy { port, reached }
    }

    pub(super) fn port(&self) -> u16 {
        self.port
    }

    /// Waits so long for the last request; whether it came.
    pub(super) fn reached(&self, limit: Duration) -> bool {
        let (reached, told) = &*self.reached;
        let reached = reached.lock().unwrap();
        *told
            .wait_timeout_while(reached, limit, |reached| !*reached)
            .unwrap()
            .0
    }
}

/// When it is over.
struct Cut<'a> {
    counts: Counts,
    at: u32,
    last: Last,
    requests: &'a AtomicU32,
    told: &'a (Mutex<bool>, Condvar),
}

impl Cut<'_> {
    /// Until the last request, on whatever connection it comes, or the end of the client.
    fn forward(&self, mut client: &TcpStream, mut server: &TcpStream) {
        let (reached, told) = self.told;
        let mut buffer = [0; 65536];
        while let Ok(size @ 1..) = client.read(&mut buffer) {
            let said = &buffer[..size];
            let is_request = (self.counts)(said);
            let number = match is_request {
                true => self.requests.fetch_add(1, Ordering::SeqCst) + 1,
                false => self.requests.load(Ordering::SeqCst),
            };
            let is_last = is_request && number == self.at;
            if number > self.at || (number == self.at && !is_last) {
                return;
            }
            if is_last {
                *reached.lock().unwrap() = true;
            }
            if !is_last || self.last == Last::Answered {
                let _ = server.write_all(said);
            }
            if is_last {
                return told.notify_all();
            }
        }
    }
}
