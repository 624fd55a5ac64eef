//! Code object → our number, name, file and line table, described in the log once. A code object that dies gives its
//! address to another: its number is retired before and after the interpreter's own destructor (weak references'
//! callbacks allocate in between), so an address is never taken for what it was.
//!
//! # Safety
//! Dangerous: reads strings of the interpreter, and replaces `PyCode_Type.tp_dealloc`. We rely on the code object of a
//! running frame being alive and its names immutable. The table is read without a lock: an entry only changes when its
//! code object dies, which no reader's own frames allow, and the table as a whole only after `GENERATION` has moved on,
//! which readers check afterwards.

use core::cell::UnsafeCell;
use core::ffi::c_void;
use core::slice;
use core::sync::atomic::{AtomicU64, AtomicUsize, Ordering, fence};

use memtrace_format::record::{Code, Node, PyStr};
use memtrace_format::{Record, locations};

use super::offsets::Layout;
use super::walk::word;
use super::{copies, interpreter};
use crate::guard::Guard;
use crate::heap::spread;
use crate::lifecycle;
use crate::lock::Lock;
use crate::meta::META;
use crate::stacks::RawFrame;
use crate::sys;

/// Code objects that have died.
static DEATHS: AtomicU64 = AtomicU64::new(0);

/// Grows with every death of a code object that we knew, and whenever copies of instructions are discarded: addresses
/// read before may mean something else now.
pub fn epoch() -> u64 {
    DEATHS.load(Ordering::Acquire) + copies::discards()
}

/// [`epoch`], when nobody need be asked.
#[inline(always)]
pub fn epoch_at_hand() -> Option<u64> {
    if copies::are_watched() { None } else { Some(DEATHS.load(Ordering::Acquire)) }
}

/// The address of a frame's executable.
pub fn address(frame: RawFrame) -> usize {
    without_notes(frame.code as usize)
}

/// A pointer to an object without what `_PyStackRef`, from 3.14 on, notes in its lowest bits.
pub fn without_notes(object: usize) -> usize {
    const NOTES: usize = 7;
    object & !NOTES
}

/// The number of a frame's code object and the byte offset of its running instruction; `None` for frames that CPython
/// does not show either: those whose code has not begun (`_PyFrame_IsIncomplete`) and those without a code object.
pub fn resolve(guard: &Guard, frame: RawFrame) -> Option<(u32, u32)> {
    let layout = &interpreter().layout;
    let address = address(frame);
    let (number, first_traceable) = match TABLE.find(address) {
        Some(known) => known,
        None => describe(guard, layout, address)?,
    };
    visible_offset(layout, frame, first_traceable).map(|offset| (number, offset))
}

/// The byte offset of a frame's running instruction; `None` when the frame has not begun by CPython's rule. Until 3.12 a
/// frame that was just entered stands one instruction *before* its code, also when that begins at once. Up to 3.10 such
/// a frame is shown, in the function's first line: [`Node::NOT_BEGUN`].
pub fn visible_offset(layout: &Layout, frame: RawFrame, first_traceable: u32) -> Option<u32> {
    if let Some(unit) = layout.instruction_unit {
        // Its neighbour in the frame lies in the upper half of the word.
        let count = frame.instruction as u32 as i32;
        return Some(u32::try_from(count).map_or(Node::NOT_BEGUN, |count| count.wrapping_mul(unit)));
    }
    let instruction = (frame.instruction & !RawFrame::GENERATOR) as usize;
    let start = copies::start(layout, address(frame), instruction)?;
    let is_generators = frame.instruction & RawFrame::GENERATOR != 0;
    let has_begun = is_generators || instruction >= start + first_traceable as usize;
    has_begun.then(|| instruction.saturating_sub(start) as u32)
}

/// No code object is in the log that begins now. (Numbers go on: who has one of the old log must not find it in the new.)
pub fn begin_log(guard: &Guard) {
    let _meta = META.lock(guard);
    TABLE.remove_all();
}

/// The same in a child of fork, where another thread may have been in the middle of changing the table.
pub fn forget_all() {
    // SAFETY: nobody else is inside memtrace yet.
    unsafe {
        TABLE.leave();
        SHORT_TABLE.reset([0; SHORT_TABLE_LEN]);
    }
}

/// The next number of what frames refer to.
pub fn next_number() -> u32 {
    TABLE.next_number()
}

/// `sizeof(_Py_CODEUNIT)`: bytes per instruction.
pub const CODE_UNIT: u32 = 2;

/// Writes a code object that was not seen before into the log. Its number and the offset of its first traceable
/// instruction in bytes.
#[cold]
#[inline(never)]
fn describe(guard: &Guard, layout: &Layout, address: usize) -> Option<(u32, u32)> {
    let mut meta = META.lock(guard);
    // Another thread may have been faster.
    if let Some(known) = TABLE.find(address) {
        return Some(known);
    }
    // SAFETY: the frame keeps its executable alive.
    let first_traceable = unsafe { first_traceable(layout, address)? };
    // SAFETY: it is a code object, and alive.
    let (first_line, name, file, line_table) = unsafe {
        (
            *((address + layout.code_first_line) as *const u32),
            text(layout, word(address + layout.code_name)),
            text(layout, word(address + layout.code_file)),
            bytes(layout, word(address + layout.code_line_table)),
        )
    };
    let mut short = SHORT_TABLE.lock(guard);
    let line_table = match layout.instruction_unit {
        // Columns are most of a table, and of what is written about a short program.
        None => locations::without_columns(line_table, &mut *short).unwrap_or(line_table),
        // 3.9 and 3.10 have none.
        Some(_) => line_table,
    };
    let id = TABLE.next_number();
    let record = Record::Code(Code { id, first_line, name, file, line_table });
    if !meta.record(guard, &record) || !TABLE.insert(address, id, first_traceable) {
        return None;
    }
    Some((id, first_traceable))
}

/// Offset in bytes of a code object's first traceable instruction; `None` when this is no code object: from 3.13 on a
/// frame's executable may be something else.
///
/// # Safety
/// `executable` is null or a live object.
pub unsafe fn first_traceable(layout: &Layout, executable: usize) -> Option<u32> {
    // SAFETY: as the caller says.
    unsafe {
        let is_code = executable != 0 && word(executable + layout.object_type) == interpreter().code_type;
        is_code.then(|| match layout.code_first_traceable {
            Some(offset) => (*((executable + offset) as *const u32)).wrapping_mul(CODE_UNIT),
            None => 0,
        })
    }
}

const NO_TEXT: PyStr<'static> = PyStr { width: 1, bytes: &[] };

/// The characters of a `str`.
///
/// # Safety
/// `object` is null or a `str` that stays alive and unchanged.
unsafe fn text<'a>(layout: &Layout, object: usize) -> PyStr<'a> {
    if object == 0 {
        return NO_TEXT;
    }
    // SAFETY: as the caller says. `state`, from `str_kind` on: kind 3 bits, compact 1 bit, ascii 1 bit.
    unsafe {
        let state = *((object + layout.str_state) as *const u32) >> layout.str_kind;
        let (width, is_compact, is_ascii) = (state & 7, state >> 3 & 1 != 0, state >> 4 & 1 != 0);
        if !matches!(width, 1 | 2 | 4) {
            return NO_TEXT;
        }
        let start = match (is_compact, is_ascii) {
            (true, true) => object + layout.str_ascii,
            (true, false) => object + layout.str_compact,
            // A subclass of str: `PyUnicodeObject.data` behind the compact part.
            (false, _) => word(object + layout.str_compact),
        };
        let len = word(object + layout.str_len);
        if start == 0 {
            return NO_TEXT;
        }
        let len = len.min(MAX_TEXT / width as usize) * width as usize;
        PyStr { width: width as u8, bytes: slice::from_raw_parts(start as *const u8, len) }
    }
}

/// The bytes of a `bytes` object.
///
/// # Safety
/// `object` is null or a `bytes` object that stays alive.
unsafe fn bytes<'a>(layout: &Layout, object: usize) -> &'a [u8] {
    if object == 0 {
        return &[];
    }
    // SAFETY: as the caller says.
    unsafe {
        let len = word(object + layout.bytes_len).min(MAX_TEXT);
        slice::from_raw_parts((object + layout.bytes_start) as *const u8, len)
    }
}

/// Longer strings and line tables are cut off, in bytes: whatever they are, a code object can be described.
const MAX_TEXT: usize = 4 << 20;

/// Room for one line table without columns. Tables that are longer still are written as they are.
pub static SHORT_TABLE: Lock<[u8; SHORT_TABLE_LEN]> = Lock::new([0; SHORT_TABLE_LEN]);
const SHORT_TABLE_LEN: usize = 16 << 10;

/// The interpreter's own destructor of code objects.
static REAL_DEALLOC: AtomicUsize = AtomicUsize::new(0);

/// From now on, deaths of code objects are seen.
pub fn watch_deaths(layout: &Layout, code_type: usize) {
    // SAFETY: a static type object, in writable memory; the word is a function pointer that others only read.
    let place = unsafe { AtomicUsize::from_ptr((code_type + layout.type_dealloc) as *mut usize) };
    let ours = dealloc as *const () as usize;
    let real = place.load(Ordering::Acquire);
    if real != ours {
        REAL_DEALLOC.store(real, Ordering::Release);
        place.store(ours, Ordering::Release);
    }
}

unsafe extern "C" fn dealloc(code: *mut c_void) {
    retire(code as usize);
    // SAFETY: the word was the type's destructor.
    unsafe {
        let real: unsafe extern "C" fn(*mut c_void) = core::mem::transmute(REAL_DEALLOC.load(Ordering::Acquire));
        real(code);
    }
    retire(code as usize);
}

fn retire(address: usize) {
    if TABLE.find(address).is_none() {
        return;
    }
    if let Some(guard) = lifecycle::enter() {
        let _meta = META.lock(&guard);
        TABLE.remove(address);
        DEATHS.fetch_add(1, Ordering::AcqRel);
    }
}

/// Code addresses and what they are. Changed under the lock of the metadata only.
struct Table {
    /// The slots in use, page-aligned, and in the lowest bits the logarithm of their number: one word, so that a reader
    /// never sees the one without the other.
    slots: AtomicUsize,
    /// Grows when `slots` changes.
    generation: AtomicUsize,
    /// The slots that were in use before, free for the next change; as many as `capacity`, or none.
    spare: UnsafeCell<*mut Slot>,
    /// Slots that are or were taken, and slots that are.
    n_used: AtomicUsize,
    n_live: AtomicUsize,
    n_numbers: AtomicUsize,
}

/// One code object: its address (0 empty, [`DEAD`] retired), and number and first traceable offset.
#[repr(C)]
struct Slot {
    address: AtomicUsize,
    value: AtomicU64,
}

const DEAD: usize = 1;
/// Of a word that holds slots, what holds the logarithm of their number.
const LOG_MASK: usize = 0xfff;

// SAFETY: `spare` is only used under the lock.
unsafe impl Sync for Table {}

static TABLE: Table = Table {
    slots: AtomicUsize::new(0),
    generation: AtomicUsize::new(0),
    spare: UnsafeCell::new(core::ptr::null_mut()),
    n_used: AtomicUsize::new(0),
    n_live: AtomicUsize::new(0),
    n_numbers: AtomicUsize::new(0),
};

impl Table {
    /// The number and first traceable offset of the code object at `address`.
    #[inline]
    fn find(&self, address: usize) -> Option<(u32, u32)> {
        loop {
            let generation = self.generation.load(Ordering::Acquire);
            let found = self.place(address).ok().map(|slot| slot.value.load(Ordering::Acquire));
            fence(Ordering::Acquire);
            if self.generation.load(Ordering::Relaxed) == generation {
                return found.map(|value| (value as u32, (value >> 32) as u32));
            }
        }
    }

    /// The slot that holds the address, or the one where it would go.
    fn place(&self, address: usize) -> Result<&Slot, Option<&Slot>> {
        let (slots, capacity) = self.slots();
        let mut free = None;
        for step in 0..capacity {
            let index = (hash(address) + step) & (capacity - 1);
            // SAFETY: slots are never unmapped, and there are `capacity` of them.
            let slot = unsafe { &*slots.add(index) };
            match slot.address.load(Ordering::Acquire) {
                0 => return Err(free.or(Some(slot))),
                DEAD => free = free.or(Some(slot)),
                found if found == address => return Ok(slot),
                _ => {}
            }
        }
        Err(free)
    }

    /// The slots and their number: a power of two, or 0.
    fn slots(&self) -> (*const Slot, usize) {
        match self.slots.load(Ordering::Acquire) {
            0 => (core::ptr::null(), 0),
            word => ((word & !LOG_MASK) as *const Slot, 1 << (word & LOG_MASK)),
        }
    }

    fn next_number(&self) -> u32 {
        self.n_numbers.fetch_add(1, Ordering::Relaxed) as u32 + 1
    }

    /// Under the lock. `false` when there is no memory.
    fn insert(&self, address: usize, number: u32, first_traceable: u32) -> bool {
        let is_full = self.n_used.load(Ordering::Relaxed) * 2 >= self.slots().1;
        if is_full && !self.rebuild() {
            return false;
        }
        let Err(Some(slot)) = self.place(address) else {
            return false;
        };
        if slot.address.load(Ordering::Relaxed) == 0 {
            self.n_used.fetch_add(1, Ordering::Relaxed);
        }
        self.n_live.fetch_add(1, Ordering::Relaxed);
        slot.value.store((first_traceable as u64) << 32 | number as u64, Ordering::Release);
        slot.address.store(address, Ordering::Release);
        true
    }

    /// Under the lock.
    fn remove(&self, address: usize) {
        if let Ok(slot) = self.place(address) {
            slot.address.store(DEAD, Ordering::Release);
            self.n_live.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// Under the lock.
    fn remove_all(&self) {
        let (slots, capacity) = self.slots();
        for index in 0..capacity {
            // SAFETY: there are `capacity` slots.
            let slot = unsafe { &*slots.add(index) };
            if slot.address.load(Ordering::Relaxed) != 0 {
                slot.address.store(DEAD, Ordering::Release);
            }
        }
        self.n_live.store(0, Ordering::Relaxed);
    }

    /// Begins with new slots, whatever the old ones are like.
    ///
    /// # Safety
    /// Nobody uses the table.
    unsafe fn leave(&self) {
        self.slots.store(0, Ordering::Release);
        self.generation.fetch_add(1, Ordering::AcqRel);
        self.n_used.store(0, Ordering::Relaxed);
        self.n_live.store(0, Ordering::Relaxed);
        // SAFETY: as the caller says.
        unsafe { *self.spare.get() = core::ptr::null_mut() };
    }

    /// Under the lock: the living into fresh slots, twice as many if more than a quarter lives.
    fn rebuild(&self) -> bool {
        let (old_slots, old_capacity) = self.slots();
        let must_grow = self.n_live.load(Ordering::Relaxed) * 4 >= old_capacity;
        let capacity = if must_grow { (old_capacity * 2).max(1024) } else { old_capacity };
        let len = capacity * size_of::<Slot>();
        // SAFETY: only used under the lock.
        let spare = unsafe { &mut *self.spare.get() };
        let fresh = if !must_grow && !spare.is_null() {
            // SAFETY: nobody relies on what a reader still finds there: the generation has moved on since.
            unsafe { core::ptr::write_bytes(*spare, 0, capacity) };
            *spare
        } else {
            match sys::map_anonymous(len) {
                Ok(memory) => memory.as_ptr().cast(),
                Err(_) => return false,
            }
        };
        let mut n_live = 0;
        for index in 0..old_capacity {
            // SAFETY: there are `old_capacity` slots.
            let slot = unsafe { &*old_slots.add(index) };
            let address = slot.address.load(Ordering::Relaxed);
            if address > DEAD {
                let mut place = hash(address) & (capacity - 1);
                // SAFETY: indexes stay below `capacity`, and more than half of the slots are empty.
                unsafe {
                    while (*fresh.add(place)).address.load(Ordering::Relaxed) != 0 {
                        place = (place + 1) & (capacity - 1);
                    }
                    (*fresh.add(place)).value.store(slot.value.load(Ordering::Relaxed), Ordering::Relaxed);
                    (*fresh.add(place)).address.store(address, Ordering::Relaxed);
                }
                n_live += 1;
            }
        }
        self.slots.store(fresh as usize | capacity.trailing_zeros() as usize, Ordering::Release);
        self.generation.fetch_add(1, Ordering::AcqRel);
        self.n_used.store(n_live, Ordering::Relaxed);
        self.n_live.store(n_live, Ordering::Relaxed);
        // Slots of another number stay mapped for readers that are still there; numbers double, so that is bounded.
        *spare = if must_grow { core::ptr::null_mut() } else { old_slots.cast_mut() };
        true
    }
}

fn hash(address: usize) -> usize {
    spread(address as u64 >> 4)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::python::offsets;

    #[test]
    fn a_frame_that_has_not_begun_is_not_shown() {
        let layout = offsets::NONE;
        let code = 0x7f00_0000_0000;
        let start = code + layout.code_instructions as u64;
        let offset = |instruction, first| visible_offset(&layout, RawFrame { code, instruction }, first);
        // Entered, and out of recursion: one instruction before the code, whatever comes first in it.
        assert_eq!(offset(start - 2, 0), None);
        assert_eq!(offset(start, 0), Some(0));
        // In a prologue of two instructions.
        assert_eq!(offset(start + 2, 4), None);
        assert_eq!(offset(start + 4, 4), Some(4));
        // A generator into which an exception is thrown before it has begun.
        assert_eq!(offset(start | RawFrame::GENERATOR, 4), Some(0));
    }

    #[test]
    fn an_instruction_that_is_counted_from_the_start_is_the_lower_half_of_its_word() {
        let offset = |unit, instruction| {
            let layout = Layout { instruction_unit: Some(unit), ..offsets::NONE };
            visible_offset(&layout, RawFrame { code: 0x7f00_0000_0000, instruction }, 0)
        };
        assert_eq!(offset(1, 0x0000_0017_0000_0006), Some(6));
        assert_eq!(offset(2, 0x8000_0017_0000_0006), Some(12));
        assert_eq!(offset(2, 0x0000_0017_ffff_ffff), Some(Node::NOT_BEGUN));
    }

    #[test]
    fn an_address_is_known_from_insertion_to_removal_however_many_come_and_go() {
        let address = |n: usize| 0x7f00_0000_0000 + n * 0x1c0;
        for n in 0..20_000 {
            assert_eq!(TABLE.find(address(n)), None);
            assert!(TABLE.insert(address(n), n as u32 + 1, 12));
            // All but every tenth die young, as with code that is compiled in a loop.
            if n >= 100 && n % 10 != 0 {
                TABLE.remove(address(n - 100));
                assert_eq!(TABLE.find(address(n - 100)), None);
            }
        }
        let n_live = TABLE.n_live.load(Ordering::Relaxed);
        let found: usize = (0..20_000).filter(|n| TABLE.find(address(*n)) == Some((*n as u32 + 1, 12))).count();
        assert_eq!(found, n_live);
        assert!(TABLE.slots().1 <= 16 * n_live.next_power_of_two());
    }
}
