//! The queues of an application, and which of them a worker consumes: Celery's `app.amqp.queues`.

use serde_json::Value;

use super::{Exchange, ExchangeKind, Queue};
use crate::nearest::did_you_mean;

/// Celery's settings about queues that are not queues themselves.
#[derive(Debug, Clone, PartialEq)]
pub struct Rules {
    /// `task_default_queue`.
    pub default_queue: String,
    /// `task_default_exchange`; the queue's name by default.
    pub default_exchange: Option<String>,
    /// `task_default_exchange_type`.
    pub default_exchange_type: ExchangeKind,
    /// `task_default_routing_key`; the queue's name by default.
    pub default_routing_key: Option<String>,
    /// `task_default_queue_type` is `quorum`.
    pub default_quorum: bool,
    /// `task_create_missing_queues`.
    pub create_missing: bool,
    /// `task_create_missing_queue_type` is `quorum`.
    pub missing_quorum: bool,
    /// `task_create_missing_queue_exchange_type`; direct by default.
    pub missing_exchange_type: Option<ExchangeKind>,
    /// `task_default_delivery_mode`.
    pub delivery_mode: u8,
    /// `task_queue_max_priority`.
    pub max_priority: Option<u8>,
}

/// Celery's defaults.
impl Default for Rules {
    fn default() -> Self {
        Self {
            default_queue: "celery".into(),
            default_exchange: None,
            default_exchange_type: ExchangeKind::Direct,
            default_routing_key: None,
            default_quorum: false,
            create_missing: true,
            missing_quorum: false,
            missing_exchange_type: None,
            delivery_mode: 2,
            max_priority: None,
        }
    }
}

/// Every queue that is known, by name, in the order of the settings.
#[derive(Debug, Clone, PartialEq)]
pub struct Queues {
    rules: Rules,
    known: Vec<Queue>,
}

/// A queue that is not in `task_queues`, and must not be made on demand.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("queue {name:?} is not in task_queues, and task_create_missing_queues is false{nearest}")]
pub struct UnknownQueue {
    name: String,
    nearest: String,
}

impl Queues {
    /// The queues of `task_queues` as [`read`](super::queues) them, or the default queue when there are none.
    pub fn new(rules: Rules, defined: Vec<Queue>) -> Self {
        let mut queues = Self {
            rules,
            known: Vec::new(),
        };
        if defined.is_empty() {
            let mut queue = Queue::bound(
                &queues.rules.default_queue,
                queues.default_exchange(),
                queues.default_routing_key(),
            );
            make_quorum(&mut queue, queues.rules.default_quorum);
            queues.add(queue);
        }
        for queue in defined {
            queues.add(queue);
        }
        queues
    }

    /// The settings they follow.
    pub fn rules(&self) -> &Rules {
        &self.rules
    }

    /// All of them.
    pub fn all(&self) -> &[Queue] {
        &self.known
    }

    /// The name of the queue that tasks go to when nothing else is said.
    pub fn default_queue(&self) -> &str {
        &self.rules.default_queue
    }

    /// `task_default_exchange`, or what stands for it.
    pub fn default_exchange(&self) -> Exchange {
        let name = self.rules.default_exchange.as_ref();
        let name = name.unwrap_or(&self.rules.default_queue);
        Exchange::new(name, self.rules.default_exchange_type)
    }

    /// `task_default_routing_key`, or what stands for it.
    pub fn default_routing_key(&self) -> &str {
        let key = self.rules.default_routing_key.as_ref();
        key.unwrap_or(&self.rules.default_queue)
    }

    /// A queue by its name or alias; one that is missing is made, unless the settings forbid it.
    pub fn get(&self, name: &str) -> Result<Queue, UnknownQueue> {
        if let Some(queue) = self.find(name) {
            return Ok(queue.clone());
        }
        if !self.rules.create_missing {
            let names = self.known.iter().map(|queue| queue.name.as_str());
            return Err(UnknownQueue {
                name: name.to_owned(),
                nearest: did_you_mean(name, names),
            });
        }
        let kind = self.rules.missing_exchange_type.unwrap_or_default();
        let mut queue = Queue::bound(name, Exchange::new(name, kind), name);
        make_quorum(&mut queue, self.rules.missing_quorum);
        Ok(self.complete(queue))
    }

    /// The queues a worker consumes: those of `-Q`, else all that are known, without those of `-X`; the worker's own
    /// with `worker_direct`, whose node name is given then. All unknown names are reported at once.
    pub fn select(
        &self,
        wanted: &[String],
        unwanted: &[String],
        direct_to: Option<&str>,
    ) -> Result<Vec<Queue>, Vec<String>> {
        let names = |list: &[String]| -> Vec<String> {
            let names = list
                .iter()
                .map(|name| name.trim())
                .filter(|name| !name.is_empty());
            names.map(str::to_owned).collect()
        };
        let (wanted, unwanted) = (names(wanted), names(unwanted));
        let (mut selected, mut wrong): (Vec<Queue>, Vec<String>) = (Vec::new(), Vec::new());
        if wanted.is_empty() {
            selected.clone_from(&self.known);
        }
        for name in &wanted {
            match self.get(name) {
                Ok(queue) if selected.iter().any(|other| other.name == queue.name) => {}
                Ok(queue) => selected.push(queue),
                Err(unknown) => wrong.push(unknown.to_string()),
            }
        }
        selected.retain(|queue| {
            let named = |name: &String| *name == queue.name || Some(name) == queue.alias.as_ref();
            !unwanted.iter().any(named)
        });
        if let Some(hostname) = direct_to {
            selected.push(self.complete(Queue::direct_to(hostname)));
        }
        if wrong.is_empty() && selected.is_empty() {
            wrong.push("no queue is left to consume from: -X excludes all of them".into());
        }
        if wrong.is_empty() {
            Ok(selected)
        } else {
            Err(wrong)
        }
    }

    /// A queue of the settings by its name or alias.
    pub fn find(&self, name: &str) -> Option<&Queue> {
        let alias = |queue: &&Queue| queue.alias.as_deref() == Some(name);
        let known = self.known.iter();
        known
            .clone()
            .find(alias)
            .or_else(|| known.clone().find(|queue| queue.name == name))
    }

    /// Keeps a queue.
    fn add(&mut self, queue: Queue) {
        let queue = self.complete(queue);
        self.known.retain(|known| known.name != queue.name);
        self.known.push(queue);
    }

    /// Fills in what the settings say for all.
    pub fn complete(&self, mut queue: Queue) -> Queue {
        if queue.exchange.name.is_empty() {
            queue.exchange = self.default_exchange();
        }
        if queue.routing_key.is_empty() {
            queue.routing_key = self.default_routing_key().to_owned();
        }
        if let Some(most) = self.rules.max_priority {
            let arguments = &mut queue.queue_arguments;
            arguments
                .entry("x-max-priority")
                .or_insert_with(|| Value::from(most));
        }
        queue
    }
}

fn make_quorum(queue: &mut Queue, quorum: bool) {
    if quorum {
        queue
            .queue_arguments
            .insert("x-queue-type".into(), "quorum".into());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(queues: &[Queue]) -> Vec<&str> {
        queues.iter().map(|queue| queue.name.as_str()).collect()
    }

    fn list(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    #[test]
    fn selection_is_q_without_x_and_all_without_q() {
        let defined = || vec![Queue::named("a"), Queue::named("b"), Queue::named("c")];
        let queues = || Queues::new(Rules::default(), defined());
        for (wanted, unwanted, selected) in [
            (&[][..], &[][..], &["a", "b", "c"][..]),
            (&["c", "new", "c", " "], &[], &["c", "new"]),
            (&[], &["b", "unknown"], &["a", "c"]),
            (&["a", "b"], &["a"], &["b"]),
        ] {
            let found = queues().select(&list(wanted), &list(unwanted), None).unwrap();
            assert_eq!(names(&found), selected, "{wanted:?} {unwanted:?}");
        }
        let none = queues().select(&list(&["a"]), &list(&["a"]), None).unwrap_err();
        assert!(none[0].contains("-X"), "{none:?}");
        let direct = queues().select(&list(&["a"]), &[], Some("w1@host")).unwrap();
        assert_eq!(names(&direct), ["a", "w1@host.dq2"]);
        assert_eq!(direct[1].exchange.name, "C.dq2");
    }

    #[test]
    fn unknown_names_are_all_reported_with_the_nearest() {
        let rules = Rules {
            create_missing: false,
            ..Rules::default()
        };
        let queues = Queues::new(rules, vec![Queue::named("emails")]);
        let wrong = queues
            .select(&list(&["email", "zzz", "emails"]), &[], None)
            .unwrap_err();
        assert_eq!(wrong.len(), 2, "{wrong:?}");
        assert!(wrong[0].ends_with("did you mean emails?"), "{wrong:?}");
    }
}
