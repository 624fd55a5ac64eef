//! What hands out the objects of this interpreter, as CPython says it itself.
//!
//! # Safety
//! Dangerous: calls a function of CPython's that is not part of its stable interface, by the address that the loader has
//! for its name. We rely on its type, the same from 3.8 to 3.15 (`_PyMem_GetCurrentAllocatorName` in
//! `Objects/obmalloc.c`), and on the interpreter being initialised, which the token proves. Callers get a number.

#![allow(unsafe_code)]

use std::ffi::{CStr, c_char};
use std::mem::transmute;
use std::sync::OnceLock;

use memtrace::model::facts::PYTHON_ALLOCATORS;
use pyo3::Python;

type CurrentName = unsafe extern "C" fn() -> *const c_char;

/// The place of its name in [`PYTHON_ALLOCATORS`], 0 when it has none. Asked for once: later on it may be wrapped by the
/// recorder, and CPython does not know it any more.
pub fn current(_initialised: Python<'_>) -> u8 {
    static CURRENT: OnceLock<u8> = OnceLock::new();
    *CURRENT.get_or_init(|| {
        // SAFETY: a look-up among the libraries that are loaded.
        let function = unsafe { libc::dlsym(libc::RTLD_DEFAULT, c"_PyMem_GetCurrentAllocatorName".as_ptr()) };
        if function.is_null() {
            return 0;
        }
        // SAFETY: a function of this type, which reads what is there and gives a static text or nothing.
        let name = unsafe { transmute::<*mut libc::c_void, CurrentName>(function)() };
        if name.is_null() {
            return 0;
        }
        // SAFETY: a static C string.
        let name = unsafe { CStr::from_ptr(name) }.to_bytes();
        PYTHON_ALLOCATORS.iter().position(|known| known.as_bytes() == name).unwrap_or(0) as u8
    })
}
