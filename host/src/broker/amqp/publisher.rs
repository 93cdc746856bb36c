//! Sending messages: keeps one connection for all of them, with many in flight, each answered when the broker has it.

use std::collections::BTreeMap;
use std::sync::Arc;

use tokio::sync::{mpsc, oneshot, watch};

use super::Target;
use super::connection::{CHANNEL, Connection, Lost};
use super::consumer::Phase;
use super::wire::{EncodeError, Incoming, Reply, put_publish};
use crate::message::Outgoing;

/// How many messages may wait for the broker's confirmation.
const IN_FLIGHT: usize = 2048;
/// While more bytes than this wait to be written, no further message is taken.
const BACKLOG: usize = 4 << 20;

/// What became of a message.
pub(super) type Published = Result<(), PublishError>;

/// Why a message was not published.
#[derive(Debug, Clone, thiserror::Error)]
pub(super) enum PublishError {
    /// It cannot be written as AMQP.
    #[error("{0}")]
    Unsendable(#[from] EncodeError),
    /// The broker did not take it, for example because its queue is full.
    #[error("the broker did not take the message: its queue may be full")]
    NotTaken,
    /// The broker closed the channel, because of this message or of one beside it.
    #[error("{}", .0.text)]
    Closed(Reply),
    /// There is no connection, or it was lost before the broker had confirmed the message.
    #[error("{0}")]
    Connection(String),
}

impl From<&Lost> for PublishError {
    fn from(lost: &Lost) -> Self {
        match lost {
            Lost::Closed(reply) => Self::Closed(reply.clone()),
            other => Self::Connection(other.to_string()),
        }
    }
}

/// A message to be published, and who wants to know.
pub(super) struct Job {
    pub(super) outgoing: Outgoing,
    pub(super) done: oneshot::Sender<Published>,
}

/// Publishes jobs until the phase is [`Phase::Close`] and no job is left. Connects when there is something to send.
pub(super) async fn run(
    target: Arc<Target>,
    mut jobs: mpsc::Receiver<Job>,
    mut phase: watch::Receiver<Phase>,
) {
    let closed =
        |phase: &mut watch::Receiver<Phase>| phase.has_changed().is_err() || *phase.borrow() == Phase::Close;
    loop {
        let first = tokio::select! {
            biased;
            job = jobs.recv() => job,
            _ = phase.wait_for(|phase| *phase == Phase::Close) => jobs.try_recv().ok(),
        };
        let Some(first) = first else { return };
        let mut channel = match Channel::open(&target).await {
            Ok(channel) => channel,
            Err(lost) => {
                let error = PublishError::from(&lost);
                let _ = first.done.send(Err(error.clone()));
                // Those that wait already would only wait for the next attempt to fail.
                while let Ok(job) = jobs.try_recv() {
                    let _ = job.done.send(Err(error.clone()));
                }
                continue;
            }
        };
        channel.publish(first);
        let lost = channel.serve(&mut jobs, &mut phase).await;
        match lost {
            Ok(()) => {
                let goodbye = channel.connection.close().await;
                tracing::debug!("publisher: closed: {goodbye:?}");
            }
            Err(lost) => {
                tracing::debug!("publisher: connection to {} lost: {lost}", target.address);
                let error = PublishError::from(&lost);
                for done in channel.in_flight.into_values() {
                    let _ = done.send(Err(error.clone()));
                }
            }
        }
        if closed(&mut phase) && jobs.is_empty() {
            return;
        }
    }
}

/// Publishes one message over a connection of its own, so that what the broker says about it concerns it alone.
pub(super) async fn publish_alone(target: &Target, outgoing: Outgoing) -> Published {
    let mut channel = Channel::open(target)
        .await
        .map_err(|lost| PublishError::from(&lost))?;
    let (done, mut published) = oneshot::channel();
    channel.publish(Job { outgoing, done });
    while !channel.in_flight.is_empty() {
        if let Err(lost) = channel.step().await {
            return Err(PublishError::from(&lost));
        }
    }
    if let Err(lost) = channel.connection.close().await {
        tracing::debug!("publisher: the server did not say goodbye: {lost}");
    }
    published.try_recv().unwrap_or(Err(PublishError::NotTaken))
}

struct Channel {
    connection: Connection,
    /// Whether the broker confirms; otherwise a message is done when it is written.
    confirms: bool,
    /// The number of the newest message.
    newest: u64,
    in_flight: BTreeMap<u64, oneshot::Sender<Published>>,
}

impl Channel {
    async fn open(target: &Target) -> Result<Self, Lost> {
        let mut connection = Connection::open(&target.address, &target.options).await?;
        let confirms = target.options.confirm_publish;
        if confirms {
            let select = connection.call(CHANNEL, (85, 10), |out| {
                out.push(0);
                Ok(())
            });
            select.await?;
        }
        Ok(Self {
            connection,
            confirms,
            newest: 0,
            in_flight: BTreeMap::new(),
        })
    }

    /// Publishes until the phase is [`Phase::Close`] and everything is answered.
    async fn serve(
        &mut self,
        jobs: &mut mpsc::Receiver<Job>,
        phase: &mut watch::Receiver<Phase>,
    ) -> Result<(), Lost> {
        let mut closing = false;
        loop {
            if closing && self.in_flight.is_empty() && jobs.is_empty() {
                return Ok(());
            }
            let room = self.in_flight.len() < IN_FLIGHT && self.connection.backlog() < BACKLOG;
            tokio::select! {
                biased;
                step = self.step() => step?,
                job = jobs.recv(), if room => match job {
                    Some(job) => {
                        self.publish(job);
                        // What is there already goes out with the same write.
                        while self.in_flight.len() < IN_FLIGHT && self.connection.backlog() < BACKLOG {
                            let Ok(job) = jobs.try_recv() else { break };
                            self.publish(job);
                        }
                    }
                    None => closing = true,
                },
                _ = phase.wait_for(|phase| *phase == Phase::Close), if !closing => closing = true,
            }
            // A closed queue of jobs answers at once, for ever.
            if closing && self.in_flight.is_empty() {
                return Ok(());
            }
        }
    }

    fn publish(&mut self, job: Job) {
        let frame_max = self.connection.frame_max;
        match put_publish(self.connection.outbox(), CHANNEL, &job.outgoing, frame_max) {
            Ok(()) => {
                self.newest += 1;
                self.in_flight.insert(self.newest, job.done);
            }
            Err(error) => {
                let _ = job.done.send(Err(error.into()));
            }
        }
    }

    /// One thing the broker says, and what follows for the messages in flight.
    async fn step(&mut self) -> Result<(), Lost> {
        match self.connection.next().await? {
            Incoming::Confirm { tag, multiple, taken } => {
                let confirmed = match multiple {
                    true => {
                        let later = self.in_flight.split_off(&tag.saturating_add(1));
                        std::mem::replace(&mut self.in_flight, later)
                    }
                    false => self.in_flight.remove_entry(&tag).into_iter().collect(),
                };
                for done in confirmed.into_values() {
                    let _ = done.send(if taken {
                        Ok(())
                    } else {
                        Err(PublishError::NotTaken)
                    });
                }
            }
            Incoming::Flushed if !self.confirms => {
                for done in std::mem::take(&mut self.in_flight).into_values() {
                    let _ = done.send(Ok(()));
                }
            }
            Incoming::Blocked(reason) => {
                tracing::warn!("publisher: the broker takes no messages for now: {reason}");
            }
            Incoming::Unblocked => tracing::info!("publisher: the broker takes messages again"),
            _ => {}
        }
        Ok(())
    }
}
