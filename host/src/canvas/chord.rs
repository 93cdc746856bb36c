//! Starting a chord: what a client does, done by a worker for a chord that is an element of a chain or a callback
//! (contract section 4.4).

use serde_json::{Value, json};

use super::freeze::Freeze;
use super::link;
use super::message::merge_options;
use super::results::Node;
use super::{CanvasError, Chords, Kind, Partial, Signature, Step, Work};
use crate::message::JsonMap;

/// Options that delay the header.
const DELAYS: [&str; 2] = ["countdown", "eta"];

impl Work<'_, '_> {
    /// Sends the header. The result is the body's.
    pub(super) fn chord(&mut self, chord: Signature, mut partial: Partial) -> Result<Node, CanvasError> {
        let Kind::Chord { header, body } = chord.kind else {
            return Err(CanvasError::Invalid("not a chord".into()));
        };
        let body = match partial.kwargs.remove("body").filter(|body| !body.is_null()) {
            Some(body) => link::read(&body)?,
            None => *body.ok_or_else(|| CanvasError::Invalid("a chord has no body".into()))?,
        };
        if self.context.defaults.chords == Chords::Refused && !header.is_empty() {
            let what = "chords need a result backend that can keep them: Redis, or the filesystem";
            return Err(CanvasError::NoChords(what.into()));
        }
        let mut args = partial.args;
        args.extend(chord.args);
        let mut kwargs = match chord.kwargs.get("kwargs") {
            Some(Value::Object(kwargs)) => kwargs.clone(),
            _ => JsonMap::new(),
        };
        kwargs.extend(partial.kwargs);

        let given = partial.options;
        let named = |options: &JsonMap| options.get("task_id").and_then(Value::as_str).map(str::to_owned);
        let (given_id, own_id) = (named(&given), named(&chord.options));
        let (mut options, mut delay) = (chord.options, JsonMap::new());
        options.extend(given.clone());
        options.remove("task_id");
        for option in DELAYS {
            if let Some(value) = options.remove(option).filter(|value| !value.is_null()) {
                delay.insert(option.to_owned(), value);
            }
        }
        let body = self.body(body, &given, &mut options);
        let group_id = own_id.clone().unwrap_or_else(|| (self.context.new_id)());
        let (body, root_id, result) = self.frozen_body(body, &group_id, given_id.or(own_id).as_deref())?;

        options.remove("chain");
        options.remove("chord");
        let mut header = Signature::group(header);
        header.set("task_id", group_id.clone());
        let waiting = body.to_value();
        let given = Freeze {
            group_id: Some(&group_id),
            chord: Some(&waiting),
            root_id: root_id.as_deref(),
            is_header: true,
            ..Freeze::default()
        };
        let mut header_result = self.freeze_group(&mut header, given)?;
        if matches!(&header.kind, Kind::Group(tasks) if tasks.is_empty()) {
            let args = vec![json!([])];
            self.apply(
                body,
                Partial {
                    args,
                    ..Partial::default()
                },
            )?;
        } else {
            self.announce(&group_id, header_result, &body)?;
            options.extend(delay);
            options.insert("task_id".into(), group_id.into());
            // That of the only group in it, when there is nothing else.
            header_result = self.group(
                header,
                Partial {
                    args,
                    kwargs,
                    options,
                },
            )?;
        }
        self.results.set_parent(result, Some(header_result));
        Ok(result)
    }

    /// The body with the chord's callbacks and options; what only concerns the header stays in `options`.
    fn body(&mut self, mut body: Signature, given: &JsonMap, options: &mut JsonMap) -> Signature {
        let not_its = |option: &str| {
            DELAYS.contains(&option) || matches!(option, "parent_id" | "task_id" | "link" | "link_error")
        };
        let of_body = |options: &JsonMap| -> JsonMap {
            let of_body = options.iter().filter(|(option, _)| !not_its(option));
            of_body
                .map(|(option, value)| (option.clone(), value.clone()))
                .collect()
        };
        body.options = merge_options(&body.options, &of_body(given));
        body.take_callbacks(options);
        body.options.extend(of_body(options));
        body.unroll_chords(self.context.defaults.errbacks_on_headers);
        body
    }

    /// The body with its id and group, its root, and its result.
    fn frozen_body(
        &mut self,
        mut body: Signature,
        group_id: &str,
        id: Option<&str>,
    ) -> Result<(Signature, Option<String>, Node), CanvasError> {
        let root_id = body.text("root_id").map(str::to_owned);
        let new = id.map_or_else(|| (self.context.new_id)(), str::to_owned);
        let given = Freeze {
            id: Some(&new),
            group_id: Some(group_id),
            root_id: root_id.as_deref(),
            ..Freeze::default()
        };
        let result = self.freeze(&mut body, given)?;
        body.strip();
        Ok((body, root_id, result))
    }

    /// Tells whoever keeps the chord of it (contract section 4.4, point 5; 4.7).
    fn announce(&mut self, group_id: &str, header: Node, body: &Signature) -> Result<(), CanvasError> {
        let members = self.results.members(header).unwrap_or_default().to_vec();
        match self.context.defaults.chords {
            Chords::Native => {
                if members.iter().any(|member| self.results.is_group(*member)) {
                    let tuple = self.results.tuple(header);
                    let group = group_id.to_owned();
                    self.steps.push(Step::SaveGroup { group, tuple });
                }
                Ok(())
            }
            Chords::Unlock => {
                let members: Vec<Value> = members.iter().map(|member| self.results.tuple(*member)).collect();
                let unlock = unlock(group_id, body, members);
                let mut partial = Partial::default();
                partial
                    .options
                    .insert("route_name".into(), body.task.clone().into());
                self.task(unlock, partial).map(|_| ())
            }
            Chords::Refused => Ok(()),
        }
    }
}

/// `celery.chord_unlock`, which goes where the body goes.
fn unlock(group_id: &str, body: &Signature, members: Vec<Value>) -> Signature {
    let kwargs = json!({"interval": null, "max_retries": null, "result": members});
    let mut unlock = Signature::task(
        "celery.chord_unlock",
        vec![group_id.into(), body.to_value()],
        kwargs.as_object().cloned().unwrap_or_default(),
    );
    let stamps = body.links("stamped_headers");
    for option in [
        "queue",
        "priority",
        "exchange",
        "exchange_type",
        "routing_key",
        "headers",
    ] {
        if let Some(value) = body.options.get(option).filter(|value| !value.is_null())
            && !stamps.contains(&Value::from(option))
        {
            unlock.set(option, value.clone());
        }
    }
    if let Some(kind) = unlock.options.get("exchange_type").cloned() {
        // The task needs it for its retries.
        unlock.kwargs.insert("_chord_unlock_exchange_type".into(), kind);
    }
    unlock.set("countdown", 1);
    unlock
}
