//! From settings to what components are granted.

use url::Url;

use super::Settings;
use crate::policy::grants;
use crate::policy::network::{Server, Servers};
use crate::sandbox::Granting;

impl Settings {
    /// The tables `[component.NAME]`, or everything that makes no sense in them.
    pub fn granting(&self) -> Result<Granting, Vec<String>> {
        let mut wrong = Vec::new();
        let components = grants::read(&self.component, &self.names_of_events(), &mut wrong);
        match wrong.is_empty() {
            true => Ok(Granting {
                components,
                own: self.own_servers(),
            }),
            false => Err(wrong),
        }
    }

    /// What events go by here, and Celery's own name for them, which others on the same broker may use.
    fn names_of_events(&self) -> Vec<String> {
        let names = [self.event_exchange.as_str(), &self.event_queue_prefix, "celeryev"];
        let names = names.into_iter().filter(|name| !name.is_empty());
        names.map(str::to_owned).collect()
    }

    /// The servers that this worker talks to itself.
    fn own_servers(&self) -> Servers {
        let brokers = [&self.broker_url, &self.broker_read_url, &self.broker_write_url];
        let brokers = brokers.into_iter().flatten().flat_map(|urls| urls.all());
        let backends = self.result_backend.iter().flat_map(|urls| urls.split(';'));
        let named = brokers.chain(backends).filter_map(server);
        named.for_each(|server| self.found.add(server));
        self.found.clone()
    }
}

/// The host and port of a URL, with the defaults of its scheme; nothing for folders and sockets of the file system.
fn server(url: &str) -> Option<Server> {
    let url = url.trim();
    let (scheme, rest) = url.split_once(':').unwrap_or((url, ""));
    let port = match scheme {
        "amqp" | "pyamqp" => 5672,
        "amqps" => 5671,
        "redis" | "rediss" => 6379,
        "sentinel" => 26379,
        _ => return None,
    };
    let url = Url::parse(&format!("{scheme}:{}", if rest.is_empty() { "//" } else { rest })).ok()?;
    let host = url
        .host_str()
        .filter(|host| !host.is_empty())
        .unwrap_or("localhost");
    let host = host.trim_start_matches('[').trim_end_matches(']');
    Some((host.to_owned(), url.port().unwrap_or(port)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::Route;

    #[test]
    fn the_workers_own_servers_are_those_of_its_urls() {
        let settings: Settings = toml::from_str(
            "broker_url = 'amqp://u:p@mq:5673/v;amqps://mq2'\nresult_backend = 'redis://'\n\
             broker_write_url = ['sentinel://[fd00::1]', 'redis']",
        )
        .unwrap();
        let own = settings.granting().unwrap().own;
        for (port, hosts) in [
            (5673, &["mq"][..]),
            (5671, &["mq2"]),
            (26379, &["fd00::1"]),
            (6379, &["localhost"]),
            (5672, &[]),
        ] {
            assert_eq!(own.at(port), hosts, "{port}");
        }
        // Those that are found later count for what was granted before.
        settings.clone().found.add(("master".into(), 6380));
        assert_eq!(own.at(6380), ["master"]);
        assert_eq!(server("file:///srv/results"), None);
    }

    #[test]
    fn a_pattern_does_not_cover_events_by_whatever_name() {
        let settings: Settings = toml::from_str(
            "event_exchange = 'happenings'\nevent_queue_prefix = ''\n\
             [component.a]\nsend_to = { queues = ['*'], tasks = ['*'] }",
        )
        .unwrap();
        let components = settings.granting().unwrap().components;
        let allowed = |exchange: &str, routing_key: &str| {
            let (exchange, routing_key) = (exchange.into(), routing_key.into());
            components["a"].send_to.allows_route(&Route {
                exchange,
                routing_key,
            })
        };
        assert!(!allowed("happenings", "worker.online") && !allowed("celeryev", "worker.online"));
        assert!(allowed("", "celery"));
    }

    #[test]
    fn a_grant_that_makes_no_sense_is_reported_with_everything_else() {
        let settings: Settings =
            toml::from_str("worker_concurrency = 0\n[component.a]\nresult = true\n[component.b]\nfiles = 1")
                .unwrap();
        let text = settings.validate().unwrap_err().to_string();
        for part in [
            "worker_concurrency",
            "component.a.result",
            "did you mean results?",
            "component.b.files",
        ] {
            assert!(text.contains(part), "{part} is not in {text}");
        }
    }
}
