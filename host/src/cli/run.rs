//! `celerybox run`.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Context;
use clap::Args;
use futures_util::FutureExt;
use serde_json::json;
use uuid::Uuid;

use super::global::Global;
use super::json_argument;
use super::terminal::{json_text, line, lines, say};
use crate::canvas::{Publication, Step};
use crate::execution::errands::{Desk, Plan};
use crate::message::{Message, Properties, Request, Route, request};
use crate::outcome::{Nameable, Outcome, State};
use crate::policy::annotate::annotate;
use crate::policy::{admit, autoretry, grants};
use crate::sandbox::{Call, Errands};

/// Run one task of a component here and now, without a broker.
///
/// The value goes to stdout as JSON; states, output and errors go to stderr.
#[derive(Args)]
#[command(after_help = "\
Examples:
  celerybox run arithmetic.wasm arithmetic.add '[2, 3]'
  celerybox run text.wasm text.count_words '[]' '{\"text\": \"to be or not to be\"}'
  celerybox run spin.wasm spin.forever --time-limit 1

Exit status: 0 when the task returned a value, 1 when it ended otherwise.")]
pub(super) struct Run {
    /// The component
    #[arg(value_name = "FILE")]
    file: PathBuf,

    /// The task's name; may be left out when the component has only one
    #[arg(value_name = "TASK")]
    task: Option<String>,

    /// Positional arguments, a JSON list
    #[arg(value_name = "ARGS", default_value = "[]")]
    args: String,

    /// Keyword arguments, a JSON map
    #[arg(value_name = "KWARGS", default_value = "{}")]
    kwargs: String,

    /// Hard time limit, seconds
    #[arg(long, value_name = "SECONDS")]
    time_limit: Option<f64>,

    /// Soft time limit, seconds
    #[arg(long, value_name = "SECONDS")]
    soft_time_limit: Option<f64>,
}

impl Run {
    pub(super) async fn main(self, global: &Global) -> anyhow::Result<ExitCode> {
        let mut settings = global.settings()?;
        settings.task_time_limit = self.time_limit.or(settings.task_time_limit);
        settings.task_soft_time_limit = self.soft_time_limit.or(settings.task_soft_time_limit);
        settings.validate()?;
        json_argument(&self.args, "ARGS", '[', "'[2, 3]'")?;
        json_argument(&self.kwargs, "KWARGS", '{', "'{\"x\": 2}'")?;
        let sandbox = super::sandbox(&settings, 1)?;
        let component = sandbox.load(&self.file).await?;
        let names = || {
            component
                .definitions()
                .iter()
                .map(|d| d.name.as_str())
                .collect::<Vec<_>>()
                .join(", ")
        };
        let definition = match (&self.task, component.definitions()) {
            (None, [only]) => only,
            (None, _) => anyhow::bail!("name one of its tasks: {}", names()),
            (Some(name), all) => all
                .iter()
                .find(|definition| definition.name == *name)
                .with_context(|| {
                    format!(
                        "{} has no task {name:?}; it has: {}",
                        self.file.display(),
                        names()
                    )
                })?,
        };
        let definition = Arc::new(annotate(definition, &settings.task_annotations));
        let request = Arc::new(local_request(&definition.name, &self.args, &self.kwargs)?);
        let plan = admit::plan(&request, &definition, &settings.task_defaults()?);
        let call = Call {
            request: Arc::clone(&request),
            definition: Arc::clone(&definition),
            hostname: "celerybox-run".into(),
            time_limit: admit::seconds(plan.time_limit),
            soft_time_limit: admit::seconds(plan.soft_time_limit),
            ignore_result: false,
            nameable: Arc::new(Nameable::with(settings.allowed_exceptions.clone())),
            updates: Arc::new(|state: State, meta| {
                eprintln!("{}", line(&format!("{}: {meta}", state.as_str())));
                async { Ok(()) }.boxed()
            }),
            errands: shown(Desk {
                request: Arc::clone(&request),
                grants: Arc::clone(component.grants()),
                limits: Arc::clone(component.limits()),
                canvas: Arc::new(settings.canvas("celerybox-run", None)?),
                ledger: Arc::default(),
            }),
        };
        let run = component.run(call).await;
        eprint!("{}", lines(&run.output));
        let random = || Uuid::new_v4().as_u64_pair().0;
        let outcome = autoretry::apply(&request, &definition, run.outcome, random);
        Ok(report(&definition.name, outcome))
    }
}

/// Sends nothing: what a worker would send is checked as there, and shown. There are no results either.
fn shown(desk: Desk) -> Errands {
    Arc::new(move |errand| {
        let plan = desk.plan(errand);
        async move {
            match plan? {
                Plan::Send { steps, answer } => {
                    for step in &steps {
                        if let Step::Publish(publication) = step {
                            let Publication {
                                task, id, outgoing, ..
                            } = &**publication;
                            let queue = grants::place(&outgoing.route);
                            let body = String::from_utf8_lossy(&outgoing.message.body);
                            eprintln!("{}", line(&format!("would send {task}[{id}] to {queue}: {body}")));
                        }
                    }
                    Ok(answer)
                }
                _ => Ok(None),
            }
        }
        .boxed()
    })
}

/// A request as a client would have sent it.
fn local_request(task: &str, args: &str, kwargs: &str) -> anyhow::Result<Request> {
    let id = Uuid::new_v4().to_string();
    let headers = json!({"lang": "py", "task": task, "id": id, "root_id": id, "retries": 0});
    let message = Message {
        headers: headers.as_object().cloned(),
        properties: Properties {
            content_type: Some("application/json".into()),
            content_encoding: Some("utf-8".into()),
            correlation_id: Some(id),
            ..Properties::default()
        },
        body: format!("[{args}, {kwargs}, {{}}]").into_bytes(),
    };
    Ok(request::decode(
        message,
        Route::to_queue("celery"),
        false,
        &["application/json".into()],
    )?)
}

fn report(task: &str, outcome: Outcome) -> ExitCode {
    let problem = match outcome {
        Outcome::Success(value) => {
            say(&json_text(&value));
            return ExitCode::SUCCESS;
        }
        Outcome::Failure(failure) => {
            if let Some(traceback) = &failure.traceback {
                eprintln!("{}", lines(traceback));
            }
            format!("{task} failed: {}", failure.repr())
        }
        Outcome::TimeLimit(limit) => format!("{task} failed: TimeLimitExceeded({limit})"),
        Outcome::Retry(retry) => format!("{task} asks to be run again: {retry}"),
        Outcome::Reject { reason, requeue } => format!(
            "{task} rejected its message: {} (requeue: {requeue})",
            reason.unwrap_or_default()
        ),
        Outcome::Ignore => format!("{task} asked to be ignored: nothing would be stored"),
        Outcome::Replaced => format!("{task} asked to be replaced by another task"),
        Outcome::Revoked(_)
        | Outcome::Refused(_)
        | Outcome::Duplicate
        | Outcome::Unfollowed { .. }
        | Outcome::Cancelled => format!("{task} did not run"),
        Outcome::WorkerLost(reason) => format!("the sandbox failed: {reason}; please report this"),
    };
    eprintln!("{}", lines(&problem));
    ExitCode::FAILURE
}
