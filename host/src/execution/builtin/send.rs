//! The built-in tasks that send others: `celery.chunks`, and for old clients `celery.group` and `celery.chord`.

use serde_json::{Map, Value};

use super::unlock::header;
use crate::builtin::{Arguments, Builtin};
use crate::canvas::{self, Applied, CanvasError, Partial, Signature};
use crate::execution::{Execution, Task};
use crate::outcome::Failure;

impl Execution {
    /// Sends what the task is about; returns a result tuple, as JSON.
    pub(super) async fn send(&self, task: &Task, builtin: Builtin) -> Result<String, Failure> {
        let arguments = Arguments::of(builtin, &task.request.body)?;
        let applied = match builtin {
            Builtin::Chunks => self.chunks(task, &arguments)?,
            Builtin::Chord => self.old_chord(task, &arguments)?,
            _ => self.old_group(task, &arguments)?,
        };
        for step in applied.steps {
            let sent = self.steps.carry_out(step).await;
            sent.map_err(|error| Failure::new("kombu.exceptions", "OperationalError", error.to_string()))?;
        }
        self.add_children(task, applied.children);
        Ok(applied.result.to_string())
    }

    fn chunks(&self, task: &Task, arguments: &Arguments) -> Result<Applied, Failure> {
        let mut kwargs = Map::new();
        for (position, name) in ["task", "it", "n"].into_iter().enumerate() {
            kwargs.insert(name.to_owned(), arguments.value(position, name)?);
        }
        let chunks = serde_json::json!({"task": "celery.chunks", "kwargs": kwargs, "subtask_type": "chunks"});
        let chunks = Signature::read(chunks).map_err(invalid)?;
        let applied = self.within(task, |context| {
            canvas::apply(&chunks, Partial::default(), context)
        });
        applied.map_err(invalid)
    }

    fn old_chord(&self, task: &Task, arguments: &Arguments) -> Result<Applied, Failure> {
        let tasks = signatures(header(arguments.value(0, "header")?))?;
        let body = Signature::read(arguments.value(1, "body")?).map_err(invalid)?;
        let partial = Partial {
            args: arguments.read_optional(2, "partial_args")?.unwrap_or_default(),
            ..Partial::default()
        };
        let chord = Signature::chord(tasks, body);
        let applied = self.within(task, |context| canvas::apply(&chord, partial, context));
        applied.map_err(invalid)
    }

    /// Its result is the one that the client gave it.
    fn old_group(&self, task: &Task, arguments: &Arguments) -> Result<Applied, Failure> {
        let tasks = signatures(arguments.value(0, "tasks")?)?;
        let result = arguments.value(1, "result")?;
        let group_id: String = arguments.read(2, "group_id")?;
        let args: Vec<Value> = arguments.read_optional(3, "partial_args")?.unwrap_or_default();
        let is_child = arguments.read_optional(4, "add_to_parent")?.unwrap_or(true);
        let mut all = Applied {
            children: if is_child {
                vec![result.clone()]
            } else {
                Vec::new()
            },
            result,
            ..Applied::default()
        };
        for signature in tasks {
            let mut partial = Partial {
                args: args.clone(),
                ..Partial::default()
            };
            partial.options.insert("group_id".into(), group_id.clone().into());
            let applied = self.within(task, |context| canvas::apply(&signature, partial, context));
            all.steps.extend(applied.map_err(invalid)?.steps);
        }
        Ok(all)
    }
}

fn signatures(list: Value) -> Result<Vec<Signature>, Failure> {
    Signature::parse_list(&list.to_string()).map_err(invalid)
}

fn invalid(error: CanvasError) -> Failure {
    Failure::new("builtins", "ValueError", error.to_string())
}
