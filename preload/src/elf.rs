//! Symbols of loaded objects, found by reading their tables: `dlsym` takes the loader's lock, may allocate, and is one
//! of our hooks. Called at start-up and, from the `dlopen` and `dlsym` hooks, under the loader's own rules; and when this
//! library was loaded late, into a running program, at the start of a recording.
//!
//! # Safety
//! Dangerous: walks structures of the dynamic loader. We rely on the ELF and `link.h` layouts of x86-64, on the list
//! being unchanging while the first program starts (one thread), and later on `dl_iterate_phdr`, which holds the
//! loader's lock for us. Callers get addresses.

use core::ffi::{CStr, c_char, c_int, c_void};
use core::ops::Range;
use core::ptr;
use core::sync::atomic::{AtomicU32, Ordering};

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

const DT_PLTRELSZ: i64 = 2;
const DT_HASH: i64 = 4;
const DT_STRTAB: i64 = 5;
const DT_SYMTAB: i64 = 6;
const DT_RELA: i64 = 7;
const DT_RELASZ: i64 = 8;
const DT_JMPREL: i64 = 23;
const DT_GNU_HASH: i64 = 0x6fff_fef5;
const DT_VERSYM: i64 = 0x6fff_fff0;
/// In a symbol's version: not the default one.
const HIDDEN: u16 = 0x8000;
const R_X86_64_64: u32 = 1;
const R_X86_64_GLOB_DAT: u32 = 6;
const R_X86_64_JUMP_SLOT: u32 = 7;
const STT_TLS: u8 = 6;
const STT_GNU_IFUNC: u8 = 10;

/// A loaded object.
#[derive(Clone, Copy)]
pub struct Object {
    base: usize,
    dynamic: *const Dynamic,
}

/// `Elf64_Rela`: a word of an object that the loader fills.
#[repr(C)]
pub struct Relocation {
    offset: usize,
    kind: u32,
    symbol: u32,
    addend: i64,
}

const _: () = assert!(size_of::<Relocation>() == 24);

/// Whether this library was loaded into a running program, behind everything that the program started with: then
/// nobody's calls come here by themselves, and what the program calls is found from the front.
pub fn is_late() -> bool {
    const UNKNOWN: u32 = 0;
    const AT_START: u32 = 1;
    const LATE: u32 = 2;
    static WHEN: AtomicU32 = AtomicU32::new(UNKNOWN);
    match WHEN.load(Ordering::Relaxed) {
        // First asked by a single thread, or by our constructor, while the loader has its lock.
        UNKNOWN => {
            let is_late = behind_us(c"malloc").is_none();
            WHEN.store(if is_late { LATE } else { AT_START }, Ordering::Relaxed);
            is_late
        }
        when => when == LATE,
    }
}

/// The address of `name` as a program's own call would find it without us. Only at start-up, or when the name is known
/// to have been loaded with the program; in a library that was loaded late, where the loader's lock may be taken.
pub fn next(name: &CStr) -> Option<usize> {
    if is_late() {
        find_now(|loaded| loaded.object.symbol(name).filter(|_| !loaded.object.is_us()))
    } else {
        behind_us(name)
    }
}

/// The address of `name` in the first object behind this library.
fn behind_us(name: &CStr) -> Option<usize> {
    let mut is_behind = false;
    find_at_start(|object| {
        if is_behind {
            return object.symbol(name);
        }
        is_behind = object.is_us();
        None
    })
}

/// The program itself: a variable that it shares with a library may be in it.
pub fn program() -> Option<Object> {
    find_at_start(Some)
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

/// An object as the loader describes it. Its structures are whole as long as it is looked at.
pub struct Loaded<'a> {
    pub object: Object,
    /// Empty for the program itself.
    pub name: &'a CStr,
    pub segments: &'a [abi::ProgramHeader],
    /// Objects that were ever loaded.
    pub n_loads: u64,
}

/// Like [`find_at_start`], while other threads may load and unload: takes the loader's lock, so only where the program
/// itself is about to take it, or none of ours is held.
pub fn find_now<T>(mut look: impl FnMut(Loaded<'_>) -> Option<T>) -> Option<T> {
    struct Search<'a, T> {
        look: &'a mut dyn FnMut(Loaded<'_>) -> Option<T>,
        found: Option<T>,
    }
    unsafe extern "C" fn visit<T>(info: *mut abi::PhdrInfo, _: usize, search: *mut c_void) -> c_int {
        // SAFETY: `search` is the structure below; the loader's structures are whole during the call.
        unsafe {
            let search = &mut *search.cast::<Search<'_, T>>();
            let (base, n_loads) = ((*info).base, (*info).n_loads);
            let segments = core::slice::from_raw_parts((*info).segments, (*info).n_segments as usize);
            let name = if (*info).name.is_null() { c"" } else { CStr::from_ptr((*info).name) };
            if let Some(segment) = segments.iter().find(|segment| segment.kind == abi::PT_DYNAMIC) {
                let dynamic = (base + segment.address as usize) as *const Dynamic;
                search.found = (search.look)(Loaded { object: Object { base, dynamic }, name, segments, n_loads });
            }
            search.found.is_some() as c_int
        }
    }
    // It comes with libc, which the program started with.
    let iterate = find_at_start(|object| object.symbol(c"dl_iterate_phdr"))?;
    let mut search = Search { look: &mut look, found: None };
    // SAFETY: the address is that of libc's function of this type.
    unsafe {
        let iterate: IteratePhdr = core::mem::transmute(iterate);
        iterate(visit::<T>, (&raw mut search).cast());
    }
    search.found
}

/// Sees to it that an object which [`find_now`] named is whole and stays: waits until whoever is just loading it has
/// relocated and initialised it, and keeps `dlclose` from unloading it. `false` when it is gone already.
pub fn pin(name: &CStr) -> bool {
    // The program itself has no name, and stays.
    name.is_empty() || open_loaded(name.as_ptr(), abi::RTLD_NODELETE)
}

/// Waits until whoever is just loading objects has relocated and initialised them.
pub fn wait_for_loader() {
    // The program itself, which is there.
    open_loaded(ptr::null(), 0);
}

fn open_loaded(name: *const c_char, flags: c_int) -> bool {
    type Open = unsafe extern "C" fn(*const c_char, c_int) -> *mut c_void;
    let address = real::DLOPEN.address();
    // SAFETY: the address is that of libc's function of this type. Without loading, the caller does not matter.
    address != 0
        && unsafe {
            let open = core::mem::transmute::<usize, Open>(address);
            !open(name, abi::RTLD_LAZY | abi::RTLD_NOLOAD | flags).is_null()
        }
}

/// The upper end of the main thread's stack.
pub fn main_stack_end() -> usize {
    // SAFETY: a word of the loader, set before any program code runs.
    unsafe { __libc_stack_end as usize }
}

impl Object {
    /// Without symbols.
    pub const NONE: Object = Object { base: 0, dynamic: ptr::null() };

    /// Whether this is our library.
    pub fn is_us(&self) -> bool {
        ptr::eq(self.dynamic, &raw const OUR_DYNAMIC)
    }

    /// Whether this is the loader.
    pub fn is_loader(&self) -> bool {
        self.symbol(c"_r_debug") == Some(&raw const _r_debug as usize)
    }

    /// The values of some tags of the dynamic section; 0 for those that it has not.
    fn tags<const N: usize>(&self, tags: [i64; N]) -> [usize; N] {
        let mut values = [0; N];
        let mut entry = self.dynamic;
        // SAFETY: the section ends with a null tag.
        while !entry.is_null() && unsafe { (*entry).tag } != 0 {
            // SAFETY: as above.
            let Dynamic { tag, value } = unsafe { &*entry };
            for (wanted, place) in tags.iter().zip(&mut values) {
                if wanted == tag {
                    *place = *value;
                }
            }
            // SAFETY: as above.
            entry = unsafe { entry.add(1) };
        }
        values
    }

    /// The address of the symbol in its default version.
    pub fn symbol(&self, name: &CStr) -> Option<usize> {
        let tables = self.tables()?;
        let [gnu_hash, hash] = self.tags([DT_GNU_HASH, DT_HASH]);
        let index = match (gnu_hash, hash) {
            (0, 0) => return None,
            (0, hash) => tables.find_by_scan(self.address(hash), name)?,
            (gnu_hash, _) => tables.find_by_gnu_hash(self.address(gnu_hash), name)?,
        };
        // SAFETY: the index came out of the object's own tables.
        let symbol = unsafe { &*(tables.symbols as *const Symbol).add(index) };
        Some(self.base + symbol.value)
    }

    fn tables(&self) -> Option<Tables> {
        let [strings, symbols, versions] = self.tags([DT_STRTAB, DT_SYMTAB, DT_VERSYM]);
        if strings == 0 || symbols == 0 {
            return None;
        }
        let versions = if versions == 0 { 0 } else { self.address(versions) };
        Some(Tables { strings: self.address(strings), symbols: self.address(symbols), versions })
    }

    /// The words that the loader has filled, or fills at the first call: two tables of them.
    ///
    /// # Safety
    /// The object stays loaded as long as the tables are used.
    pub unsafe fn relocations<'a>(&self) -> [&'a [Relocation]; 2] {
        let [start, len, lazy, lazy_len] = self.tags([DT_RELA, DT_RELASZ, DT_JMPREL, DT_PLTRELSZ]);
        [(start, len), (lazy, lazy_len)].map(|(start, len)| match start {
            0 => &[][..],
            // SAFETY: the object says so, and it stays.
            start => unsafe {
                let start = self.address(start) as *const Relocation;
                core::slice::from_raw_parts(start, len / size_of::<Relocation>())
            },
        })
    }

    /// Where a relocation's word is.
    pub fn place(&self, relocation: &Relocation) -> *mut usize {
        (self.base + relocation.offset) as *mut usize
    }

    /// The name of a relocation's symbol, and its address if this object has it.
    ///
    /// # Safety
    /// The object stays loaded as long as the name is used.
    pub unsafe fn symbol_of<'a>(&self, relocation: &Relocation) -> Option<(&'a CStr, Option<usize>)> {
        let tables = self.tables()?;
        // SAFETY: the indices are the object's own.
        unsafe {
            let symbol = &*(tables.symbols as *const Symbol).add(relocation.symbol as usize);
            let name = CStr::from_ptr((tables.strings + symbol.name as usize) as *const c_char);
            Some((name, (symbol.section != 0).then(|| self.base + symbol.value)))
        }
    }

    /// The addresses of a segment.
    pub fn range(&self, segment: &abi::ProgramHeader) -> Range<usize> {
        let start = self.base + segment.address as usize;
        start..start + segment.memory_len as usize
    }

    /// The loader makes these pointers absolute in most objects, but not in the vDSO.
    fn address(&self, value: usize) -> usize {
        if value < self.base { value + self.base } else { value }
    }
}

impl Relocation {
    /// Whether the word is filled with the address of a symbol.
    pub fn is_address(&self) -> bool {
        matches!(self.kind, R_X86_64_64 | R_X86_64_GLOB_DAT | R_X86_64_JUMP_SLOT)
    }

    /// Whether the word leads to the loader until the first call.
    pub fn may_be_lazy(&self) -> bool {
        self.kind == R_X86_64_JUMP_SLOT
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
