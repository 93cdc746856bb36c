//! Sending messages: keeps one connection for all of them, with many in flight, each answered when the broker has it.

use std::sync::Arc;

use futures_util::future::BoxFuture;
use futures_util::stream::{BoxStream, FuturesUnordered, StreamExt};
use lapin::options::{BasicPublishOptions, ConfirmSelectOptions};
use lapin::{Confirmation, Event};
use tokio::sync::{mpsc, oneshot, watch};

use super::Target;
use super::connection::{Connection, Lost, Reply};
use super::consumer::Phase;
use super::message::{EncodeError, Publication};
use crate::message::Outgoing;

/// How many messages may wait for the broker's confirmation.
const IN_FLIGHT: usize = 2048;
/// While the bodies of messages in flight have more bytes than this, no further message is taken.
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
    /// The channel was closed before this message was sent, as a rule because of one beside it.
    #[error("{0}")]
    NotOpen(String),
    /// There is no connection, or it was lost before the broker had confirmed the message.
    #[error("{0}")]
    Connection(String),
}

impl From<&Lost> for PublishError {
    fn from(lost: &Lost) -> Self {
        match lost {
            Lost::Closed(reply) => Self::Closed(reply.clone()),
            Lost::NotOpen(reason) => Self::NotOpen(reason.clone()),
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
                tracing::debug!("publisher: connection to {} lost: {lost}", target.write);
                // With the connection gone, lapin answers for all in flight.
                let Channel {
                    connection,
                    mut in_flight,
                    ..
                } = channel;
                drop(connection);
                while in_flight.next().await.is_some() {}
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
    while channel.in_flight.next().await.is_some() {}
    if let Err(lost) = channel.connection.close().await {
        tracing::debug!("publisher: the server did not say goodbye: {lost}");
    }
    published.try_recv().unwrap_or(Err(PublishError::NotTaken))
}

/// The end of a message in flight: the size of its body in bytes, and the connection's end if it was that.
type Ended = (usize, Result<(), Lost>);

struct Channel {
    connection: Connection,
    events: BoxStream<'static, Event>,
    in_flight: FuturesUnordered<BoxFuture<'static, Ended>>,
    /// Bytes of the bodies in flight.
    backlog: usize,
}

impl Channel {
    async fn open(target: &Target) -> Result<Self, Lost> {
        let connection = target.write.connect().await.map_err(|error| error.lost)?;
        if target.confirm_publish {
            let options = ConfirmSelectOptions::default();
            connection.channel.confirm_select(options).await?;
        }
        Ok(Self {
            events: connection.lapin.events_listener().boxed(),
            connection,
            in_flight: FuturesUnordered::new(),
            backlog: 0,
        })
    }

    fn has_room(&self) -> bool {
        self.in_flight.len() < IN_FLIGHT && self.backlog < BACKLOG
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
            let room = self.has_room();
            tokio::select! {
                biased;
                Some((size, ended)) = self.in_flight.next() => {
                    self.backlog -= size;
                    ended?;
                }
                job = jobs.recv(), if room => match job {
                    Some(job) => {
                        self.publish(job);
                        // What is there already goes out with the same write.
                        while self.has_room() && let Ok(job) = jobs.try_recv() {
                            self.publish(job);
                        }
                    }
                    None => closing = true,
                },
                event = self.events.next() => match event {
                    Some(Event::Error(error)) => return Err(error.into()),
                    Some(Event::ConnectionBlocked(reason)) => {
                        tracing::warn!("publisher: the broker takes no messages for now: {reason}");
                    }
                    Some(Event::ConnectionUnblocked) => tracing::info!("publisher: the broker takes messages again"),
                    Some(_) => {}
                    None => return Err(Lost::Protocol("the connection ended".into())),
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
        let frame_max = self.connection.lapin.configuration().frame_max() as usize;
        let publication = match Publication::new(job.outgoing, frame_max) {
            Ok(publication) => publication,
            Err(error) => {
                let _ = job.done.send(Err(error.into()));
                return;
            }
        };
        let size = publication.body.len();
        self.backlog += size;
        let channel = self.connection.channel.clone();
        self.in_flight.push(Box::pin(async move {
            let result = confirmed(&channel, publication).await;
            let published = match &result {
                // Without confirmations it is enough that the message is written.
                Ok(Confirmation::Ack(_) | Confirmation::NotRequested) => Ok(()),
                Ok(Confirmation::Nack(_)) => Err(PublishError::NotTaken),
                Err(lost) => Err(PublishError::from(lost)),
            };
            let _ = job.done.send(published);
            (size, result.map(|_| ()))
        }));
    }
}

async fn confirmed(channel: &lapin::Channel, publication: Publication) -> Result<Confirmation, Lost> {
    let Publication {
        exchange,
        routing_key,
        properties,
        body,
    } = publication;
    let options = BasicPublishOptions::default();
    let written = channel.basic_publish(exchange, routing_key, options, &body, properties);
    Ok(written.await?.await?)
}
