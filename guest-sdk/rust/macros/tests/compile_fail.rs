//! The messages of `#[task]`: at the offending word, and saying what to do.
//!
//! After a wanted change: `TRYBUILD=overwrite cargo test -p celerybox-guest-macros --test compile_fail`, and read the diff.

#[test]
fn messages() {
    let cases = trybuild::TestCases::new();
    cases.compile_fail("tests/compile_fail/*.rs");
}
