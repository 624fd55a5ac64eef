//! A recording that goes on, behind a `SocketReader`: whoever keeps the log is asked over a port where it is, and the log is
//! read on whenever something is asked for. The recorded program never waits for it.

use std::net::{Ipv4Addr, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use memtrace::analysis::{Detail, Heap, MmapRule};
use memtrace::capture::follow::{Follower, Progress};
use memtrace::control::client::Client;
use memtrace::model::native::NativeStacks;
use pyo3::exceptions::PyOSError;
use pyo3::prelude::*;

use crate::error::os_error;
use crate::lock::lock;
use crate::names::Names;
use crate::record::AllocationRecord;
use crate::rows::Rows;

/// Between two looks whether somebody offers a recording.
const BETWEEN_TRIES: Duration = Duration::from_millis(50);
/// Whoever offers one writes the token of the port so soon.
const N_TRIES_WITHOUT_TOKEN: u32 = 40;
/// Whoever keeps the log may move blocks that often.
const LONGEST_STEP: Duration = Duration::from_millis(60);
/// A program may write faster than it is read.
const LONGEST_CATCH_UP: Duration = Duration::from_secs(10);

#[pyclass(frozen, module = "memtrace._memtrace", skip_from_py_object)]
pub struct Connection {
    client: Mutex<Option<Client>>,
    heap: Mutex<Heap>,
    names: Arc<Names>,
    #[pyo3(get)]
    command_line: String,
    #[pyo3(get)]
    pid: u32,
}

#[pymethods]
impl Connection {
    /// Waits until a recording is offered on a port of this machine.
    #[new]
    fn open(py: Python<'_>, port: u16) -> PyResult<Connection> {
        let mut client = wait_for(py, port)?;
        let mut interrupted = None;
        let status = py.detach(|| {
            client.watch(|| {
                interrupted = Python::attach(|py| py.check_signals()).err();
                interrupted.is_none()
            })
        });
        if let Some(interrupted) = interrupted {
            return Err(interrupted);
        }
        let Some(status) = status.map_err(os_error)? else {
            return Err(PyOSError::new_err("nobody waits for the recording any more"));
        };
        let follower = Follower::open(&status.log, NativeStacks::Recorded).map_err(os_error)?;
        py.detach(|| client.has_opened());
        let facts = &follower.model().process().facts;
        let (command_line, pid) = (facts.command_line.join(" "), facts.pid);
        Ok(Connection {
            client: Mutex::new(Some(client)),
            heap: Mutex::new(Heap::new(MmapRule::Memory, Detail::Full)),
            names: Arc::new(Names::following(follower)),
            command_line,
            pid,
        })
    }

    /// Lets the other side know, and the log go. Records keep their stacks.
    fn close(&self) {
        lock(&self.client).take();
        self.names.stop_reading();
    }

    /// Whether the recording goes on.
    #[getter]
    fn is_active(&self) -> bool {
        lock(&self.client).as_ref().is_some_and(Client::is_connected)
    }

    #[getter]
    fn has_native_traces(&self, py: Python<'_>) -> PyResult<bool> {
        py.detach(|| self.catch_up(&mut lock(&self.heap))).map_err(os_error)?;
        Ok(self.names.with_model(|model| model.process().facts.has_native_stacks))
    }

    /// What there is now, summed up as the leaks of a capture are.
    fn snapshot(&self, py: Python<'_>, merge_threads: bool) -> PyResult<Vec<AllocationRecord>> {
        let rows = py.detach(|| {
            let mut heap = lock(&self.heap);
            self.catch_up(&mut heap)?;
            anyhow::Ok(Rows::of_sites(&heap.end_by_site(), merge_threads))
        });
        let rows = rows.map_err(os_error)?;
        Ok((0..).map_while(|index| rows.get(index)).map(|row| AllocationRecord::new(row, &self.names)).collect())
    }
}

impl Connection {
    /// Reads what was written so far. What belongs to the turn that somebody has is seen at the second look, when that is
    /// still the same one.
    fn catch_up(&self, heap: &mut Heap) -> anyhow::Result<()> {
        let start = Instant::now();
        let mut n_looks = 0;
        while n_looks < 2 && start.elapsed() < LONGEST_CATCH_UP {
            let begun = Instant::now();
            let take = |model: &_, events: &[_]| heap.take_all(model, events);
            match self.names.read_on(take, || begun.elapsed() > LONGEST_STEP)? {
                Progress::Behind => {}
                Progress::CaughtUp => n_looks += 1,
                Progress::Ended => break,
            }
        }
        Ok(())
    }
}

/// The connection to whoever offers a recording on a port.
fn wait_for(py: Python<'_>, port: u16) -> PyResult<Client> {
    let mut n_without_token = 0;
    loop {
        // A token that its owner has left behind is no offer.
        if let Ok(Some(client)) = Client::connect_port(port, None) {
            return Ok(client);
        }
        let is_taken = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_ok();
        n_without_token = if is_taken { n_without_token + 1 } else { 0 };
        if n_without_token == N_TRIES_WITHOUT_TOKEN {
            let message = format!("port {port} is offered by something else than a memtrace of this user");
            return Err(PyOSError::new_err(message));
        }
        py.check_signals()?;
        py.detach(|| thread::sleep(BETWEEN_TRIES));
    }
}
