//! The metadata of the log: images, interpreters, code objects, notices. Rare, shared by all threads, committed before
//! anything refers to it.

use memtrace_format::record::{Image, Notice, Python};
use memtrace_format::{Record, block_kind};

use crate::guard::Guard;
use crate::lock::Lock;
use crate::sink::{self, Writer};
use crate::{clock, sys};

/// The lane of metadata blocks.
const META_LANE: u32 = u32::MAX;

pub static META: Lock<Writer> = Lock::new(Writer::new(block_kind::META, META_LANE));

/// Writes one record of metadata; `false` when it is lost.
pub fn record(guard: &Guard, record: &Record<'_>) -> bool {
    META.lock(guard).record(guard, ticks(), record)
}

/// Says what runs from now on.
pub fn image(guard: &Guard) {
    let mut exe = [0; 4096];
    let exe = sys::read_link(c"/proc/self/exe", &mut exe).unwrap_or(&[]);
    let mut arguments = [0; 4096];
    let mut len = 0;
    if let Ok(fd) = sys::open_read(c"/proc/self/cmdline") {
        len = sys::read_at(fd, &mut arguments, 0).unwrap_or(0);
        sys::close(fd);
    }
    let arguments = arguments.get(..len).unwrap_or(&[]);
    record(guard, &Record::Image(Image { ticks: ticks(), exe, arguments }));
}

/// Says which interpreter was found.
pub fn python(guard: &Guard, python: Python<'_>) {
    record(guard, &Record::Python(python));
}

/// Says something that the user should know ([`memtrace_format::record::notice`]).
pub fn notice(guard: &Guard, code: u32, text: &[u8]) {
    record(guard, &Record::Notice(Notice { code, text }));
}

fn ticks() -> u64 {
    sink::header().map_or(0, |header| clock::now(&header))
}
