//! The door that CPython has from 3.14 on for whoever wants a script run in it from outside (PEP 768): where it is, whether
//! it is open, and how one knocks. Called by `remote`. Nothing is written before the interpreter has said where.
//!
//! `_PyRuntime` begins with a description of the interpreter, `_Py_DebugOffsets`
//! (`Include/internal/pycore_debug_offsets.h`). Each thread state has a flag and the path of a script; the thread looks at
//! the flag whenever something makes it leave its loop, which a bit of its `eval_breaker` does.
//!
//! Only the main thread is asked, as `sys.remote_exec` does: its state is there as long as the interpreter, and another's
//! may be freed while we write.

use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use anyhow::{Context, bail, ensure};

use super::memory::{Memory, Object};

/// Places in `_Py_DebugOffsets`, the same in 3.14 and 3.15.
mod place {
    pub const VERSION: u64 = 8;
    pub const FINALIZING: u64 = 32;
    pub const NEWEST_INTERPRETER: u64 = 40;
    pub const INTERPRETER_ID: u64 = 56;
    pub const NEXT_INTERPRETER: u64 = 64;
    pub const MAIN_THREAD: u64 = 80;
}

/// Where it begins to describe the door, `_Py_DebugOffsets.debugger_support`.
const DOOR_3_14: u64 = 712;
const DOOR_3_15: u64 = 840;

/// `_Py_Debug_Cookie`
const COOKIE: [u8; 8] = *b"xdebugpy";
/// `PY_RELEASE_LEVEL_GAMMA`: before a release candidate layouts change.
const CANDIDATE: u64 = 0xc0;
const MAX_INTERPRETERS: usize = 10_000;

/// Bits of `eval_breaker` in `Include/internal/pycore_ceval.h`, the same in 3.14 and 3.15. With these set the thread looks
/// for signals, calls and exceptions that wait for it, and finds what is there, if anything.
const LOOK_FOR_WORK: u8 = 1 << 1 | 1 << 2 | 1 << 3;
/// `_PY_EVAL_PLEASE_STOP_BIT`, by which CPython knocks, too.
const PLEASE_STOP: u8 = 1 << 5;

/// Of a running interpreter in another process.
pub struct Door<'a> {
    memory: &'a Memory,
    breaker: u64,
    flag: u64,
    path: u64,
    path_size: u64,
}

impl Door<'_> {
    /// An error says, after "its Python …", why there is none, or why it is closed.
    pub fn find<'a>(memory: &'a Memory, objects: &[Object]) -> anyhow::Result<Door<'a>> {
        let runtime = objects.iter().find_map(|object| memory.symbol(object, "_PyRuntime").ok()?);
        let runtime = runtime.context("there is no Python in it")?;
        let described = |place: u64| memory.word(runtime + place);
        let version = described(place::VERSION)?;
        let door = match version >> 16 {
            _ if memory.read(runtime)? != COOKIE => bail!("its Python is older than 3.14"),
            0x030d => bail!("its Python is older than 3.14"),
            0x030e if version & 0xf0 >= CANDIDATE => DOOR_3_14,
            0x030f if version & 0xf0 >= CANDIDATE => DOOR_3_15,
            _ => bail!("its Python is of a version that this memtrace does not know"),
        };
        ensure!(memory.word(runtime + described(place::FINALIZING)?)? == 0, "its Python is just ending");
        let mut interpreter = memory.word(runtime + described(place::NEWEST_INTERPRETER)?)?;
        for _ in 0..MAX_INTERPRETERS {
            if interpreter == 0 || memory.word(interpreter + described(place::INTERPRETER_ID)?)? == 0 {
                break;
            }
            interpreter = memory.word(interpreter + described(place::NEXT_INTERPRETER)?)?;
        }
        ensure!(interpreter != 0, "its Python has not started yet");
        let thread = memory.word(interpreter + described(place::MAIN_THREAD)?)?;
        ensure!(thread != 0, "its Python has not started yet");
        let [breaker, support, enabled, flag, path, path_size] =
            [0, 8, 16, 24, 32, 40].map(|place| described(door + place));
        // An int; without support in the build it is 0 as well.
        let enabled = i32::from_le_bytes(memory.read(interpreter + enabled?)?);
        ensure!(enabled == 1, "its Python was built or started with remote debugging disabled");
        let support = thread + support?;
        Ok(Door {
            memory,
            breaker: thread + breaker?,
            flag: support + flag?,
            path: support + path?,
            path_size: path_size?,
        })
    }

    /// Asks for a script to be run.
    pub fn ask(&self, script: &Path) -> anyhow::Result<()> {
        let mut path = script.as_os_str().as_bytes().to_vec();
        path.push(0);
        ensure!(path.len() as u64 <= self.path_size, "the path of the script is too long for its Python");
        ensure!(!self.is_asked()?, "somebody else has just asked its Python to run a script");
        self.memory.write(self.path, &path)?;
        self.memory.write(self.flag, &1i32.to_le_bytes())?;
        Ok(())
    }

    /// Has the thread look at the flag when it executes bytecode, if nothing else does.
    ///
    /// The interpreter changes the word at any time, and we can only write all of these bits. So that none is lost or
    /// comes back, this is done only when none of those is set that would do harm then (a wrong request to drop the lock
    /// can wait for ever), and sets all that do none. Bits that others set in the same moment and that are lost are set
    /// anew: a waiting thread asks for the lock, and an allocation for the collector, again and again.
    pub fn knock(&self) -> io::Result<()> {
        let [bits] = self.memory.read(self.breaker)?;
        if bits & !(LOOK_FOR_WORK | PLEASE_STOP) == 0 {
            self.memory.write(self.breaker, &[LOOK_FOR_WORK | PLEASE_STOP])?;
        }
        Ok(())
    }

    /// Whether the script has not been taken yet.
    pub fn is_asked(&self) -> io::Result<bool> {
        Ok(self.memory.read(self.flag)? == 1i32.to_le_bytes())
    }

    /// Asks no more.
    pub fn withdraw(&self) -> io::Result<()> {
        self.memory.write(self.flag, &0i32.to_le_bytes())
    }
}
