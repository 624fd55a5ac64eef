//! Allocated, freed, resized, mapped, unmapped: the verbs of recording. Called by hooks and allocator wrappers, which
//! hold a [`Guard`]; they must never allocate, wait or fail.
//!
//! # Order of record and call
//! Another thread may get an address the moment it is given back. So a record that gives memory back is written
//! *before* the real call, and one that hands memory out *after* it; then the order of turns (`turns`) is the order of
//! what happened to each address. Resizing does both, and when the real call fails, a `Restore` takes the first half
//! back.

use core::ffi::c_void;

use memtrace_format::record::{Mmap, Mremap, Munmap, Object, Restore, ThreadName};
use memtrace_format::{AllocatorKind, Record};

use crate::guard::Guard;
use crate::lane::{self, Lane};
use crate::{python, unwind};

/// A block was handed out.
// This and what follows is not inlined: there is one for all hooks, which stays in the processor's cache. Each function
// goes on to the next with the same arguments, so that the usual cases have little to save.
#[inline(never)]
pub fn allocated(guard: &Guard, kind: AllocatorKind, block: *mut c_void, size: usize) {
    if let Some(lane) = lane::at_hand(guard)
        && !block.is_null()
        && !python::is_there()
        && lane.stacks.are_pythons_alone()
    {
        lane.writer.alloc(guard, kind, block as u64, size as u64, 0);
    } else {
        allocated_beside_python(guard, kind, block, size);
    }
}

#[inline(never)]
fn allocated_beside_python(guard: &Guard, kind: AllocatorKind, block: *mut c_void, size: usize) {
    if let Some(lane) = lane::at_hand(guard)
        && !block.is_null()
        && python::new_initialisation().is_none()
        && let Some(stack) = lane.stacks.at_hand()
    {
        lane.writer.alloc(guard, kind, block as u64, size as u64, stack);
    } else {
        allocated_with_native(guard, kind, block, size);
    }
}

#[inline(never)]
fn allocated_with_native(guard: &Guard, kind: AllocatorKind, block: *mut c_void, size: usize) {
    if let Some(lane) = lane::at_hand(guard)
        && !block.is_null()
        && lane.stacks.have_native()
        && python::new_initialisation().is_none()
        && let Some(stack) = lane.stacks.both_at_hand(guard, &mut lane.writer, lane.caller)
    {
        lane.writer.alloc(guard, kind, block as u64, size as u64, stack);
    } else {
        allocated_otherwise(guard, kind, block, size);
    }
}

#[inline(never)]
fn allocated_otherwise(guard: &Guard, kind: AllocatorKind, block: *mut c_void, size: usize) {
    if !block.is_null()
        && let Some(lane) = lane::of_this_thread(guard)
    {
        python::notice_changes(guard);
        let stack = lane.stacks.current(guard, &mut lane.writer, lane.caller);
        lane.writer.alloc(guard, kind, block as u64, size as u64, stack);
    }
}

/// A block is about to be given back.
#[inline(never)]
pub fn freeing(guard: &Guard, kind: AllocatorKind, block: *mut c_void) {
    if let Some(lane) = lane::at_hand(guard)
        && !block.is_null()
        && python::new_finalizing().is_none()
    {
        lane.writer.free(guard, kind, block as u64);
    } else {
        freeing_otherwise(guard, kind, block);
    }
}

#[inline(never)]
fn freeing_otherwise(guard: &Guard, kind: AllocatorKind, block: *mut c_void) {
    if !block.is_null()
        && let Some(lane) = lane::of_this_thread(guard)
    {
        python::notice_end(guard);
        lane.writer.free(guard, kind, block as u64);
    }
}

/// The last `freeing` or `unmapping` did not happen.
#[cold]
pub fn restored(guard: &Guard) {
    record(guard, &Record::Restore(Restore));
}

/// A mapping was made.
pub fn mapped(guard: &Guard, address: *mut c_void, len: usize, prot: i32, flags: i32, is_arena: bool) {
    let Some(lane) = lane::of_this_thread(guard) else {
        return;
    };
    lane.stacks.chunks.mapped(address as usize);
    record_with_stack(guard, lane, |stack| {
        let (prot, flags) = (prot as u32, flags as u32);
        Record::Mmap(Mmap { address: address as u64, len: len as u64, prot, flags, is_arena, stack })
    });
}

/// A range is about to be unmapped, or moved.
pub fn unmapping(guard: &Guard, address: *mut c_void, len: usize, is_remap: bool) {
    python::notice_end(guard);
    if let Some(lane) = lane::of_this_thread(guard) {
        lane.stacks.unmapped(address as usize);
        if lane.stacks.have_native() {
            unwind::unmapped(guard, address as u64, len as u64);
        }
        lane.writer.record(guard, &Record::Munmap(Munmap { address: address as u64, len: len as u64, is_remap }));
    }
}

/// A mapping was moved or resized.
pub fn remapped(guard: &Guard, old: *mut c_void, new: *mut c_void, len: usize, flags: i32, is_arena: bool) {
    let Some(lane) = lane::of_this_thread(guard) else {
        return;
    };
    record_with_stack(guard, lane, |stack| {
        let (old_address, address, flags) = (old as u64, new as u64, flags as u32);
        Record::Mremap(Mremap { old_address, address, len: len as u64, flags, is_arena, stack })
    });
}

/// The interpreter made an object.
pub fn made(guard: &Guard, address: u64) {
    if let Some(lane) = lane::of_this_thread(guard) {
        record_with_stack(guard, lane, |stack| Record::Object(Object { address, made_by: Some(stack) }));
    }
}

/// The interpreter is about to destroy an object.
pub fn destroying(guard: &Guard, address: u64) {
    record(guard, &Record::Object(Object { address, made_by: None }));
}

/// A thread got a name.
pub fn named(guard: &Guard, pthread: usize, name: &[u8]) {
    record(guard, &Record::ThreadName(ThreadName { pthread: pthread as u64, name }));
}

fn record(guard: &Guard, record: &Record<'_>) {
    if let Some(lane) = lane::of_this_thread(guard) {
        lane.writer.record(guard, record);
    }
}

fn record_with_stack<'r>(guard: &Guard, lane: &mut Lane, make: impl FnOnce(u32) -> Record<'r>) {
    python::notice_changes(guard);
    let stack = lane.stacks.current(guard, &mut lane.writer, lane.caller);
    lane.writer.record(guard, &make(stack));
}
