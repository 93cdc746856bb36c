#![no_main]

use celerybox_fuzz::screen::{FRAME_MAX, passed};

// The first byte says how the bytes are cut. Wherever they are, the same passes; it would pass again as it is; and
// lapin's parser can read every frame of it that has properties.
libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    let Some((cut, bytes)) = input.split_first() else {
        return;
    };
    let whole = passed(bytes.chunks(bytes.len().max(1)));
    let parts = passed(bytes.chunks(usize::from(*cut) + 1));
    assert_eq!(whole, parts);
    let Some(whole) = whole else { return };
    assert_eq!(passed([&whole[..]].into_iter()).as_ref(), Some(&whole));
    let mut rest = &whole[..];
    while let Some(&[kind, _, _, a, b, c, d]) = rest.first_chunk::<7>() {
        let length = u32::from_be_bytes([a, b, c, d]) as usize + 8;
        let Some((frame, after)) = rest.split_at_checked(length) else {
            break;
        };
        if kind == 2 {
            assert!(length <= FRAME_MAX);
            celerybox_fuzz::screen::lapin_reads(frame);
        }
        rest = after;
    }
});
