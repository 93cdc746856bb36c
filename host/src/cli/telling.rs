//! What a worker tells monitors and its neighbours, and hears of them: options, and putting it together.

use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::broker::{Broker, Presence};
use crate::config::Settings;
use crate::config::connect;
use crate::events::{Events, FREQUENCY, Sender, beat_until};
use crate::execution::{Execution, Options};
use crate::gossip::Gossip;
use crate::gossip::mingle::mingle;
use crate::shutdown::Stage;

/// How long the last events may take to leave.
const PATIENCE: Duration = Duration::from_secs(5);
/// How often to look whether a connection came back.
const LOOK: Duration = Duration::from_secs(1);

/// Celery's options.
#[derive(Args)]
pub(super) struct Telling {
    /// Send events of tasks, for monitors
    #[arg(short = 'E', long, alias = "events")]
    task_events: bool,

    /// Do not listen to other workers
    #[arg(long)]
    without_gossip: bool,

    /// Do not ask other workers at the start what is revoked
    #[arg(long)]
    without_mingle: bool,

    /// Send no heartbeat events
    #[arg(long)]
    without_heartbeat: bool,

    /// Seconds between heartbeat events [default: 2]
    #[arg(
        long,
        value_name = "SECONDS",
        value_parser = interval,
        env = "CELERY_WORKER_HEARTBEAT_INTERVAL",
        hide_env = true
    )]
    heartbeat_interval: Option<f64>,
}

/// 0 stands for the default, as in Celery.
fn interval(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(0.0) => Ok(FREQUENCY),
        Ok(seconds) if (0.001..=86_400.0).contains(&seconds) => Ok(seconds),
        _ => Err("expected a number of seconds".into()),
    }
}

/// What runs beside the tasks.
pub(super) struct Told {
    stop_heart: watch::Sender<bool>,
    heart: Option<JoinHandle<()>>,
    stop_sending: watch::Sender<bool>,
    sending: Option<JoinHandle<()>>,
    hearing: Option<(JoinHandle<()>, Arc<dyn Broker>)>,
    mingling: Option<JoinHandle<()>>,
    /// That of the events, where they have one of their own.
    broker: Option<Arc<dyn Broker>>,
}

impl Telling {
    /// The handle of events.
    pub(super) fn events(&self, settings: &Settings, options: &Options) -> Arc<Events> {
        let tasks = self.task_events || settings.worker_send_task_events;
        let events = match tasks || !self.without_gossip || !self.without_heartbeat {
            true => Events::new(Arc::clone(&options.hostname), tasks),
            false => Events::default(),
        };
        Arc::new(match settings.task_send_sent_event {
            true => events.telling_sent(&options.canvas.origin),
            false => events,
        })
    }

    /// Greets the other workers, where the transport has such.
    pub(super) async fn mingle(&self, settings: &Settings, execution: &Execution) -> anyhow::Result<()> {
        if self.mingles(settings)? {
            greet(settings, execution).await?;
        }
        Ok(())
    }

    fn mingles(&self, settings: &Settings) -> anyhow::Result<bool> {
        Ok(!self.without_mingle && connect::has_neighbours(settings)?)
    }

    /// Starts to tell and to hear. `mailbox` is the mailbox's broker, which events go over too.
    pub(super) fn start(
        &self,
        settings: &Settings,
        execution: &Arc<Execution>,
        mailbox: Option<Arc<dyn Broker>>,
    ) -> anyhow::Result<Told> {
        let events = &execution.listeners.events;
        let mut told = Told {
            stop_heart: watch::Sender::new(false),
            heart: None,
            stop_sending: watch::Sender::new(false),
            sending: None,
            hearing: None,
            mingling: None,
            broker: None,
        };
        if let Some(mailbox) = &mailbox
            && self.mingles(settings)?
        {
            let links = [execution.broker.presence(), mailbox.presence()];
            let (settings, execution) = (settings.clone(), Arc::clone(execution));
            told.mingling = Some(tokio::spawn(mingle_again(settings, execution, links)));
        }
        let exchange = connect::event_exchange(settings)?;
        if events.sends() {
            let broker = match mailbox {
                Some(broker) => broker,
                None => Arc::clone(told.broker.insert(connect::aside(settings)?)),
            };
            let sender = Sender {
                events: Arc::clone(events),
                broker,
                exchange: exchange.clone(),
                writer: connect::event_writer(settings)?,
            };
            told.sending = Some(tokio::spawn(sender.run(told.stop_sending.subscribe())));
        }
        let freq = self.heartbeat_interval.unwrap_or(FREQUENCY);
        if !self.without_heartbeat {
            let (events, active) = (Arc::clone(events), Arc::clone(&execution.active));
            let mut stop = told.stop_heart.subscribe();
            told.heart = Some(tokio::spawn(async move {
                let stopped = async move {
                    // Who would say it is gone: that is the end too.
                    let _ = stop.wait_for(|stop| *stop).await;
                };
                beat_until(&events, freq, || active.running(), stopped).await;
            }));
        }
        if !self.without_gossip && connect::has_neighbours(settings)? {
            let broker = connect::aside(settings)?;
            let queue = connect::event_queue(settings, exchange, freq);
            let gossip = Gossip::new(Arc::clone(&broker), Arc::clone(execution), queue);
            let hearing = tokio::spawn(async move { gossip.run().await });
            told.hearing = Some((hearing, broker));
        }
        Ok(told)
    }
}

async fn greet(settings: &Settings, execution: &Execution) -> anyhow::Result<()> {
    let broker = connect::aside(settings)?;
    tokio::select! {
        () = mingle(execution, &*broker, &settings.control_exchange) => {}
        () = execution.shutdown.reached(Stage::Warm) => {}
    }
    Ok(())
}

/// Greets the others once more whenever one of these connections came back: what was revoked while it was gone was not
/// heard. Celery does so each time it connects.
async fn mingle_again(settings: Settings, execution: Arc<Execution>, links: [Presence; 2]) {
    let mut known = 0;
    loop {
        tokio::time::sleep(LOOK).await;
        let reconnects = links.iter().map(Presence::reconnects).sum();
        if reconnects == known || !links.iter().all(Presence::is_up) {
            continue;
        }
        known = reconnects;
        if let Err(error) = greet(&settings, &execution).await {
            tracing::warn!("mingle: {error}");
        }
    }
}

impl Told {
    /// Says that the worker is offline, and sends what still waits.
    pub(super) async fn end(self) {
        if let Some(mingling) = self.mingling {
            mingling.abort();
        }
        if let Some((hearing, broker)) = self.hearing {
            hearing.abort();
            let _ = timeout(PATIENCE, broker.close()).await;
        }
        self.stop_heart.send_replace(true);
        if let Some(heart) = self.heart {
            let _ = heart.await;
        }
        self.stop_sending.send_replace(true);
        if let Some(mut sending) = self.sending
            && timeout(PATIENCE, &mut sending).await.is_err()
        {
            sending.abort();
        }
        if let Some(broker) = self.broker {
            let _ = timeout(PATIENCE, broker.close()).await;
        }
    }
}
