//! `celerybox call`.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Context as _;
use clap::Args;
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};
use tokio::sync::watch;
use uuid::Uuid;

use super::global::Global;
use super::json_argument;
use crate::backend::ResultBackend;
use crate::broker::Broker;
use crate::canvas::{self, Context, Partial, Publication, Signature, Step};
use crate::config::{Settings, connect, origin};
use crate::events::{Events, Sender};
use crate::execution::steps::Steps;
use crate::message::content::compression::Compression;
use crate::message::content::{Serializer, Writer};
use crate::message::request::{format_time, parse_time};
use crate::message::{JsonMap, Message, Outgoing, Properties, repr};
use crate::queue::{Destination, Sending};

/// What this client calls its host.
const HOST: &str = "celerybox";

/// Send a task to a worker; prints its id.
#[derive(Args)]
#[command(after_help = "\
Examples:
  celerybox call arithmetic.add -a '[2, 3]'
  celerybox call text.count_words -k '{\"text\": \"to be or not to be\"}' --countdown 10
  python -c 'import json, proj; print(json.dumps(proj.add.s(2, 2) | proj.add.s(4)))' | celerybox call --signature -
  id=$(celerybox call spin.forever --time-limit 1) && celerybox result \"$id\"")]
pub(super) struct Call {
    /// The task's name
    #[arg(
        value_name = "NAME",
        required_unless_present = "signature",
        conflicts_with = "signature"
    )]
    name: Option<String>,

    /// A signature of any kind (chain, group, chord …) as JSON: a file, or - for standard input. Arguments and options are
    /// added to it as apply_async does; of a group the ids of all tasks are printed, of anything else that of its result
    #[arg(long, value_name = "FILE|-")]
    signature: Option<PathBuf>,

    /// Positional arguments, a JSON list
    #[arg(short, long, value_name = "JSON", default_value = "[]")]
    args: String,

    /// Keyword arguments, a JSON map
    #[arg(short, long, value_name = "JSON", default_value = "{}")]
    kwargs: String,

    /// Not before this time, ISO 8601
    #[arg(long, value_name = "TIME", conflicts_with = "countdown")]
    eta: Option<String>,

    /// Not before so many seconds from now
    #[arg(long, value_name = "SECONDS")]
    countdown: Option<f64>,

    /// Not after: seconds from now, or a time in ISO 8601
    #[arg(long, value_name = "SECONDS|TIME")]
    expires: Option<String>,

    /// Hard time limit, seconds
    #[arg(long, value_name = "SECONDS")]
    time_limit: Option<f64>,

    /// Soft time limit, seconds
    #[arg(long, value_name = "SECONDS")]
    soft_time_limit: Option<f64>,

    /// The queue [default: as task_routes say, else task_default_queue]
    #[arg(long, value_name = "NAME")]
    queue: Option<String>,

    /// The exchange, instead of the queue's
    #[arg(long, value_name = "NAME")]
    exchange: Option<String>,

    /// The routing key, instead of the queue's
    #[arg(long, value_name = "KEY")]
    routing_key: Option<String>,

    /// json, yaml, msgpack, pickle or auth [default: as task_routes say, else task_serializer]
    #[arg(long, value_name = "NAME")]
    serializer: Option<String>,

    /// gzip, bzip2, lzma, brotli or zstd [default: as task_routes say, else task_compression]
    #[arg(long, value_name = "NAME")]
    compression: Option<String>,

    /// 0 to 9
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(0..=9))]
    priority: Option<u8>,
}

impl Call {
    pub(super) async fn main(self, global: &Global) -> anyhow::Result<ExitCode> {
        let settings = global.settings()?;
        settings.validate()?;
        json_argument(&self.args, "--args", '[', "'[2, 3]'")?;
        json_argument(&self.kwargs, "--kwargs", '{', "'{\"x\": 2}'")?;
        if let Some(file) = &self.signature {
            return self.apply(&settings, file).await;
        }
        let name = self.name.clone().unwrap_or_default();
        let asked = Sending {
            queue: self.queue.clone(),
            exchange: self.exchange.clone(),
            routing_key: self.routing_key.clone(),
            priority: self.priority,
            serializer: self.serializer.clone(),
            compression: self.compression.clone(),
            ..Sending::default()
        };
        let queues = settings.queues()?;
        let destination = settings.router()?.destination(&queues, &name, asked);
        let destination = destination.map_err(anyhow::Error::msg)?;
        let id = Uuid::new_v4().to_string();
        let mut message = self.message(&name, &id, Timestamp::now())?;
        let writer = writer(&destination, &settings.task_defaults()?.writer)?;
        writer.fill(&mut message, &self.body())?;
        let priority = destination.priority.or(settings.task_default_priority);
        message.properties.priority = Some(priority.unwrap_or(0));
        message.properties.delivery_mode = Some(destination.delivery_mode);
        let publication = Publication {
            task: name,
            id: id.clone(),
            declare: destination.declare,
            outgoing: Outgoing {
                route: destination.route,
                message,
            },
        };
        let broker = connect::broker(&settings)?;
        carry_out(
            &settings,
            broker,
            None,
            vec![Step::Publish(Box::new(publication))],
        )
        .await?;
        println!("{id}");
        Ok(ExitCode::SUCCESS)
    }

    /// Applies a signature as a client does (contract section 4), and prints the ids of what it started.
    async fn apply(&self, settings: &Settings, file: &Path) -> anyhow::Result<ExitCode> {
        let text = match file.to_str() {
            Some("-") => std::io::read_to_string(std::io::stdin()).context("cannot read standard input")?,
            _ => std::fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?,
        };
        let signature = Signature::parse(&text)?;
        let broker = connect::broker(settings)?;
        let backend = connect::backend(settings, &broker)?;
        let partial = Partial {
            args: serde_json::from_str(&self.args)?,
            kwargs: serde_json::from_str(&self.kwargs)?,
            options: self.options(),
        };
        let mut context = Context {
            defaults: &settings.canvas(HOST, backend.as_ref())?,
            sender: None,
            now: Timestamp::now(),
            new_id: &mut || Uuid::new_v4().to_string(),
        };
        let applied = canvas::apply(&signature, partial, &mut context)?;
        carry_out(settings, broker, backend, applied.steps).await?;
        for id in ids(&applied.result) {
            println!("{id}");
        }
        Ok(ExitCode::SUCCESS)
    }

    /// The options of `apply_async` that were given.
    fn options(&self) -> JsonMap {
        let expires = self.expires.as_ref().map(|text| match text.parse::<f64>() {
            Ok(seconds) => json!(seconds),
            Err(_) => json!(text),
        });
        let options = [
            ("eta", json!(self.eta)),
            ("countdown", json!(self.countdown)),
            ("expires", json!(expires)),
            ("time_limit", json!(self.time_limit)),
            ("soft_time_limit", json!(self.soft_time_limit)),
            ("queue", json!(self.queue)),
            ("exchange", json!(self.exchange)),
            ("routing_key", json!(self.routing_key)),
            ("serializer", json!(self.serializer)),
            ("compression", json!(self.compression)),
            ("priority", json!(self.priority)),
        ];
        let given = options.into_iter().filter(|(_, value)| !value.is_null());
        given.map(|(name, value)| (name.to_owned(), value)).collect()
    }

    /// The message of protocol 2 that a Python client would send (contract section 1.2).
    fn message(&self, name: &str, id: &str, now: Timestamp) -> anyhow::Result<Message> {
        let after = |seconds: f64, name: &str| {
            SignedDuration::try_from_secs_f64(seconds)
                .ok()
                .and_then(|pause| now.checked_add(pause).ok())
                .with_context(|| format!("{name}: {seconds} seconds is out of range"))
        };
        let time = |text: &str, name: &str| {
            parse_time(text).with_context(|| {
                format!("{name}: {text:?} is not a time; write for example 2026-12-31T23:59:00+00:00")
            })
        };
        let eta = match (&self.eta, self.countdown) {
            (Some(eta), _) => Some(time(eta, "--eta")?),
            (None, Some(seconds)) => Some(after(seconds, "--countdown")?),
            (None, None) => None,
        };
        let expires = match self.expires.as_deref().map(|text| (text, text.parse::<f64>())) {
            Some((_, Ok(seconds))) => Some(after(seconds, "--expires")?),
            Some((text, Err(_))) => Some(time(text, "--expires")?),
            None => None,
        };
        let args: Vec<Value> = serde_json::from_str(&self.args)?;
        let kwargs: Value = serde_json::from_str(&self.kwargs)?;
        let headers = json!({
            "lang": "py", "task": name, "id": id, "shadow": null,
            "eta": eta.map(format_time), "expires": expires.map(format_time),
            "group": null, "group_index": null, "retries": 0,
            "timelimit": [self.time_limit, self.soft_time_limit],
            "root_id": id, "parent_id": null,
            "argsrepr": repr::args(&args), "kwargsrepr": repr::value(&kwargs),
            "origin": origin(HOST),
            "ignore_result": false, "replaced_task_nesting": 0, "stamped_headers": null, "stamps": {},
        });
        Ok(Message {
            headers: headers.as_object().cloned(),
            properties: Properties {
                correlation_id: Some(id.to_owned()),
                ..Properties::default()
            },
            body: Vec::new(),
        })
    }

    /// The body as JSON text.
    fn body(&self) -> String {
        format!(
            r#"[{}, {}, {{"callbacks": null, "errbacks": null, "chain": null, "chord": null}}]"#,
            self.args, self.kwargs
        )
    }
}

/// Does these steps, tells of what is sent where the settings say so (`task_send_sent_event`), and disconnects.
async fn carry_out(
    settings: &Settings,
    broker: Arc<dyn Broker>,
    backend: Option<Arc<dyn ResultBackend>>,
    steps: Vec<Step>,
) -> anyhow::Result<()> {
    let events = Arc::new(match settings.task_send_sent_event {
        true => Events::default().telling_sent(&origin(HOST)),
        false => Events::default(),
    });
    let sending = Steps::new(
        Arc::clone(&broker),
        backend,
        settings.publish_retry(),
        Arc::clone(&events),
    );
    let mut done = Ok(());
    for step in steps {
        done = sending.carry_out(step).await;
        if done.is_err() {
            break;
        }
    }
    if events.sends() {
        let sender = Sender {
            events,
            broker: Arc::clone(&broker),
            exchange: connect::event_exchange(settings)?,
            writer: connect::event_writer(settings)?,
        };
        // What waits is sent first.
        sender.run(watch::Sender::new(true).subscribe()).await;
    }
    let closed = broker.close().await;
    done?;
    Ok(closed?)
}

/// The tasks that a result tuple waits for: those of a group, else the one it is the result of.
fn ids(tuple: &Value) -> Vec<&str> {
    match tuple.get(1).and_then(Value::as_array) {
        Some(members) => members.iter().flat_map(ids).collect(),
        None => tuple
            .pointer("/0/0")
            .and_then(Value::as_str)
            .into_iter()
            .collect(),
    }
}

/// How the body is written: as was asked for, else as the settings say.
fn writer(destination: &Destination, settings: &Writer) -> anyhow::Result<Writer> {
    let mut writer = settings.clone();
    if let Some(name) = &destination.serializer {
        writer.serializer = Serializer::named(name)
            .with_context(|| format!("unknown serializer {name:?}; expected {}", Serializer::names()))?;
    }
    if let Some(name) = &destination.compression {
        let compression = Compression::named(name);
        writer.compression =
            Some(compression.with_context(|| {
                format!("unknown compression {name:?}; expected {}", Compression::names())
            })?);
    }
    Ok(writer)
}
