//! What passes between a RabbitMQ server and lapin.

#[path = "../../../host/src/broker/amqp/screen.rs"]
#[expect(clippy::module_inception, reason = "the file has its own name")]
mod screen;

use amq_protocol::frame::parsing::parse_frame;

/// The largest frame a client asks for here, bytes.
pub const FRAME_MAX: usize = 4096;

/// What of these bytes passes; `None` when they are not AMQP.
pub fn passed<'a>(parts: impl Iterator<Item = &'a [u8]>) -> Option<Vec<u8>> {
    let (mut screen, mut out) = (screen::Screen::new(FRAME_MAX as u32), Vec::new());
    for part in parts {
        screen.pass(part, &mut out).ok()?;
    }
    Some(out)
}

/// Lapin's parser takes a frame with the properties of a message.
pub fn lapin_reads(frame: &[u8]) {
    if let Err(error) = parse_frame(frame) {
        panic!("{error:?}: {frame:02x?}");
    }
}
