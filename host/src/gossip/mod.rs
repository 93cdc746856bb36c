//! What workers tell each other (contract section 7.5): at its start a worker greets the others ([`mingle`]), from then on
//! it hears their events, knows who is alive, and takes part in elections.

pub mod mingle;
mod neighbours;

use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use serde_json::Value;
use tokio::sync::mpsc;
use tokio::time::{MissedTickBehavior, interval};
use tracing::{debug, info, warn};
use uuid::Uuid;

use crate::broker::{Broker, Delivery};
use crate::canvas::{self, CanvasError, Context, Partial, Signature, Step};
use crate::events::Elected;
use crate::execution::Execution;
use crate::message::content::BoundedReader;
use crate::message::{JsonMap, Message, repr};
use crate::queue::Queue;

use neighbours::{Neighbours, News};

/// How many events may be here, heard one after the other.
const PREFETCH: u32 = 256;
/// The largest message that is read, bytes.
const LARGEST: usize = 1 << 20;
/// How long to wait after events could not be consumed.
const PAUSE: Duration = Duration::from_secs(30);
/// How often to look who is silent.
const LOOK: Duration = Duration::from_secs(5);

/// A worker's ear for its neighbours.
pub struct Gossip {
    broker: Arc<dyn Broker>,
    execution: Arc<Execution>,
    queue: Queue,
    reader: BoundedReader,
}

impl Gossip {
    /// Hears events through `queue`, over a broker of its own.
    pub fn new(broker: Arc<dyn Broker>, execution: Arc<Execution>, queue: Queue) -> Self {
        let reader = execution.options.defaults.reader.clone();
        Self {
            reader: reader.bounded(LARGEST),
            broker,
            execution,
            queue,
        }
    }

    /// Hears until the future is dropped.
    pub async fn run(&self) {
        loop {
            let queue = std::slice::from_ref(&self.queue);
            match self.broker.consume(queue, PREFETCH).await {
                Ok(deliveries) => self.hear(deliveries).await,
                Err(error) => warn!("Gossip is not available: {error}"),
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    async fn hear(&self, mut deliveries: mpsc::Receiver<Delivery>) {
        let mut neighbours = Neighbours::default();
        let mut looks = interval(LOOK);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                delivery = deliveries.recv() => {
                    let Some(Delivery { message, route, receipt, .. }) = delivery else { return };
                    receipt.ack();
                    // Redis may be set up so that all events come.
                    if !route.routing_key.starts_with("task.") {
                        self.message(&message, &mut neighbours).await;
                    }
                }
                _ = looks.tick() => {
                    for hostname in neighbours.lost(Instant::now()) {
                        info!("missed heartbeat from {hostname}");
                    }
                }
            }
        }
    }

    async fn message(&self, message: &Message, neighbours: &mut Neighbours) {
        let body = self.reader.body(message, Timestamp::now());
        let body = body.map_err(|error| error.to_string());
        let read =
            body.and_then(|body| serde_json::from_str::<Value>(&body).map_err(|error| error.to_string()));
        match read {
            Ok(Value::Object(event)) => self.event(&event, neighbours).await,
            Ok(Value::Array(events)) => {
                for event in events.iter().filter_map(Value::as_object) {
                    self.event(event, neighbours).await;
                }
            }
            Ok(_) => debug!("an event is no map"),
            Err(error) => debug!("an event makes no sense: {error:.200}"),
        }
    }

    async fn event(&self, event: &JsonMap, neighbours: &mut Neighbours) {
        let text = |name: &str| event.get(name).and_then(Value::as_str);
        let (Some(kind), Some(hostname)) = (text("type"), text("hostname")) else {
            return;
        };
        let own = hostname == &*self.execution.options.hostname;
        let clock = &self.execution.clock;
        match event.get("clock").and_then(Value::as_u64) {
            Some(theirs) if !own => clock.hear(theirs),
            _ => clock.forward(),
        };
        let events = &self.execution.listeners.events;
        match (kind, event.get("id")) {
            ("worker-elect", Some(id)) => {
                // Whoever called it waits for every worker that is alive, so each candidate that was taken is answered. An
                // answer to what was not would send its id on, however long.
                if !events.elections().stand(event) {
                    return debug!("an election makes no sense, or there are too many");
                }
                let fields = [("id".to_owned(), id.clone())];
                events.send("worker-elect-ack", fields.into_iter().collect());
            }
            ("worker-elect-ack", Some(id)) => {
                let elected = events.elections().acknowledge(id, neighbours.alive());
                if let Some(elected) = elected {
                    self.elected(id, elected).await;
                }
            }
            _ if own => {}
            _ => {
                let freq = event.get("freq").and_then(Value::as_f64);
                match neighbours.hear(hostname, kind, freq, Instant::now()) {
                    News::Joined => debug!("{hostname:.256} joined the party"),
                    News::Left => debug!("{hostname:.256} left"),
                    News::Nothing => {}
                }
            }
        }
    }

    async fn elected(&self, id: &Value, elected: Elected) {
        let id = repr::value(id);
        if elected.name != self.execution.listeners.events.candidate() {
            return info!("node {:.300} elected for {id}", elected.name);
        }
        info!("I won the election {id}");
        if elected.topic != "task" {
            return warn!("Unknown election topic {:.100?}", elected.topic);
        }
        if let Err(error) = self.send(&elected.action).await {
            warn!("Could not call task: {error:.300}");
        }
    }

    /// Sends the task of an election that this worker won.
    async fn send(&self, action: &str) -> Result<(), String> {
        for step in self.steps(action).map_err(|error| error.to_string())? {
            let done = self.execution.steps.carry_out(step).await;
            done.map_err(|error| error.to_string())?;
        }
        Ok(())
    }

    fn steps(&self, action: &str) -> Result<Vec<Step>, CanvasError> {
        let signature = Signature::parse(action)?;
        let mut context = Context {
            defaults: &self.execution.tasks.canvas(),
            sender: None,
            now: Timestamp::now(),
            new_id: &mut || Uuid::new_v4().to_string(),
        };
        Ok(canvas::apply(&signature, Partial::default(), &mut context)?.steps)
    }
}
