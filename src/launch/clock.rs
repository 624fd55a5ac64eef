//! Time, read from outside: which clock this machine can offer for the ticks of shared turns, and what time it is.
//! It must never choose the time stamp counter where two processors may disagree about it.

use std::time::Duration;

use nix::time::{ClockId, clock_gettime};

use memtrace_format::clock;

const CLOCK_SOURCES: &str = "/sys/devices/system/clocksource/clocksource0/available_clocksource";

/// The clock to record with, one of [`clock`].
pub fn choose() -> u32 {
    // The kernel drops the counter from its list when it has seen processors disagree.
    let is_trusted = std::fs::read_to_string(CLOCK_SOURCES)
        .is_ok_and(|sources| sources.split_whitespace().any(|source| source == "tsc"));
    if is_trusted && is_invariant() { clock::TSC } else { clock::COUNTER }
}

/// CLOCK_MONOTONIC in nanoseconds.
pub fn mono_nanos() -> u64 {
    nanos(ClockId::CLOCK_MONOTONIC)
}

/// Wall clock in nanoseconds since 1970.
pub fn unix_nanos() -> u64 {
    nanos(ClockId::CLOCK_REALTIME)
}

fn nanos(id: ClockId) -> u64 {
    let time = clock_gettime(id).expect("the kernel has both clocks");
    Duration::from(time).as_nanos() as u64
}

/// Whether the counter runs at one rate whatever the processor's power state.
fn is_invariant() -> bool {
    let highest = std::arch::x86_64::__cpuid(0x8000_0000).eax;
    highest >= 0x8000_0007 && std::arch::x86_64::__cpuid(0x8000_0007).edx & 1 << 8 != 0
}
