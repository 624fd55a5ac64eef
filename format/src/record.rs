//! Every record as a plain struct, and one enum over them. When something happened is not in a record: it is told by
//! the lane's turn, and in a shared turn by the tick that goes with each [event](Record::is_event).

/// What made or gave back a block of memory. The numbers are the log's and those of memray's `AllocatorType`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum AllocatorKind {
    PymallocFree = 1,
    PymallocMalloc = 2,
    PymallocCalloc = 3,
    PymallocRealloc = 4,
    Free = 5,
    Malloc = 6,
    Realloc = 7,
    Calloc = 8,
    PosixMemalign = 9,
    AlignedAlloc = 10,
    Memalign = 11,
    Valloc = 12,
    Pvalloc = 13,
    Mmap = 14,
    Munmap = 15,
}

impl AllocatorKind {
    pub const ALL: [AllocatorKind; 15] = {
        use AllocatorKind::*;
        [
            PymallocFree,
            PymallocMalloc,
            PymallocCalloc,
            PymallocRealloc,
            Free,
            Malloc,
            Realloc,
            Calloc,
            PosixMemalign,
            AlignedAlloc,
            Memalign,
            Valloc,
            Pvalloc,
            Mmap,
            Munmap,
        ]
    };

    /// The kind with this number.
    pub fn from_number(number: u8) -> Option<AllocatorKind> {
        Self::ALL.get((number as usize).wrapping_sub(1)).copied()
    }

    /// The name of the function, as people know it: `malloc`, `pymalloc_free`.
    pub fn name(self) -> &'static str {
        use AllocatorKind::*;
        match self {
            PymallocFree => "pymalloc_free",
            PymallocMalloc => "pymalloc_malloc",
            PymallocCalloc => "pymalloc_calloc",
            PymallocRealloc => "pymalloc_realloc",
            Free => "free",
            Malloc => "malloc",
            Realloc => "realloc",
            Calloc => "calloc",
            PosixMemalign => "posix_memalign",
            AlignedAlloc => "aligned_alloc",
            Memalign => "memalign",
            Valloc => "valloc",
            Pvalloc => "pvalloc",
            Mmap => "mmap",
            Munmap => "munmap",
        }
    }

    /// Whether it gives memory back.
    pub fn is_free(self) -> bool {
        matches!(self, AllocatorKind::PymallocFree | AllocatorKind::Free | AllocatorKind::Munmap)
    }
}

/// The bits of a hot record's tag.
pub mod hot {
    /// Mask of the allocator kind, 0 for the records without one.
    pub const KIND_MASK: u8 = 0x0f;
    /// Mask of the way in which the address is written: one of the four below.
    pub const ADDRESS_MASK: u8 = 0x30;
    /// The difference to the previous address of the block, in units of 16 bytes.
    pub const DIFFERENCE: u8 = 0x00;
    /// The place of the region in its table, and the difference to the last address there, in units of 16 bytes.
    pub const REGION: u8 = 0x10;
    /// The previous address of the block again; nothing is written.
    pub const SAME: u8 = 0x20;
    /// The difference to the previous address of the block, in bytes.
    pub const RAW_DIFFERENCE: u8 = 0x30;
    /// The stack is the one that came after the previous stack of the block the last time.
    pub const EXPECTED_STACK: u8 = 0x40;

    /// The tag of a [`Restore`](super::Record::Restore).
    pub const RESTORE: u8 = 0x00;
    /// The tags of a [`Turn`](super::Record::Turn): of the lane's own, and a shared one.
    pub const TURN: u8 = 0x10;
    pub const SHARED_TURN: u8 = 0x20;
    /// The tag of a [`Node`](super::Record::Node).
    pub const NODE: u8 = 0x30;
    /// The tag of an [`Object`](super::Record::Object), without the bits of [`ADDRESS_MASK`].
    pub const OBJECT: u8 = 0x40;
}

/// Tags of records with a length.
pub mod tag {
    pub const THREAD: u8 = 0x82;
    pub const THREAD_NAME: u8 = 0x83;
    pub const MMAP: u8 = 0x84;
    pub const MUNMAP: u8 = 0x85;
    pub const MREMAP: u8 = 0x86;
    pub const LOST: u8 = 0x87;
    pub const CODE: u8 = 0x90;
    pub const IMAGE: u8 = 0x91;
    pub const PYTHON: u8 = 0x92;
    pub const NOTICE: u8 = 0x93;
    pub const MODULE: u8 = 0x94;
    pub const CLOCK: u8 = 0xa0;
    pub const RSS: u8 = 0xa1;
    pub const MARK: u8 = 0xa2;
}

/// Something that the user should know, found by the recorder while the program ran ([`Notice::code`]).
pub mod notice {
    /// This CPython (text: its version) has no known layout: no Python stacks.
    pub const UNKNOWN_PYTHON: u32 = 1;
    /// A library (text: its path) was opened with RTLD_DEEPBIND: its own allocations are not seen.
    pub const DEEPBIND: u32 = 3;
    /// The program (text: its path) replaced this process by exec and can't be followed (static, 32-bit, other libc,
    /// set-user-id).
    pub const EXEC_NOT_FOLLOWED: u32 = 4;
    /// CPython's allocators could not be wrapped (text: why): no events of Python objects.
    pub const NO_PYTHON_ALLOCATORS: u32 = 5;
    /// `MEMTRACE_SELF_CHECK` found a difference (text: both stacks).
    pub const SELF_CHECK: u32 = 6;
    /// The interpreter contradicts our table (text: in which field): no Python stacks from there on.
    pub const LAYOUT_MISMATCH: u32 = 7;
}

/// What a [`Mark`](Record::Mark) says ([`Mark::what`]).
pub mod mark {
    /// Somebody gave this moment a name.
    pub const NAMED: u32 = 0;
    /// From here on allocations and mappings are left out…
    pub const PAUSED: u32 = 1;
    /// …up to here.
    pub const RESUMED: u32 = 2;
    /// The longest name, in bytes.
    pub const MAX_NAME_LEN: usize = 128;
}

/// A block of memory was handed out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Alloc {
    pub kind: AllocatorKind,
    pub address: u64,
    /// Requested bytes.
    pub size: u64,
    /// A node of the lane's stack tree; 0 is the empty stack.
    pub stack: u32,
}

/// A block of memory is about to be given back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Free {
    pub kind: AllocatorKind,
    pub address: u64,
}

/// A Python object was made, or is about to be destroyed. Only where lifetimes of objects are asked for, from CPython 3.13.3
/// on. Its memory has records of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Object {
    /// Where it is, as `id()` tells it.
    pub address: u64,
    /// The stack that made it, a node as in [`Alloc`]; `None` for one that is destroyed.
    pub made_by: Option<u32>,
}

/// The lane's last [`Free`], [`Munmap`] did not happen (a `realloc`, `mremap` or `munmap` that failed): the memory is
/// back, with its old stack and age.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Restore;

/// The lane's next records belong to this turn.
pub use crate::turn::Turn;

/// One more node of the lane's stack tree; its number is one more than the last one's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Node {
    /// An earlier node of the lane, or 0.
    pub parent: u32,
    /// The number of a code object, of a [`Module`], or [`Node::NO_CODE`].
    pub code: u32,
    /// Byte offset of the running instruction in the code object's instructions, or [`Node::NOT_BEGUN`]. In a module, the
    /// address of the call in the file: that of a byte of it, and not the return address.
    pub offset: u32,
}

impl Node {
    /// What no frame has. On a Python stack, with the offset 0: C code has entered the interpreter here. With any other:
    /// the native stack of that number and the Python stack `parent` (or 0) are those of one event.
    pub const NO_CODE: u32 = 0;
    /// The offset of a frame that stands before its first instruction, in the function's first line.
    pub const NOT_BEGUN: u32 = u32::MAX;
}

/// From here on the lane's records are this thread's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Thread {
    /// A number given in order of first appearance, from 1.
    pub thread: u32,
    /// The kernel's id of the thread.
    pub os_tid: u32,
    /// Its `pthread_t`, which later [`ThreadName`] records refer to.
    pub pthread: u64,
}

/// A thread was named by `prctl` or `pthread_setname_np`, or by the program itself, as Python does. When no [`Thread`]
/// with this `pthread` is alive yet, the name is for the next one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ThreadName<'a> {
    pub pthread: u64,
    pub name: &'a [u8],
}

/// A mapping was made; what it covered before is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mmap {
    pub address: u64,
    pub len: u64,
    /// `PROT_*` as given.
    pub prot: u32,
    /// `MAP_*` as given.
    pub flags: u32,
    /// Made by an allocator for its own use, so that what it hands out of it is recorded too: an arena of pymalloc.
    pub is_arena: bool,
    pub stack: u32,
}

/// A range is about to be unmapped (also the first half of an [`Mremap`]).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Munmap {
    pub address: u64,
    pub len: u64,
    /// The first half of an `mremap`.
    pub is_remap: bool,
}

/// The second half of a successful `mremap`: the new range, whose class (protection, flags) is the old one's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mremap {
    pub old_address: u64,
    pub address: u64,
    pub len: u64,
    /// `MREMAP_*` as given. With `MREMAP_DONTUNMAP`, or an old length of 0, the old range stays.
    pub flags: u32,
    pub is_arena: bool,
    pub stack: u32,
}

/// A string of the interpreter, as it lies in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PyStr<'a> {
    /// Bytes per character: 1 (Latin-1), 2 (UCS-2), 4 (UCS-4). CPython's `PyUnicode_KIND`.
    pub width: u8,
    pub bytes: &'a [u8],
}

/// A code object, seen for the first time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Code<'a> {
    /// From 1, never reused in an image.
    pub id: u32,
    pub first_line: u32,
    pub name: PyStr<'a>,
    pub file: PyStr<'a>,
    /// `co_linetable` (CPython 3.9: `co_lnotab`), in the encoding of the image's Python version; from 3.11 on as a rule
    /// [without columns](crate::locations).
    pub line_table: &'a [u8],
}

/// A loaded object, met for the first time in a native stack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Module<'a> {
    /// From 1, of the same numbers as code objects.
    pub id: u32,
    /// What the loader added to the file's addresses.
    pub bias: u64,
    /// As `/proc/self/maps` has it; empty for code that is in no file.
    pub path: &'a [u8],
    /// The note of the linker; empty without one.
    pub build_id: &'a [u8],
}

/// A program starts: the first one, or the one after an exec.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Image<'a> {
    /// Number of the turn when it started.
    pub turn: u64,
    /// What runs, as `/proc/self/exe` says.
    pub exe: &'a [u8],
    /// Its arguments, each ended by a zero byte.
    pub arguments: &'a [u8],
}

/// A CPython was found in the program; written again when its allocators were replaced and wrapped anew.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Python<'a> {
    /// `PY_VERSION_HEX`
    pub version: u32,
    /// Name of the allocators that were wrapped (`pymalloc`, `malloc_debug`, …); empty when they were not.
    pub allocator: &'a [u8],
    /// Whether Python stacks are read.
    pub has_stacks: bool,
}

/// One thing that the user should know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Notice<'a> {
    /// One of [`notice`].
    pub code: u32,
    /// The particulars, in UTF-8 as far as the program's own strings are.
    pub text: &'a [u8],
}

/// A point of the map from turns to time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Clock {
    /// CLOCK_MONOTONIC
    pub mono_nanos: u64,
}

/// The process's resident set, sampled from outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rss {
    /// CLOCK_MONOTONIC
    pub mono_nanos: u64,
    pub bytes: u64,
}

/// A moment that the user gave a name, or where the recording was paused or resumed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mark<'a> {
    /// CLOCK_MONOTONIC
    pub mono_nanos: u64,
    /// One of [`mark`].
    pub what: u32,
    /// In UTF-8, at most [`mark::MAX_NAME_LEN`] bytes; empty where the recording was paused or resumed.
    pub name: &'a [u8],
}

/// Events of this lane that could not be recorded, since the last such record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lost {
    pub count: u64,
}

/// Any record, borrowing its strings from the block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Record<'a> {
    Alloc(Alloc),
    Free(Free),
    Object(Object),
    Restore(Restore),
    Turn(Turn),
    Node(Node),
    Thread(Thread),
    ThreadName(ThreadName<'a>),
    Mmap(Mmap),
    Munmap(Munmap),
    Mremap(Mremap),
    Lost(Lost),
    Code(Code<'a>),
    Module(Module<'a>),
    Image(Image<'a>),
    Python(Python<'a>),
    Notice(Notice<'a>),
    Clock(Clock),
    Rss(Rss),
    Mark(Mark<'a>),
    /// A kind of record that this reader does not know; its tag.
    Unknown(u8),
}

impl Record<'_> {
    /// Whether it is an allocation, a free or a mapping: what people count.
    #[inline(always)]
    pub fn is_counted(&self) -> bool {
        use Record::*;
        matches!(self, Alloc(_) | Free(_) | Mmap(_) | Munmap(_) | Mremap(_))
    }

    /// Whether it happened at a moment that matters: in a shared turn, these carry a tick.
    pub fn is_event(&self) -> bool {
        use Record::*;
        matches!(
            self,
            Alloc(_)
                | Free(_)
                | Object(_)
                | Restore(_)
                | Thread(_)
                | ThreadName(_)
                | Mmap(_)
                | Munmap(_)
                | Mremap(_)
                | Lost(_)
        )
    }
}
