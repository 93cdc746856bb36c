//! celerybox
