//! The environment: our variables out of it when a program starts, and into a copy of it when the program replaces
//! itself by exec. The program must see the environment that it would have had.
//!
//! # Safety
//! Dangerous: the environment is an array of C strings that belongs to the program. It is changed once, in place,
//! before the program's own code runs; later it is only read, as libc's exec functions do.

use core::ffi::{CStr, c_char};
use core::ptr::{self, NonNull};
use core::sync::atomic::{AtomicBool, AtomicPtr, Ordering};

use memtrace_format::options::{CAPTURE_VAR, OPTIONS_VAR, RecordOptions, SELF_CHECK_VAR, USER_PRELOAD_VAR};

use crate::guard::Guard;
use crate::{lane, lifecycle, sink, sys};

unsafe extern "C" {
    /// libc's pointer to the environment.
    static mut environ: *mut *mut c_char;
}

const PRELOAD_VAR: &str = "LD_PRELOAD";
/// Room for our library's path.
const MAX_SHIM_PATH: usize = 4096;
/// Room for a variable's name, "=", and what little else stands beside paths.
const ROOM: usize = 64;

/// What the launcher asked for.
pub struct Request {
    pub capture: &'static CStr,
    pub options: RecordOptions,
}

/// What an exec needs to ask the same of the next image, and what cleaning needs to know.
struct Kept {
    /// Path of this library, where programs that we start find it: a C string that stays. Null when there is none.
    shim: AtomicPtr<c_char>,
    is_self_check: AtomicBool,
    /// The environment holds variables of ours.
    is_requested: AtomicBool,
}

static KEPT: Kept = Kept {
    shim: AtomicPtr::new(ptr::null_mut()),
    is_self_check: AtomicBool::new(false),
    is_requested: AtomicBool::new(false),
};

/// The program's environment now; null before libc is there.
pub fn current() -> *mut *mut c_char {
    // SAFETY: reads a pointer.
    unsafe { environ }
}

/// Whether the user asked for every stack to be compared with the interpreter's own account.
pub fn is_self_check() -> bool {
    KEPT.is_self_check.load(Ordering::Relaxed)
}

/// What the launcher asked for; `None` when it asked for nothing. Only reads: a library's constructor may be in the
/// middle of changing the environment.
pub fn read_request(environment: *mut *mut c_char) -> Option<Request> {
    let capture = find(environment, CAPTURE_VAR)?;
    let options = find(environment, OPTIONS_VAR)?;
    let preload = find(environment, PRELOAD_VAR)?;
    KEPT.is_requested.store(true, Ordering::Relaxed);
    let is_self_check = find(environment, SELF_CHECK_VAR).is_some_and(|it| it.value == c"1");
    KEPT.is_self_check.store(is_self_check, Ordering::Relaxed);
    // Ours is the first one.
    keep_shim(preload.value.to_bytes().split(|byte| matches!(byte, b':' | b' ')).next().unwrap_or(&[]));
    let bits = options.value.to_bytes().iter().try_fold(0u32, |bits, byte| {
        byte.is_ascii_digit().then(|| bits.wrapping_mul(10).wrapping_add((byte - b'0') as u32))
    })?;
    Some(Request { capture: capture.value, options: RecordOptions::from_bits(bits) })
}

/// Takes our variables out and puts the user's LD_PRELOAD back, if there was a request. Just before the program's own
/// code runs.
pub fn clean(environment: *mut *mut c_char) {
    if KEPT.is_requested.load(Ordering::Relaxed) {
        remove(environment, CAPTURE_VAR);
        remove(environment, OPTIONS_VAR);
        restore_preload(environment);
    }
}

/// Path of this library, or "".
fn shim_path() -> &'static CStr {
    let shim = KEPT.shim.load(Ordering::Acquire);
    // SAFETY: null, or a C string that stays.
    if shim.is_null() { c"" } else { unsafe { CStr::from_ptr(shim) } }
}

/// Whether the next image of the process will find this library and the log: not after a chroot, or without the rights
/// that it started with.
pub fn is_reachable() -> bool {
    let is_there = |opened: Result<i32, sys::Errno>| opened.map(sys::close).is_ok();
    is_there(sys::open_read(shim_path())) && is_there(sys::open_read_write(log_path()))
}

/// Path of the log.
fn log_path() -> &'static CStr {
    sink::file::current().map_or(c"", |log| log.path())
}

/// Programs that are started from now on find this library there. (Threads may be reading the path from before, so that
/// stays as it is.)
pub fn keep_shim(path: &[u8]) {
    if path.len() >= MAX_SHIM_PATH || path == shim_path().to_bytes() {
        return;
    }
    if let Ok(place) = sys::map_anonymous(MAX_SHIM_PATH) {
        // SAFETY: the memory is longer than the path, zeroed, and stays.
        unsafe { append(place.as_ptr(), path) };
        KEPT.shim.store(place.as_ptr().cast(), Ordering::Release);
    }
}

/// `MEMTRACE_LD_PRELOAD=x` becomes `LD_PRELOAD=x` in the place where ours was.
fn restore_preload(environment: *mut *mut c_char) {
    let Some(users) = find(environment, USER_PRELOAD_VAR) else {
        remove(environment, PRELOAD_VAR);
        return;
    };
    let prefix_len = USER_PRELOAD_VAR.len() - PRELOAD_VAR.len();
    // The entry ends in "LD_PRELOAD=x".
    // SAFETY: the prefix is part of the entry.
    let restored = unsafe { users.entry.add(prefix_len) };
    match find(environment, PRELOAD_VAR) {
        Some(ours) => {
            // SAFETY: the place holds an entry of the environment.
            unsafe { *environment.add(ours.index) = restored };
            remove(environment, USER_PRELOAD_VAR);
        }
        // SAFETY: as above.
        None => unsafe { *environment.add(users.index) = restored },
    }
}

struct Variable {
    index: usize,
    entry: *mut c_char,
    value: &'static CStr,
}

fn find(environment: *mut *mut c_char, name: &str) -> Option<Variable> {
    let mut index = 0;
    loop {
        // SAFETY: the array ends with a null pointer and we stop there.
        let entry = unsafe { *environment.add(index) };
        if entry.is_null() {
            return None;
        }
        // SAFETY: entries are C strings that stay where they are.
        let text: &'static CStr = unsafe { CStr::from_ptr(entry) };
        if let Some(value) = value_of(text, name) {
            return Some(Variable { index, entry, value });
        }
        index += 1;
    }
}

fn value_of<'a>(entry: &'a CStr, name: &str) -> Option<&'a CStr> {
    let rest = entry.to_bytes_with_nul().strip_prefix(name.as_bytes())?.strip_prefix(b"=")?;
    CStr::from_bytes_with_nul(rest).ok()
}

fn remove(environment: *mut *mut c_char, name: &str) {
    while let Some(variable) = find(environment, name) {
        let mut index = variable.index;
        loop {
            // SAFETY: `index` is before the final null, so the next place exists.
            let next = unsafe { *environment.add(index + 1) };
            // SAFETY: as above.
            unsafe { *environment.add(index) = next };
            if next.is_null() {
                break;
            }
            index += 1;
        }
    }
}

/// A copy of an environment with our request in it. An exec that succeeds never comes back, and otherwise it is freed.
pub struct WithRequest {
    memory: NonNull<u8>,
    len: usize,
    /// It belongs to the thread, for the next time.
    is_kept: bool,
    /// So many of its variables are the request; they come first.
    n_ours: usize,
}

/// Zeroed memory for a request. A child of vfork has its parent's memory, and what it leaves behind there would never be
/// freed: so it uses some of the thread's that waits for it, which is there the next time.
fn room(len: usize) -> Option<(NonNull<u8>, bool)> {
    if lifecycle::is_recording()
        && sys::pid() != lifecycle::pid()
        && let Some(guard) = Guard::enter()
        && let Some(lane) = lane::at_hand(&guard)
        && lane.request.grow(len)
    {
        let memory = lane.request.tail_mut(0)?;
        memory.fill(0);
        return NonNull::new(memory.as_mut_ptr()).map(|memory| (memory, true));
    }
    Some((sys::map_anonymous(len).ok()?, false))
}

impl WithRequest {
    /// `None` when there is no memory, or nothing to ask for.
    ///
    /// # Safety
    /// `environment` is null or an array of C strings that ends with a null pointer.
    pub unsafe fn new(environment: *const *const c_char) -> Option<WithRequest> {
        let count = |environment: *const *const c_char| {
            let mut n = 0;
            // SAFETY: the array ends with a null pointer.
            while !environment.is_null() && unsafe { !(*environment.add(n)).is_null() } {
                n += 1;
            }
            n
        };
        let n_entries = count(environment);
        let mut users = None;
        for index in 0..n_entries {
            // SAFETY: entries are C strings.
            let entry = unsafe { CStr::from_ptr(*environment.add(index)) };
            if let Some(value) = value_of(entry, PRELOAD_VAR) {
                users = Some((index, value));
                break;
            }
        }
        let users_len = users.map_or(0, |(_, value)| value.count_bytes());
        let pointers = (n_entries + 4) * size_of::<*const c_char>();
        let text = 2 * (users_len + MAX_SHIM_PATH + ROOM) + sink::file::MAX_PATH + 2 * ROOM;
        let len = (pointers + text).next_multiple_of(4096);
        let (memory, is_kept) = room(len)?;
        let result = WithRequest { memory, len, is_kept, n_ours: 3 + usize::from(users.is_some()) };
        let array = memory.as_ptr().cast::<*const c_char>();
        let mut n = 0;
        let mut push = |entry: *const c_char| {
            // SAFETY: there are `n_entries + 4` places, and the last one stays null.
            unsafe { *array.add(n) = entry };
            n += 1;
        };
        // SAFETY: `text` bytes behind the pointers belong to the mapping: enough for the four strings and their names.
        unsafe {
            let mut end = memory.as_ptr().add(pointers);
            let mut entry = |name: &str, parts: [&[u8]; 3]| {
                let start = end;
                end = append(append(end, name.as_bytes()), b"=");
                for part in parts {
                    end = append(end, part);
                }
                // The mapping is zeroed, so the string has its end.
                end = end.add(1);
                push(start.cast());
            };
            let bits = lifecycle::options().to_bits();
            let digits = [bits / 10 % 10, bits % 10].map(|digit| b'0' + digit as u8);
            let users = users.map(|(index, value)| (index, value.to_bytes()));
            entry(CAPTURE_VAR, [log_path().to_bytes(), b"", b""]);
            entry(OPTIONS_VAR, [&digits, b"", b""]);
            match users {
                None => entry(PRELOAD_VAR, [shim_path().to_bytes(), b"", b""]),
                Some((_, value)) => {
                    entry(PRELOAD_VAR, [shim_path().to_bytes(), b":", value]);
                    entry(USER_PRELOAD_VAR, [value, b"", b""]);
                }
            }
            for index in (0..n_entries).filter(|index| users.is_none_or(|(taken, _)| taken != *index)) {
                push(*environment.add(index));
            }
        }
        Some(result)
    }

    /// The variables of the request.
    pub fn ours(&self) -> impl Iterator<Item = &CStr> {
        // SAFETY: so many entries were put there, each a C string behind the array.
        (0..self.n_ours).map(|index| unsafe { CStr::from_ptr(*self.as_ptr().add(index)) })
    }

    pub fn as_ptr(&self) -> *const *const c_char {
        self.memory.as_ptr().cast_const().cast()
    }
}

impl Drop for WithRequest {
    fn drop(&mut self) {
        if !self.is_kept {
            // SAFETY: the exec failed, or the child has begun, and nobody else knows the memory.
            unsafe { sys::unmap(self.memory, self.len) };
        }
    }
}

/// Copies `bytes` to `place`; where they end.
///
/// # Safety
/// There is room.
unsafe fn append(place: *mut u8, bytes: &[u8]) -> *mut u8 {
    // SAFETY: as the caller says.
    unsafe {
        ptr::copy_nonoverlapping(bytes.as_ptr(), place, bytes.len());
        place.add(bytes.len())
    }
}

/// The folders that `execvp` searches.
pub fn path_variable() -> &'static [u8] {
    let environment = current();
    if environment.is_null() {
        return b"/bin:/usr/bin";
    }
    find(environment, "PATH").map_or(b"/bin:/usr/bin", |variable| variable.value.to_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::ffi::CString;
    use std::string::String;
    use std::vec::Vec;

    fn array(entries: &[&str]) -> Vec<*mut c_char> {
        let entries = entries.iter().map(|entry| CString::new(*entry).unwrap().into_raw());
        entries.chain([ptr::null_mut()]).collect()
    }

    fn entries(array: *const *const c_char) -> Vec<String> {
        let pointers = (0..).map(|index| unsafe { *array.add(index) }).take_while(|entry| !entry.is_null());
        pointers.map(|entry| unsafe { CStr::from_ptr(entry) }.to_str().unwrap().into()).collect()
    }

    #[test]
    fn the_program_sees_its_own_environment_and_an_exec_asks_again() {
        let mut given = array(&[
            "A=1",
            "LD_PRELOAD=/lib/ours.so:/lib/theirs.so",
            "MEMTRACE_CAPTURE=/tmp/log",
            "MEMTRACE_OPTIONS=1",
            "B=2",
            "MEMTRACE_LD_PRELOAD=/lib/theirs.so",
        ]);
        let request = read_request(given.as_mut_ptr()).unwrap();
        assert_eq!(request.capture, c"/tmp/log");
        assert!(request.options.python_allocators);
        clean(given.as_mut_ptr());
        let seen = given.as_ptr().cast::<*const c_char>();
        assert_eq!(entries(seen), ["A=1", "LD_PRELOAD=/lib/theirs.so", "B=2"]);

        let again = unsafe { WithRequest::new(seen) }.unwrap();
        let expected = [
            "MEMTRACE_CAPTURE=",
            "MEMTRACE_OPTIONS=00",
            "LD_PRELOAD=/lib/ours.so:/lib/theirs.so",
            "MEMTRACE_LD_PRELOAD=/lib/theirs.so",
            "A=1",
            "B=2",
        ];
        assert_eq!(entries(again.as_ptr()), expected);
        assert_eq!(again.ours().map(|entry| entry.to_str().unwrap()).collect::<Vec<_>>(), expected[..4]);

        let scrubbed = unsafe { WithRequest::new(ptr::null()) }.unwrap();
        assert_eq!(entries(scrubbed.as_ptr()), ["MEMTRACE_CAPTURE=", "MEMTRACE_OPTIONS=00", "LD_PRELOAD=/lib/ours.so"]);
    }

    #[test]
    fn an_environment_without_a_request_stays_as_it_is() {
        let mut given = array(&["A=1", "LD_PRELOAD=/lib/theirs.so"]);
        assert!(read_request(given.as_mut_ptr()).is_none());
        assert_eq!(entries(given.as_ptr().cast()), ["A=1", "LD_PRELOAD=/lib/theirs.so"]);
    }
}
