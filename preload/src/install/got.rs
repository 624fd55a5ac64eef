//! Import tables: how hooks come to be called when this library was loaded into a running program. Every word that the
//! loader has filled with the address of a replaced function is made to lead to the hook, in all objects that are
//! loaded, whatever their scope (`RTLD_DEEPBIND` included); again after more were loaded. Called at the start of a
//! recording and by the loader's hooks; does nothing when this library was loaded first, and never undoes anything.
//!
//! Not seen are calls by addresses that the program took before and keeps elsewhere.
//!
//! # Safety
//! Dangerous: writes into tables that other threads are calling through, and opens read-only pages of them for that
//! moment. Each word is replaced by one store, by a function of the same type. Tables are only touched while the loader's
//! list stands still and holds nothing but whole objects: one that another thread is just relocating would fault if its
//! pages became read-only under it.

use core::ffi::CStr;
use core::ops::Range;
use core::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use crate::elf::{self, Loaded, Relocation};
use crate::guard::Guard;
use crate::hooks::TABLE;
use crate::{abi, sys};

/// Room for all entries of the table.
const N_HOOKS: usize = 64;
/// How often we begin again when other threads load objects meanwhile.
const MAX_TRIES: u32 = 16;
const PAGE: usize = 4096;

/// What the program calls by the name of each hook.
struct Originals {
    addresses: [usize; N_HOOKS],
    /// Names that other objects have functions for, too: only the loader can tell which one a caller means.
    are_ambiguous: [bool; N_HOOKS],
    /// All addresses lie here.
    range: Range<usize>,
}

/// How many objects had ever been loaded when the tables of all were patched.
static SEEN_LOADS: AtomicU64 = AtomicU64::new(0);

/// Sends the calls of all loaded objects to the hooks.
pub fn patch_all(guard: &Guard) {
    SEEN_LOADS.store(0, Ordering::Relaxed);
    patch_new(guard);
}

/// Sends the calls of objects that were loaded since the last time to the hooks.
pub fn patch_new(guard: &Guard) {
    if elf::is_late() {
        // The loader takes its lock and calls nobody, but what it allocates is not the program's.
        guard.in_allocator(|| (0..MAX_TRIES).any(|_| patch_whole_objects()));
    }
}

/// `false` when objects were loaded meanwhile.
fn patch_whole_objects() -> bool {
    let (mut n_objects, mut n_loads) = (0u64, 0);
    elf::find_now(|loaded| {
        n_objects += 1;
        n_loads = loaded.n_loads;
        None::<()>
    });
    let seen = SEEN_LOADS.load(Ordering::Relaxed);
    if n_loads == seen {
        return true;
    }
    // What is in the list now is whole afterwards; what is new stands at its end.
    elf::wait_for_loader();
    let n_old = if seen == 0 { 0 } else { n_objects.saturating_sub(n_loads.saturating_sub(seen)) };
    let originals = Originals::find();
    let (mut is_same_list, mut index) = (true, 0);
    elf::find_now(|loaded| {
        is_same_list = n_loads == loaded.n_loads;
        if is_same_list && index >= n_old && !loaded.object.is_us() && !loaded.object.is_loader() {
            patch_object(&loaded, &originals);
        }
        index += 1;
        (!is_same_list).then_some(())
    });
    if is_same_list {
        SEEN_LOADS.store(n_loads, Ordering::Relaxed);
    }
    is_same_list
}

impl Originals {
    fn find() -> Originals {
        let none = Range { start: usize::MAX, end: 0 };
        let mut originals = Originals { addresses: [0; N_HOOKS], are_ambiguous: [false; N_HOOKS], range: none };
        elf::find_now(|loaded| {
            if !loaded.object.is_us() && !loaded.object.is_loader() {
                originals.look_in(&loaded);
            }
            None::<()>
        });
        originals
    }

    fn look_in(&mut self, loaded: &Loaded<'_>) {
        for ((hook, address), is_ambiguous) in TABLE.iter().zip(&mut self.addresses).zip(&mut self.are_ambiguous) {
            let Some(found) = loaded.object.symbol(hook.name) else { continue };
            if *address == 0 {
                *address = found;
                self.range = self.range.start.min(found)..self.range.end.max(found + 1);
            } else if *address != found {
                *is_ambiguous = true;
            }
        }
    }

    /// The hook in the place of the function at this address.
    fn hook_for(&self, address: usize) -> Option<usize> {
        if !self.range.contains(&address) {
            return None;
        }
        let index = self.addresses.iter().position(|original| *original == address)?;
        Some(TABLE.get(index)?.replacement as usize)
    }

    /// The hook for a name that is not bound yet, when there is no doubt what it will be bound to.
    fn hook_for_name(&self, name: &CStr, own: Option<usize>) -> Option<usize> {
        let index = TABLE.iter().position(|hook| hook.name == name)?;
        let (original, is_ambiguous) = (*self.addresses.get(index)?, *self.are_ambiguous.get(index)?);
        let is_meant = original != 0 && !is_ambiguous && own.is_none_or(|own| own == original);
        is_meant.then_some(TABLE.get(index)?.replacement as usize)
    }
}

fn patch_object(loaded: &Loaded<'_>, originals: &Originals) {
    let mut table = Table::of(loaded);
    // SAFETY: the loader keeps the object while we look at it.
    for relocation in unsafe { loaded.object.relocations() }.into_iter().flatten() {
        if relocation.is_address()
            && let place = loaded.object.place(relocation)
            // SAFETY: the loader has filled the word.
            && let now = unsafe { AtomicUsize::from_ptr(place) }
            && let Some(hook) = hook_for(loaded, originals, relocation, now.load(Ordering::Relaxed))
            && table.open(place as usize)
        {
            now.store(hook, Ordering::Release);
        }
    }
}

fn hook_for(loaded: &Loaded<'_>, originals: &Originals, relocation: &Relocation, now: usize) -> Option<usize> {
    originals.hook_for(now).or_else(|| {
        // A function that was not called yet: the word leads back into the object, and from there to the loader.
        let is_own = || loaded.segments.iter().any(|segment| loaded.object.range(segment).contains(&now));
        if !relocation.may_be_lazy() || !is_own() {
            return None;
        }
        // SAFETY: the loader keeps the object while we look at it.
        let (name, own) = unsafe { loaded.object.symbol_of(relocation)? };
        originals.hook_for_name(name, own)
    })
}

/// The pages of an object that its loader made read-only when they were filled, open to us as far as we needed it.
struct Table {
    read_only: Range<usize>,
    opened: bool,
}

impl Table {
    fn of(loaded: &Loaded<'_>) -> Table {
        let relro = loaded.segments.iter().find(|segment| segment.kind == abi::PT_GNU_RELRO);
        // The loader leaves out what is less than a page at the end.
        let read_only = relro.map_or(0..0, |segment| {
            let range = loaded.object.range(segment);
            range.start & !(PAGE - 1)..range.end & !(PAGE - 1)
        });
        Table { read_only, opened: false }
    }

    /// Whether the word can be written now.
    fn open(&mut self, place: usize) -> bool {
        if !self.read_only.contains(&place) || self.opened {
            return true;
        }
        // SAFETY: writing is what is missing, and comes back to what it was.
        self.opened = unsafe { sys::protect(self.read_only.start, self.read_only.len(), true) }.is_ok();
        self.opened
    }
}

impl Drop for Table {
    fn drop(&mut self) {
        if self.opened {
            // SAFETY: the loader made the range so, when the object was whole.
            let _ = unsafe { sys::protect(self.read_only.start, self.read_only.len(), false) };
        }
    }
}
