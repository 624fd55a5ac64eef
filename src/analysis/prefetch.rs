//! Memory that is needed soon.
//!
//! # Safety
//! Harmless: a prefetch reads nothing that anyone sees, and the address is that of something borrowed.
#![allow(unsafe_code)]

/// Has the processor fetch the cache line at the beginning of `soon`, and goes on at once.
#[inline(always)]
pub fn prefetch<T>(soon: &T) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: see above.
    unsafe {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        _mm_prefetch::<_MM_HINT_T0>(std::ptr::from_ref(soon).cast());
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = soon;
}
