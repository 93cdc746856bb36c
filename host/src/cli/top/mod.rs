//! `celerybox top`: workers and tasks of a fleet in a terminal, live.

mod draw;
mod fleet;
mod view;

use std::io::IsTerminal;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use clap::Args;
use ratatui::DefaultTerminal;
use ratatui::crossterm::event::{self, Event};
use serde_json::json;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, MissedTickBehavior, interval};

use self::draw::{Surroundings, draw};
use self::fleet::Fleet;
use self::view::{Action, View};
use super::feed::Feed;
use super::global::Global;
use super::remote::{away, open, place};
use super::{log, terminal};
use crate::broker::BrokerError;
use crate::control::client::{Answer, Client, Command};
use crate::message::JsonMap;

/// How often the picture is made anew.
const DRAWING_INTERVAL: Duration = Duration::from_millis(500);
/// How often workers are asked what no event says.
const ASKING_INTERVAL: Duration = Duration::from_secs(5);
/// How long each answer is waited for.
const PATIENCE: Duration = Duration::from_secs(1);
/// How long to wait before a broker that is away is asked again.
const AWAY: Duration = Duration::from_secs(1);
/// How long the thread that reads keys waits before it looks whether it is still needed.
const KEY_PATIENCE: Duration = Duration::from_millis(250);

/// Watch workers and tasks in the terminal, live.
#[derive(Args)]
#[command(after_help = "\
Examples:
  celerybox top
  celerybox top -b amqp://guest@rabbit.example//
  ssh host celerybox top --no-color      (with ssh -t)

Keys: q quit, arrows choose a task, Tab tasks or names, s sort, / filter, r revoke (asks first), p pause.

Workers are asked to send events of their tasks, and go on sending them; --passive asks for nothing. Exit status 69 when
the broker is away.")]
pub(super) struct Top {
    /// Only listen: ask no worker to send events
    #[arg(long)]
    passive: bool,
}

/// What a worker said to which question, or what is to be shown of it.
enum News {
    Answer { method: &'static str, answer: Answer },
    Said(String),
}

impl Top {
    pub(super) async fn main(self, global: &Global) -> anyhow::Result<ExitCode> {
        anyhow::ensure!(
            std::io::stdin().is_terminal() && std::io::stdout().is_terminal(),
            "celerybox top needs a terminal (ssh -t); celerybox events prints the same line by line"
        );
        // A line of the log would destroy the picture.
        log::silence();
        let settings = global.settings()?;
        settings.validate()?;
        let opened = async { Ok((Feed::open(&settings).await?, open(&settings).await?)) };
        let (feed, client) = match opened.await {
            Ok(opened) => opened,
            Err(error) => return away(error, &settings),
        };
        if !self.passive {
            client.tell(&Command::named("enable_events")).await?;
        }
        client.tell(&Command::named("heartbeat")).await?;
        let around = Surroundings {
            place: terminal::line(&place(&settings)),
            color: !global.no_color,
            now: 0.0,
        };
        let mut terminal = ratatui::try_init().context("the terminal cannot be used")?;
        let done = watch(&mut terminal, feed, client, around).await;
        ratatui::restore();
        done?;
        Ok(ExitCode::SUCCESS)
    }
}

/// Shows the fleet until somebody wants no more.
async fn watch(
    terminal: &mut DefaultTerminal,
    mut feed: Feed,
    client: Client,
    mut around: Surroundings,
) -> anyhow::Result<()> {
    let start = Instant::now();
    let (questions, asked) = mpsc::channel(16);
    let (tell, mut news) = mpsc::channel(256);
    let (stop, stopped) = oneshot::channel::<()>();
    let mut client = client;
    let asking = tokio::spawn(async move {
        tokio::select! {
            () = ask(&mut client, asked, tell) => {}
            _ = stopped => {}
        }
        client.close().await
    });
    let mut keys = keys();
    let (mut term, mut hup) = (signal(SignalKind::terminate())?, signal(SignalKind::hangup())?);
    let mut tick = interval(DRAWING_INTERVAL);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let (mut fleet, mut view, mut held) = (Fleet::default(), View::default(), None::<(Fleet, f64)>);
    loop {
        let now = start.elapsed().as_secs_f64();
        let mut action = None;
        tokio::select! {
            // Keys come first, however many events there are.
            biased;
            event = keys.recv() => match event {
                Some(Event::Key(key)) => {
                    let (seen, now) = held.as_ref().map_or((&fleet, now), |(seen, then)| (seen, *then));
                    action = Some(view.key(key, seen, now));
                }
                Some(_) => action = Some(Action::Draw),
                // The terminal is gone.
                None => break,
            },
            _ = term.recv() => break,
            _ = hup.recv() => break,
            _ = tick.tick() => action = Some(Action::Draw),
            said = news.recv() => match said {
                Some(News::Answer { method, answer }) => fleet.answered(method, &answer, now),
                Some(News::Said(text)) => view.said = Some(text),
                None => anyhow::bail!("the connection to the broker was lost"),
            },
            events = feed.next() => match events {
                Some(events) => events.iter().for_each(|event: &JsonMap| fleet.hear(event, now)),
                None => anyhow::bail!("the connection to the broker was lost"),
            },
        }
        match action {
            None => continue,
            Some(Action::Quit) => break,
            Some(Action::Pause) => {
                held = match held {
                    Some(_) => None,
                    None => Some((fleet.clone(), now)),
                };
                view.paused = held.is_some();
            }
            Some(Action::Revoke { id, terminate }) => {
                view.said = Some("asked…".into());
                let arguments = json!({"task_id": id, "terminate": terminate, "signal": "SIGTERM"});
                let revoke = Command {
                    arguments: arguments.as_object().cloned().unwrap_or_default(),
                    ..Command::named("revoke")
                };
                if questions.try_send(revoke).is_err() {
                    view.said = Some("too many questions are waiting for answers".into());
                }
            }
            Some(Action::Draw) => {}
        }
        let (seen, now) = held.as_ref().map_or((&fleet, now), |(seen, then)| (seen, *then));
        around.now = now;
        terminal.draw(|frame| draw(frame, seen, &view, &around))?;
    }
    drop(stop);
    // A server that is silent keeps nobody in this program.
    let _ = tokio::time::timeout(PATIENCE, async { tokio::join!(asking, feed.close()) }).await;
    Ok(())
}

/// Asks workers what no event says, again and again, and what the user wants to ask.
async fn ask(client: &mut Client, mut questions: mpsc::Receiver<Command>, tell: mpsc::Sender<News>) {
    let safe = json!({"safe": true}).as_object().cloned().unwrap_or_default();
    loop {
        for (method, arguments) in [
            ("stats", JsonMap::new()),
            ("active_queues", JsonMap::new()),
            ("active", safe.clone()),
        ] {
            let command = Command {
                arguments,
                ..Command::named(method)
            };
            let Some(answers) = answered(client, &command, &tell).await else {
                return;
            };
            for answer in answers {
                if tell.send(News::Answer { method, answer }).await.is_err() {
                    return;
                }
            }
        }
        let pause = Instant::now() + ASKING_INTERVAL;
        loop {
            let question = tokio::select! {
                question = questions.recv() => question,
                () = tokio::time::sleep_until(pause) => break,
            };
            let Some(question) = question else { return };
            let Some(answers) = answered(client, &question, &tell).await else {
                return;
            };
            let said = answers.iter().map(|Answer { node, value }| {
                let value = value.get("ok").or_else(|| value.get("error")).unwrap_or(value);
                let value = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
                terminal::line(&terminal::cut(&format!("{node}: {value}"), 200))
            });
            let said = match said.reduce(|all, one| format!("{all}; {one}")) {
                Some(said) => said,
                None => "no worker answered".into(),
            };
            if tell.send(News::Said(said)).await.is_err() {
                return;
            }
        }
    }
}

/// Asks, once more while the broker is away, and says so; `None` when it is of no use any more.
async fn answered(client: &mut Client, command: &Command, tell: &mpsc::Sender<News>) -> Option<Vec<Answer>> {
    let mut away = false;
    loop {
        let said = match client.ask(command, PATIENCE, |_| {}).await {
            Ok(answers) if !away => return Some(answers),
            Ok(answers) => {
                let back = News::Said("the broker is back".into());
                return tell.send(back).await.is_ok().then_some(answers);
            }
            Err(BrokerError::Connection(reason)) => {
                let reason = terminal::line(&terminal::cut(&reason, 200));
                format!("the broker is away, waiting for it: {reason}")
            }
            Err(_) => return None,
        };
        away = true;
        tell.send(News::Said(said)).await.ok()?;
        tokio::time::sleep(AWAY).await;
    }
}

/// What is typed, read by a thread of its own, as reading it blocks. It ends when nobody listens.
fn keys() -> mpsc::Receiver<Event> {
    let (typed, keys) = mpsc::channel(64);
    std::thread::spawn(move || {
        while !typed.is_closed() {
            match event::poll(KEY_PATIENCE) {
                Ok(false) => {}
                Ok(true) => {
                    let Ok(event) = event::read() else { return };
                    if typed.blocking_send(event).is_err() {
                        return;
                    }
                }
                Err(_) => return,
            }
        }
    });
    keys
}
