//! The settings about queues and routes, as values of [`crate::queue`].

use super::{Settings, SettingsError};
use crate::nearest::did_you_mean;
use crate::queue::{self, ExchangeKind, Queues, Router, Rules};

impl Settings {
    /// Every queue of `task_queues`, or the default queue.
    pub fn queues(&self) -> Result<Queues, SettingsError> {
        let mut wrong = Vec::new();
        let queues = self.read_queues(&mut wrong);
        if wrong.is_empty() {
            Ok(queues)
        } else {
            Err(SettingsError::Invalid(wrong))
        }
    }

    /// `task_routes`.
    pub fn router(&self) -> Result<Router, SettingsError> {
        let mut wrong = Vec::new();
        let router = self.read_router(&mut wrong);
        if wrong.is_empty() {
            Ok(router)
        } else {
            Err(SettingsError::Invalid(wrong))
        }
    }

    /// The queues a worker consumes that was started with `-Q wanted -X unwanted` under this node name.
    pub fn consumed(
        &self,
        wanted: &[String],
        unwanted: &[String],
        hostname: &str,
    ) -> Result<Vec<queue::Queue>, SettingsError> {
        let direct_to = self.worker_direct.then_some(hostname);
        let selected = self.queues()?.select(wanted, unwanted, direct_to);
        selected.map_err(SettingsError::Invalid)
    }

    /// What makes no sense in all of them.
    pub(super) fn wrong_queues(&self) -> Vec<String> {
        let mut wrong = Vec::new();
        let _ = self.read_queues(&mut wrong);
        let _ = self.read_router(&mut wrong);
        wrong
    }

    fn read_queues(&self, wrong: &mut Vec<String>) -> Queues {
        let rules = self.rules(wrong);
        let defined = self.task_queues.as_ref();
        let defined = defined.map(|value| queue::queues(value, wrong));
        Queues::new(rules, defined.unwrap_or_default())
    }

    fn read_router(&self, wrong: &mut Vec<String>) -> Router {
        let routes = self.task_routes.as_ref();
        routes.map(|value| Router::read(value, wrong)).unwrap_or_default()
    }

    fn rules(&self, wrong: &mut Vec<String>) -> Rules {
        let mut kind = |name: &str, text: &str| {
            let kind = queue::exchange_type(text);
            if kind.is_none() {
                let nearest = did_you_mean(text, ["direct", "topic", "fanout", "headers"].into_iter());
                wrong.push(format!("{name}: {text:?} is no type of an exchange{nearest}"));
            }
            kind.unwrap_or(ExchangeKind::Direct)
        };
        let default_exchange_type = kind("task_default_exchange_type", &self.task_default_exchange_type);
        let missing_exchange_type = self
            .task_create_missing_queue_exchange_type
            .as_deref()
            .map(|text| kind("task_create_missing_queue_exchange_type", text));
        let mut is_quorum = |name: &str, text: &str| {
            if !matches!(text, "classic" | "quorum") {
                wrong.push(format!(
                    "{name}: expected \"classic\" or \"quorum\", not {text:?}"
                ));
            }
            text == "quorum"
        };
        let default_quorum = is_quorum("task_default_queue_type", &self.task_default_queue_type);
        let missing_quorum = is_quorum(
            "task_create_missing_queue_type",
            &self.task_create_missing_queue_type,
        );
        is_quorum(
            "broker_native_delayed_delivery_queue_type",
            &self.broker_native_delayed_delivery_queue_type,
        );
        if !matches!(self.task_default_delivery_mode, 1 | 2) {
            let mode = self.task_default_delivery_mode;
            wrong.push(format!(
                "task_default_delivery_mode: expected 1 (transient) or 2 (persistent), not {mode}"
            ));
        }
        Rules {
            default_queue: self.task_default_queue.clone(),
            default_exchange: self.task_default_exchange.clone(),
            default_exchange_type,
            default_routing_key: self.task_default_routing_key.clone(),
            default_quorum,
            create_missing: self.task_create_missing_queues,
            missing_quorum,
            missing_exchange_type,
            delivery_mode: self.task_default_delivery_mode,
            max_priority: self.task_queue_max_priority,
        }
    }
}
