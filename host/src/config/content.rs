//! From settings to readers and writers of content: serializers, compressions, keys and certificates.

use std::path::Path;
use std::sync::Arc;

use jiff::Timestamp;

use super::Settings;
use crate::backend::Documents;
use crate::message::content::auth::{Digest, Signer, Trust};
use crate::message::content::compression::Compression;
use crate::message::content::{Reader, Serializer, Writer};

/// How content is read and written.
#[derive(Debug, Clone, Default)]
pub struct Content {
    /// Bodies of messages that come.
    pub reader: Reader,
    /// Bodies of messages that go.
    pub writer: Writer,
    /// Events.
    pub events: Writer,
    /// Results.
    pub documents: Documents,
}

/// What is wrong with settings, each with its name in front.
struct Wrong(Vec<String>);

impl Wrong {
    /// The value, or what is wrong is noted.
    fn take<T>(&mut self, value: Result<T, String>) -> Option<T> {
        value.map_err(|wrong| self.0.push(wrong)).ok()
    }

    fn serializer(&mut self, setting: &str, name: &str) -> Option<Serializer> {
        let serializer = Serializer::named(name).ok_or_else(|| {
            format!(
                "{setting}: {name:?} is no serializer; expected one of {}",
                Serializer::names()
            )
        });
        self.take(serializer)
    }

    fn compression(&mut self, setting: &str, name: Option<&str>) -> Option<Compression> {
        let name = name.filter(|name| !name.is_empty())?;
        let compression = Compression::named(name).ok_or_else(|| {
            format!(
                "{setting}: {name:?} is no compression; expected one of {}",
                Compression::names()
            )
        });
        self.take(compression)
    }
}

impl Settings {
    /// How content is read and written, or everything that is wrong with the settings about it. Reads the files that
    /// `security_*` name.
    pub fn content(&self) -> Result<Content, Vec<String>> {
        let mut wrong = Wrong(Vec::new());
        let accept: Vec<Serializer> = self
            .accept_content
            .iter()
            .filter_map(|name| wrong.serializer("accept_content", name))
            .collect();
        let task = wrong.serializer("task_serializer", &self.task_serializer);
        let result = wrong.serializer("result_serializer", &self.result_serializer);
        let events = wrong.serializer("event_serializer", &self.event_serializer);
        let task_compression = wrong.compression("task_compression", self.task_compression.as_deref());
        let result_compression = wrong.compression("result_compression", self.result_compression.as_deref());
        let digest = Digest::named(&self.security_digest).ok_or_else(|| {
            format!(
                "security_digest: {:?} is not known; expected \"sha256\", \"sha384\" or \"sha512\"",
                self.security_digest
            )
        });
        let digest = wrong.take(digest).unwrap_or(Digest::Sha256);

        let trust = self
            .security_cert_store
            .as_deref()
            .and_then(|pattern| match trust(pattern, digest) {
                Ok(trust) => Some(Arc::new(trust)),
                Err(mut all) => {
                    wrong.0.append(&mut all);
                    None
                }
            });
        let signer = match (&self.security_key, &self.security_certificate) {
            (Some(key), Some(certificate)) => wrong
                .take(signer(
                    key,
                    self.security_key_password.as_deref(),
                    certificate,
                    digest,
                ))
                .map(Arc::new),
            (None, None) => None,
            (Some(_), None) => wrong.take(Err("security_certificate: missing; security_key needs it".into())),
            (None, Some(_)) => wrong.take(Err("security_key: missing; security_certificate needs it".into())),
        };
        if accept.contains(&Serializer::Auth) && self.security_cert_store.is_none() {
            let what = "security_cert_store: missing; accept_content has \"auth\", which needs to know whom to trust";
            wrong.0.push(what.into());
        }
        for (setting, serializer) in [
            ("task_serializer", task),
            ("result_serializer", result),
            ("event_serializer", events),
        ] {
            if serializer == Some(Serializer::Auth) && self.security_key.is_none() {
                wrong.0.push(format!(
                    "security_key: missing; {setting} is \"auth\", which needs a key to sign with"
                ));
            }
        }
        if !wrong.0.is_empty() {
            return Err(wrong.0);
        }
        let writer = |serializer: Option<Serializer>, compression| Writer {
            serializer: serializer.unwrap_or(Serializer::Json),
            compression,
            signer: signer.clone(),
        };
        Ok(Content {
            reader: Reader {
                accept,
                limit: self.limits.body,
                trust: trust.clone(),
            },
            writer: writer(task, task_compression),
            events: writer(events, None),
            documents: Documents {
                writer: writer(result, result_compression),
                trust,
            },
        })
    }
}

fn read(setting: &str, file: &Path) -> Result<Vec<u8>, String> {
    std::fs::read(file).map_err(|error| format!("{setting}: cannot read {}: {error}", file.display()))
}

/// All files that the pattern matches; all of a folder when it names one.
fn trust(pattern: &str, digest: Digest) -> Result<Trust, Vec<String>> {
    const SETTING: &str = "security_cert_store";
    let pattern = match Path::new(pattern).is_dir() {
        true => format!("{}/*", glob::Pattern::escape(pattern)),
        false => pattern.to_owned(),
    };
    let paths = glob::glob(&pattern).map_err(|error| vec![format!("{SETTING}: {pattern:?}: {error}")])?;
    let mut files = Vec::new();
    for path in paths.flatten().filter(|path| path.is_file()) {
        let content = read(SETTING, &path).map_err(|error| vec![error])?;
        files.push((format!("{SETTING}: {}", path.display()), content));
    }
    if files.is_empty() {
        return Err(vec![format!("{SETTING}: {pattern:?} matches no file")]);
    }
    Trust::new(files, digest, Timestamp::now())
}

fn signer(key: &Path, password: Option<&str>, certificate: &Path, digest: Digest) -> Result<Signer, String> {
    let key =
        String::from_utf8(read("security_key", key)?).map_err(|_| "security_key: not PEM".to_owned())?;
    Signer::new(
        &key,
        password,
        &read("security_certificate", certificate)?,
        digest,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wrong(settings: &str) -> Vec<String> {
        let settings: Settings = toml::from_str(settings).unwrap();
        settings.content().unwrap_err()
    }

    #[test]
    fn names_and_content_types_mean_the_same() {
        let settings: Settings = toml::from_str(
            "accept_content = [\"pickle\", \"application/json\"]\ntask_serializer = \"yaml\"\n\
             result_serializer = \"application/x-msgpack\"\nresult_compression = \"zlib\"\ntask_compression = \"\"",
        )
        .unwrap();
        let content = settings.content().unwrap();
        assert_eq!(content.reader.accept, [Serializer::Pickle, Serializer::Json]);
        assert_eq!(content.writer.serializer, Serializer::Yaml);
        assert_eq!(content.writer.compression, None);
        assert_eq!(content.documents.writer.serializer, Serializer::Msgpack);
        assert_eq!(content.documents.writer.compression, Some(Compression::Gzip));
        assert!(!content.documents.are_plain());
    }

    #[test]
    fn everything_that_is_wrong_is_said_at_once() {
        let all = wrong(
            "accept_content = [\"jason\", \"auth\"]\ntask_serializer = \"auth\"\nresult_serializer = \"xml\"\n\
             task_compression = \"rar\"\nresult_compression = \"zip\"\nsecurity_digest = \"md5\"",
        );
        for setting in [
            "accept_content: \"jason\"",
            "result_serializer: \"xml\"",
            "task_compression: \"rar\"",
            "result_compression: \"zip\"",
            "security_digest: \"md5\"",
            "security_cert_store: missing",
            "security_key: missing; task_serializer",
        ] {
            assert!(
                all.iter().any(|wrong| wrong.starts_with(setting)),
                "{setting}: {all:?}"
            );
        }
        assert_eq!(all.len(), 7);
    }

    #[test]
    fn keys_and_certificates_that_are_not_there_are_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().display();
        let all = wrong(&format!(
            "security_key = \"{path}/key\"\nsecurity_certificate = \"{path}/cert\"\nsecurity_cert_store = \"{path}\""
        ));
        assert!(
            all.iter().any(|wrong| wrong.contains("matches no file")),
            "{all:?}"
        );
        assert!(
            all.iter()
                .any(|wrong| wrong.starts_with("security_key: cannot read")),
            "{all:?}"
        );
        std::fs::write(folder.path().join("cert"), "no PEM").unwrap();
        let all = wrong(&format!(
            "security_certificate = \"{path}/cert\"\nsecurity_cert_store = \"{path}/*\""
        ));
        assert!(
            all.iter().any(|wrong| wrong.contains("not a certificate in PEM")),
            "{all:?}"
        );
        assert!(
            all.iter().any(|wrong| wrong.starts_with("security_key: missing")),
            "{all:?}"
        );
    }
}
