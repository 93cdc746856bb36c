//! The thread that takes messages out of the folder and settles them.

use std::collections::{HashMap, HashSet};
use std::fs::TryLockError;
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender};
use std::time::{Duration, Instant, SystemTime};

use cap_std::fs::Dir;
use tokio::sync::{mpsc, oneshot};

use super::listing::Listing;
use super::unacked::{self, Unacked};
use super::{Options, exchange, folder, left_behind, name};
use crate::broker::{Backoff, BrokerError, Delivery, Gone, Presence, Receipt, Told, Verdict, tell};
use crate::message::envelope;
use crate::queue::Queue;

/// The shortest pause between two looks into an idle folder.
const SHORTEST_PAUSE: Duration = Duration::from_millis(10);
/// How often the thread checks that the folder is still the same one.
const CHECK_EVERY: Duration = Duration::from_secs(1);
/// How often it looks for messages of dead workers.
const SWEEP_EVERY: Duration = Duration::from_secs(2);
/// How often it looks for queues that nobody reads any more.
const TIDY_EVERY: Duration = Duration::from_secs(30);
/// How many files are looked at before verdicts have their turn.
const BATCH: usize = 64;
/// A file that makes no sense and is younger than this may still be written by somebody who holds no lock.
const YOUNG: Duration = Duration::from_secs(2);
/// A pause while whoever receives the messages is slow.
const FULL_PAUSE: Duration = Duration::from_millis(2);

/// What the thread is asked to do.
pub(super) enum Command {
    /// Take messages of these queues and send them here; answered when the folders are open.
    Consume {
        queues: Vec<Queue>,
        deliveries: mpsc::Sender<Delivery>,
        ready: oneshot::Sender<Result<(), BrokerError>>,
    },
    /// Take messages of these queues and of no others from now on.
    Queues {
        queues: Vec<Queue>,
        done: oneshot::Sender<Result<(), BrokerError>>,
    },
    /// Settle a message.
    Settle { tag: u64, verdict: Verdict, told: Told },
    /// The prefetch changed.
    Wake,
    /// Take no more messages.
    Cancel { done: oneshot::Sender<()> },
    /// Give everything back and end.
    Close {
        done: oneshot::Sender<Result<(), BrokerError>>,
    },
}

/// The folders while they are open. It lives as long as a message that was taken through it.
struct Place {
    input: Dir,
    processed: Option<Dir>,
    unacked: Unacked,
    /// For the receipts: the folder is gone, with everything that was taken from it.
    lost: Gone,
}

/// A message that was taken and not settled.
struct Held {
    place: Rc<Place>,
    file: String,
}

/// The thread's state.
pub(super) struct Consumer {
    options: Arc<Options>,
    prefetch: Arc<AtomicU32>,
    /// For the receipts.
    commands: Sender<Command>,
    place: Option<Rc<Place>>,
    create_folders: bool,
    backoff: Backoff,
    next_check: Instant,
    next_sweep: Instant,
    next_tidying: Instant,
    /// Connection attempts that failed in a row.
    failures: u32,
    declared: Vec<Queue>,
    queues: HashSet<String>,
    deliveries: Option<mpsc::Sender<Delivery>>,
    ready: Option<oneshot::Sender<Result<(), BrokerError>>>,
    listing: Listing,
    held: HashMap<u64, Held>,
    /// Verdicts that could not be carried out and are tried again.
    failed: Vec<(u64, Verdict, Told)>,
    next_tag: u64,
    /// Whether the current listing gave a message.
    took: bool,
    idle_pause: Duration,
    /// Files that a warning was written about.
    complained: HashSet<String>,
    presence: Presence,
}

impl Consumer {
    pub(super) fn new(
        options: Arc<Options>,
        prefetch: Arc<AtomicU32>,
        commands: Sender<Command>,
        presence: Presence,
    ) -> Self {
        Self {
            options,
            prefetch,
            commands,
            place: None,
            create_folders: true,
            backoff: Backoff::default(),
            next_check: Instant::now(),
            next_sweep: Instant::now(),
            next_tidying: Instant::now() + TIDY_EVERY,
            failures: 0,
            declared: Vec::new(),
            queues: HashSet::new(),
            deliveries: None,
            ready: None,
            listing: Listing::default(),
            held: HashMap::new(),
            failed: Vec::new(),
            next_tag: 0,
            took: false,
            idle_pause: SHORTEST_PAUSE,
            complained: HashSet::new(),
            presence,
        }
    }

    /// Works until it is told to close.
    pub(super) fn run(mut self, commands: &Receiver<Command>) {
        let mut pause = Duration::ZERO;
        loop {
            let mut command = match commands.recv_timeout(pause) {
                Ok(command) => Some(command),
                Err(RecvTimeoutError::Timeout) => None,
                Err(RecvTimeoutError::Disconnected) => return,
            };
            while let Some(next) = command.take() {
                if let Command::Close { done } = next {
                    let _ = done.send(self.close());
                    return;
                }
                self.handle(next);
                command = commands.try_recv().ok();
            }
            pause = self.work();
        }
    }

    fn handle(&mut self, command: Command) {
        match command {
            Command::Consume {
                queues,
                deliveries,
                ready,
            } => {
                self.change(queues);
                self.deliveries = Some(deliveries);
                self.ready = Some(ready);
                // Opens the folders, and binds the queues in any case.
                self.next_check = Instant::now();
                self.place = None;
            }
            Command::Queues { queues, done } => {
                let changed = match self.bind(&queues) {
                    _ if self.deliveries.is_none() => Err(BrokerError::Config("not consuming".into())),
                    Ok(()) => {
                        self.change(queues);
                        Ok(())
                    }
                    Err(error) => Err(BrokerError::Connection(format!(
                        "{}: {error}",
                        self.options.control_folder.display()
                    ))),
                };
                let _ = done.send(changed);
            }
            Command::Settle { tag, verdict, told } => self.settle(tag, verdict, told),
            Command::Cancel { done } => {
                self.deliveries = None;
                let _ = done.send(());
            }
            Command::Wake | Command::Close { .. } => {}
        }
    }

    fn change(&mut self, queues: Vec<Queue>) {
        self.queues = queues.iter().map(|queue| queue.name.clone()).collect();
        self.declared = queues;
        self.listing.clear();
    }

    fn bind(&self, queues: &[Queue]) -> io::Result<()> {
        let control = folder::open(&self.options.control_folder, self.create_folders)?;
        let mut declared = queues.iter().filter(|queue| !queue.no_declare);
        declared.try_for_each(|queue| exchange::bind(&control, queue))
    }

    /// Does what is due; how long to wait before the next time.
    fn work(&mut self) -> Duration {
        let now = Instant::now();
        if now >= self.next_check {
            self.check(now);
        }
        let Some(place) = self.place.clone() else {
            return self.next_check.saturating_duration_since(Instant::now());
        };
        if now >= self.next_sweep {
            self.next_sweep = now + SWEEP_EVERY;
            match self.sweep(&place) {
                Ok(0) => {}
                Ok(count) => {
                    tracing::warn!("{count} messages of a worker that died are back in their queues");
                    self.listing.clear();
                }
                Err(error) => {
                    self.lost(&error);
                    return Duration::ZERO;
                }
            }
        }
        self.take_some(&place)
    }

    /// Gives back what dead workers held; how many messages. Binds the queues again too, as a table of kombu's that was
    /// read half-written and written back is without them.
    fn sweep(&mut self, place: &Place) -> io::Result<usize> {
        if self.deliveries.is_some() {
            self.bind(&self.declared)?;
        }
        if let Some(fleeting) = &self.options.fleeting
            && Instant::now() >= self.next_tidying
        {
            self.next_tidying = Instant::now() + TIDY_EVERY;
            let control = folder::open(&self.options.control_folder, false)?;
            let removed = left_behind::sweep(&place.input, &control, fleeting)?;
            if removed > 0 {
                tracing::info!("removed {removed} queues of monitors and clients that are gone");
            }
        }
        unacked::sweep(&place.input)
    }

    /// Makes sure that the folders are open and still the ones that the paths name.
    fn check(&mut self, now: Instant) {
        self.next_check = now + CHECK_EVERY;
        for (tag, verdict, told) in std::mem::take(&mut self.failed) {
            self.settle(tag, verdict, told);
        }
        if let Some(place) = &self.place {
            let same = folder::open(&self.options.data_folder_in, false)
                .is_ok_and(|input| place.unacked.is_there(&input));
            if same {
                self.backoff.reset();
            } else {
                place.lost.0.send_replace(true);
                self.lost(&io::Error::other("it was removed or replaced"));
            }
            return;
        }
        match self.open() {
            Ok(place) => {
                self.place = Some(Rc::new(place));
                self.presence.came();
                self.create_folders = false;
                self.failures = 0;
                self.listing.clear();
                self.next_sweep = now;
                if let Some(ready) = self.ready.take() {
                    let _ = ready.send(Ok(()));
                }
            }
            Err(error) => {
                self.failures += 1;
                let starting = self.ready.is_some();
                if self.deliveries.is_some() && !self.options.reconnect.allows(starting, self.failures) {
                    self.give_up(&error);
                    return;
                }
                let pause = self.backoff.next_pause();
                tracing::error!(
                    "cannot use the folder {}: {error}; next attempt in {pause:?}",
                    self.options.data_folder_in.display()
                );
                self.next_check = now + pause;
            }
        }
    }

    /// Makes no more attempts: whoever receives the messages learns of it.
    fn give_up(&mut self, error: &io::Error) {
        let folder = self.options.data_folder_in.display();
        let reason = format!("cannot use the folder {folder}: {error}");
        self.deliveries = None;
        self.next_check = Instant::now() + CHECK_EVERY;
        match self.ready.take() {
            Some(ready) => {
                let _ = ready.send(Err(BrokerError::Connection(reason)));
            }
            None => tracing::error!("{reason}. No more attempts are made"),
        }
    }

    fn open(&self) -> io::Result<Place> {
        let options = &self.options;
        let input = folder::open(&options.data_folder_in, self.create_folders)?;
        let control = folder::open(&options.control_folder, self.create_folders)?;
        let processed = options
            .store_processed
            .then(|| folder::open(&options.processed_folder, self.create_folders))
            .transpose()?;
        for queue in self.declared.iter().filter(|queue| !queue.no_declare) {
            exchange::bind(&control, queue)?;
        }
        folder::remove_old_temporary_files(&input)?;
        Ok(Place {
            unacked: Unacked::create(&input)?,
            lost: Gone::default(),
            input,
            processed,
        })
    }

    /// The folder does not work any more; what was taken from it can still be settled if it comes back.
    fn lost(&mut self, error: &io::Error) {
        tracing::error!(
            "lost the folder {}: {error}",
            self.options.data_folder_in.display()
        );
        self.place = None;
        self.presence.went();
        self.listing.clear();
        self.next_check = Instant::now() + self.backoff.next_pause();
    }

    /// Takes messages while there is room for them; how long to wait before the next time.
    fn take_some(&mut self, place: &Rc<Place>) -> Duration {
        let Some(deliveries) = self.deliveries.clone() else {
            return CHECK_EVERY;
        };
        if self.listing.is_empty() {
            self.took = false;
            if let Err(error) = self.listing.refresh(&place.input, &self.queues) {
                self.lost(&error);
                return Duration::ZERO;
            }
        }
        for _ in 0..BATCH {
            let prefetch = self.prefetch.load(Ordering::Relaxed) as usize;
            if prefetch > 0 && self.held.len() >= prefetch {
                // A verdict or a new prefetch wakes the thread.
                return CHECK_EVERY;
            }
            let permit = match deliveries.try_reserve() {
                Ok(permit) => permit,
                Err(mpsc::error::TrySendError::Full(())) => return FULL_PAUSE,
                Err(mpsc::error::TrySendError::Closed(())) => {
                    self.deliveries = None;
                    return CHECK_EVERY;
                }
            };
            let Some(file) = self.listing.next() else {
                return self.end_of_listing();
            };
            match self.take(place, &file) {
                Ok(Some(delivery)) => {
                    self.took = true;
                    permit.send(delivery);
                }
                Ok(None) => {}
                Err(error) => {
                    self.lost(&error);
                    return Duration::ZERO;
                }
            }
        }
        Duration::ZERO
    }

    /// A listing that gave a message is followed by the next one at once, others after a growing pause.
    fn end_of_listing(&mut self) -> Duration {
        if self.took {
            self.idle_pause = SHORTEST_PAUSE;
            return Duration::ZERO;
        }
        let longest = Duration::from_secs_f64(self.options.polling_interval);
        let pause = self.idle_pause.min(longest);
        self.idle_pause = (self.idle_pause * 2).min(longest);
        pause
    }

    /// Takes one file. `None` when there is nothing to deliver: somebody else has it, it is still being written, or
    /// it is no message.
    fn take(&mut self, place: &Rc<Place>, file: &str) -> io::Result<Option<Delivery>> {
        let mut opened = match folder::open_file(&place.input, file, false) {
            Ok(opened) => opened,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => {
                self.complain(file, &error);
                return Ok(None);
            }
        };
        match opened.try_lock() {
            Ok(()) => {}
            // kombu holds the lock while it writes.
            Err(TryLockError::WouldBlock) => return Ok(None),
            Err(TryLockError::Error(error)) => return Err(error),
        }
        let metadata = opened.metadata()?;
        // kombu makes the file before it locks it.
        if metadata.len() == 0 || !place.unacked.take(&place.input, file)? {
            return Ok(None);
        }
        let content = match folder::read(&mut opened) {
            Ok(content) => content,
            Err(error) if error.kind() == io::ErrorKind::FileTooLarge => {
                remove_bad(place, file, &error, b"");
                return Ok(None);
            }
            Err(error) => {
                place.unacked.put_back(&place.input, file)?;
                return Err(error);
            }
        };
        match envelope::open(&content) {
            Ok(opened) => Ok(Some(self.hold(place, file, opened))),
            Err(_) if metadata.modified().is_ok_and(is_young) => {
                place.unacked.put_back(&place.input, file)?;
                Ok(None)
            }
            Err(error) => {
                remove_bad(place, file, &error, &content);
                Ok(None)
            }
        }
    }

    fn hold(&mut self, place: &Rc<Place>, file: &str, opened: envelope::Opened) -> Delivery {
        let tag = self.next_tag;
        self.next_tag += 1;
        let held = Held {
            place: Rc::clone(place),
            file: file.to_owned(),
        };
        self.held.insert(tag, held);
        let commands = self.commands.clone();
        let receipt = Receipt::new(move |verdict, told| {
            // After `close` nobody listens, and the message went back.
            let _ = commands.send(Command::Settle { tag, verdict, told });
        });
        Delivery {
            message: opened.message,
            queue: name::queue(file).unwrap_or_default().to_owned(),
            route: opened.route,
            redelivered: opened.redelivered,
            receipt: receipt.over(place.lost.0.subscribe()),
        }
    }

    fn settle(&mut self, tag: u64, verdict: Verdict, told: Told) {
        let Some(Held { place, file }) = self.held.remove(&tag) else {
            return;
        };
        let settled = match verdict {
            Verdict::Ack | Verdict::Reject { requeue: false } => {
                place.unacked.finish(&file, place.processed.as_ref())
            }
            Verdict::Reject { requeue: true } | Verdict::GiveBack => {
                place.unacked.give_back(&place.input, &file)
            }
        };
        match settled {
            Ok(()) => tell(told),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                tracing::warn!("the message file {file:?} was removed by somebody else");
            }
            Err(error) => {
                tracing::error!("cannot settle the message file {file:?}, trying again: {error}");
                self.held.insert(tag, Held { place, file });
                self.failed.push((tag, verdict, told));
            }
        }
    }

    fn close(mut self) -> Result<(), BrokerError> {
        for (tag, verdict, told) in std::mem::take(&mut self.failed) {
            self.settle(tag, verdict, told);
        }
        let tags: Vec<u64> = self.held.keys().copied().collect();
        for tag in tags {
            self.settle(tag, Verdict::Reject { requeue: true }, None);
        }
        if !self.held.is_empty() {
            return Err(BrokerError::Connection(format!(
                "{} messages could not be put back into {}; the next worker that starts there does it",
                self.held.len(),
                self.options.data_folder_in.display()
            )));
        }
        let place = self.place.take().and_then(Rc::into_inner);
        place
            .map_or(Ok(()), |place| place.unacked.leave(&place.input))
            .map_err(|error| {
                BrokerError::Connection(format!(
                    "cannot remove this worker's folder in {}: {error}",
                    self.options.data_folder_in.display()
                ))
            })
    }

    /// Says once for each file why it is not taken.
    fn complain(&mut self, file: &str, error: &io::Error) {
        if self.complained.len() < 1000 && self.complained.insert(file.to_owned()) {
            tracing::warn!("cannot take the message file {file:?}: {error}");
        }
    }
}

fn remove_bad(place: &Place, file: &str, error: &dyn std::fmt::Display, content: &[u8]) {
    let start = content.get(..1024).unwrap_or(content);
    tracing::error!(
        "removed the message file {file:?} ({error}); it starts with {:?}",
        String::from_utf8_lossy(start)
    );
    if let Err(error) = place.unacked.finish(file, place.processed.as_ref()) {
        tracing::error!("cannot remove the message file {file:?}: {error}");
    }
}

fn is_young(modified: SystemTime) -> bool {
    // A time in the future is no reason to wait for it.
    modified.elapsed().is_ok_and(|age| age < YOUNG)
}
