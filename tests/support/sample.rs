//! A small log with a bit of everything that a log can hold: two threads of one Python program.

use memtrace_format::AllocatorKind;
use memtrace_format::record::*;

use super::testlog::Log;

pub fn sample() -> Log {
    let mut log = Log::new();
    log.header.clock = 0;
    log.meta(Record::Image(Image {
        turn: 5,
        exe: b"/usr/bin/python3.11",
        arguments: b"/usr/bin/python3\0app.py\0--port\080\0",
    }));
    log.python();
    log.meta(Record::Notice(Notice { code: notice::DEEPBIND, text: b"/usr/lib/libdeep.so" }));
    log.code(1, "<module>", "/srv/app.py", 1);
    log.code(2, "load", "/srv/shop/data.py", 10);
    log.code(3, "loads", "/usr/lib/python3.11/json/__init__.py", 300);
    log.code(4, "_find_and_load", "<frozen importlib._bootstrap>", 1000);
    for sample in 1..=4 {
        let (turn, mono_nanos) = (sample * 1000, 5_000_000_000 + sample * 10_000_000);
        log.launcher(turn, Record::Clock(Clock { mono_nanos }));
        log.launcher(turn, Record::Rss(Rss { mono_nanos, bytes: 10_000_000 + sample * 4096 }));
    }
    let main = 0xdead_beef;
    log.event(0, 10, Record::Thread(Thread { thread: 1, os_tid: 4711, pthread: main }));
    log.event(0, 11, Record::ThreadName(ThreadName { pthread: main, name: b"main \"one\"" }));
    log.node(0, 0, 1, 2);
    log.node(0, 1, 2, 4);
    log.node(0, 2, 3, 6);
    log.node(0, 1, 4, 0);
    log.alloc(0, 20, 0x1000, 1_000_000, 3);
    log.alloc(0, 30, 0x2000, 64, 2);
    log.free(0, 31, 0x2000);
    log.event(0, 40, Record::Alloc(Alloc { kind: AllocatorKind::PymallocMalloc, address: 0x3008, size: 8, stack: 4 }));
    log.event(0, 40, Record::Object(Object { address: 0x3018, made_by: Some(4) }));
    log.event(0, 41, Record::Object(Object { address: 0x5000, made_by: Some(2) }));
    log.event(0, 42, Record::Object(Object { address: 0x5000, made_by: None }));
    let (prot, flags) = (3, 0x22);
    let mmap = Mmap { address: 0x7f00_0000_0000, len: 262_144, prot, flags, is_arena: true, stack: 1 };
    log.event(0, 50, Record::Mmap(mmap));
    log.event(0, 60, Record::Mmap(Mmap { address: 0x7f00_1000_0000, len: 500_000, is_arena: false, ..mmap }));
    log.event(0, 70, Record::Munmap(Munmap { address: 0x7f00_1000_0000, len: 500_000, is_remap: true }));
    log.event(
        0,
        71,
        Record::Mremap(Mremap {
            old_address: 0x7f00_1000_0000,
            address: 0x7f00_2000_0000,
            len: 700_000,
            flags: 1,
            is_arena: false,
            stack: 1,
        }),
    );
    log.free(0, 80, 0x1000);
    log.event(0, 81, Record::Restore(Restore));
    log.event(1, 35, Record::Thread(Thread { thread: 2, os_tid: 4712, pthread: 0xcafe }));
    log.node(1, 0, 2, 8);
    for number in 0..20 {
        log.alloc(1, 36 + number * 100, 0x9000 + number * 0x100, 100 + number, 1);
        log.free(1, 90 + number * 100, 0x9000 + number * 0x100);
    }
    log.event(1, 3000, Record::Lost(Lost { count: 3 }));
    log.alloc(1, 3500, 0xf000, 5, 0);
    log.event(0, 3600, Record::Munmap(Munmap { address: 0x7f00_2000_0000, len: 700_000, is_remap: false }));
    log.header.lost_events = 3;
    log.end();
    log
}
