//! `broker_transport_options`: kombu's names, which every transport has its own of.

use serde::de::DeserializeOwned;
use toml::Table;

use super::BrokerError;
use crate::nearest::did_you_mean;

/// Options of kombu's connections on every transport.
const CONNECTION: &str =
    "broker_connection_retry and broker_connection_max_retries say how connecting is retried";

/// Those that every transport of kombu takes and that do nothing here.
pub const COMMON: [(&str, &str); 6] = [
    ("max_retries", CONNECTION),
    ("interval_start", CONNECTION),
    ("interval_step", CONNECTION),
    ("interval_max", CONNECTION),
    ("connect_retries_timeout", CONNECTION),
    ("errback", "it names a Python function"),
];

/// What a transport's options are called.
pub struct Names {
    /// The setting they come from.
    pub setting: &'static str,
    /// Those that work.
    pub works: &'static [&'static str],
    /// Those that do nothing here, and why.
    pub ignored: &'static [(&'static str, &'static str)],
}

impl Names {
    /// Reads a table: what does nothing is logged with its reason, and every unknown name is an error with the nearest.
    pub(crate) fn read<T: DeserializeOwned>(&self, table: &Table) -> Result<T, BrokerError> {
        let setting = self.setting;
        let ignored = || self.ignored.iter().chain(&COMMON);
        let (mut known, mut wrong) = (Table::new(), Vec::new());
        for (name, value) in table {
            if self.works.contains(&name.as_str()) {
                known.insert(name.clone(), value.clone());
            } else if let Some((_, why)) = ignored().find(|(ignored, _)| ignored == name) {
                tracing::warn!("{setting}.{name} has no effect: {why}");
            } else {
                let all = self.works.iter().copied().chain(ignored().map(|(name, _)| *name));
                wrong.push(format!(
                    "{setting}: unknown option {name}{}",
                    did_you_mean(name, all)
                ));
            }
        }
        if !wrong.is_empty() {
            return Err(BrokerError::Config(wrong.join("\n")));
        }
        known
            .try_into()
            .map_err(|error| BrokerError::Config(format!("{setting}: {error}")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_options_are_all_named_and_the_others_are_read_or_dropped() {
        #[derive(Debug, serde::Deserialize)]
        struct Options {
            depth: Option<u8>,
        }
        let names = Names {
            setting: "broker_transport_options",
            works: &["depth"],
            ignored: &[("colour", "it is dark")],
        };
        let read = |text: &str| names.read::<Options>(&toml::from_str(text).unwrap());
        let options = read("depth = 3\ncolour = \"red\"\nmax_retries = 3").unwrap();
        assert_eq!(options.depth, Some(3));
        let error = read("dept = 3\ncolor = 1").unwrap_err().to_string();
        assert!(
            error.contains("dept; did you mean depth?") && error.contains("color; did you mean colour?"),
            "{error}"
        );
        assert!(read("depth = \"x\"").is_err());
    }
}
