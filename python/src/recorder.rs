//! The recorder's library in this process: found, or loaded now, and its C functions.
//!
//! # Safety
//! Dangerous: calls functions by addresses that the loader gives for names. We rely on the names being the recorder's
//! alone, which no other library has, and on their types being those of `preload/src/control.rs`. Callers get functions
//! that can be called at any time: what the recorder can't do it answers with a number.

#![allow(unsafe_code)]

use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::mem::transmute;
use std::path::Path;

use anyhow::{Context, Result, bail};
use memtrace_format::answer::{self, Survivor};
use pyo3::Python;

use crate::survivors::Held;

type Start = unsafe extern "C" fn(*const c_char, u32, *const c_char) -> c_int;
type Stop = extern "C" fn() -> c_int;
type IgnoreThread = extern "C" fn();
type NameThread = unsafe extern "C" fn(usize, *const c_char) -> c_int;
type BeginObjects = extern "C" fn() -> c_int;
type EndObjects = unsafe extern "C" fn(*mut *const Survivor) -> isize;

/// The functions of a library that is never unloaded.
#[derive(Clone, Copy)]
pub struct Recorder {
    start: Start,
    stop: Stop,
    ignore_thread: IgnoreThread,
    name_thread: NameThread,
    begin_objects: BeginObjects,
    end_objects: EndObjects,
}

impl Recorder {
    /// The one that is here already, from the start of the program or because somebody has attached to it, or else the
    /// library at `path`: two would be in each other's way.
    pub fn load(path: &Path) -> Result<Recorder> {
        if let Some(recorder) = Recorder::find(libc::RTLD_DEFAULT).or_else(Recorder::find_loaded) {
            return Ok(recorder);
        }
        let name =
            CString::new(path.as_os_str().as_encoded_bytes()).context("the path of the package has a zero byte")?;
        // SAFETY: a library of ours, whose constructor does nothing when it is loaded late.
        let library = unsafe { libc::dlopen(name.as_ptr(), libc::RTLD_NOW) };
        if library.is_null() {
            bail!("cannot load the recorder: {}", last_error());
        }
        Recorder::find(library).with_context(|| format!("{} is not the recorder of this package", path.display()))
    }

    fn find(library: *mut c_void) -> Option<Recorder> {
        let names = [
            c"memtrace_start",
            c"memtrace_stop",
            c"memtrace_ignore_thread",
            c"memtrace_name_thread",
            c"memtrace_begin_objects",
            c"memtrace_end_objects",
        ];
        let [start, stop, ignore_thread, name_thread, begin_objects, end_objects] =
            names.map(|name| address(library, name));
        // SAFETY: the functions have these types.
        unsafe {
            Some(Recorder {
                start: transmute::<*mut c_void, Start>(start?),
                stop: transmute::<*mut c_void, Stop>(stop?),
                ignore_thread: transmute::<*mut c_void, IgnoreThread>(ignore_thread?),
                name_thread: transmute::<*mut c_void, NameThread>(name_thread?),
                begin_objects: transmute::<*mut c_void, BeginObjects>(begin_objects?),
                end_objects: transmute::<*mut c_void, EndObjects>(end_objects?),
            })
        }
    }

    /// Among all libraries, whatever they are called: one that came by attaching has the name of a descriptor.
    fn find_loaded() -> Option<Recorder> {
        loaded_names().iter().filter(|name| !name.is_empty()).find_map(|name| {
            // SAFETY: loads nothing, and what is there stays for as long as we have the handle.
            let library = unsafe { libc::dlopen(name.as_ptr(), libc::RTLD_NOW | libc::RTLD_NOLOAD) };
            if library.is_null() {
                return None;
            }
            let found = Recorder::find(library);
            // SAFETY: the handle from above, given back once. The recorder itself is never unloaded.
            unsafe { libc::dlclose(library) };
            found
        })
    }

    /// Starts recording into a log that was made for this process; the answer is one of [`answer`].
    pub fn start(&self, log: &CStr, options: u32) -> i32 {
        // SAFETY: a C string, which is read before the function returns, and null.
        unsafe { (self.start)(log.as_ptr(), options, std::ptr::null()) }
    }

    /// Ends the recording.
    pub fn stop(&self) {
        while (self.stop)() == answer::BUSY {
            std::thread::yield_now();
        }
    }

    /// Begins to record lifetimes of objects, of a recording that has begun. `false` when that can't be.
    pub fn begin_objects(&self, _attached: Python<'_>) -> bool {
        (self.begin_objects)() == answer::DONE
    }

    /// Ends that, before the recording ends. Objects that were made since and live, in any order, each with a reference
    /// that is the caller's; `None` when that is not known. To be looked at before lifetimes are recorded again.
    pub fn end_objects(&self, _attached: Python<'_>) -> Option<Held<'static>> {
        let mut survivors = std::ptr::null();
        // SAFETY: a place for a pointer. The thread is attached to the interpreter.
        let len = unsafe { (self.end_objects)(&mut survivors) };
        let len = usize::try_from(len).ok()?;
        // SAFETY: so many are there, until the next beginning. Without any, the pointer may be anything.
        Some(Held(if len == 0 { &[] } else { unsafe { std::slice::from_raw_parts(survivors, len) } }))
    }

    /// Nothing that this thread does from now on is recorded. To be called by a thread's first function.
    pub fn ignore_thread(&self) {
        (self.ignore_thread)();
    }

    /// What the program calls a thread, by its `pthread_t`.
    pub fn name_thread(&self, thread: usize, name: &CStr) {
        // SAFETY: a C string, which is read before the function returns.
        unsafe { (self.name_thread)(thread, name.as_ptr()) };
    }
}

/// What the loader calls the objects that are loaded.
fn loaded_names() -> Vec<CString> {
    unsafe extern "C" fn note(info: *mut libc::dl_phdr_info, _: usize, names: *mut c_void) -> c_int {
        // SAFETY: the loader's description of an object, and the list that was handed over for us.
        let (info, names) = unsafe { (&*info, &mut *names.cast::<Vec<CString>>()) };
        if !info.dlpi_name.is_null() {
            // SAFETY: a name of the loader's, good for the time of this call.
            names.push(unsafe { CStr::from_ptr(info.dlpi_name) }.to_owned());
        }
        0
    }
    let mut names: Vec<CString> = Vec::new();
    // SAFETY: the function takes what it is given, and is called before this returns.
    unsafe { libc::dl_iterate_phdr(Some(note), (&raw mut names).cast()) };
    names
}

fn address(library: *mut c_void, name: &CStr) -> Option<*mut c_void> {
    // SAFETY: a look-up, by a handle that stays good or by one of the loader's constants.
    let address = unsafe { libc::dlsym(library, name.as_ptr()) };
    (!address.is_null()).then_some(address)
}

fn last_error() -> String {
    // SAFETY: asked right after a failure, by the thread that failed: a C string until its next call.
    let message = unsafe { libc::dlerror() };
    if message.is_null() {
        return "the loader gave no reason".to_string();
    }
    // SAFETY: as above.
    unsafe { CStr::from_ptr(message) }.to_string_lossy().into_owned()
}
