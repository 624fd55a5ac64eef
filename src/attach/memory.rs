//! Another process's memory: what is loaded in it, and where the functions of a name are. Everything is read from the
//! process itself and not from files, which may have been replaced since it started. Nothing that is read is believed:
//! every loop has an end.

use std::cell::RefCell;
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;

use nix::unistd::Pid;

/// More objects than anybody loads.
const MAX_OBJECTS: usize = 10_000;
const MAX_TAGS: u64 = 256;
const MAX_SEGMENTS: u64 = 64;
/// Symbols with one hash bucket.
const MAX_CHAIN: u64 = 100_000;

pub struct Memory {
    file: File,
    pid: Pid,
    /// Pages that were read, of what does not change.
    pages: RefCell<HashMap<u64, Box<[u8; PAGE]>>>,
}

const PAGE: usize = 4096;

/// A loaded object: the program, a library, the loader.
pub struct Object {
    /// Where the loader keeps what it knows of it.
    map: u64,
    base: u64,
    name: String,
    /// Where its segments are.
    pub range: Range<u64>,
    tags: Vec<(u64, u64)>,
}

const AT_BASE: u64 = 7;
const AT_PHDR: u64 = 3;
const PT_LOAD: u32 = 1;
const PT_DYNAMIC: u32 = 2;
const DT_STRTAB: u64 = 5;
const DT_SYMTAB: u64 = 6;
const DT_GNU_HASH: u64 = 0x6fff_fef5;
const DT_VERSYM: u64 = 0x6fff_fff0;

impl Memory {
    pub fn open(pid: Pid) -> io::Result<Memory> {
        let file = OpenOptions::new().read(true).write(true).open(format!("/proc/{pid}/mem"))?;
        Ok(Memory { file, pid, pages: RefCell::default() })
    }

    pub fn read<const N: usize>(&self, address: u64) -> io::Result<[u8; N]> {
        let mut bytes = [0; N];
        self.file.read_exact_at(&mut bytes, address)?;
        Ok(bytes)
    }

    pub fn word(&self, address: u64) -> io::Result<u64> {
        self.read(address).map(u64::from_le_bytes)
    }

    /// As [`Memory::read`], of what does not change while we look.
    fn fixed<const N: usize>(&self, address: u64) -> io::Result<[u8; N]> {
        let mut bytes = [0; N];
        for (index, byte) in bytes.iter_mut().enumerate() {
            let address = address.wrapping_add(index as u64);
            let (page, offset) = (address & !(PAGE as u64 - 1), address as usize % PAGE);
            let mut pages = self.pages.borrow_mut();
            *byte = match pages.entry(page) {
                Entry::Occupied(known) => known.get()[offset],
                Entry::Vacant(place) => place.insert(Box::new(self.read(page)?))[offset],
            };
        }
        Ok(bytes)
    }

    fn fixed_word(&self, address: u64) -> io::Result<u64> {
        self.fixed(address).map(u64::from_le_bytes)
    }

    fn half(&self, address: u64) -> io::Result<u32> {
        self.fixed(address).map(u32::from_le_bytes)
    }

    /// Writes, also into code.
    pub fn write(&self, address: u64, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all_at(bytes, address)
    }

    /// A C string.
    pub fn text(&self, address: u64) -> io::Result<String> {
        let mut bytes = Vec::new();
        while bytes.len() < 4096 {
            let byte = self.fixed::<1>(address + bytes.len() as u64)?[0];
            if byte == 0 {
                break;
            }
            bytes.push(byte);
        }
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    /// Where a thread's errno is, as glibc's `__errno_location` finds it for the thread with this thread pointer; `None`
    /// when that looks otherwise.
    pub fn errno_of(&self, errno_location: u64, thread_pointer: u64) -> Option<u64> {
        const ENDBR64: [u8; 4] = [0xf3, 0x0f, 0x1e, 0xfa];
        let code = self.read::<21>(errno_location).ok()?;
        let body = code.strip_prefix(&ENDBR64).unwrap_or(&code);
        // mov rax, [rip + constant]; add rax, fs:[0]; ret
        let [0x48, 0x8b, 0x05, a, b, c, d, 0x64, 0x48, 0x03, 0x04, 0x25, 0, 0, 0, 0, 0xc3, ..] = *body else {
            return None;
        };
        let next = errno_location + if body.len() < code.len() { 4 + 7 } else { 7 };
        let offset = self.word(next.wrapping_add_signed(i32::from_le_bytes([a, b, c, d]).into())).ok()?;
        Some(thread_pointer.wrapping_add(offset))
    }

    fn auxiliary(&self, key: u64) -> io::Result<u64> {
        let bytes = fs::read(format!("/proc/{}/auxv", self.pid))?;
        let word = |chunk: &[u8]| u64::from_le_bytes(chunk.try_into().expect("eight bytes"));
        let found = bytes.chunks_exact(16).find(|pair| word(&pair[..8]) == key);
        Ok(found.map_or(0, |pair| word(&pair[8..])))
    }

    /// The loader's account of what is loaded, in the order in which symbols are looked up; `None` in a program without a
    /// loader that we know. What is `known` already is not read again.
    pub fn objects(&self, known: Vec<Object>) -> io::Result<Option<Vec<Object>>> {
        // What was loaded since may be where there was something else.
        if known.is_empty() {
            self.pages.borrow_mut().clear();
        }
        // Of a program that was started by naming the loader, the loader is the program.
        let base = match self.auxiliary(AT_BASE)? {
            0 => self.auxiliary(AT_PHDR)? & !0xfff,
            base => base,
        };
        let Some(loader) = self.object(base) else { return Ok(None) };
        let Some(debug) = self.symbol(&loader, "_r_debug")? else { return Ok(None) };
        let mut map = self.word(debug + 8)?;
        let mut known = known.into_iter().peekable();
        let mut objects = Vec::new();
        while map != 0 && objects.len() < MAX_OBJECTS {
            match known.next_if(|object| object.map == map) {
                Some(object) => objects.push(object),
                None => objects.push(self.object_of(map)?),
            }
            map = self.word(map + 24)?;
        }
        Ok(Some(objects))
    }

    fn object_of(&self, map: u64) -> io::Result<Object> {
        let name = self.word(map + 8)?;
        self.pages.borrow_mut().remove(&(name & !(PAGE as u64 - 1)));
        let (base, name, dynamic) = (self.word(map)?, self.text(name)?, self.word(map + 16)?);
        let object = Object { map, base, name, range: 0..0, tags: self.tags(dynamic)? };
        Ok(Object { range: self.range(&object)?, ..object })
    }

    fn object(&self, base: u64) -> Option<Object> {
        let segments = self.segments(base).ok()?;
        let (_, address, _) = *segments.iter().find(|(kind, _, _)| *kind == PT_DYNAMIC)?;
        let tags = self.tags(base.wrapping_add(address)).ok()?;
        Some(Object { map: 0, base, name: String::new(), range: 0..0, tags })
    }

    /// Kind, address and length of each segment of the object whose ELF header is at `header`.
    fn segments(&self, header: u64) -> io::Result<Vec<(u32, u64, u64)>> {
        if self.fixed::<4>(header)? != *b"\x7fELF" {
            return Err(io::Error::from(io::ErrorKind::InvalidData));
        }
        let (start, count) = (self.fixed_word(header + 32)?, u64::from(u16::from_le_bytes(self.fixed(header + 56)?)));
        let segment = |index| {
            let place = header.wrapping_add(start).wrapping_add(index * 56);
            Ok((self.half(place)?, self.fixed_word(place + 16)?, self.fixed_word(place + 40)?))
        };
        (0..count.min(MAX_SEGMENTS)).map(segment).collect()
    }

    fn tags(&self, dynamic: u64) -> io::Result<Vec<(u64, u64)>> {
        let mut tags = Vec::new();
        for index in 0..MAX_TAGS {
            let tag = self.fixed_word(dynamic + index * 16)?;
            if tag == 0 {
                break;
            }
            tags.push((tag, self.fixed_word(dynamic + index * 16 + 8)?));
        }
        Ok(tags)
    }

    /// All segments of a library; of a program at a fixed place, its base is 0 and its header elsewhere.
    fn range(&self, object: &Object) -> io::Result<Range<u64>> {
        let header = if object.base != 0 { object.base } else { self.auxiliary(AT_PHDR)? & !0xfff };
        let Ok(segments) = self.segments(header) else { return Ok(0..0) };
        let loads = segments.iter().filter(|(kind, _, _)| *kind == PT_LOAD);
        let ranges =
            loads.map(|(_, address, len)| object.base.wrapping_add(*address)..object.base.wrapping_add(address + len));
        Ok(ranges.reduce(|all, range| all.start.min(range.start)..all.end.max(range.end)).unwrap_or(0..0))
    }

    /// The address of a function or variable in its default version.
    pub fn symbol(&self, object: &Object, name: &str) -> io::Result<Option<u64>> {
        const HIDDEN: u16 = 0x8000;
        const TLS: u8 = 6;
        let tag = |wanted| object.tags.iter().find(|(tag, _)| *tag == wanted).map(|(_, value)| object.absolute(*value));
        let (Some(table), Some(symbols), Some(strings)) = (tag(DT_GNU_HASH), tag(DT_SYMTAB), tag(DT_STRTAB)) else {
            return Ok(None);
        };
        let hash = name.bytes().fold(5381u32, |hash, byte| hash.wrapping_mul(33).wrapping_add(u32::from(byte)));
        let [n_buckets, first, n_filter] = [self.half(table)?, self.half(table + 4)?, self.half(table + 8)?];
        if n_buckets == 0 {
            return Ok(None);
        }
        let buckets = table + 16 + u64::from(n_filter) * 8;
        let chains = buckets + u64::from(n_buckets) * 4;
        let start = self.half(buckets + u64::from(hash % n_buckets) * 4)?;
        if start < first {
            return Ok(None);
        }
        for index in u64::from(start)..u64::from(start) + MAX_CHAIN {
            let entry = self.half(chains + (index - u64::from(first)) * 4)?;
            if entry | 1 == hash | 1 {
                let symbol = self.fixed::<24>(symbols + index * 24)?;
                let offset = u32::from_le_bytes([symbol[0], symbol[1], symbol[2], symbol[3]]);
                let version = match tag(DT_VERSYM) {
                    Some(versions) => u16::from_le_bytes(self.fixed(versions + index * 2)?),
                    None => 0,
                };
                let is_defined = symbol[6..8] != [0, 0] && symbol[4] & 0xf != TLS && version & HIDDEN == 0;
                if is_defined && self.text(strings + u64::from(offset))? == name {
                    let value = u64::from_le_bytes(symbol[8..16].try_into().expect("eight bytes"));
                    return Ok(Some(object.base.wrapping_add(value)));
                }
            }
            if entry & 1 != 0 {
                break;
            }
        }
        Ok(None)
    }
}

impl Object {
    /// The last part of its path; empty for the program itself.
    pub fn file_name(&self) -> &str {
        self.name.rsplit('/').next().unwrap_or_default()
    }

    /// The loader makes these addresses absolute in most objects.
    fn absolute(&self, value: u64) -> u64 {
        if value < self.base { value + self.base } else { value }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::thread::JoinHandleExt;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU32, Ordering};
    use std::thread;

    use nix::errno::Errno;

    use super::*;

    #[test]
    fn errno_is_found_without_a_call() {
        let memory = Memory::open(nix::unistd::getpid()).unwrap();
        let objects = memory.objects(Vec::new()).unwrap().expect("this test has a loader");
        let location = objects.iter().find_map(|object| memory.symbol(object, "__errno_location").unwrap()).unwrap();
        let state = Arc::new(AtomicU32::new(0));
        let of_thread = state.clone();
        let thread = thread::spawn(move || {
            while of_thread.load(Ordering::Relaxed) < 2 {
                Errno::EXDEV.set();
                of_thread.fetch_max(1, Ordering::Relaxed);
            }
        });
        while state.load(Ordering::Relaxed) == 0 {
            thread::yield_now();
        }
        // glibc's `pthread_t` is the thread pointer.
        let place = memory.errno_of(location, thread.as_pthread_t()).unwrap();
        let found = memory.read::<4>(place).unwrap();
        state.store(2, Ordering::Relaxed);
        thread.join().unwrap();
        assert_eq!(found, (Errno::EXDEV as i32).to_le_bytes());
    }

    #[test]
    fn the_functions_of_a_process_are_where_it_calls_them() {
        let memory = Memory::open(nix::unistd::getpid()).unwrap();
        let objects = memory.objects(Vec::new()).unwrap().expect("this test has a loader");
        let find = |name| objects.iter().find_map(|object| memory.symbol(object, name).unwrap());
        assert_eq!(find("getpid"), Some(libc::getpid as *const () as u64));
        assert_eq!(find("no_such_function"), None);
        let here = the_functions_of_a_process_are_where_it_calls_them as *const () as u64;
        assert!(objects[0].range.contains(&here), "{:x?} {here:x}", objects[0].range);
    }
}
