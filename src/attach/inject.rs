//! Has a thread of a running process call functions: finds one that stands where it could call them itself, borrows it,
//! and puts everything back. Called by `attach`; whatever fails, the process goes on as if nothing had been.
//!
//! Not every place will do. A thread that is inside the allocator or the loader holds their locks, and their lists may be
//! half changed: loading a library there kills the process sooner or later. Two kinds of places are safe:
//! * at the very entry of a function of the allocator, called by the program and not by libc or the loader;
//! * in a system call that waits for something that neither of them waits for, when nobody allocates for a while.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use libc::{sched_attr, user_regs_struct};
use nix::sys::ptrace;
use nix::unistd::Pid;

use super::memory::{Memory, Object};
use super::process::Process;
use super::sys;
use super::tracer::{self, Tracer, Why};

/// Functions at whose entry a thread can be borrowed.
const ENTRIES: [&str; 16] = [
    "malloc",
    "calloc",
    "realloc",
    "free",
    "PyObject_Malloc",
    "PyObject_Calloc",
    "PyObject_Realloc",
    "PyObject_Free",
    "PyMem_Malloc",
    "PyMem_Calloc",
    "PyMem_Realloc",
    "PyMem_Free",
    "PyMem_RawMalloc",
    "PyMem_RawCalloc",
    "PyMem_RawRealloc",
    "PyMem_RawFree",
];
/// For so long one of the first kind of places is waited for, until the second kind will do as well.
const PATIENCE: Duration = Duration::from_millis(30);
/// Breakpoints are taken away after so long, so that threads which can't be borrowed don't wait for ever…
const ROUND: Duration = Duration::from_millis(50);
/// …and all is given up after this.
const LONGEST_SEARCH: Duration = Duration::from_secs(5);
/// A call may wait for another thread that is just loading a library.
const LONGEST_CALL: Duration = Duration::from_secs(30);
/// Where a borrowed thread returns to: just above what a process can map.
const NOWHERE: u64 = 0x7fff_ffff_f000;
/// What a call needs of the thread's stack.
const STACK_ROOM: u64 = 96 * 1024;
/// Below the stack pointer there may be what a function without calls keeps there.
const RED_ZONE: u64 = 128;

/// A process, seized.
pub struct Injector<'a> {
    process: &'a Process,
    pub memory: Memory,
    tracer: Tracer,
    objects: Vec<Object>,
    /// The functions of [`FUNCTIONS`], [`RECORDER`] and [`ENTRIES`], as far as they are there.
    functions: HashMap<&'static str, u64>,
}

/// What a borrowed thread is to call, of libc…
const FUNCTIONS: [&str; 7] =
    ["__errno_location", "dlopen", "__libc_dlopen_mode", "dlerror", "socketpair", "recvmsg", "close"];
/// …and of the recorder. All that is there is looked up before the thread is borrowed.
const RECORDER: [&str; 3] = ["memtrace_start", "memtrace_stop", "memtrace_take_logs_from"];

/// A thread that executes what we want.
pub struct Borrowed<'i, 'p> {
    injector: &'i mut Injector<'p>,
    tid: Pid,
    registers: user_regs_struct,
    extended: Vec<u8>,
    mask: u64,
    scheduling: Option<sched_attr>,
    errno: Option<(u64, [u8; 4])>,
    /// Where the next argument that is not a number goes.
    free: u64,
    since: Instant,
}

impl<'a> Injector<'a> {
    pub fn seize(process: &'a Process) -> anyhow::Result<Injector<'a>> {
        let refused = |errno| anyhow::anyhow!("{}", process.refusal(errno));
        let tracer = Tracer::seize(process.pid).map_err(refused)?;
        let memory = Memory::open(process.pid).with_context(|| format!("cannot read process {}", process.pid))?;
        let objects = memory.objects(Vec::new()).with_context(|| format!("cannot read process {}", process.pid))?;
        let Some(objects) = objects else {
            bail!(
                "process {} ({}) is statically linked: only programs of the GNU C library that are linked dynamically can be \
                 recorded",
                process.pid,
                process.name
            );
        };
        let mut injector = Injector { process, memory, tracer, objects, functions: HashMap::new() };
        injector.find_functions();
        Ok(injector)
    }

    fn find_functions(&mut self) {
        for name in FUNCTIONS.into_iter().chain(RECORDER).chain(ENTRIES) {
            if !self.functions.contains_key(name)
                && let Some(address) = self.objects.iter().find_map(|object| self.memory.symbol(object, name).ok()?)
            {
                self.functions.insert(name, address);
            }
        }
        // When our library is there, it stands before the allocator, and knows who calls.
        let ours =
            self.objects.iter().find(|object| matches!(self.memory.symbol(object, "memtrace_start"), Ok(Some(_))));
        for name in ENTRIES {
            if let Some(Ok(Some(address))) = ours.map(|object| self.memory.symbol(object, name)) {
                self.functions.insert(name, address);
            }
        }
    }

    /// Reads anew what is loaded.
    pub fn reload(&mut self) -> anyhow::Result<()> {
        let known = std::mem::take(&mut self.objects);
        self.objects = self.memory.objects(known)?.context("the loader is gone")?;
        if let Some(newest) = self
            .objects
            .iter()
            .rev()
            .find(|object| self.memory.symbol(object, "memtrace_start").is_ok_and(|found| found.is_some()))
        {
            for name in RECORDER {
                if let Ok(Some(address)) = self.memory.symbol(newest, name) {
                    self.functions.insert(name, address);
                }
            }
        }
        Ok(())
    }

    /// The function of this name that the program itself would call.
    pub fn function(&self, name: &str) -> Option<u64> {
        self.functions.get(name).copied()
    }

    /// A thread that may call whatever it likes.
    pub fn borrow_thread(&mut self) -> anyhow::Result<Borrowed<'_, 'a>> {
        let entries: Vec<u64> = ENTRIES.iter().filter_map(|name| self.function(name)).collect();
        let start = Instant::now();
        let mut found = None;
        while found.is_none() && !self.tracer.is_gone() && start.elapsed() < LONGEST_SEARCH {
            let is_idle = start.elapsed() >= PATIENCE;
            found = match is_idle {
                false => self.wait_at(&entries, PATIENCE)?,
                true => match self.waiting_thread() {
                    None => self.wait_at(&entries, ROUND)?,
                    waiting => waiting,
                },
            };
        }
        let (pid, name) = (self.process.pid, &self.process.name);
        if self.tracer.is_gone() {
            bail!("process {pid} ({name}) ended, or replaced itself by another program, while memtrace was attaching");
        }
        let Some(tid) = found else {
            bail!(
                "no thread of process {pid} ({name}) came to a place where the recorder can be loaded: none allocates, and \
                 none waits in a system call; try again later"
            );
        };
        self.tracer.borrowed = Some(tid);
        Borrowed::new(self, tid)
    }

    /// Has all threads go on until one that can be borrowed is at one of these addresses.
    fn wait_at(&mut self, entries: &[u64], time: Duration) -> anyhow::Result<Option<Pid>> {
        let deadline = Instant::now() + time;
        let mut held = Vec::new();
        let mut found = None;
        let placed = self.tracer.set_breakpoints(&self.memory, entries);
        while let Ok(()) = placed
            && let Some(stop) = self.tracer.wait(&self.memory, deadline)
        {
            if stop.why == Why::Breakpoint && self.is_good_place(stop.tid) {
                found = Some(stop.tid);
                break;
            }
            held.push(stop.tid);
        }
        self.tracer.remove_breakpoints(&self.memory);
        for tid in held {
            let _ = sys::go_on(tid, 0);
        }
        placed.context("cannot write into the process")?;
        Ok(found)
    }

    /// Whether a thread that is at the entry of a function was called by the program, and has stack enough.
    fn is_good_place(&self, tid: Pid) -> bool {
        let Ok(registers) = ptrace::getregs(tid) else { return false };
        let Ok(caller) = self.memory.word(registers.rsp) else { return false };
        self.tracer.has_thread(tid) && !self.is_in_libc(caller) && self.has_stack(registers.rsp)
    }

    /// Whether an address belongs to libc, its thread library or the loader.
    fn is_in_libc(&self, address: u64) -> bool {
        const NAMES: [&str; 6] = ["libc.so", "libc-2", "ld-linux", "ld-2", "libpthread", "libdl"];
        let at = self.objects.iter().find(|object| object.range.contains(&address));
        at.is_some_and(|object| NAMES.iter().any(|start| object.file_name().starts_with(start)))
    }

    fn has_stack(&self, pointer: u64) -> bool {
        // The pages of a stack that has not grown yet are the same mapping to the kernel.
        let maps = std::fs::read_to_string(format!("/proc/{}/maps", self.process.pid)).unwrap_or_default();
        let ranges = maps.lines().filter_map(|line| {
            let (start, end) = line.split(' ').next()?.split_once('-')?;
            let number = |text| u64::from_str_radix(text, 16).ok();
            Some((number(start)?..number(end)?, line.ends_with("[stack]")))
        });
        let mut at = ranges.filter(|(range, _)| range.contains(&pointer));
        at.any(|(range, is_main)| is_main || pointer - range.start >= STACK_ROOM)
    }

    /// A thread that waits in a system call where it can be borrowed, stopped.
    fn waiting_thread(&mut self) -> Option<Pid> {
        let candidates: Vec<Pid> = self.tracer.threads().filter(|tid| self.waits_harmlessly(*tid)).collect();
        candidates.into_iter().find(|&tid| {
            if !self.tracer.tell_to_stop(tid) {
                return false;
            }
            let deadline = Instant::now() + ROUND;
            while let Some(stop) = self.tracer.wait(&self.memory, deadline) {
                if stop.tid == tid && stop.why == Why::Told {
                    let registers = ptrace::getregs(tid);
                    // It may have come back meanwhile.
                    let is_waiting = registers.is_ok_and(|registers| {
                        let failed = -(registers.rax as i64);
                        registers.orig_rax as i64 >= 0
                            && (matches!(failed, 512..=516) || failed == i64::from(libc::EINTR))
                            && self.has_stack(registers.rsp)
                    });
                    if is_waiting {
                        tracer::restart_if_interrupted(tid);
                        return true;
                    }
                }
                let _ = sys::go_on(stop.tid, 0);
                if stop.tid == tid {
                    break;
                }
            }
            false
        })
    }

    /// Whether a thread waits for something outside of the allocator and the loader. Both wait for memory and for files,
    /// which takes no time; and for their locks, by a call that no condition variable, semaphore or join makes.
    fn waits_harmlessly(&self, tid: Pid) -> bool {
        let text = std::fs::read_to_string(format!("/proc/{tid}/syscall")).unwrap_or_default();
        let mut words = text.split_whitespace();
        let number = words.next().and_then(|number| number.parse::<i64>().ok());
        let words: Vec<u64> =
            words.filter_map(|word| u64::from_str_radix(word.trim_start_matches("0x"), 16).ok()).collect();
        let (Some(number), [_, operation, value, .., pointer, address]) = (number, words.as_slice()) else {
            return false;
        };
        let (operation, value) = (*operation as i32, *value as u32);
        let waits_for_lock = operation & 0x7f == libc::FUTEX_WAIT && value == 2;
        let is_harmless = match number {
            libc::SYS_futex => !waits_for_lock,
            _ => WAITING_CALLS.contains(&number),
        };
        let is_in_loader =
            self.objects.iter().any(|object| object.range.contains(address) && object.file_name().starts_with("ld-"));
        is_harmless && !is_in_loader && self.has_stack(*pointer)
    }
}

/// System calls that wait for the world outside.
const WAITING_CALLS: [i64; 34] = [
    libc::SYS_read,
    libc::SYS_readv,
    libc::SYS_write,
    libc::SYS_writev,
    libc::SYS_poll,
    libc::SYS_ppoll,
    libc::SYS_select,
    libc::SYS_pselect6,
    libc::SYS_epoll_wait,
    libc::SYS_epoll_pwait,
    libc::SYS_epoll_pwait2,
    libc::SYS_accept,
    libc::SYS_accept4,
    libc::SYS_connect,
    libc::SYS_recvfrom,
    libc::SYS_recvmsg,
    libc::SYS_recvmmsg,
    libc::SYS_sendto,
    libc::SYS_sendmsg,
    libc::SYS_nanosleep,
    libc::SYS_clock_nanosleep,
    libc::SYS_pause,
    libc::SYS_wait4,
    libc::SYS_waitid,
    libc::SYS_flock,
    libc::SYS_fcntl,
    libc::SYS_rt_sigtimedwait,
    libc::SYS_rt_sigsuspend,
    libc::SYS_msgrcv,
    libc::SYS_msgsnd,
    libc::SYS_semop,
    libc::SYS_semtimedop,
    libc::SYS_io_getevents,
    libc::SYS_restart_syscall,
];

impl<'i, 'p> Borrowed<'i, 'p> {
    fn new(injector: &'i mut Injector<'p>, tid: Pid) -> anyhow::Result<Borrowed<'i, 'p>> {
        let since = Instant::now();
        let saved =
            || -> anyhow::Result<_> { Ok((ptrace::getregs(tid)?, sys::extended_state(tid)?, sys::signal_mask(tid)?)) };
        let (registers, extended, mask) = saved().inspect_err(|_| {
            let _ = sys::go_on(tid, 0);
        })?;
        let free = (registers.rsp - RED_ZONE) & !15;
        let scheduling = sys::hurry(tid);
        let mut borrowed = Borrowed { injector, tid, registers, extended, mask, scheduling, errno: None, free, since };
        // Signals wait until the thread is given back; those of faults can't wait.
        let faults =
            [libc::SIGSEGV, libc::SIGBUS, libc::SIGILL, libc::SIGFPE, libc::SIGTRAP, libc::SIGSYS, libc::SIGABRT];
        let faults = faults.iter().fold(0u64, |set, signal| set | 1 << (signal - 1));
        sys::set_signal_mask(tid, !faults)?;
        borrowed.errno = borrowed.errno();
        Ok(borrowed)
    }

    /// The thread's errno, and where it is.
    fn errno(&mut self) -> Option<(u64, [u8; 4])> {
        let location = self.function("__errno_location")?;
        // Each call may let the thread wait for a processor once more.
        let known = self.memory().errno_of(location, self.registers.fs_base);
        let place = known.or_else(|| self.call(location, &[]).ok())?;
        Some((place, self.memory().read::<4>(place).ok()?))
    }

    pub fn memory(&self) -> &Memory {
        &self.injector.memory
    }

    /// As [`Injector::function`].
    pub fn function(&self, name: &str) -> Option<u64> {
        self.injector.function(name)
    }

    pub fn reload(&mut self) -> anyhow::Result<()> {
        self.injector.reload()
    }

    /// Puts bytes onto the thread's stack; where they are.
    pub fn put(&mut self, bytes: &[u8]) -> anyhow::Result<u64> {
        self.free = (self.free - bytes.len() as u64) & !15;
        self.injector.memory.write(self.free, bytes).context("cannot write onto the stack of a thread")?;
        Ok(self.free)
    }

    /// The thread that was borrowed.
    pub fn tid(&self) -> Pid {
        self.tid
    }

    pub fn put_text(&mut self, text: &[u8]) -> anyhow::Result<u64> {
        let bytes: Vec<u8> = text.iter().copied().chain([0]).collect();
        self.put(&bytes)
    }

    /// Has the thread call a function; what that returns.
    pub fn call(&mut self, function: u64, arguments: &[u64]) -> anyhow::Result<u64> {
        let stack = self.free - 8;
        self.injector.memory.write(stack, &NOWHERE.to_le_bytes()).context("cannot write onto the stack of a thread")?;
        let mut registers = self.registers;
        registers.rip = function;
        registers.rsp = stack;
        registers.rax = 0;
        // No system call to be started anew, and the direction flag clear.
        registers.orig_rax = u64::MAX;
        registers.eflags &= !0x400;
        let places = [
            &mut registers.rdi,
            &mut registers.rsi,
            &mut registers.rdx,
            &mut registers.rcx,
            &mut registers.r8,
            &mut registers.r9,
        ];
        for (place, argument) in places.into_iter().zip(arguments) {
            *place = *argument;
        }
        ptrace::setregs(self.tid, registers)?;
        sys::go_on(self.tid, 0)?;
        let deadline = Instant::now() + LONGEST_CALL;
        while let Some(stop) = self.injector.tracer.wait(&self.injector.memory, deadline) {
            if stop.tid != self.tid {
                let _ = sys::go_on(stop.tid, 0);
                continue;
            }
            let registers = ptrace::getregs(self.tid)?;
            if stop.why == Why::Fault && registers.rip == NOWHERE {
                return Ok(registers.rax);
            }
            bail!("the recorder failed in the process, at {:#x}", registers.rip);
        }
        if self.injector.tracer.is_gone() {
            bail!("the process ended");
        }
        // It waits for a lock: to stop waiting changes nothing.
        self.injector.tracer.tell_to_stop(self.tid);
        let deadline = Instant::now() + LONGEST_CALL;
        while let Some(stop) = self.injector.tracer.wait(&self.injector.memory, deadline) {
            if stop.tid == self.tid {
                break;
            }
            let _ = sys::go_on(stop.tid, 0);
        }
        bail!("another thread of the process has been loading a library all the time; try again later")
    }

    /// Gives the thread back, as it was; for how long it was borrowed.
    pub fn give_back(mut self) -> Duration {
        self.restore();
        self.since.elapsed()
    }

    fn restore(&mut self) {
        if self.injector.tracer.borrowed.take().is_none() {
            return;
        }
        if let Some((place, value)) = self.errno {
            let _ = self.injector.memory.write(place, &value);
        }
        let _ = sys::set_extended_state(self.tid, &self.extended);
        let _ = ptrace::setregs(self.tid, self.registers);
        let _ = sys::set_signal_mask(self.tid, self.mask);
        if let Some(scheduling) = &self.scheduling {
            sys::set_scheduling(self.tid, scheduling);
        }
        let _ = sys::go_on(self.tid, 0);
    }
}

impl Drop for Borrowed<'_, '_> {
    fn drop(&mut self) {
        self.restore();
    }
}

impl Drop for Injector<'_> {
    fn drop(&mut self) {
        self.tracer.remove_breakpoints(&self.memory);
        self.tracer.settle(&self.memory);
    }
}
