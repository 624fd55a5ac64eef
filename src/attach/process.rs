//! What `/proc` says of a process that we are asked to attach to, and why we can't. Every sentence says what is wrong
//! and what to do. Nothing is changed here.

use std::fs::{self, File};
use std::io::ErrorKind;
use std::os::unix::fs::{FileExt, MetadataExt};

use anyhow::{Context, bail};
use nix::errno::Errno;
use nix::unistd::{Pid, geteuid};

const MUSL: &[u8] = b"/ld-musl-";

pub struct Process {
    pub pid: Pid,
    /// Its number as it knows itself, in its own namespace.
    pub inner_pid: u32,
    /// The name of its program, as the kernel keeps it.
    pub name: String,
    pub command_line: Vec<String>,
    pub cwd: String,
    pub user: u32,
    pub group: u32,
    /// Whether paths mean there what they mean here.
    pub shares_root: bool,
    /// And it may open what we may.
    pub shares_files: bool,
    /// 0, or the mode of seccomp.
    pub seccomp: u32,
}

impl Process {
    /// Looks at a process; an error says why it can't be attached to.
    pub fn find(pid: i32) -> anyhow::Result<Process> {
        let read = |name: &str| fs::read_to_string(format!("/proc/{pid}/{name}"));
        let status = match read("status") {
            Ok(status) => status,
            Err(error) if error.kind() == ErrorKind::NotFound => bail!("there is no process {pid}"),
            Err(error) => return Err(error).with_context(|| format!("cannot look at process {pid}")),
        };
        let field = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
            line.unwrap_or("").split_whitespace().map(str::to_owned).collect::<Vec<_>>()
        };
        let number = |name: &str| field(name).first().and_then(|text| text.parse::<u32>().ok()).unwrap_or(0);
        let name = field("Name").join(" ");
        let state = field("State").first().cloned().unwrap_or_default();
        let leader = number("Tgid");
        if leader as i32 != pid {
            bail!("{pid} is a thread of process {leader}: attach to {leader}");
        }
        match state.as_str() {
            "Z" | "X" => bail!("process {pid} ({name}) has ended already, and only waits for its parent to take note"),
            "T" => bail!("process {pid} ({name}) is stopped: let it go on with kill -CONT {pid}, then attach"),
            _ => {}
        }
        let tracer = number("TracerPid");
        if tracer != 0 {
            let by = fs::read_to_string(format!("/proc/{tracer}/comm")).unwrap_or_default();
            bail!(
                "process {pid} ({name}) is being traced already, by process {tracer} ({}): end that first",
                by.trim_end()
            );
        }
        if fs::read_link(format!("/proc/{pid}/exe")).is_err_and(|error| error.kind() == ErrorKind::NotFound) {
            bail!("{pid} ({name}) is a thread of the kernel and has no allocations of its own");
        }
        let shares_root = has_our_root(pid);
        let user = field("Uid").get(3).and_then(|id| id.parse().ok()).unwrap_or(0);
        let command_line = read("cmdline").unwrap_or_default();
        let process = Process {
            pid: Pid::from_raw(pid),
            inner_pid: field("NSpid").last().and_then(|id| id.parse().ok()).unwrap_or(pid as u32),
            name,
            command_line: command_line.split_terminator('\0').map(str::to_owned).collect(),
            cwd: fs::read_link(format!("/proc/{pid}/cwd")).unwrap_or_default().to_string_lossy().into_owned(),
            user,
            group: field("Gid").get(3).and_then(|id| id.parse().ok()).unwrap_or(0),
            shares_root,
            shares_files: shares_root && user == geteuid().as_raw(),
            seccomp: number("Seccomp"),
        };
        process.check_program()?;
        Ok(process)
    }

    /// Whether it is a program into which our library can be loaded.
    fn check_program(&self) -> anyhow::Result<()> {
        let (pid, name) = (self.pid, &self.name);
        let mut head = [0; 4096];
        let Ok(file) = File::open(format!("/proc/{pid}/exe")) else {
            bail!("process {pid} ({name}) belongs to another user: attach as that user, or as root");
        };
        let _ = file.read_at(&mut head, 0);
        if head[4] != 2 {
            bail!("process {pid} ({name}) is a 32-bit program: only 64-bit programs can be recorded");
        }
        if self.seccomp == 1 {
            bail!("process {pid} ({name}) may only read, write and exit (strict seccomp): it can't be recorded");
        }
        // Its loader's name stands behind the program headers.
        if head.windows(MUSL.len()).any(|name| name == MUSL) {
            bail!("process {pid} ({name}) uses musl: only programs of the GNU C library can be recorded");
        }
        Ok(())
    }

    /// Why the kernel does not let us trace it, in words.
    pub fn refusal(&self, errno: Errno) -> String {
        let scope = fs::read_to_string("/proc/sys/kernel/yama/ptrace_scope").unwrap_or_default();
        let about = format!("process {} ({})", self.pid, self.name);
        refusal(&about, errno, scope.trim(), geteuid().is_root(), self.user == geteuid().as_raw())
    }
}

/// `scope` is what Yama forbids, if it is there.
fn refusal(about: &str, errno: Errno, scope: &str, are_root: bool, is_ours: bool) -> String {
    if errno == Errno::ESRCH {
        return format!("{about} has ended");
    }
    let why = match scope {
        "3" => ": this system forbids tracing (kernel.yama.ptrace_scope is 3) until it is started anew".to_owned(),
        "2" if !are_root => ": only root may trace here (kernel.yama.ptrace_scope is 2): use sudo".to_owned(),
        "1" if is_ours && !are_root => {
            ": only parents may trace their children here: use sudo, or sysctl kernel.yama.ptrace_scope=0".to_owned()
        }
        _ if !are_root => format!(" ({}): use sudo", errno.desc()),
        _ => format!(
            " ({}): memtrace needs the capability CAP_SYS_PTRACE; in a container, start that with --cap-add SYS_PTRACE",
            errno.desc()
        ),
    };
    format!("{about} can't be attached to{why}")
}

fn has_our_root(pid: i32) -> bool {
    let namespace = |pid: &str| fs::read_link(format!("/proc/{pid}/ns/mnt")).ok();
    let root = |pid: &str| fs::metadata(format!("/proc/{pid}/root/")).map(|root| (root.dev(), root.ino())).ok();
    let (ours, theirs) = ("self", pid.to_string());
    namespace(ours) == namespace(&theirs) && root(ours) == root(&theirs) && root(ours).is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_may_not_trace_is_told_why_and_what_to_do() {
        let check = |scope, are_root, is_ours, expected: &str| {
            assert_eq!(refusal("process 7 (app)", Errno::EPERM, scope, are_root, is_ours), expected);
        };
        check(
            "1",
            false,
            true,
            "process 7 (app) can't be attached to: only parents may trace their children here: use sudo, or sysctl \
             kernel.yama.ptrace_scope=0",
        );
        check(
            "2",
            false,
            true,
            "process 7 (app) can't be attached to: only root may trace here (kernel.yama.ptrace_scope is 2): use sudo",
        );
        for are_root in [false, true] {
            check(
                "3",
                are_root,
                true,
                "process 7 (app) can't be attached to: this system forbids tracing (kernel.yama.ptrace_scope is 3) until it \
                 is started anew",
            );
        }
        for scope in ["", "0", "1"] {
            check(scope, false, false, "process 7 (app) can't be attached to (Operation not permitted): use sudo");
        }
        let expected = "process 7 (app) can't be attached to (Operation not permitted): memtrace needs the capability \
                        CAP_SYS_PTRACE; in a container, start that with --cap-add SYS_PTRACE";
        for scope in ["", "1", "2"] {
            check(scope, true, true, expected);
        }
        assert_eq!(refusal("process 7 (app)", Errno::ESRCH, "3", false, true), "process 7 (app) has ended");
    }
}
