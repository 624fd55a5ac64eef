//! Taking references to objects of which only the addresses are known: to those that are alive, and not to those whose
//! destruction has begun.
//!
//! With a GIL, whoever has it decides alone. A free-threaded build splits the count: one half is the owner's, changed
//! without atomic operations, the other one everybody's. An owner whose half reaches zero looks at the other one, and when
//! nothing was ever there the object is destroyed at once, whatever comes there afterwards. So a reference is counted in
//! that half first, all threads pass a barrier, and then the owner's half tells: when it is not zero by now, the owner will
//! find the reference.
//!
//! # Safety
//! Dangerous: reads and changes the counts of objects. We rely on the layout of `struct _object` (`Include/object.h`) of
//! CPython 3.13 to 3.15, with and without GIL; on the caller, who keeps the memory of all these objects from being given
//! back meanwhile; and, with a GIL, on the caller having it.

use core::mem::transmute;
use core::sync::atomic::{AtomicI64, AtomicU32, AtomicU64, Ordering};

use crate::lane;

/// What was found out about an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Taken {
    /// There is a reference to it now.
    Yes,
    /// There is, if [`is_held`] says so after a barrier in all threads.
    Perhaps,
    /// It is being destroyed.
    No,
}

/// `Py_IncRef`
type IncRef = unsafe extern "C" fn(usize);

/// `ob_tid`, the owner: its thread pointer; 0 when the halves were merged.
const OWNER: usize = 0;
/// `ob_ref_local`, the owner's half…
const LOCAL: usize = 12;
/// …which says that the object lives for ever.
const IMMORTAL: u32 = u32::MAX;
/// `ob_ref_shared`, everybody's half: the count in units of [`ONE`], and below it what was done.
const SHARED: usize = 16;
const ONE: i64 = 4;
const FLAGS: i64 = 3;
/// The owner's half is part of this one.
const MERGED: i64 = 3;

/// Takes a reference to an object of a build with a GIL.
///
/// # Safety
/// See the module's note. `inc_ref` is the address of that function.
pub unsafe fn take(object: u64, inc_ref: usize) -> Taken {
    // SAFETY: the first word of an object. Below its count there are 16 bits for an overflow from 3.14 on; an object
    // that waits for its destruction has the address of another one there (`_PyTrash_thread_deposit_object`).
    let count = unsafe { *(object as *const u64) };
    if count as u32 == 0 || count >> 32 & 0xffff != 0 {
        return Taken::No;
    }
    // SAFETY: as the caller says; the object is alive.
    unsafe { transmute::<usize, IncRef>(inc_ref)(object as usize) };
    Taken::Yes
}

/// Takes a reference to an object of a free-threaded build.
///
/// # Safety
/// See the module's note. `inc_ref` is the address of `Py_IncRef`.
pub unsafe fn take_shared(object: u64, inc_ref: usize) -> Taken {
    // SAFETY: as the caller says, these are fields of an object that others change atomically.
    let (owner, local, shared) = unsafe {
        let place = object as *mut u8;
        (
            AtomicU64::from_ptr(place.add(OWNER).cast()),
            AtomicU32::from_ptr(place.add(LOCAL).cast()),
            AtomicI64::from_ptr(place.add(SHARED).cast()),
        )
    };
    match local.load(Ordering::Relaxed) {
        IMMORTAL => return Taken::Yes,
        0 => {}
        _ if owner.load(Ordering::Relaxed) == lane::thread_pointer() as u64 => {
            // SAFETY: the object is alive, and this thread's.
            unsafe { transmute::<usize, IncRef>(inc_ref)(object as usize) };
            return Taken::Yes;
        }
        _ => {}
    }
    let before = shared.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |now| {
        // All references are gone, and somebody is destroying it.
        if now == MERGED { None } else { Some(now + ONE) }
    });
    match before {
        Err(_) => Taken::No,
        Ok(0) => Taken::Perhaps,
        Ok(_) => Taken::Yes,
    }
}

/// Whether a reference that was taken perhaps is one. If not, the object goes, with a count that nobody looks at.
///
/// # Safety
/// See the module's note.
pub unsafe fn is_held(object: u64) -> bool {
    // SAFETY: as in `take_shared`.
    let (local, shared) = unsafe {
        let place = object as *mut u8;
        (AtomicU32::from_ptr(place.add(LOCAL).cast()), AtomicI64::from_ptr(place.add(SHARED).cast()))
    };
    local.load(Ordering::Acquire) != 0 || shared.load(Ordering::Acquire) & FLAGS == MERGED
}

#[cfg(test)]
mod tests {
    use super::*;

    #[repr(C, align(16))]
    struct Object([u64; 4]);

    unsafe extern "C" fn inc_ref(object: usize) {
        // SAFETY: an object of these tests.
        unsafe { *(object as *mut u64) += 1 };
    }

    fn take_of(first_word: u64) -> (Taken, u64) {
        let object = Object([first_word, 0, 0, 0]);
        let address = &raw const object as u64;
        // SAFETY: it looks like an object, and is this thread's.
        (unsafe { take(address, inc_ref as *const () as usize) }, object.0[0])
    }

    #[test]
    fn with_a_gil_what_waits_for_its_destruction_is_left_alone() {
        assert_eq!(take_of(3), (Taken::Yes, 4));
        assert_eq!(take_of(0), (Taken::No, 0));
        let flagged = 0x0001_0000_0000_0003;
        assert_eq!(take_of(flagged), (Taken::Yes, flagged + 1));
        assert_eq!(take_of(0x7f12_3456_7890), (Taken::No, 0x7f12_3456_7890));
    }

    fn take_shared_of(owner: u64, local: u32, shared: i64) -> (Taken, i64, bool) {
        let object = Object([owner, u64::from(local) << 32, shared as u64, 0]);
        let address = &raw const object as u64;
        // SAFETY: as above.
        let taken = unsafe { take_shared(address, inc_ref as *const () as usize) };
        // SAFETY: as above.
        (taken, object.0[2] as i64, unsafe { is_held(address) })
    }

    #[test]
    fn without_a_gil_a_reference_counts_when_the_owner_will_find_it() {
        const OTHER: u64 = 1;
        let own = lane::thread_pointer() as u64;
        assert_eq!(take_shared_of(own, 1, 0), (Taken::Yes, 0, true), "in the owner's half");
        assert_eq!(take_shared_of(OTHER, IMMORTAL, 0), (Taken::Yes, 0, true));
        assert_eq!(take_shared_of(OTHER, 1, 8), (Taken::Yes, 12, true));
        assert_eq!(take_shared_of(OTHER, 1, 1), (Taken::Yes, 5, true), "with weak references");
        assert_eq!(take_shared_of(0, 0, 4 | MERGED), (Taken::Yes, 8 | MERGED, true));
        assert_eq!(take_shared_of(0, 0, MERGED), (Taken::No, MERGED, true));
        assert_eq!(take_shared_of(OTHER, 1, 0), (Taken::Perhaps, 4, true));
        assert_eq!(take_shared_of(OTHER, 0, 0), (Taken::Perhaps, 4, false), "it is going");
    }
}
