//! From settings to the mailbox, and what `conf`, `report` and `stats` show of them.

use std::time::Instant;

use serde_json::{Map, Value, json};

use super::{OneOrMany, Settings};
use crate::control::{About, Options};
use crate::masked::masked;

/// What is in the names of settings, or of their parts, whose values nobody sees: Celery's list, and headers of
/// requests, which hold tokens.
const SECRET: [&str; 9] = [
    "HEADERS",
    "API",
    "TOKEN",
    "KEY",
    "SECRET",
    "PASS",
    "PROFANITIES_LIST",
    "SIGNATURE",
    "DATABASE",
];
const HIDDEN: &str = "********";

/// What Celery's clients expect to find in `conf` even when it is as by default.
const ALWAYS: [&str; 5] = [
    "accept_content",
    "broker_heartbeat",
    "broker_url",
    "result_backend",
    "worker_prefetch_multiplier",
];

impl Settings {
    /// The mailbox.
    pub fn control(&self) -> Options {
        Options {
            exchange: self.control_exchange.clone(),
            ttl: self.control_queue_ttl,
            expires: self.control_queue_expires,
            exclusive: self.control_queue_exclusive,
            durable: self.control_queue_durable,
            obeyed: self.control_groups.clone(),
        }
    }

    /// What remote control says about this worker.
    pub fn about(&self) -> About {
        let all = shown(self);
        let defaults = shown(&Self::default());
        let mut conf = all.clone();
        conf.retain(|name, value| defaults.get(name) != Some(value) || ALWAYS.contains(&name.as_str()));
        // Celery's clients look for these; they are what this worker does.
        for (name, value) in [
            ("deprecated_settings", Value::Null),
            ("enable_utc", json!(true)),
            ("include", json!([])),
            ("timezone", json!("UTC")),
            ("worker_hijack_root_logger", json!(false)),
            ("worker_log_color", Value::Null),
        ] {
            conf.insert(name.into(), value);
        }
        About {
            conf,
            conf_with_defaults: all,
            broker: self.broker_info(),
            results: self.result_backend.as_deref().map_or("disabled".into(), |url| {
                url.split(':').next().unwrap_or_default().to_owned()
            }),
            pool_restarts: self.worker_pool_restarts,
            started: Instant::now(),
        }
    }

    fn broker_info(&self) -> Value {
        let first = self
            .broker_url
            .as_ref()
            .and_then(|urls| urls.all().next().map(str::to_owned));
        let url = first.as_deref().and_then(|url| url::Url::parse(url).ok());
        let scheme = url.as_ref().map_or("filesystem", |url| url.scheme());
        let user = url
            .as_ref()
            .map(url::Url::username)
            .filter(|user| !user.is_empty());
        let path = url.as_ref().map_or("", |url| url.path());
        let alternates = self
            .broker_url
            .iter()
            .flat_map(OneOrMany::all)
            .skip(1)
            .map(masked);
        let mut options = serde_json::to_value(&self.broker_transport_options).unwrap_or_default();
        hide(&mut options);
        json!({
            "hostname": url.as_ref().and_then(url::Url::host_str),
            "userid": user,
            "virtual_host": path.strip_prefix('/').unwrap_or(path),
            "port": url.as_ref().and_then(url::Url::port_or_known_default),
            "insist": false,
            "ssl": self.broker_use_ssl.is_some(),
            "transport": scheme,
            "connect_timeout": self.broker_connection_timeout,
            "transport_options": options,
            "login_method": self.broker_login_method.as_deref().or(scheme.starts_with("amqp").then_some("PLAIN")),
            "uri_prefix": null,
            "heartbeat": self.broker_heartbeat,
            "failover_strategy": self.broker_failover_strategy,
            "alternates": alternates.collect::<Vec<_>>(),
            "credential_provider": null,
        })
    }
}

/// Every setting by its name, without secrets.
fn shown(settings: &Settings) -> Map<String, Value> {
    let mut value = serde_json::to_value(settings).unwrap_or_default();
    // What a component sees in its environment is its own business.
    if let Some(Value::Object(components)) = value.get_mut("component") {
        for grants in components.values_mut() {
            if let Some(environment) = grants.get_mut("environment") {
                *environment = HIDDEN.into();
            }
        }
    }
    hide(&mut value);
    match value {
        Value::Object(map) => map,
        _ => Map::new(),
    }
}

/// Hides what may be a secret: by its name, and passwords of URLs.
fn hide(value: &mut Value) {
    match value {
        Value::String(text) if text.contains("://") => {
            *text = masked(text).replace(":**@", &format!(":{HIDDEN}@"))
        }
        Value::Array(values) => values.iter_mut().for_each(hide),
        Value::Object(map) => {
            for (name, value) in map {
                let upper = name.to_ascii_uppercase();
                let is_secret = SECRET.iter().any(|secret| upper.contains(secret));
                match is_secret && !value.is_null() {
                    true => *value = HIDDEN.into(),
                    false => hide(value),
                }
            }
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_nowhere() {
        let settings: Settings = toml::from_str(
            "broker_url = ['redis://:secret@h', 'redis://u:secret@i']\n\
             result_backend = 'redis://:secret@h/1?password=secret'\nsecurity_key_password = 'secret'\n\
             broker_transport_options = { sentinel_kwargs = { password = 'secret' } }\n\
             [component.a.environment]\nWHATEVER = 'secret'\n\
             [traces.headers]\nX-Own = 'secret'",
        )
        .unwrap();
        let about = settings.about();
        let all = format!(
            "{about:?} {}",
            json!([about.conf, about.conf_with_defaults, about.broker])
        );
        assert!(!all.contains("secret@") && !all.contains("\"secret\""), "{all}");
        assert_eq!(
            about.conf["broker_url"],
            json!(["redis://:********@h", "redis://u:********@i"])
        );
        assert_eq!(about.conf["security_key_password"], HIDDEN);
    }

    #[test]
    fn what_differs_is_shown_and_what_clients_expect() {
        let settings: Settings = toml::from_str("worker_prefetch_multiplier = 9").unwrap();
        let about = settings.about();
        assert_eq!(about.conf["worker_prefetch_multiplier"], 9);
        assert_eq!(about.conf["accept_content"], json!(["json"]));
        assert!(!about.conf.contains_key("task_serializer"));
        assert_eq!(about.conf_with_defaults["task_serializer"], "json");
        assert!(about.conf_with_defaults.len() > about.conf.len());
    }
}
