//! A process under ptrace, all of its threads seized and running: breakpoints, the thread that meets one, and everybody
//! else going on. Called by `inject`, in a process of its own: when that ends, the kernel lets all threads go without
//! stopping them.
//!
//! A breakpoint is one byte in code that all threads share, and whoever meets it without being traced dies of it. So
//! threads and children made meanwhile are traced from their first instruction, and before this ends every thread was
//! seen where it can't be meeting one.

use std::collections::HashSet;
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::ptrace;
use nix::unistd::{Pid, gettid};

use super::memory::Memory;
use super::sys::{self, State};

/// `int3`
const BREAKPOINT: u8 = 0xcc;
/// On a machine that has much else to do, a thread may take long to stop. Nobody is held up by that.
const LONGEST_SETTLING: Duration = Duration::from_secs(30);
/// Between two looks for changes that nobody has announced.
const PAUSE: Duration = Duration::from_millis(5);

/// A thread that stands, and why.
#[derive(Clone, Copy, Debug)]
pub struct Stop {
    pub tid: Pid,
    pub why: Why,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// It is about to execute the instruction under a breakpoint.
    Breakpoint,
    /// A signal that has to do with what we have it execute.
    Fault,
    /// It was told to.
    Told,
    /// It was told to, and has ended instead.
    Ended,
}

pub struct Tracer {
    pid: Pid,
    threads: HashSet<Pid>,
    /// Children that were made meanwhile.
    others: HashSet<Pid>,
    /// Address and the byte that belongs there.
    breakpoints: Vec<(u64, u8)>,
    /// Threads that had the signal of a breakpoint blocked; the kernel lets it through.
    blocking: HashSet<Pid>,
    /// Threads that were told to stop, and whose stop was not seen yet.
    told: HashSet<Pid>,
    /// The thread that executes what we want: its faults are ours.
    pub borrowed: Option<Pid>,
}

impl Tracer {
    /// Seizes all threads.
    pub fn seize(pid: Pid) -> Result<Tracer, Errno> {
        sys::announce_changes()?;
        // Whoever stands waits for us.
        sys::hurry(gettid());
        let mut tracer = Tracer {
            pid,
            threads: HashSet::new(),
            others: HashSet::new(),
            breakpoints: Vec::new(),
            blocking: HashSet::new(),
            told: HashSet::new(),
            borrowed: None,
        };
        let options = ptrace::Options::PTRACE_O_TRACECLONE
            | ptrace::Options::PTRACE_O_TRACEFORK
            | ptrace::Options::PTRACE_O_TRACEVFORK
            | ptrace::Options::PTRACE_O_TRACEEXEC;
        loop {
            let mut has_new = false;
            for tid in threads_of(pid) {
                if tracer.threads.contains(&tid) {
                    continue;
                }
                match ptrace::seize(tid, options) {
                    Ok(()) => {
                        has_new |= tracer.threads.insert(tid);
                    }
                    // It has ended, or was made by one that is seized, and comes by itself.
                    Err(Errno::ESRCH) => {}
                    Err(Errno::EPERM) if tracer.threads.is_empty() => return Err(Errno::EPERM),
                    Err(Errno::EPERM) => {}
                    Err(errno) => return Err(errno),
                }
            }
            tracer.look();
            if !has_new {
                break;
            }
        }
        if tracer.threads.is_empty() { Err(Errno::ESRCH) } else { Ok(tracer) }
    }

    /// Whether the process is no more.
    pub fn is_gone(&self) -> bool {
        self.threads.is_empty()
    }

    /// Whether it is a thread of the process, and not a child.
    pub fn has_thread(&self, tid: Pid) -> bool {
        self.threads.contains(&tid)
    }

    pub fn threads(&self) -> impl Iterator<Item = Pid> {
        self.threads.iter().copied()
    }

    /// Puts breakpoints at these addresses; none when the kernel would take the program's own handler of their signal
    /// away, which it does when a thread that meets one blocks or ignores it.
    pub fn set_breakpoints(&mut self, memory: &Memory, addresses: &[u64]) -> std::io::Result<()> {
        self.blocking = self.threads().filter(|tid| signals(*tid, "SigBlk:") & TRAP != 0).collect();
        let is_handled = signals(self.pid, "SigCgt:") & TRAP != 0;
        if signals(self.pid, "SigIgn:") & TRAP != 0 || is_handled && !self.blocking.is_empty() {
            return Ok(());
        }
        for &address in addresses {
            let [byte] = memory.read::<1>(address)?;
            if byte != BREAKPOINT {
                if !self.breakpoints.contains(&(address, byte)) {
                    self.breakpoints.push((address, byte));
                }
                memory.write(address, &[BREAKPOINT])?;
            }
        }
        Ok(())
    }

    pub fn remove_breakpoints(&mut self, memory: &Memory) {
        for (address, byte) in &self.breakpoints {
            // It fails when the process is no more.
            let _ = memory.write(*address, &[*byte]);
        }
    }

    /// Tells a thread to stop, whatever it waits for.
    pub fn tell_to_stop(&mut self, tid: Pid) -> bool {
        let is_told = ptrace::interrupt(tid).is_ok();
        if is_told {
            self.told.insert(tid);
        }
        is_told
    }

    /// The next stop that is not everyday business, until `deadline`.
    pub fn wait(&mut self, memory: &Memory, deadline: Instant) -> Option<Stop> {
        loop {
            while let Some(change) = sys::next_change() {
                if let Some(stop) = self.take_note(change, Some(memory)) {
                    return Some(stop);
                }
            }
            if self.is_gone() || Instant::now() >= deadline {
                return None;
            }
            sys::wait_for_change(PAUSE);
        }
    }

    /// Takes note of what has happened before there are breakpoints.
    fn look(&mut self) {
        while let Some(change) = sys::next_change() {
            self.take_note(change, None);
        }
    }

    fn take_note(&mut self, change: sys::Change, memory: Option<&Memory>) -> Option<Stop> {
        let tid = change.tid;
        let is_new = !self.threads.contains(&tid) && !self.others.contains(&tid);
        if matches!(change.state(), State::Event(_)) && self.told.contains(&tid) {
            // Such a stop takes the one along that it was told to make.
            let _ = ptrace::interrupt(tid);
        }
        match change.state() {
            State::Ended => {
                self.threads.remove(&tid);
                self.others.remove(&tid);
                if self.told.remove(&tid) {
                    return Some(Stop { tid, why: Why::Ended });
                }
            }
            State::Stopped { with_process: true } if !is_new => sys::listen(tid),
            State::Stopped { .. } if self.told.remove(&tid) => return Some(Stop { tid, why: Why::Told }),
            State::Stopped { .. } | State::Event(_) => {
                if is_new {
                    self.adopt(tid, memory);
                }
                let is_replaced = change.state() == State::Event(libc::PTRACE_EVENT_EXEC) && tid == self.pid;
                let _ = sys::go_on(tid, 0);
                if is_replaced {
                    // It is another program now, and our breakpoints went with the old one.
                    self.threads.clear();
                }
            }
            State::Signal(signal) => {
                if is_new {
                    self.adopt(tid, memory);
                }
                if signal == libc::SIGTRAP && self.step_back(tid) {
                    return Some(Stop { tid, why: Why::Breakpoint });
                }
                let is_fault =
                    matches!(signal, libc::SIGSEGV | libc::SIGBUS | libc::SIGILL | libc::SIGFPE | libc::SIGABRT);
                if self.borrowed == Some(tid) && (is_fault || signal == libc::SIGTRAP || signal == libc::SIGSYS) {
                    return Some(Stop { tid, why: Why::Fault });
                }
                let _ = sys::go_on(tid, signal);
            }
        }
        None
    }

    /// A thread that was made by a traced one; or a child, whose copy of the code has our breakpoints.
    fn adopt(&mut self, tid: Pid, memory: Option<&Memory>) {
        if Path::new(&format!("/proc/{}/task/{tid}", self.pid)).exists() {
            self.threads.insert(tid);
            return;
        }
        self.others.insert(tid);
        if let (Some(memory), Ok(copy)) = (memory, Memory::open(tid)) {
            for (address, byte) in &self.breakpoints {
                let is_set = memory.read::<1>(*address).is_ok_and(|found| found == [BREAKPOINT]);
                let _ = copy.write(*address, &[*byte]);
                if is_set {
                    // A child of vfork has no copy of its own.
                    let _ = memory.write(*address, &[BREAKPOINT]);
                }
            }
        }
    }

    /// Whether a thread has met a breakpoint; it is then before the instruction again.
    fn step_back(&self, tid: Pid) -> bool {
        let Ok(mut registers) = ptrace::getregs(tid) else { return false };
        let address = registers.rip.wrapping_sub(1);
        if !self.breakpoints.iter().any(|(place, _)| *place == address) {
            return false;
        }
        registers.rip = address;
        if self.blocking.contains(&tid)
            && let Ok(mask) = sys::signal_mask(tid)
        {
            let _ = sys::set_signal_mask(tid, mask | TRAP);
        }
        ptrace::setregs(tid, registers).is_ok()
    }

    /// To be called when the breakpoints are gone: waits until no thread can be meeting one any more.
    pub fn settle(&mut self, memory: &Memory) {
        let running: Vec<Pid> =
            self.threads().chain(self.others.iter().copied()).filter(|tid| !is_waiting(*tid)).collect();
        for tid in running {
            self.tell_to_stop(tid);
        }
        let deadline = Instant::now() + LONGEST_SETTLING;
        while !self.told.is_empty() {
            let Some(stop) = self.wait(memory, deadline) else { break };
            self.told.remove(&stop.tid);
            if stop.why == Why::Told {
                restart_if_interrupted(stop.tid);
                // A thread that has met one just now stops because it was told to first, and then for its signal.
                if signals(stop.tid, "SigPnd:") & TRAP != 0 {
                    self.told.insert(stop.tid);
                }
            }
            let _ = sys::go_on(stop.tid, 0);
        }
    }
}

/// Some system calls fail when a thread was told to stop, instead of starting anew: they are started anew here, unless a
/// signal is waiting for the thread, too.
pub fn restart_if_interrupted(tid: Pid) {
    let Ok(mut registers) = ptrace::getregs(tid) else { return };
    if is_interrupted(&registers) && !has_signals(tid) {
        registers.rax = registers.orig_rax;
        // The instruction `syscall` has two bytes.
        registers.rip -= 2;
        let _ = ptrace::setregs(tid, registers);
    }
}

fn is_interrupted(registers: &libc::user_regs_struct) -> bool {
    const NEVER_RESTARTED: [i64; 6] = [
        libc::SYS_epoll_wait,
        libc::SYS_epoll_pwait,
        libc::SYS_epoll_pwait2,
        libc::SYS_io_getevents,
        libc::SYS_semtimedop,
        libc::SYS_rt_sigtimedwait,
    ];
    registers.rax as i64 == -i64::from(libc::EINTR) && NEVER_RESTARTED.contains(&(registers.orig_rax as i64))
}

fn has_signals(tid: Pid) -> bool {
    (signals(tid, "SigPnd:") | signals(tid, "ShdPnd:")) & !signals(tid, "SigBlk:") != 0
}

/// The bit of SIGTRAP in a set of signals.
const TRAP: u64 = 1 << (libc::SIGTRAP - 1);

/// A set of signals in the status of a thread.
fn signals(tid: Pid, name: &str) -> u64 {
    let status = fs::read_to_string(format!("/proc/{tid}/status")).unwrap_or_default();
    let set = status.lines().find_map(|line| line.strip_prefix(name));
    set.and_then(|set| u64::from_str_radix(set.trim(), 16).ok()).unwrap_or(0)
}

/// Whether a thread waits in a system call. One that stands at a breakpoint has no number of a call (`-1`).
fn is_waiting(tid: Pid) -> bool {
    let text = fs::read_to_string(format!("/proc/{tid}/syscall"));
    text.is_ok_and(|text| text.starts_with(|first: char| first.is_ascii_digit()))
}

/// All threads that a process has now.
pub fn threads_of(pid: Pid) -> Vec<Pid> {
    let entries = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    entries.filter_map(|entry| Some(Pid::from_raw(entry.file_name().to_str()?.parse().ok()?))).collect()
}
