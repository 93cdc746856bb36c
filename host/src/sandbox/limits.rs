//! What a run may use. A component that wants more ends as a failure that names the limit.

use serde::{Deserialize, Serialize};

const KIB: usize = 1024;
const MIB: usize = 1024 * KIB;

/// The limits of one run. The `[limits]` table of the configuration has these names.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// Seconds that no run is longer than, whatever its message and its component say.
    pub time: Option<u64>,
    /// Bytes of all linear memories together.
    pub memory: usize,
    /// How many linear memories.
    pub memories: usize,
    /// Elements of all tables together.
    pub table_elements: usize,
    /// How many tables.
    pub tables: usize,
    /// How many core instances.
    pub instances: usize,
    /// How many handles (WASI streams, pollables …) may be open at once.
    pub handles: usize,
    /// How many handles a component that is granted files or a network may have open: some of them are descriptors of
    /// the worker's own process.
    pub descriptors: usize,
    /// How many messages one run may send.
    pub messages: u64,
    /// Bytes of all messages that one run may send.
    pub message_bytes: usize,
    /// Bytes that one call between component and worker may carry. More than `result`, or that one never shows.
    pub host_call_bytes: usize,
    /// How many calls to the worker, apart from questions about the time.
    pub host_calls: u64,
    /// Bytes of a message's body, inflated and as JSON; only a JSON body that came as it is may be larger.
    pub body: usize,
    /// Bytes of the arguments, positional and keyword together, as JSON.
    pub arguments: usize,
    /// Bytes of the result, as JSON.
    pub result: usize,
    /// How deep lists and maps of a result may be nested.
    pub depth: usize,
    /// Bytes of stdout, stderr and log lines that are kept; what follows is cut off, and the task goes on.
    pub output: usize,
    /// Bytes of one state that `update-state` stores.
    pub state_bytes: usize,
    /// How often `update-state` may be called.
    pub state_updates: u64,
    /// Instructions, roughly; none means they are not counted. Counting costs speed.
    pub fuel: Option<u64>,
    /// Bytes of a component's file.
    pub component_size: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            time: None,
            memory: 128 * MIB,
            memories: 4,
            table_elements: 100_000,
            tables: 16,
            instances: 32,
            handles: 4096,
            descriptors: 256,
            messages: 20_000,
            message_bytes: 64 * MIB,
            host_call_bytes: 2 * MIB,
            host_calls: 100_000,
            body: crate::message::content::BODY_LIMIT,
            arguments: MIB,
            result: MIB,
            depth: 100,
            output: 256 * KIB,
            state_bytes: 64 * KIB,
            state_updates: 1000,
            fuel: None,
            component_size: 32 * MIB as u64,
        }
    }
}
