//! A lock of one word, for what happens rarely: taking a lane, describing a code object, opening the log again.
//! It knows its owner, so that a thread which was thrown out of it (`siglongjmp`) can give it back. It must never be
//! taken without a [`Guard`], which keeps signal handlers of the owner out.
//!
//! # Safety
//! Dangerous: the value is reached through a shared reference. The owner word proves that one thread at a time has it.

use core::cell::UnsafeCell;
use core::ops::{Deref, DerefMut};
use core::sync::atomic::{AtomicU32, Ordering};

use crate::guard::Guard;
use crate::{lifecycle, sys};

/// A value that one thread uses at a time.
pub struct Lock<T> {
    /// The kernel's id of the thread that has it, or 0.
    owner: AtomicU32,
    value: UnsafeCell<T>,
}

// SAFETY: the owner word gives the value to one thread at a time.
unsafe impl<T> Sync for Lock<T> {}

impl<T> Lock<T> {
    pub const fn new(value: T) -> Lock<T> {
        Lock { owner: AtomicU32::new(0), value: UnsafeCell::new(value) }
    }

    /// Waits for the value.
    pub fn lock(&self, proof: &Guard) -> Locked<'_, T> {
        self.lock_as(sys::tid(), proof)
    }

    /// The same for who knows the kernel's id of this thread.
    pub fn lock_as(&self, me: u32, _proof: &Guard) -> Locked<'_, T> {
        let mut n_waits = 0u32;
        while self.owner.compare_exchange_weak(0, me, Ordering::Acquire, Ordering::Relaxed).is_err() {
            n_waits = n_waits.saturating_add(1);
            match n_waits {
                0..100 => core::hint::spin_loop(),
                100..200 => sys::yield_now(),
                // A real-time thread that only yields would keep an owner of lower priority from running.
                _ => {
                    sys::sleep_briefly();
                    self.release_if_owner_is_gone();
                }
            }
        }
        Locked { lock: self }
    }

    /// Where the value is.
    pub fn as_ptr(&self) -> *const T {
        self.value.get()
    }

    /// The value, whoever had it.
    ///
    /// # Safety
    /// The process has one thread, as after a fork, and no other reference into the value is used again.
    #[allow(clippy::mut_from_ref)]
    pub unsafe fn of_only_thread(&self) -> &mut T {
        // SAFETY: as the caller says.
        unsafe { &mut *self.value.get() }
    }

    /// Begins anew with another value, whoever had this one.
    ///
    /// # Safety
    /// Nobody has it, nor waits for it, but threads that are gone, as after a fork.
    pub unsafe fn reset(&self, value: T) {
        // The old value may be half changed, so nothing of it is looked at.
        // SAFETY: as the caller says.
        unsafe { self.value.get().write(value) };
        self.owner.store(0, Ordering::Release);
    }

    /// A thread that was cancelled inside never gives the value back.
    fn release_if_owner_is_gone(&self) {
        let owner = self.owner.load(Ordering::Relaxed);
        if owner != 0 && sys::is_thread_gone(lifecycle::pid(), owner) {
            let _ = self.owner.compare_exchange(owner, 0, Ordering::Release, Ordering::Relaxed);
        }
    }

    /// Gives the value back when this thread has it and the code that took it is gone.
    pub fn release_if_mine(&self) {
        let _ = self.owner.compare_exchange(sys::tid(), 0, Ordering::Release, Ordering::Relaxed);
    }
}

/// The value, until this goes out of scope.
pub struct Locked<'a, T> {
    lock: &'a Lock<T>,
}

impl<T> Deref for Locked<'_, T> {
    type Target = T;
    fn deref(&self) -> &T {
        // SAFETY: we own the lock.
        unsafe { &*self.lock.value.get() }
    }
}

impl<T> DerefMut for Locked<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: we own the lock, and the exclusive borrow says that this is the only use.
        unsafe { &mut *self.lock.value.get() }
    }
}

impl<T> Drop for Locked<'_, T> {
    fn drop(&mut self) {
        self.lock.owner.store(0, Ordering::Release);
    }
}

/// After a `siglongjmp` out of memtrace.
pub fn release_all_of_this_thread() {
    crate::lane::LANES.release_if_mine();
    crate::meta::release_locks_if_mine();
    crate::python::code::SHORT_TABLE.release_if_mine();
    crate::python::objects::release_lock_if_mine();
    crate::unwind::MODULES.release_if_mine();
    crate::sink::release_locks_if_mine();
}
