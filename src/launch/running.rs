//! Beside a process that is not our child: samples its memory, compresses its log, looks after its children's, and answers
//! whoever asks about it, until it ends, or until somebody asks us to. Called by `commands::attach`. Nothing is sent to
//! the process here.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::unistd::Pid;

use crate::control::message::{Answer, Request};
use crate::control::server::Server;
use crate::launch::family::Family;
use crate::launch::log::{Log, Progress};
use crate::launch::signals::{Signals, Woken};
use crate::launch::sys;
use crate::launch::watch::{self, Memory};

/// Between two samples, of which each can bring new children…
const SAMPLE: Duration = Duration::from_millis(100);
/// …and when there are none to look for, and nothing has changed for a while.
const LONGEST_SAMPLE: Duration = Duration::from_secs(1);

/// A process by a descriptor: its number may be another's once it has ended.
pub struct Running {
    pid: Pid,
    fd: OwnedFd,
}

/// What ended the watching.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Until {
    ItsEnd,
    /// The time was over, or somebody asked.
    Asked,
}

pub struct Watched {
    pub until: Until,
    pub peak_rss_bytes: u64,
}

impl Running {
    pub fn open(pid: Pid) -> io::Result<Running> {
        Ok(Running { pid, fd: sys::open_process(pid.as_raw())? })
    }

    pub fn fd(&self) -> &OwnedFd {
        &self.fd
    }

    pub fn has_ended(&self) -> bool {
        let mut fds = [PollFd::new(self.fd.as_fd(), PollFlags::POLLIN)];
        poll(&mut fds, PollTimeout::ZERO).is_ok_and(|ready| ready > 0)
    }

    /// Stays beside the process, and beside its children if they are recorded.
    pub fn watch(
        &self,
        signals: &Signals,
        log: &mut Log,
        mut family: Option<&mut Family>,
        server: &mut Option<Server>,
        duration: Option<Duration>,
    ) -> Watched {
        let mut memory = Memory::open(self.pid);
        let start = Instant::now();
        let (mut next_sample, mut sample_pause, mut resident) = (start, SAMPLE, None);
        let mut pause = Duration::ZERO;
        let mut is_asked = false;
        let until = loop {
            let now = Instant::now();
            let progress = log.compact().max(family.as_mut().map_or(Progress::Idle, |family| family.compact()));
            pause = watch::pause_after(progress, pause);
            if now >= next_sample {
                let before = std::mem::replace(&mut resident, memory.resident_bytes());
                log.sample(resident);
                family.iter_mut().for_each(|family| family.sample(log));
                let is_idle = progress == Progress::Idle && resident == before && family.is_none();
                sample_pause = if is_idle { (sample_pause * 2).min(LONGEST_SAMPLE) } else { SAMPLE };
                next_sample = now + sample_pause;
            }
            let end = duration.map_or(next_sample, |duration| next_sample.min(start + duration));
            let timeout = end.saturating_duration_since(Instant::now()).min(pause);
            let others = std::iter::once(self.fd.as_fd()).chain(server.iter().flat_map(Server::descriptors));
            match signals.next_beside(others, timeout) {
                Woken::Signal(received) => is_asked |= Signals::is_asking(received.number),
                Woken::Other | Woken::Nothing => {}
            }
            if let Some(server) = server {
                server.serve(&mut |request| match request {
                    Request::Detach => {
                        is_asked = true;
                        Answer::Done { changed: true }
                    }
                    other => watch::answer(self.pid, log, &mut memory, other),
                });
            }
            if self.has_ended() {
                break Until::ItsEnd;
            }
            // Somebody who could not ask us, or a full disk.
            if is_asked || log.has_stopped() || duration.is_some_and(|duration| start.elapsed() >= duration) {
                break Until::Asked;
            }
        };
        log.sample(memory.resident_bytes());
        Watched { until, peak_rss_bytes: memory.peak_bytes }
    }
}
