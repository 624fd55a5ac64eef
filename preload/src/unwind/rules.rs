//! What was needed before, by address of code: how to unwind from there, and what place the log knows it by. Tables for
//! all threads, without a lock.
//!
//! # Safety
//! Dangerous: what rules are read from is mapped by the loader, and we rely on those who unload it to say so before.

use core::sync::atomic::{AtomicU64, Ordering};

use super::modules::Modules;
use super::rule::{Packed, Rule};
use super::table::Table;
use crate::guard::Guard;
use crate::lock::Lock;

static RULES: Table = Table::new();
/// Number of the module and address in its file, half a word each.
static PLACES: Table = Table::new();

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

/// No module is in the log that begins now.
pub fn begin_log(guard: &Guard) {
    forget(&mut MODULES.lock(guard));
}

/// The same in a child of fork, where another thread may have been in the middle of anything.
pub fn forget_all() {
    // SAFETY: nobody else is inside memtrace yet.
    unsafe { MODULES.reset(Modules::new()) };
    N_CLOSING.store(0, Ordering::Relaxed);
    forget(&mut Modules::new());
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
    // Of generations whose keys look alike only one may leave something behind.
    if GENERATION.fetch_add(1, Ordering::AcqRel) & KEPT == KEPT {
        RULES.clear();
        PLACES.clear();
    }
}

/// The rule at an instruction.
#[inline(always)]
pub fn rule(guard: &Guard, address: u64, generation: u64) -> Packed {
    let key = key(address, generation);
    RULES.get(key).map_or_else(|| look_up(guard, address, key), Packed)
}

/// What is kept of a generation in a key.
const KEPT: u64 = 0xffff;

/// An address of code has 47 bits, so that there is room for some of the generation.
#[inline(always)]
fn key(address: u64, generation: u64) -> u64 {
    address ^ generation << 48
}

#[cold]
#[inline(never)]
fn look_up(guard: &Guard, address: u64, key: u64) -> Packed {
    let unknown = Packed::new(Rule::Unknown);
    let mut modules = MODULES.lock(guard);
    if N_CLOSING.load(Ordering::Relaxed) != 0 {
        return unknown;
    }
    if modules.find(address).is_none() && modules.is_look_due() {
        modules.look_for(guard, address);
    }
    // What is not known now may be loaded soon.
    let Some(module) = modules.find(address) else { return unknown };
    // SAFETY: whoever unloads a module says so before, under the lock.
    let rule = Packed::new(unsafe { module.rule(address) });
    drop(modules);
    RULES.set(key, rule.0);
    rule
}

/// The number of the module that code belongs to, and its address in the file; `None` when that can't be told.
#[inline(always)]
pub fn place(guard: &Guard, address: u64, generation: u64) -> Option<(u32, u32)> {
    let key = key(address, generation);
    let word = PLACES.get(key).or_else(|| look_place_up(guard, address, key))?;
    Some(((word >> 32) as u32, word as u32))
}

#[cold]
#[inline(never)]
fn look_place_up(guard: &Guard, address: u64, key: u64) -> Option<u64> {
    let (module, offset) = MODULES.lock(guard).place(guard, address)?;
    let word = u64::from(module) << 32 | u64::from(offset);
    PLACES.set(key, word);
    Some(word)
}
