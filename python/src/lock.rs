//! Locks that nobody leaves half done: what is behind one is used, whatever became of whoever had it.

use std::sync::{Mutex, MutexGuard, PoisonError};

/// Waits for what is behind a lock.
pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
