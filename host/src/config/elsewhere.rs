//! Celery's settings that this worker takes and does nothing with, and why: a configuration that is shared with
//! Python workers must not break.

/// Why a setting does nothing here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// It has no meaning for this worker; the text says why.
    NotApplicable(&'static str),
    /// It will have one in a later version; the text says which part.
    NotYet(&'static str),
}

use Reason::{NotApplicable, NotYet};

const CLIENT: Reason = NotApplicable("it changes what clients do, not workers");
const PROCESSES: Reason = NotApplicable("tasks run in sandboxes of this process, not in processes of a pool");
const PYTHON: Reason = NotApplicable("it names a Python class or module");
const LOGGING: Reason =
    NotApplicable("the log is set up with --loglevel and --log-format, and goes to stderr");
const BACKEND: Reason = NotYet("that result backend is not there yet");
const BEAT: Reason = NotApplicable("the scheduler is a program of its own: run `celery beat`");
const IN_URL: Reason = NotApplicable("it belongs into broker_url or result_backend");

/// Settings by name; a name that ends in `*` stands for all that begin so.
pub const ELSEWHERE: &[(&str, Reason)] = &[
    ("result_accept_content", CLIENT),
    ("enable_utc", NotApplicable("times are always stored in UTC")),
    ("timezone", NotApplicable("times are always stored in UTC")),
    ("imports", PYTHON),
    ("include", PYTHON),
    ("beat_*", BEAT),
    ("broker_transport", IN_URL),
    ("broker_host", IN_URL),
    ("broker_port", IN_URL),
    ("broker_user", IN_URL),
    ("broker_password", IN_URL),
    ("broker_vhost", IN_URL),
    (
        "broker_heartbeat_checkrate",
        NotApplicable("the heartbeat is watched all the time"),
    ),
    (
        "broker_channel_error_retry",
        NotApplicable("channel errors are always retried like lost connections"),
    ),
    (
        "broker_pool_limit",
        NotApplicable("everything is sent over one connection, many messages in flight"),
    ),
    (
        "broker_pool_acquire_timeout",
        NotApplicable("there is no pool of connections to wait for"),
    ),
    ("cache_backend", BACKEND),
    ("cache_backend_options", BACKEND),
    ("cassandra_*", BACKEND),
    ("s3_*", BACKEND),
    ("azureblockblob_*", BACKEND),
    ("gcs_*", BACKEND),
    ("couchbase_backend_settings", BACKEND),
    ("arangodb_backend_settings", BACKEND),
    ("mongodb_backend_settings", BACKEND),
    ("cosmosdbsql_*", BACKEND),
    ("elasticsearch_*", BACKEND),
    ("database_*", BACKEND),
    (
        "event_queue_ttl",
        NotApplicable("what a worker hears of its neighbours goes after one heartbeat, as in Celery"),
    ),
    ("redis_db", IN_URL),
    ("redis_host", IN_URL),
    ("redis_port", IN_URL),
    ("redis_username", IN_URL),
    ("redis_password", IN_URL),
    (
        "redis_max_connections",
        NotApplicable("one connection serves all tasks"),
    ),
    (
        "redis_retry_on_timeout",
        NotApplicable("a command that timed out is always tried again"),
    ),
    (
        "redis_socket_keepalive",
        NotApplicable("a dead connection is noticed by its answers' time limit"),
    ),
    ("result_cache_max", CLIENT),
    (
        "result_exchange",
        NotApplicable("Celery does not use it any more"),
    ),
    (
        "result_exchange_type",
        NotApplicable("Celery does not use it any more"),
    ),
    ("task_always_eager", CLIENT),
    ("task_eager_propagates", CLIENT),
    ("task_store_eager_result", CLIENT),
    (
        "task_protocol",
        NotApplicable("messages are sent in protocol 2, which all supported versions read"),
    ),
    (
        "task_repr_maxlevels",
        NotApplicable("arguments are shown to a depth of 3, Celery's default"),
    ),
    (
        "task_remote_tracebacks",
        NotApplicable("tracebacks are always stored as text"),
    ),
    ("worker_agent", PYTHON),
    ("worker_autoscaler", PYTHON),
    ("worker_consumer", PYTHON),
    ("worker_timer", PYTHON),
    (
        "worker_timer_precision",
        NotApplicable("timers are exact to the millisecond"),
    ),
    ("worker_pool", PROCESSES),
    ("worker_pool_putlocks", PROCESSES),
    ("worker_pool_start_method", PROCESSES),
    ("worker_proc_alive_timeout", PROCESSES),
    ("worker_lost_wait", PROCESSES),
    (
        "worker_max_tasks_per_child",
        NotApplicable("every task has a fresh sandbox of its own"),
    ),
    (
        "worker_max_memory_per_child",
        NotApplicable("every sandbox has its own limit, limits.memory, in bytes"),
    ),
    ("worker_hijack_root_logger", LOGGING),
    ("worker_log_*", LOGGING),
    ("worker_task_log_*", LOGGING),
    ("worker_redirect_stdouts", LOGGING),
    ("worker_redirect_stdouts_level", LOGGING),
];

/// Why a setting does nothing here; `None` when it is not one of Celery's, or when it works.
pub fn reason(name: &str) -> Option<Reason> {
    let matches = |pattern: &str| match pattern.strip_suffix('*') {
        Some(start) => name.starts_with(start),
        None => name == pattern,
    };
    ELSEWHERE
        .iter()
        .find_map(|(pattern, reason)| matches(pattern).then_some(*reason))
}

impl std::fmt::Display for Reason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (NotApplicable(why) | NotYet(why)) = self;
        f.write_str(why)
    }
}
