//! Rules that were needed before, by address of code: one table for all threads, without a lock.
//!
//! # Safety
//! Dangerous: shared memory without a lock. An entry is two words, and the first is the address mixed with the second: a
//! pair that two threads have written half each belongs to no address.

use core::sync::atomic::{AtomicU64, Ordering};

use super::modules::Modules;
use super::rule::Rule;
use crate::guard::Guard;
use crate::heap::spread;
use crate::lock::Lock;

const N_PLACES: usize = 1 << 14;

struct Entry {
    key: AtomicU64,
    rule: AtomicU64,
}

static TABLE: [Entry; N_PLACES] = [const { Entry { key: AtomicU64::new(0), rule: AtomicU64::new(0) } }; N_PLACES];

/// What code belongs to, as it was looked up last.
pub static MODULES: Lock<Modules> = Lock::new(Modules::new());

/// Goes up whenever code may have gone: what was known of addresses before means nothing then.
static GENERATION: AtomicU64 = AtomicU64::new(1);

pub fn generation() -> u64 {
    GENERATION.load(Ordering::Acquire)
}

/// How many threads are just unloading something. What is mapped may go at any moment then, and nothing new is read.
static N_CLOSING: AtomicU64 = AtomicU64::new(0);

/// An object is about to be unloaded.
pub fn close(guard: &Guard) {
    let mut modules = MODULES.lock(guard);
    N_CLOSING.fetch_add(1, Ordering::Relaxed);
    forget(&mut modules);
}

/// It is gone, or stays.
pub fn reopen(guard: &Guard) {
    let mut modules = MODULES.lock(guard);
    N_CLOSING.fetch_sub(1, Ordering::Relaxed);
    forget(&mut modules);
}

/// A range is about to be unmapped.
pub fn unmapped(guard: &Guard, start: u64, len: u64) {
    let mut modules = MODULES.lock(guard);
    if modules.has_any(start, start.saturating_add(len)) {
        forget(&mut modules);
    }
}

fn forget(modules: &mut Modules) {
    modules.forget();
    GENERATION.fetch_add(1, Ordering::AcqRel);
}

/// The rule at an instruction.
#[inline(always)]
pub fn rule(guard: &Guard, address: u64, generation: u64) -> Rule {
    let key = key(address, generation);
    let entry = entry_of(key);
    let rule = entry.rule.load(Ordering::Relaxed);
    if entry.key.load(Ordering::Relaxed) ^ rule == key { Rule::unpack(rule) } else { look_up(guard, address, key) }
}

/// An address of code has 47 bits, so that there is room for the generation.
#[inline(always)]
fn key(address: u64, generation: u64) -> u64 {
    address ^ generation << 48
}

#[inline(always)]
fn entry_of(key: u64) -> &'static Entry {
    &TABLE[spread(key) & (N_PLACES - 1)]
}

#[cold]
#[inline(never)]
fn look_up(guard: &Guard, address: u64, key: u64) -> Rule {
    let mut modules = MODULES.lock(guard);
    if N_CLOSING.load(Ordering::Relaxed) != 0 {
        return Rule::Unknown;
    }
    if modules.find(address).is_none() && modules.is_look_due() {
        modules.look();
    }
    // What is not known now may be loaded soon.
    let Some(module) = modules.find(address) else { return Rule::Unknown };
    // SAFETY: whoever unloads a module says so before, under the lock.
    let rule = unsafe { module.rule(address) };
    drop(modules);
    let word = rule.pack().unwrap_or(0);
    let entry = entry_of(key);
    entry.rule.store(word, Ordering::Relaxed);
    entry.key.store(key ^ word, Ordering::Relaxed);
    Rule::unpack(word)
}

/// The number of the module that code belongs to, and its address in the file; `None` when that can't be told.
pub fn place(guard: &Guard, address: u64) -> Option<(u32, u32)> {
    MODULES.lock(guard).place(guard, address)
}
