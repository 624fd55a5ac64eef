//! One row of numbers per CPython minor version: where the fields lie that we read. From 3.13 on compared with the
//! interpreter's own description, `_Py_DebugOffsets`. It must refuse what it does not know.
//!
//! Sources, per row: `Include/cpython/pystate.h` (PyThreadState, 3.11 and 3.12 `_PyCFrame`),
//! `Include/internal/pycore_frame.h` (`_PyInterpreterFrame`; 3.9 and 3.10: `PyFrameObject` of
//! `Include/cpython/frameobject.h`), `Include/cpython/code.h` (PyCodeObject), `Include/cpython/unicodeobject.h`,
//! `Include/cpython/bytesobject.h`, `Include/internal/pycore_runtime.h`. A test compiles a program against each
//! installed interpreter's headers and compares.
//!
//! # Safety
//! Dangerous: reads the interpreter's description of itself from the start of `_PyRuntime`. We rely on its cookie.

use memtrace_format::record::notice;

/// Byte offsets of one minor version.
#[derive(Clone, Copy)]
pub struct Layout {
    /// `_PyRuntimeState.preinitialized`, followed by `core_initialized` and `initialized`
    pub runtime_preinitialized: usize,
    /// `_PyRuntimeState._finalizing`
    pub runtime_finalizing: usize,
    /// `_PyRuntimeState.interpreters.head`
    pub runtime_newest: usize,
    /// `_PyRuntimeState.interpreters.main`
    pub runtime_main: usize,
    /// `_PyRuntimeState.gilstate.autoTSSkey` (up to 3.11) or `.autoTSSkey`: an int that tells whether there is a key
    /// (`_is_initialized`), and behind it the `pthread_key_t` under which each thread keeps its thread state. From 3.15
    /// on there is none.
    pub runtime_tss_key: Option<usize>,
    /// `_PyRuntimeState.ceval.gil.last_holder`, in 3.9
    pub runtime_gil_holder: Option<usize>,
    /// `PyThreadState.frame` (3.9, 3.10), `.cframe` (3.11, 3.12) or `.current_frame`
    pub state_frame: usize,
    /// `_PyCFrame.current_frame`, where `state_frame` leads to one
    pub c_frame_current: Option<usize>,
    /// `PyThreadState.cframe`, a place on the stack of the thread that runs the state; from 3.10 to 3.12
    pub state_c_frame: Option<usize>,
    /// `PyThreadState.thread_id`: the `pthread_t` of the thread that made the state
    pub state_thread: usize,
    /// `PyThreadState.tracing`: not 0 while a trace function runs
    pub state_tracing: usize,
    /// `PyThreadState.datastack_chunk`, where it is relied on: from 3.11 to 3.13. (3.15 keeps a chunk that goes out of use
    /// for the next time, so that its address proves nothing.)
    pub state_stack_chunk: Option<usize>,
    /// `PyFrameObject.f_code` (3.9, 3.10), `_PyInterpreterFrame.f_code` (3.11, 3.12) or `.f_executable`, from 3.14 on with
    /// notes in its lowest bits
    pub frame_code: usize,
    /// `PyFrameObject.f_back` (3.9, 3.10) or `_PyInterpreterFrame.previous`
    pub frame_previous: usize,
    /// `PyFrameObject.f_lasti` (3.9, 3.10), `_PyInterpreterFrame.prev_instr` (3.11, 3.12) or `.instr_ptr`
    pub frame_instruction: usize,
    /// What the frame's instruction is: `None` for an address, `Some(unit)` for a C int that counts units of so many
    /// bytes from the start of the code, -1 before the first.
    pub instruction_unit: Option<u32>,
    /// `_PyInterpreterFrame.owner`. Frames of 3.9 and 3.10 have none, and the last byte of `f_back` stands for it: it is
    /// 0 in any address of a program.
    pub frame_owner: usize,
    /// `_PyInterpreterFrame.is_entry`, of 3.11 alone: whether C code entered the interpreter at this frame. Later ones have
    /// a frame without code there.
    pub frame_is_entry: Option<usize>,
    /// The first of the owners whose frames have no code: `FRAME_OWNED_BY_CSTACK` (3.12, 3.13),
    /// `FRAME_OWNED_BY_INTERPRETER` (3.14 on). None up to 3.11.
    pub owner_without_code: u8,
    /// `FRAME_OWNED_BY_GENERATOR`. From 3.11 on.
    pub owner_generator: u8,
    /// `PyCodeObject.co_filename`
    pub code_file: usize,
    /// `PyCodeObject.co_name` (3.9, 3.10) or `.co_qualname`
    pub code_name: usize,
    /// `PyCodeObject.co_lnotab` (3.9) or `.co_linetable`
    pub code_line_table: usize,
    /// `PyCodeObject.co_firstlineno`
    pub code_first_line: usize,
    /// `PyCodeObject._co_firsttraceable`. From 3.11 on.
    pub code_first_traceable: Option<usize>,
    /// `PyCodeObject.co_code` (3.9, 3.10), a bytes object, or `.co_code_adaptive`
    pub code_instructions: usize,
    /// `PyCodeObject.ob_size`: the number of instructions
    pub code_len: usize,
    /// `PyCodeObject.co_tlbc`, the copies of its instructions that threads run; free-threaded, from 3.14 on
    pub code_copies: Option<usize>,
    /// `PyInterpreterState.tlbc_indices.tlbc_generation`, which counts when such copies are discarded. Not a number of
    /// the table, but what the interpreter says.
    pub interpreter_discards: Option<usize>,
    /// `PyObject.ob_type`
    pub object_type: usize,
    /// `PyTypeObject.tp_dealloc`
    pub type_dealloc: usize,
    /// `PyASCIIObject.length`
    pub str_len: usize,
    /// `PyASCIIObject.state`
    pub str_state: usize,
    /// In `state`: the lowest of the three bits of `kind`; `compact` and `ascii` follow
    pub str_kind: u32,
    /// `sizeof(PyASCIIObject)`: where the characters of an ASCII string start
    pub str_ascii: usize,
    /// `sizeof(PyCompactUnicodeObject)`: where those of other strings start
    pub str_compact: usize,
    /// `PyBytesObject.ob_size`
    pub bytes_len: usize,
    /// `PyBytesObject.ob_sval`
    pub bytes_start: usize,
    /// Whether the running thread state is a word of the process (and not of the thread): up to 3.11.
    pub has_global_current: bool,
    /// Whether threads run Python beside each other: a build with `--disable-gil`.
    pub is_free_threaded: bool,
}

/// No interpreter.
pub const NONE: Layout = PYTHON_3_11;

/// CPython 3.9
const PYTHON_3_9: Layout = Layout {
    runtime_preinitialized: 4,
    runtime_finalizing: 16,
    runtime_newest: 32,
    runtime_main: 40,
    runtime_tss_key: Some(584),
    runtime_gil_holder: Some(360),
    state_frame: 24,
    c_frame_current: None,
    state_c_frame: None,
    state_thread: 176,
    state_tracing: 0,
    state_stack_chunk: None,
    frame_code: 32,
    frame_previous: 24,
    frame_instruction: 104,
    instruction_unit: Some(1),
    frame_owner: 31,
    frame_is_entry: None,
    owner_without_code: u8::MAX,
    owner_generator: u8::MAX,
    code_file: 104,
    code_name: 112,
    code_line_table: 120,
    code_first_line: 40,
    code_first_traceable: None,
    code_instructions: 48,
    code_len: 16,
    code_copies: None,
    interpreter_discards: None,
    object_type: 8,
    type_dealloc: 48,
    str_len: 16,
    str_state: 32,
    str_kind: 2,
    str_ascii: 48,
    str_compact: 72,
    bytes_len: 16,
    bytes_start: 32,
    has_global_current: true,
    is_free_threaded: false,
};

/// CPython 3.10
const PYTHON_3_10: Layout = Layout {
    runtime_gil_holder: None,
    state_c_frame: Some(48),
    frame_instruction: 96,
    instruction_unit: Some(2),
    ..PYTHON_3_9
};

/// CPython 3.11
const PYTHON_3_11: Layout = Layout {
    runtime_preinitialized: 8,
    runtime_finalizing: 24,
    runtime_newest: 40,
    runtime_main: 48,
    runtime_tss_key: Some(592),
    state_frame: 56,
    c_frame_current: Some(8),
    state_c_frame: Some(56),
    state_thread: 152,
    state_tracing: 44,
    state_stack_chunk: Some(296),
    frame_code: 32,
    frame_previous: 48,
    frame_instruction: 56,
    instruction_unit: None,
    frame_owner: 69,
    frame_is_entry: Some(68),
    owner_generator: 1,
    code_file: 112,
    code_name: 128,
    code_line_table: 136,
    code_first_line: 72,
    code_first_traceable: Some(168),
    code_instructions: 184,
    ..PYTHON_3_10
};

/// CPython 3.12
const PYTHON_3_12: Layout = Layout {
    runtime_tss_key: Some(1544),
    c_frame_current: Some(0),
    state_thread: 136,
    state_stack_chunk: Some(232),
    frame_code: 0,
    frame_previous: 8,
    frame_owner: 70,
    frame_is_entry: None,
    owner_without_code: 3,
    code_first_line: 68,
    code_first_traceable: Some(176),
    code_instructions: 192,
    str_ascii: 40,
    str_compact: 56,
    has_global_current: false,
    ..PYTHON_3_11
};

/// CPython 3.13
const PYTHON_3_13: Layout = Layout {
    runtime_preinitialized: 592,
    runtime_finalizing: 608,
    runtime_newest: 632,
    runtime_main: 640,
    runtime_tss_key: Some(2160),
    state_frame: 72,
    c_frame_current: None,
    state_c_frame: None,
    state_thread: 152,
    state_tracing: 60,
    code_first_traceable: Some(184),
    code_instructions: 200,
    ..PYTHON_3_12
};

/// CPython 3.13, free-threaded: an object's head is 16 bytes longer.
const PYTHON_3_13T: Layout = Layout {
    state_stack_chunk: None,
    code_file: 128,
    code_name: 144,
    code_line_table: 152,
    code_first_line: 84,
    code_first_traceable: Some(200),
    code_instructions: 216,
    code_len: 32,
    object_type: 24,
    type_dealloc: 64,
    str_len: 32,
    str_state: 48,
    str_ascii: 56,
    str_compact: 72,
    bytes_len: 32,
    bytes_start: 48,
    is_free_threaded: true,
    ..PYTHON_3_13
};

/// CPython 3.14
const PYTHON_3_14: Layout = Layout {
    state_stack_chunk: None,
    runtime_preinitialized: 768,
    runtime_finalizing: 784,
    runtime_newest: 808,
    runtime_main: 816,
    runtime_tss_key: Some(2336),
    frame_owner: 74,
    code_first_traceable: Some(192),
    code_instructions: 208,
    ..PYTHON_3_13
};

/// CPython 3.14, free-threaded
const PYTHON_3_14T: Layout = Layout {
    runtime_preinitialized: 768,
    runtime_finalizing: 784,
    runtime_newest: 808,
    runtime_main: 816,
    runtime_tss_key: None,
    frame_owner: 78,
    code_first_traceable: Some(208),
    code_instructions: 232,
    code_copies: Some(224),
    str_kind: 8,
    ..PYTHON_3_13T
};

/// CPython 3.15
const PYTHON_3_15: Layout = Layout {
    runtime_preinitialized: 896,
    runtime_finalizing: 912,
    runtime_newest: 936,
    runtime_main: 944,
    runtime_tss_key: None,
    state_thread: 176,
    state_tracing: 64,
    ..PYTHON_3_14
};

/// CPython 3.15, free-threaded
const PYTHON_3_15T: Layout = Layout {
    runtime_preinitialized: 896,
    runtime_finalizing: 912,
    runtime_newest: 936,
    runtime_main: 944,
    state_thread: 176,
    state_tracing: 64,
    ..PYTHON_3_14T
};

/// Why an interpreter's stacks are not read.
#[derive(Clone, Copy)]
pub enum Refusal {
    UnknownVersion,
    /// The field in which table and interpreter differ.
    Mismatch(&'static str),
}

impl Refusal {
    pub fn notice(self) -> u32 {
        match self {
            Refusal::UnknownVersion => notice::UNKNOWN_PYTHON,
            Refusal::Mismatch(_) => notice::LAYOUT_MISMATCH,
        }
    }

    /// The notice's particulars.
    pub fn text(self, version: u32, buf: &mut [u8; 64]) -> &[u8] {
        match self {
            Refusal::UnknownVersion if version == 0 => b"of an unknown version",
            Refusal::UnknownVersion => version_text(version, buf),
            Refusal::Mismatch(field) => field.as_bytes(),
        }
    }
}

/// `3.11.7` for 0x030b07f0.
fn version_text(version: u32, buf: &mut [u8; 64]) -> &[u8] {
    let parts = [version >> 24 & 0xff, version >> 16 & 0xff, version >> 8 & 0xff];
    let mut len = 0;
    for (index, part) in parts.into_iter().enumerate() {
        let digits = [part / 100 % 10, part / 10 % 10, part % 10];
        let shown = if part >= 100 {
            0
        } else if part >= 10 {
            1
        } else {
            2
        };
        let dot = if index > 0 { Some(b'.') } else { None };
        let digits = digits.into_iter().skip(shown).map(|digit| b'0' + digit as u8);
        for byte in dot.into_iter().chain(digits) {
            if let Some(place) = buf.get_mut(len) {
                *place = byte;
                len += 1;
            }
        }
    }
    buf.get(..len).unwrap_or(&[])
}

/// `PY_VERSION_HEX` of what `Py_GetVersion` says, `3.10.13 (main, …)` or `3.9.0rc2+ (…)`; 0 when that is no version.
pub fn version_number(text: &[u8]) -> u32 {
    const FINAL: u32 = 0xf0;
    let mut parts = [0u32; 3];
    let mut rest = text;
    for (index, part) in parts.iter_mut().enumerate() {
        if index > 0 {
            match rest.split_first() {
                Some((b'.', behind)) => rest = behind,
                _ => return 0,
            }
        }
        (*part, rest) = leading_number(rest);
    }
    let [major, minor, micro] = parts;
    let release = match rest {
        [b'a', serial @ ..] => 0xa0 | leading_number(serial).0 & 15,
        [b'b', serial @ ..] => 0xb0 | leading_number(serial).0 & 15,
        [b'r', b'c', serial @ ..] => 0xc0 | leading_number(serial).0 & 15,
        _ => FINAL,
    };
    if parts.iter().any(|part| *part > 0xff) { 0 } else { major << 24 | minor << 16 | micro << 8 | release }
}

/// The digits at the start of a text as a number, and what follows them.
fn leading_number(text: &[u8]) -> (u32, &[u8]) {
    let mut number = 0u32;
    let mut rest = text;
    while let Some((digit @ b'0'..=b'9', behind)) = rest.split_first() {
        number = number.saturating_mul(10).saturating_add((digit - b'0') as u32);
        rest = behind;
    }
    (number, rest)
}

/// The row for an interpreter, checked as far as it can be before it runs.
pub fn of(version: u32, runtime: usize) -> Result<Layout, Refusal> {
    match version >> 16 {
        0x0309 => Ok(PYTHON_3_9),
        0x030a => Ok(PYTHON_3_10),
        0x030b => Ok(PYTHON_3_11),
        0x030c => Ok(PYTHON_3_12),
        0x030d => checked(version, runtime, &DEBUG_OFFSETS_3_13),
        0x030e => checked(version, runtime, &DEBUG_OFFSETS_3_14),
        0x030f => checked(version, runtime, &DEBUG_OFFSETS_3_15),
        _ => Err(Refusal::UnknownVersion),
    }
}

/// `_Py_DebugOffsets` of one version. Up to 3.13 it is in `Include/internal/pycore_runtime.h`, then in
/// `Include/internal/pycore_debug_offsets.h`.
struct DebugOffsets {
    layout: Layout,
    free_threaded: Layout,
    /// Which of the places in [`DESCRIBED`] are this version's.
    column: usize,
    /// Where it describes `PyInterpreterState.tlbc_indices.tlbc_generation`.
    interpreter_discards: Option<usize>,
}

const DEBUG_OFFSETS_3_13: DebugOffsets =
    DebugOffsets { layout: PYTHON_3_13, free_threaded: PYTHON_3_13T, column: 0, interpreter_discards: None };
const DEBUG_OFFSETS_3_14: DebugOffsets =
    DebugOffsets { layout: PYTHON_3_14, free_threaded: PYTHON_3_14T, column: 1, interpreter_discards: Some(168) };
const DEBUG_OFFSETS_3_15: DebugOffsets =
    DebugOffsets { layout: PYTHON_3_15, free_threaded: PYTHON_3_15T, column: 2, interpreter_discards: Some(168) };

/// Places of the interpreter's description in 3.13, 3.14 and 3.15, our field, its name.
type Described = ([usize; 3], fn(&Layout) -> usize, &'static str);

/// The place of what a version does not describe. (At 0 there is the cookie.)
const NOWHERE: usize = 0;

/// What the interpreters say of the fields that we read.
const DESCRIBED: &[Described] = &[
    ([32, 32, 32], |it| it.runtime_finalizing, "runtime_state.finalizing"),
    ([40, 40, 40], |it| it.runtime_newest, "runtime_state.interpreters_head"),
    ([184, 208, 208], |it| it.state_frame, "thread_state.current_frame"),
    ([232, 256, 320], |it| it.frame_previous, "interpreter_frame.previous"),
    ([240, 264, 328], |it| it.frame_code, "interpreter_frame.executable"),
    ([248, 272, 336], |it| it.frame_instruction, "interpreter_frame.instr_ptr"),
    ([264, 288, 352], |it| it.frame_owner, "interpreter_frame.owner"),
    ([280, 320, 384], |it| it.code_file, "code_object.filename"),
    ([296, 336, 400], |it| it.code_name, "code_object.qualname"),
    ([304, 344, 408], |it| it.code_line_table, "code_object.linetable"),
    ([312, 352, 416], |it| it.code_first_line, "code_object.firstlineno"),
    ([344, 384, 448], |it| it.code_instructions, "code_object.co_code_adaptive"),
    ([NOWHERE, 392, 456], |it| it.code_copies.unwrap_or(0), "code_object.co_tlbc"),
    ([360, 408, 472], |it| it.object_type, "pyobject.ob_type"),
    ([520, 600, 696], |it| it.bytes_len, "bytes_object.ob_size"),
    ([528, 608, 704], |it| it.bytes_start, "bytes_object.ob_sval"),
    ([544, 624, 720], |it| it.str_state, "unicode_object.state"),
    ([552, 632, 728], |it| it.str_len, "unicode_object.length"),
    ([560, 640, 736], |it| it.str_ascii, "unicode_object.asciiobject_size"),
    ([NOWHERE, NOWHERE, 744], |it| it.str_compact, "unicode_object.compactunicodeobject_size"),
];

impl DebugOffsets {
    /// Where the fields are described, our fields, their names.
    fn fields(&self) -> impl Iterator<Item = (usize, fn(&Layout) -> usize, &'static str)> {
        let column = self.column;
        let fields = DESCRIBED.iter().map(move |(places, field, name)| (places.get(column), *field, *name));
        fields.filter_map(|(place, field, name)| Some((*place.filter(|place| **place != NOWHERE)?, field, name)))
    }
}

/// `_Py_Debug_Cookie`
const COOKIE: [u8; 8] = *b"xdebugpy";
/// `_Py_DebugOffsets.version` and `.free_threaded`
const VERSION: usize = 8;
const FREE_THREADED: usize = 16;

fn checked(version: u32, runtime: usize, described: &DebugOffsets) -> Result<Layout, Refusal> {
    // SAFETY: `_PyRuntime` starts with the description, which is longer than all places read here.
    let word = |place: usize| unsafe { *((runtime + place) as *const u64) };
    if word(0).to_ne_bytes() != COOKIE {
        return Err(Refusal::Mismatch("cookie"));
    }
    if word(VERSION) != version as u64 {
        return Err(Refusal::Mismatch("version"));
    }
    let layout = if word(FREE_THREADED) != 0 { described.free_threaded } else { described.layout };
    match described.fields().find(|(place, field, _)| word(*place) != field(&layout) as u64) {
        Some((_, _, name)) => Err(Refusal::Mismatch(name)),
        None => {
            let interpreter_discards = described.interpreter_discards.map(|place| word(place) as usize);
            Ok(Layout { interpreter_discards: interpreter_discards.filter(|_| layout.code_copies.is_some()), ..layout })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_is_written_as_people_write_it() {
        let mut buf = [0; 64];
        assert_eq!(version_text(0x030b_07f0, &mut buf), b"3.11.7");
        assert_eq!(version_text(0x0310_00a1, &mut buf), b"3.16.0");
    }

    #[test]
    fn a_version_is_read_from_what_the_interpreter_says() {
        assert_eq!(version_number(b"3.10.13 (main, Nov 21 2026, 15:00:00) \n[GCC 12.2.0]"), 0x030a_0df0);
        assert_eq!(version_number(b"3.9.0rc2+ (default)"), 0x0309_00c2);
        assert_eq!(version_number(b"3.9.0b4"), 0x0309_00b4);
        assert_eq!(version_number(b"2.7.18 |custom"), 0x0207_12f0);
        for text in [&b""[..], b"3.9", b"PyPy 7.3", b"3.99999999999.1"] {
            assert_eq!(version_number(text), 0);
        }
    }

    #[test]
    fn what_is_not_in_the_table_is_refused() {
        let description = [0u64; 200];
        let runtime = description.as_ptr() as usize;
        assert!(matches!(of(0x0310_00f0, runtime), Err(Refusal::UnknownVersion)));
        assert!(matches!(of(0x030d_00f0, runtime), Err(Refusal::Mismatch("cookie"))));
        assert!(of(0x030c_01f0, runtime).is_ok());
    }

    #[test]
    fn a_layout_that_differs_from_the_interpreters_own_account_is_refused_by_field() {
        let mut description = [0u64; 200];
        description[0] = u64::from_ne_bytes(COOKIE);
        description[VERSION / 8] = 0x030d_00f0;
        for (place, field, _) in DEBUG_OFFSETS_3_13.fields() {
            description[place / 8] = field(&PYTHON_3_13) as u64;
        }
        let check = |version, description: &[u64; 200]| of(version, description.as_ptr() as usize);
        assert!(check(0x030d_00f0, &description).is_ok());
        assert!(matches!(check(0x030d_01f0, &description), Err(Refusal::Mismatch("version"))));
        // A free-threaded interpreter's objects are larger.
        description[FREE_THREADED / 8] = 1;
        assert!(matches!(check(0x030d_00f0, &description), Err(Refusal::Mismatch("code_object.filename"))));
        description[FREE_THREADED / 8] = 0;
        description[552 / 8] += 8;
        assert!(matches!(check(0x030d_00f0, &description), Err(Refusal::Mismatch("unicode_object.length"))));
    }
}
