//! What Rust's runtime changes before `main`, as it was before: read by `spawn` to give the program what we were given.
//! It must never allocate or call into std: nothing is initialised when it runs.
//!
//! # Safety
//!
//! A function in `.init_array` runs before `main`, on the only thread. It makes three system calls through libc and
//! stores their answers in atomics, which need no initialisation. Callers get plain questions.

#![allow(unsafe_code)]

use std::sync::atomic::{AtomicU32, Ordering};

const SIGPIPE_IGNORED: u32 = 1 << 8;

/// Bit n: descriptor n was closed. Above them [`SIGPIPE_IGNORED`].
static STATE: AtomicU32 = AtomicU32::new(0);

/// Whether SIGPIPE was ignored when we were started; std ignores it in any case.
pub fn is_sigpipe_ignored() -> bool {
    STATE.load(Ordering::Relaxed) & SIGPIPE_IGNORED != 0
}

/// Which of the descriptors 0 to 2 were closed when we were started; std opens `/dev/null` in their place.
pub fn closed_descriptors() -> impl Iterator<Item = i32> {
    let state = STATE.load(Ordering::Relaxed);
    (0..=2).filter(move |fd| state & 1 << fd != 0)
}

#[used]
// SAFETY: the section holds pointers to functions of this type, which the C runtime calls before `main`.
#[unsafe(link_section = ".init_array")]
static NOTE_STATE: extern "C" fn() = note_state;

extern "C" fn note_state() {
    let mut state = 0;
    for fd in 0..=2 {
        // SAFETY: F_GETFD takes no pointer and is harmless on any number.
        if unsafe { libc::fcntl(fd, libc::F_GETFD) } == -1 {
            state |= 1 << fd;
        }
    }
    let mut action = std::mem::MaybeUninit::<libc::sigaction>::zeroed();
    // SAFETY: with no new action the call only writes the old one into memory that is large enough for it.
    let old = unsafe {
        libc::sigaction(libc::SIGPIPE, std::ptr::null(), action.as_mut_ptr());
        action.assume_init()
    };
    if old.sa_sigaction == libc::SIG_IGN {
        state |= SIGPIPE_IGNORED;
    }
    STATE.store(state, Ordering::Relaxed);
}
