//! The first stacks of a program, read with suspicion. A build may differ from what its version promises: for debugging,
//! without a GIL, changed by a vendor. So before a stack is walked for the first thousand times, everything on the way
//! has to be what the layout says: frames of a known kind that lead to an end, code objects with their strings and
//! tables, instructions inside their code. Called by `python`, which gives Python stacks up for good on a difference. It
//! must never believe an address.
//!
//! # Safety
//! Dangerous: reads memory at addresses that may be anything. The kernel is asked once for each page whether it is
//! there. Later reads rely on it still being there, which holds for whatever a right layout leads to; a wrong one is
//! found out at its first stacks. (To ask again for each stack takes 20 000 system calls and 20 to 50 ms.)

use core::sync::atomic::{AtomicU32, AtomicUsize, Ordering};

use super::offsets::Layout;
use super::{code, copies};
use crate::sys;

/// How many stacks are checked.
const N_STACKS: u32 = 1000;
/// No chain is longer, unless it is none.
const MAX_DEPTH: usize = 1 << 20;
/// The last of `enum _frameowner` (`Include/internal/pycore_frame.h`).
const LAST_OWNER: usize = 4;
/// `Py_TPFLAGS_BYTES_SUBCLASS` and `Py_TPFLAGS_UNICODE_SUBCLASS` (`Include/object.h`).
const IS_BYTES: usize = 1 << 27;
const IS_STR: usize = 1 << 28;
/// From `PyTypeObject.tp_dealloc` to `.tp_name` and to `.tp_flags`, in all versions.
const NAME_BEFORE_DEALLOC: usize = 24;
const FLAGS_BEHIND_DEALLOC: usize = 120;

static N_LEFT: AtomicU32 = AtomicU32::new(N_STACKS);

/// What is not as the layout says.
pub type Difference = &'static str;

/// Whether the type object of code objects is laid out as the row says.
pub fn code_type(layout: &Layout, code_type: usize) -> Result<(), Difference> {
    let name = field(code_type, layout.type_dealloc - NAME_BEFORE_DEALLOC).unwrap_or(0);
    let is_code =
        b"code\0".iter().enumerate().all(|(index, letter)| byte(name.wrapping_add(index)) == Some(*letter as usize));
    if is_code { Ok(()) } else { Err("type_object.tp_name") }
}

/// Checks the stack that starts in this thread state. Whether that was the last one to check.
pub fn stack(layout: &Layout, code_type: usize, state: usize) -> Result<bool, Difference> {
    let mut frame = top(layout, state).ok_or("thread_state.frame")?;
    if frame == 0 {
        return Ok(false);
    }
    for _ in 0..MAX_DEPTH {
        if frame == 0 {
            let n_left = N_LEFT.load(Ordering::Relaxed).saturating_sub(1);
            N_LEFT.store(n_left, Ordering::Relaxed);
            return Ok(n_left == 0);
        }
        check_frame(layout, code_type, frame)?;
        frame = field(frame, layout.frame_previous).ok_or("frame.previous")?;
    }
    Err("frame.previous")
}

fn top(layout: &Layout, state: usize) -> Option<usize> {
    let first = field(state, layout.state_frame)?;
    match layout.c_frame_current {
        Some(offset) if first != 0 => field(first, offset),
        _ => Some(first),
    }
}

fn check_frame(layout: &Layout, code_type: usize, frame: usize) -> Result<(), Difference> {
    let owner =
        byte(frame.wrapping_add(layout.frame_owner)).filter(|owner| *owner <= LAST_OWNER).ok_or("frame.owner")?;
    if owner >= layout.owner_without_code as usize {
        return Ok(());
    }
    let code = field(frame, layout.frame_code).map(code::without_notes).ok_or("frame.code")?;
    let instruction = field(frame, layout.frame_instruction).ok_or("frame.instruction")?;
    if field(code, layout.object_type) != Some(code_type) {
        return Err("frame.code");
    }
    for (offset, flag, what) in [
        (layout.code_file, IS_STR, "code_object.filename"),
        (layout.code_name, IS_STR, "code_object.name"),
        (layout.code_line_table, IS_BYTES, "code_object.linetable"),
    ] {
        if !field(code, offset).is_some_and(|object| is_a(layout, object, flag)) {
            return Err(what);
        }
    }
    if is_inside(layout, code, instruction) == Some(true) { Ok(()) } else { Err("frame.instruction") }
}

/// Whether an instruction belongs to a code object, or stands one before its first.
fn is_inside(layout: &Layout, code: usize, instruction: usize) -> Option<bool> {
    const CODE_UNIT: usize = 2;
    match layout.instruction_unit {
        Some(unit) => {
            let bytes = field(code, layout.code_instructions).filter(|object| is_a(layout, *object, IS_BYTES))?;
            let len = field(bytes, layout.bytes_len)?;
            // Counted from -1 on.
            let count = (instruction as u32).wrapping_add(1) as usize;
            Some(count * unit as usize <= len)
        }
        None => {
            let start = code.wrapping_add(layout.code_instructions - CODE_UNIT);
            let len = field(code, layout.code_len)?.checked_mul(CODE_UNIT)?;
            let is_in = |start: usize| instruction.wrapping_sub(start) <= len;
            let is_in_copy = |copies| copies::find(code.wrapping_add(copies), sys::read_word, is_in).is_some();
            Some(is_in(start) || layout.code_copies.is_some_and(is_in_copy))
        }
    }
}

/// Whether an object is of a type with that flag.
fn is_a(layout: &Layout, object: usize, flag: usize) -> bool {
    let flags = field(object, layout.object_type)
        .and_then(|object_type| field(object_type, layout.type_dealloc + FLAGS_BEHIND_DEALLOC));
    flags.is_some_and(|flags| flags & flag != 0)
}

/// The word at an offset into a structure.
fn field(address: usize, offset: usize) -> Option<usize> {
    word(address.wrapping_add(offset))
}

fn word(address: usize) -> Option<usize> {
    let is_aligned = address.is_multiple_of(size_of::<usize>());
    // SAFETY: the page is there.
    (is_aligned && is_readable(address)).then(|| unsafe { *(address as *const usize) })
}

fn byte(address: usize) -> Option<usize> {
    let within = address % size_of::<usize>();
    word(address - within).map(|word| word >> (8 * within) & 0xff)
}

/// Numbers of pages that are there, each at the place that it is looked for; 0 for none.
static PAGES: [AtomicUsize; 256] = [const { AtomicUsize::new(0) }; 256];

fn is_readable(address: usize) -> bool {
    const PAGE: usize = 4096;
    let page = address / PAGE;
    let Some(known) = PAGES.get(page % PAGES.len()) else {
        return false;
    };
    if page == 0 || known.load(Ordering::Relaxed) != page {
        if sys::read_word(address).is_none() {
            return false;
        }
        known.store(page, Ordering::Relaxed);
    }
    true
}

#[cfg(test)]
mod tests {
    use super::super::offsets::NONE;
    use super::*;

    const STATE: usize = 0;
    const C_FRAME: usize = 16;
    const TOP: usize = 32;
    const ROOT: usize = 64;
    const CODE: usize = 96;
    const CODE_TYPE: usize = 160;
    const STR_TYPE: usize = 208;
    const BYTES_TYPE: usize = 256;
    const STR: usize = 304;
    const BYTES: usize = 320;
    const NAME: usize = 336;

    /// One thread state with two frames, as CPython 3.11 has them; the numbers above are places of words.
    struct Memory([usize; 352]);

    impl Memory {
        fn at(&self, place: usize) -> usize {
            &raw const self.0[place] as usize
        }

        fn set(&mut self, place: usize, offset: usize, value: usize) {
            self.0[place + offset / 8] = value << (8 * (offset % 8));
        }

        fn whole() -> Box<Memory> {
            let mut memory = Box::new(Memory([0; 352]));
            let [c_frame, top, root, code] = [C_FRAME, TOP, ROOT, CODE].map(|place| memory.at(place));
            let [code_type, str_type, bytes_type] = [CODE_TYPE, STR_TYPE, BYTES_TYPE].map(|place| memory.at(place));
            let [text, bytes, name] = [STR, BYTES, NAME].map(|place| memory.at(place));
            memory.set(STATE, NONE.state_frame, c_frame);
            memory.set(C_FRAME, NONE.c_frame_current.unwrap(), top);
            memory.set(TOP, NONE.frame_previous, root);
            for frame in [TOP, ROOT] {
                memory.set(frame, NONE.frame_code, code);
                memory.set(frame, NONE.frame_instruction, code + NONE.code_instructions + 4);
                memory.set(frame, NONE.frame_owner, NONE.owner_generator as usize);
            }
            memory.set(CODE, NONE.object_type, code_type);
            memory.set(CODE, NONE.code_len, 10);
            for (offset, object) in [(NONE.code_file, text), (NONE.code_name, text), (NONE.code_line_table, bytes)] {
                memory.set(CODE, offset, object);
            }
            memory.set(STR, NONE.object_type, str_type);
            memory.set(BYTES, NONE.object_type, bytes_type);
            memory.set(STR_TYPE, NONE.type_dealloc + FLAGS_BEHIND_DEALLOC, IS_STR);
            memory.set(BYTES_TYPE, NONE.type_dealloc + FLAGS_BEHIND_DEALLOC, IS_BYTES);
            memory.set(CODE_TYPE, NONE.type_dealloc - NAME_BEFORE_DEALLOC, name);
            memory.set(NAME, 0, usize::from_ne_bytes(*b"code\0abc"));
            memory
        }

        fn check(&self) -> Result<(), Difference> {
            code_type(&NONE, self.at(CODE_TYPE))?;
            stack(&NONE, self.at(CODE_TYPE), self.at(STATE)).map(drop)
        }
    }

    fn check(change: impl Fn(&mut Memory), expected: Result<(), Difference>) {
        let mut memory = Memory::whole();
        change(&mut memory);
        assert_eq!(memory.check(), expected);
    }

    #[test]
    fn a_stack_as_it_should_be_passes() {
        check(|_| {}, Ok(()));
        check(|memory| memory.set(STATE, NONE.state_frame, 0), Ok(()));
        // One instruction before the code, the last one, and its end.
        let instruction = |memory: &mut Memory, offset: usize| {
            let code = memory.at(CODE);
            memory.set(ROOT, NONE.frame_instruction, code + NONE.code_instructions + offset - 2);
        };
        check(|memory| instruction(memory, 0), Ok(()));
        check(|memory| instruction(memory, 20), Ok(()));
        check(|memory| instruction(memory, 22), Err("frame.instruction"));
    }

    #[test]
    fn whatever_is_not_as_it_should_be_is_named() {
        for wild in [8, 0xdead_beef_0000, usize::MAX - 7, 3] {
            check(|memory| memory.set(STATE, NONE.state_frame, wild), Err("thread_state.frame"));
            check(|memory| memory.set(TOP, NONE.frame_previous, wild), Err("frame.owner"));
            check(|memory| memory.set(ROOT, NONE.frame_code, wild), Err("frame.code"));
            check(|memory| memory.set(ROOT, NONE.frame_instruction, wild), Err("frame.instruction"));
            check(|memory| memory.set(CODE, NONE.code_name, wild), Err("code_object.name"));
            check(
                |memory| memory.set(CODE_TYPE, NONE.type_dealloc - NAME_BEFORE_DEALLOC, wild),
                Err("type_object.tp_name"),
            );
        }
        check(|memory| memory.set(TOP, NONE.frame_owner, 9), Err("frame.owner"));
        let bytes = |memory: &mut Memory| memory.set(CODE, NONE.code_file, memory.at(BYTES));
        check(bytes, Err("code_object.filename"));
        let circle = |memory: &mut Memory| memory.set(ROOT, NONE.frame_previous, memory.at(TOP));
        check(circle, Err("frame.previous"));
    }

    #[test]
    fn instructions_that_are_counted_are_inside_the_code() {
        let layout = Layout { instruction_unit: Some(2), ..NONE };
        let mut memory = Memory::whole();
        let (code, bytes) = (memory.at(CODE), memory.at(BYTES));
        memory.set(CODE, layout.code_instructions, bytes);
        memory.set(BYTES, layout.bytes_len, 10);
        let is_inside = |instruction| is_inside(&layout, code, instruction);
        assert_eq!(is_inside(0x17_ffff_ffff), Some(true));
        assert_eq!(is_inside(0x17_0000_0004), Some(true));
        assert_eq!(is_inside(5), Some(false));
        assert_eq!(is_inside(0xffff_fffe), Some(false));
    }
}
