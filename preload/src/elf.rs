//! Symbols of loaded objects, found by reading their tables: `dlsym` takes the loader's lock, may allocate, and is one
//! of our hooks. Called at start-up and, from the `dlopen` and `dlsym` hooks, under the loader's own rules.
//!
//! # Safety
//! Dangerous: walks structures of the dynamic loader. We rely on the ELF and `link.h` layouts of x86-64, on the list
//! being unchanging while the first program starts (one thread), and later on `dl_iterate_phdr`, which holds the
//! loader's lock for us. Callers get addresses.

use core::ffi::{CStr, c_char, c_int, c_void};
use core::ptr;

use crate::{abi, real};

/// `struct link_map` of `link.h`, its public part.
#[repr(C)]
struct LinkMap {
    base: usize,
    name: *const c_char,
    dynamic: *const Dynamic,
    next: *const LinkMap,
    previous: *const LinkMap,
}

/// `struct r_debug` of `link.h`.
#[repr(C)]
struct RDebug {
    version: c_int,
    first: *const LinkMap,
}

#[repr(C)]
struct Dynamic {
    tag: i64,
    value: usize,
}

#[repr(C)]
struct Symbol {
    name: u32,
    info: u8,
    other: u8,
    section: u16,
    value: usize,
    size: usize,
}

const _: () = assert!(size_of::<Symbol>() == 24);

unsafe extern "C" {
    /// The loader's list of objects, in the order in which symbols are looked up.
    static _r_debug: RDebug;
    /// Upper end of the main thread's stack, as the loader found it.
    static __libc_stack_end: *const c_void;
    /// Our own dynamic section: which object of the list we are.
    #[link_name = "_DYNAMIC"]
    static OUR_DYNAMIC: Dynamic;
}

const DT_HASH: i64 = 4;
const DT_STRTAB: i64 = 5;
const DT_SYMTAB: i64 = 6;
const DT_GNU_HASH: i64 = 0x6fff_fef5;
const DT_VERSYM: i64 = 0x6fff_fff0;
/// In a symbol's version: not the default one.
const HIDDEN: u16 = 0x8000;
const STT_TLS: u8 = 6;
const STT_GNU_IFUNC: u8 = 10;

/// A loaded object.
#[derive(Clone, Copy)]
pub struct Object {
    base: usize,
    dynamic: *const Dynamic,
}

/// The address of `name` in the first object behind this library, as a program's own call would find it without us.
/// Only at start-up, or when the name is known to have been loaded with the program.
pub fn next_after_us(name: &CStr) -> Option<usize> {
    let mut is_behind = false;
    find_at_start(|object| {
        if is_behind {
            return object.symbol(name);
        }
        is_behind = ptr::eq(object.dynamic, &raw const OUR_DYNAMIC);
        None
    })
}

/// The first of the program's objects for which `look` finds something.
pub fn find_at_start<T>(mut look: impl FnMut(Object) -> Option<T>) -> Option<T> {
    // SAFETY: see the module's note. The nodes of objects that the program started with are never freed.
    let mut map = unsafe { (&raw const _r_debug).read().first };
    while !map.is_null() {
        // SAFETY: as above.
        let (object, next) = unsafe { (Object { base: (*map).base, dynamic: (*map).dynamic }, (*map).next) };
        if let Some(found) = look(object) {
            return Some(found);
        }
        map = next;
    }
    None
}

type IteratePhdr =
    unsafe extern "C" fn(unsafe extern "C" fn(*mut abi::PhdrInfo, usize, *mut c_void) -> c_int, *mut c_void) -> c_int;

/// Sees to it that an object which [`find_now`] named is whole and stays: waits until whoever is just loading it has
/// relocated and initialised it, and keeps `dlclose` from unloading it. `false` when it is gone already.
pub fn pin(name: &CStr) -> bool {
    type Open = unsafe extern "C" fn(*const c_char, c_int) -> *mut c_void;
    // The program itself has no name, and stays.
    if name.is_empty() {
        return true;
    }
    let address = real::DLOPEN.address();
    // SAFETY: the address is that of libc's function of this type. Without loading, the caller does not matter.
    unsafe {
        let open = core::mem::transmute::<usize, Open>(address);
        !open(name.as_ptr(), abi::RTLD_LAZY | abi::RTLD_NOLOAD | abi::RTLD_NODELETE).is_null()
    }
}

/// Like [`find_at_start`], while other threads may load and unload: takes the loader's lock, so only where the program
/// itself is about to take it.
pub fn find_now<T>(mut look: impl FnMut(Object, &CStr) -> Option<T>) -> Option<T> {
    struct Search<'a, T> {
        look: &'a mut dyn FnMut(Object, &CStr) -> Option<T>,
        found: Option<T>,
    }
    unsafe extern "C" fn visit<T>(info: *mut abi::PhdrInfo, _: usize, search: *mut c_void) -> c_int {
        // SAFETY: `search` is the structure below; the loader's structures are whole during the call.
        unsafe {
            let search = &mut *search.cast::<Search<'_, T>>();
            let base = (*info).base;
            for index in 0..(*info).n_segments as usize {
                let segment = &*(*info).segments.add(index);
                if segment.kind == abi::PT_DYNAMIC {
                    let dynamic = (base + segment.address as usize) as *const Dynamic;
                    let name = if (*info).name.is_null() { c"" } else { CStr::from_ptr((*info).name) };
                    search.found = (search.look)(Object { base, dynamic }, name);
                }
            }
            search.found.is_some() as c_int
        }
    }
    let iterate = next_after_us(c"dl_iterate_phdr")?;
    let mut search = Search { look: &mut look, found: None };
    // SAFETY: the address is that of libc's function of this type.
    unsafe {
        let iterate: IteratePhdr = core::mem::transmute(iterate);
        iterate(visit::<T>, (&raw mut search).cast());
    }
    search.found
}

/// The upper end of the main thread's stack.
pub fn main_stack_end() -> usize {
    // SAFETY: a word of the loader, set before any program code runs.
    unsafe { __libc_stack_end as usize }
}

impl Object {
    /// The address of the symbol in its default version.
    pub fn symbol(&self, name: &CStr) -> Option<usize> {
        let (mut gnu_hash, mut hash, mut strings, mut symbols, mut versions) = (0, 0, 0, 0, 0);
        let mut entry = self.dynamic;
        if entry.is_null() {
            return None;
        }
        // SAFETY: the section ends with a null tag.
        unsafe {
            while (*entry).tag != 0 {
                match (*entry).tag {
                    DT_GNU_HASH => gnu_hash = self.address((*entry).value),
                    DT_HASH => hash = self.address((*entry).value),
                    DT_STRTAB => strings = self.address((*entry).value),
                    DT_SYMTAB => symbols = self.address((*entry).value),
                    DT_VERSYM => versions = self.address((*entry).value),
                    _ => {}
                }
                entry = entry.add(1);
            }
        }
        if strings == 0 || symbols == 0 {
            return None;
        }
        let tables = Tables { strings, symbols, versions };
        let index = match (gnu_hash, hash) {
            (0, 0) => return None,
            (0, hash) => tables.find_by_scan(hash, name)?,
            (gnu_hash, _) => tables.find_by_gnu_hash(gnu_hash, name)?,
        };
        // SAFETY: the index came out of the object's own tables.
        let symbol = unsafe { &*(symbols as *const Symbol).add(index) };
        Some(self.base + symbol.value)
    }

    /// The loader makes these pointers absolute in most objects, but not in the vDSO.
    fn address(&self, value: usize) -> usize {
        if value < self.base { value + self.base } else { value }
    }
}

struct Tables {
    strings: usize,
    symbols: usize,
    versions: usize,
}

impl Tables {
    fn is(&self, index: usize, name: &CStr) -> bool {
        // SAFETY: the index is below the table's length.
        unsafe {
            let symbol = &*(self.symbols as *const Symbol).add(index);
            let kind = symbol.info & 0xf;
            let is_default = self.versions == 0 || *(self.versions as *const u16).add(index) & HIDDEN == 0;
            let is_usable = symbol.section != 0 && kind != STT_TLS && kind != STT_GNU_IFUNC;
            is_default && is_usable && CStr::from_ptr((self.strings + symbol.name as usize) as *const c_char) == name
        }
    }

    /// `DT_HASH` is only used for its count of symbols: the few objects that have nothing else are small.
    fn find_by_scan(&self, hash: usize, name: &CStr) -> Option<usize> {
        // SAFETY: the second word of the table is the number of symbols.
        let n_symbols = unsafe { *(hash as *const u32).add(1) } as usize;
        (1..n_symbols).find(|index| self.is(*index, name))
    }

    fn find_by_gnu_hash(&self, table: usize, name: &CStr) -> Option<usize> {
        let hash = name.to_bytes().iter().fold(5381u32, |hash, byte| hash.wrapping_mul(33).wrapping_add(*byte as u32));
        // SAFETY: header (buckets, first symbol, filter words, shift), filter of 64-bit words, buckets, chains; a chain
        // ends with an odd entry.
        unsafe {
            let header = table as *const u32;
            let (n_buckets, first, n_filter) = (*header, *header.add(1) as usize, *header.add(2) as usize);
            if n_buckets == 0 {
                return None;
            }
            let buckets = header.add(4 + 2 * n_filter);
            let chains = buckets.add(n_buckets as usize);
            let mut index = *buckets.add((hash % n_buckets) as usize) as usize;
            if index < first {
                return None;
            }
            loop {
                let entry = *chains.add(index - first);
                if entry | 1 == hash | 1 && self.is(index, name) {
                    return Some(index);
                }
                if entry & 1 != 0 {
                    return None;
                }
                index += 1;
            }
        }
    }
}
