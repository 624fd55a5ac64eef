//! The worst capture that a page is made of: so many stacks that hardly one in fifty can stand in it, each with a
//! function of its own whose name is long and repeats nothing, and events without any habit.

use std::collections::VecDeque;

use memtrace_format::record::{Clock, Record, Rss, Thread};
use serde_json::{Value, json};

use super::log::Log;

const N_LANES: u32 = 4;
const NAME_CHARS: usize = 300;
/// Events of a lane before it is another one's turn.
const N_IN_TURN: u64 = 100;
const MILLIS: u64 = 10_000;

/// A capture of ten seconds with so many stacks, and ten times as many events; and what a page of it has to say.
pub fn worst(n_stacks: u32) -> (Log, Value) {
    let mut log = Log::new();
    log.capacity = 1 << 18;
    log.python();
    let n_events = 10 * u64::from(n_stacks);
    let n_turns = n_events / N_IN_TURN;
    for sample in 0..=MILLIS / 10 {
        let turn = 1 + n_turns * sample * 10 / MILLIS;
        let mono_nanos = log.header.start_mono_nanos + sample * 10_000_000;
        log.launcher(turn, Record::Clock(Clock { mono_nanos }));
        log.launcher(turn, Record::Rss(Rss { mono_nanos, bytes: 1 << 30 }));
    }
    let mut random = Random(1);
    let of_lane = n_stacks / N_LANES;
    for lane in 0..N_LANES {
        let thread = Thread { thread: lane + 1, os_tid: 4711 + lane, pthread: 0x1000 * u64::from(lane + 1) };
        log.event(lane, 0, Record::Thread(thread));
        for stack in 1..=of_lane {
            let code = lane * of_lane + stack;
            let name: String = (0..NAME_CHARS).map(|_| char::from(b'a' + random.below(26) as u8)).collect();
            log.code(code, &name, &format!("/srv/worst/module_{}.py", code % 1000), 1);
            log.node(lane, stack / 3, code, 0);
        }
    }

    let (mut bytes, mut peak_bytes, mut all_bytes) = (0, 0, 0);
    let mut n_allocations = [0; N_LANES as usize];
    let mut live: VecDeque<(u64, u64)> = VecDeque::new();
    for event in 0..n_events {
        let turn = 1 + event / N_IN_TURN;
        let lane = (turn % u64::from(N_LANES)) as u32;
        // The heap grows, and from its half on is as large as it is.
        if live.len() as u64 > random.below(u64::from(n_stacks)) {
            let (address, size) = live.pop_front().unwrap();
            bytes -= size;
            log.free(lane, turn, address);
            continue;
        }
        let bits = random.below(16);
        let size = 1 + random.below(1 << bits);
        let address = (1 + event) << 16;
        // Every stack of the lane comes once before any comes again.
        let n_before = &mut n_allocations[lane as usize];
        let stack = 1 + (*n_before * 7919 % u64::from(of_lane)) as u32;
        *n_before += 1;
        log.alloc(lane, turn, address, size, stack);
        live.push_back((address, size));
        (bytes, all_bytes) = (bytes + size, all_bytes + size);
        peak_bytes = peak_bytes.max(bytes);
    }
    log.end();
    let expected = json!({
        "peak_bytes": peak_bytes,
        "leaks": { "bytes": bytes, "count": live.len() },
        "churn": { "bytes": all_bytes, "count": n_allocations.iter().sum::<u64>() },
    });
    (log, expected)
}

/// Numbers that are the same every time.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (self.0 >> 33) % bound
    }
}
