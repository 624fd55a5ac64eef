//! The shim's own memory: growing arrays and tables over private mappings. Nothing here comes from the program's
//! allocator, and nothing is shrunk.
//!
//! # Safety
//! Dangerous: raw mappings used as arrays. Each array knows its capacity and checks every index against it; elements
//! are plain numbers for which any bytes, and so the mapping's zeroes, are a value.

use core::ptr::NonNull;

use crate::sys;

/// A number of 32 bits in which those of a key are mixed, for its place in a table (Fibonacci hashing). Keys that are
/// addresses come without the bits that alignment leaves zero.
#[inline(always)]
pub fn spread(key: u64) -> usize {
    (key.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32) as usize
}

/// Types for which all-zero bytes are a value, without destructors.
///
/// # Safety
/// Implementors promise exactly that.
pub unsafe trait Plain: Copy {}
// SAFETY: numbers.
unsafe impl Plain for u8 {}
// SAFETY: numbers.
unsafe impl Plain for u32 {}
// SAFETY: numbers.
unsafe impl Plain for u64 {}

/// Whole pages for so many elements.
fn bytes_of<T>(len: usize) -> Option<usize> {
    Some(len.checked_mul(size_of::<T>())?.checked_next_multiple_of(4096)?.max(4096))
}

/// An array that grows. All elements within the capacity exist, zero at first.
pub struct Array<T: Plain> {
    start: *mut T,
    capacity: usize,
}

impl<T: Plain> Array<T> {
    pub const fn new() -> Array<T> {
        Array { start: core::ptr::null_mut(), capacity: 0 }
    }

    /// Zeroed elements, at least `len` of them; `None` when the kernel has no memory.
    pub fn with_capacity(len: usize) -> Option<Array<T>> {
        Array::mapped(len, sys::map_anonymous)
    }

    /// The same with all pages there at once, for arrays that are used all over: each would be faulted in twice, when it
    /// is read and when it is written.
    pub fn populated(len: usize) -> Option<Array<T>> {
        Array::mapped(len, sys::map_populated)
    }

    fn mapped(len: usize, map: impl FnOnce(usize) -> Result<NonNull<u8>, sys::Errno>) -> Option<Array<T>> {
        let bytes = bytes_of::<T>(len)?;
        let start = map(bytes).ok()?;
        Some(Array { start: start.as_ptr().cast(), capacity: bytes / size_of::<T>() })
    }

    #[inline(always)]
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// Makes room for `len` elements and keeps those that are there. `false` when the kernel has no memory.
    #[inline(always)]
    pub fn grow(&mut self, len: usize) -> bool {
        len <= self.capacity || self.grow_to(len)
    }

    // The kernel moves the pages that were used, and those of a sparse array stay unused.
    #[cold]
    #[inline(never)]
    fn grow_to(&mut self, len: usize) -> bool {
        let len = len.max(self.capacity.saturating_mul(2));
        let Some(start) = NonNull::new(self.start.cast::<u8>()) else {
            let fresh = Array::with_capacity(len);
            let has_memory = fresh.is_some();
            *self = fresh.unwrap_or(Array::new());
            return has_memory;
        };
        let Some(bytes) = bytes_of::<T>(len) else { return false };
        // SAFETY: the array is the mapping's only user, and goes on where it was moved to.
        let Ok(start) = (unsafe { sys::grow(start, self.capacity * size_of::<T>(), bytes) }) else { return false };
        (self.start, self.capacity) = (start.as_ptr().cast(), bytes / size_of::<T>());
        true
    }

    /// The element, zero when the index is out of reach.
    #[inline(always)]
    pub fn get(&self, index: usize) -> Option<T> {
        // SAFETY: the index was checked.
        if index < self.capacity { Some(unsafe { *self.start.add(index) }) } else { None }
    }

    /// The element, to be changed.
    #[inline(always)]
    pub fn get_mut(&mut self, index: usize) -> Option<&mut T> {
        // SAFETY: the index was checked, and the array is borrowed exclusively.
        if index < self.capacity { Some(unsafe { &mut *self.start.add(index) }) } else { None }
    }

    #[inline(always)]
    pub fn set(&mut self, index: usize, value: T) {
        if let Some(place) = self.get_mut(index) {
            *place = value;
        }
    }

    /// The first `len` elements (fewer when there are fewer).
    #[inline(always)]
    pub fn slice(&self, len: usize) -> &[T] {
        if self.capacity == 0 {
            return &[];
        }
        // SAFETY: within the capacity every element exists.
        unsafe { core::slice::from_raw_parts(self.start, len.min(self.capacity)) }
    }

    /// The elements from `from` on; `None` when there are not so many.
    pub fn tail_mut(&mut self, from: usize) -> Option<&mut [T]> {
        if from > self.capacity || self.capacity == 0 {
            return None;
        }
        // SAFETY: within the capacity every element exists, and the array is borrowed exclusively.
        unsafe { core::slice::from_raw_parts_mut(self.start, self.capacity) }.get_mut(from..)
    }

    /// The first `len` elements.
    ///
    /// # Safety
    /// There are as many.
    #[inline(always)]
    pub unsafe fn first(&self, len: usize) -> &[T] {
        if len == 0 {
            return &[];
        }
        // SAFETY: within the capacity every element exists.
        unsafe { core::slice::from_raw_parts(self.start, len) }
    }

    /// As [`Array::first`], to change them.
    ///
    /// # Safety
    /// There are as many.
    #[inline(always)]
    pub unsafe fn first_mut(&mut self, len: usize) -> &mut [T] {
        if len == 0 {
            return &mut [];
        }
        // SAFETY: within the capacity every element exists, and the array is borrowed exclusively.
        unsafe { core::slice::from_raw_parts_mut(self.start, len) }
    }

    /// Gives the memory back.
    pub fn release(&mut self) {
        if let Some(start) = NonNull::new(self.start.cast::<u8>()) {
            // SAFETY: the array is the mapping's only user and forgets it.
            unsafe { sys::unmap(start, self.capacity * size_of::<T>()) };
        }
        *self = Array::new();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_array_keeps_what_is_in_it_and_is_zero_behind() {
        #[derive(Clone, Copy, Debug, PartialEq)]
        struct Three([u64; 3]);
        // SAFETY: numbers.
        unsafe impl Plain for Three {}
        let mut array = Array::<Three>::new();
        let mut len = 1;
        while len < 1 << 20 {
            assert!(array.grow(len));
            assert_eq!(array.get(len - 1), Some(Three([0; 3])));
            array.set(len - 1, Three([len as u64, 1, 2]));
            len = len * 3 / 2 + 1;
        }
        let found: Vec<u64> = array.slice(len).iter().map(|element| element.0[0]).filter(|first| *first != 0).collect();
        assert!(found.len() > 20 && found.is_sorted(), "{found:?}");
        assert!(!array.grow(usize::MAX / 2));
        array.release();
        assert_eq!(array.capacity(), 0);
    }
}
