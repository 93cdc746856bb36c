//! Tasks that send tasks: Celery's canvas.
//!
//! ```
//! use celerybox_guest::canvas::{chain, chord, group, signature};
//! use celerybox_guest::{Context, TaskError, task};
//!
//! #[task(name = "proj.add")]
//! fn add(x: i64, y: i64) -> i64 {
//!     x + y
//! }
//!
//! #[task(name = "proj.report")]
//! fn report(ctx: &Context, days: Vec<String>) -> Result<String, TaskError> {
//!     // One task, and a chain: each result is the first argument of the next.
//!     add::delay(ctx, (2, 2))?;
//!     chain([add::s((2, 2)), add::s(4), add::s(8)]).apply_async(ctx)?;
//!     // Tasks of other components and of Python workers, by their name.
//!     let pages = days.iter().map(|day| signature("pages.render").args((day,)).queue("pages"));
//!     let sent = chord(pages, signature("pages.bind").link_error(signature("ops.tell"))).apply_async(ctx)?;
//!     Ok(sent.id().to_owned())
//! }
//!
//! let ctx = celerybox_guest::testing::TestContext::new();
//! report(&ctx, vec!["monday".into()]).unwrap();
//! assert_eq!(ctx.sent().len(), 3);
//! ```
//!
//! A component is only granted to send what its table in the worker's configuration lists; anything else is a
//! `PermissionError` that says what to write there:
//!
//! ```toml
//! [component.report]
//! send_to = { queues = ["celery", "pages"], tasks = ["proj.*", "pages.*", "ops.tell"] }
//! results = true    # AsyncResult: state, get, children
//! ```

mod result;
mod signature;

pub use result::AsyncResult;
pub use signature::{Arguments, Signature, chain, chord, group, signature};
