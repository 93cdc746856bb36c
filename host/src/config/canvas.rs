//! From settings to what holds for everything that is sent.

use std::sync::Arc;

use super::{Settings, SettingsError};
use crate::backend::ResultBackend;
use crate::canvas::{Chords, Defaults};

impl Settings {
    /// What holds for everything that a worker (or `celerybox call`) of this node name sends, without the options of its
    /// tasks. `backend` says how chords are kept.
    pub fn canvas(
        &self,
        hostname: &str,
        backend: Option<&Arc<dyn ResultBackend>>,
    ) -> Result<Defaults, SettingsError> {
        let host = hostname.rsplit('@').next().unwrap_or(hostname);
        Ok(Defaults {
            router: Arc::new(self.router()?),
            queues: self.queues()?,
            writer: self.task_defaults()?.writer,
            priority: self.task_default_priority,
            ignore_result: self.task_ignore_result,
            inherit_parent_priority: self.task_inherit_parent_priority,
            errbacks_on_headers: self.task_allow_error_cb_on_chord_header,
            chords: backend.map_or(Chords::Refused, |backend| backend.chords()),
            origin: origin(host),
            definitions: Arc::default(),
        })
    }
}

/// Who sends, in messages (header `origin`) and in events: this process on that host.
pub(crate) fn origin(host: &str) -> String {
    format!("gen{}@{host}", std::process::id())
}
