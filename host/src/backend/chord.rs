//! What a result backend does for chords (contract sections 4.6 and 4.7).

use std::time::Duration;

pub use crate::canvas::Chords;
pub use crate::outcome::Part;

/// Leave to send a chord's body, or to fail it, for a limited time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claim {
    /// The header's group id.
    pub group: String,
    /// Who holds it: 32 hexadecimal digits.
    pub token: String,
}

/// What a part means for its chord.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Arrival {
    /// Others are missing, or how many there are is not known yet.
    Waiting,
    /// All are there, and the chord is whose part it was.
    Complete {
        /// The part had been counted before: somebody may have come far with this chord and then died.
        again: bool,
    },
    /// All are there, and somebody else holds the chord for so long.
    Taken(Duration),
    /// The body was sent.
    Done,
}
