//! The file of revoked ids.

#[path = "../../../host/src/state_db.rs"]
#[allow(dead_code, clippy::module_inception, reason = "only the content is read here, no file")]
mod state_db;

/// What is read is written and read again as the same.
pub fn reads_what_it_writes(content: &[u8]) {
    let Ok(ids) = state_db::parse(content) else { return };
    assert_eq!(state_db::parse(&state_db::bytes(&ids).unwrap()).unwrap(), ids);
}
