//! `Tracker`: records this process for as long as a `with` lasts.
//!
//! From the moment when the recorder starts, nothing here allocates or gives back until it has stopped: an empty `with`
//! is an empty capture.

use std::ffi::CString;
use std::fs::OpenOptions;
use std::io::{self, ErrorKind};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use memtrace::capture::info::CaptureInfo;
use memtrace::control::server::Server;
use memtrace::launch::family::{self, Family};
use memtrace::launch::log::{Compression, Log};
use memtrace::model::facts::Tracked;
use memtrace_format::answer;
use memtrace_format::options::{NativeStacks, RecordOptions};
use nix::poll::{PollFd, PollFlags, poll};
use nix::unistd::{getpid, gettid};
use pyo3::exceptions::{PyOSError, PyRuntimeError, PyTypeError};
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;
use pyo3::types::PyTuple;

use crate::allocator;
use crate::error::{os_error, runtime_error};
use crate::lock::lock;
use crate::recorder::Recorder;
use crate::threads;
use crate::watcher::Watcher;

/// Whether one of them is active in this process.
static IS_ACTIVE: AtomicBool = AtomicBool::new(false);
/// memray's `FileFormat.AGGREGATED_ALLOCATIONS`.
const AGGREGATED: u8 = 1;
const ONLY_ONE: &str = "No more than one Tracker instance can be active at the same time";

#[pyclass(frozen, subclass, module = "memtrace", skip_from_py_object)]
pub struct Tracker {
    options: RecordOptions,
    interval: Duration,
    /// Absolute.
    path: PathBuf,
    /// Whether there is a file with that name afterwards.
    is_kept: bool,
    info: CaptureInfo,
    compression: Compression,
    /// Whether it is made small in the end, without single events.
    aggregates: bool,
    /// Whose log it is: a forked child has no part in it.
    pid: u32,
    /// Of objects, when their lifetimes are tracked.
    survivors: Option<Survivors>,
    stage: Mutex<Stage>,
}

/// Objects that were made during tracking and live, once it has ended and if they are known.
type Survivors = Mutex<Option<Py<PyTuple>>>;

enum Stage {
    /// The file, if it is kept, is there and empty; a reader, if one is wanted, has come.
    New(Option<Server>),
    /// With what the recorder was given for its start: nothing is given back while it records.
    Active(Watcher, Recorder, #[expect(dead_code, reason = "it is there")] Given),
    Over,
}

/// The path of the log, and what threads are called.
type Given = (CString, Vec<(usize, CString)>);

#[pymethods]
impl Tracker {
    #[new]
    #[pyo3(signature = (file_name=None, *, destination=None, native_traces=false, memory_interval_ms=10,
        follow_fork=false, trace_python_allocators=false, track_object_lifetimes=false, file_format=None))]
    #[expect(clippy::too_many_arguments, reason = "memray's signature")]
    fn new(
        py: Python<'_>,
        file_name: Option<Bound<'_, PyAny>>,
        destination: Option<Bound<'_, PyAny>>,
        #[pyo3(from_py_with = truth)] native_traces: bool,
        memory_interval_ms: u32,
        #[pyo3(from_py_with = truth)] follow_fork: bool,
        #[pyo3(from_py_with = truth)] trace_python_allocators: bool,
        #[pyo3(from_py_with = truth)] track_object_lifetimes: bool,
        file_format: Option<Bound<'_, PyAny>>,
    ) -> PyResult<Tracker> {
        if track_object_lifetimes {
            needs_lifetimes(py)?;
        }
        let destination = match (file_name, destination) {
            (Some(path), None) => Destination::File { path: path.extract()?, is_forced: false, compresses: true },
            (None, Some(destination)) => Destination::of(&destination)?,
            _ => {
                let message = "Exactly one of 'file_name' or 'destination' argument must be specified";
                return Err(PyTypeError::new_err(message));
            }
        };
        let file_format = file_format.map_or(Ok(0), |format| format.extract::<u8>())?;
        if file_format > AGGREGATED {
            return Err(PyRuntimeError::new_err("Invalid file format enumerator"));
        }
        if let Destination::Socket { .. } = destination {
            if follow_fork {
                return Err(PyRuntimeError::new_err("follow_fork requires an output file"));
            }
            if file_format > 0 {
                return Err(PyRuntimeError::new_err("AGGREGATED_ALLOCATIONS requires an output file"));
            }
        }
        let native_stacks = if native_traces { NativeStacks::Always } else { NativeStacks::Never };
        let mut options = RecordOptions { python_allocators: trace_python_allocators, native_stacks, follow_fork };
        let tracked = Tracked {
            os_tid: 0,
            n_hidden_frames: 0,
            python_allocator: allocator::current(py),
            object_lifetimes: track_object_lifetimes,
            native_stacks: native_traces,
        };
        let info = info(py, &options, tracked)?;
        let (path, is_kept, compression, server) = match destination {
            Destination::File { path, .. } if is_null_device(&path) => (nameless(), false, Compression::Never, None),
            Destination::File { path: named, is_forced, compresses } => {
                let path = std::path::absolute(&named)?;
                reserve(&path, &named, is_forced)?;
                if follow_fork && is_forced {
                    family::remove_logs(&path);
                }
                (path, true, if compresses { Compression::WhileRunning } else { Compression::Never }, None)
            }
            Destination::Socket { address, port } => {
                (nameless(), false, Compression::WhileRunning, Some(wait_for_reader(py, &address, port)?))
            }
        };
        // Beside what is not kept there is no place for more.
        options.follow_fork &= is_kept;
        Ok(Tracker {
            options,
            interval: Duration::from_millis(memory_interval_ms.max(1).into()),
            path,
            is_kept,
            info,
            compression,
            aggregates: file_format == AGGREGATED,
            pid: getpid().as_raw() as u32,
            survivors: track_object_lifetimes.then(|| Mutex::new(None)),
            stage: Mutex::new(Stage::New(server)),
        })
    }

    fn __enter__(slf: Bound<'_, Self>) -> PyResult<Bound<'_, Self>> {
        slf.get().begin(slf.py())?;
        Ok(slf)
    }

    #[pyo3(signature = (exc_type=None, exc_value=None, exc_traceback=None))]
    fn __exit__(
        &self,
        py: Python<'_>,
        exc_type: Option<Py<PyAny>>,
        exc_value: Option<Py<PyAny>>,
        exc_traceback: Option<Py<PyAny>>,
    ) -> PyResult<()> {
        // An exception passes through.
        self.end(py)?;
        self.leave_out_arguments(py, [exc_type, exc_value, exc_traceback])
    }

    /// Leaves out what is allocated from now on. What is given back is recorded still.
    fn pause(&self) -> PyResult<()> {
        self.write("pause", |log| log.pause(true))
    }

    /// Records allocations again.
    fn resume(&self) -> PyResult<()> {
        self.write("resume", |log| log.pause(false))
    }

    /// Gives this moment a name, which reports show.
    fn mark(&self, name: &str) -> PyResult<()> {
        self.write("mark", |log| log.mark(name))
    }

    /// The objects that were made during tracking and were there when it ended, in the order of making.
    fn get_surviving_objects(&self, py: Python<'_>) -> PyResult<Py<PyTuple>> {
        let message = match &self.survivors {
            None => "track_object_lifetimes=True was not provided at Tracker construction",
            Some(survivors) => match &*lock(survivors) {
                Some(objects) => return Ok(objects.clone_ref(py)),
                None => "Tracking was never started or has not finished yet or failed.",
            },
        };
        Err(PyRuntimeError::new_err(message))
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        // Nobody waits while the collector runs; who has the lock is using the objects.
        match self.survivors.as_ref().and_then(|survivors| survivors.try_lock().ok()) {
            Some(survivors) => visit.call(&*survivors),
            None => Ok(()),
        }
    }

    fn __clear__(&self) {
        let objects = self.survivors.as_ref().and_then(|survivors| survivors.try_lock().ok()?.take());
        drop(objects);
    }
}

impl Tracker {
    fn begin(&self, py: Python<'_>) -> PyResult<()> {
        let recorder = Recorder::load(&library(py)?).map_err(runtime_error)?;
        let mut stage = self.stage();
        if IS_ACTIVE.swap(true, Ordering::AcqRel) {
            return Err(PyRuntimeError::new_err(ONLY_ONE));
        }
        let begun = self.begin_alone(py, &mut stage, recorder);
        if begun.is_err() {
            threads::stop_listening(py)?;
            IS_ACTIVE.store(false, Ordering::Release);
        }
        begun
    }

    fn begin_alone(&self, py: Python<'_>, stage: &mut Stage, recorder: Recorder) -> PyResult<()> {
        let Stage::New(server) = stage else {
            return Err(PyRuntimeError::new_err("Attempting to use stale output handle"));
        };
        let server = server.take();
        *stage = Stage::Over;
        let mut info = self.info.clone();
        if let Some(tracked) = &mut info.tracked {
            (tracked.os_tid, tracked.n_hidden_frames) = (gettid().as_raw() as u32, n_frames_outside(py));
        }
        let names = threads::names(py)?;
        let mut log = Log::create(&self.path, true, self.compression, self.pid, &info).map_err(os_error)?;
        if !self.is_kept {
            log.unlink()?;
        }
        drop(info);
        let path = CString::new(log.path().as_os_str().as_bytes())?;
        let family = self.options.follow_fork.then(|| Family::new(&log, self.compression));
        let aggregates = self.aggregates && self.is_kept;
        let watcher =
            Watcher::start(log, recorder, self.interval, aggregates, server, family).map_err(runtime_error)?;
        threads::listen(py, recorder)?;
        let (answer, errno) = answer::parts(recorder.start(&path, self.options.to_bits()));
        watcher.has_begun();
        if answer == answer::DONE {
            names.iter().for_each(|(thread, name)| recorder.name_thread(*thread, name));
        }
        *stage = Stage::Active(watcher, recorder, (path, names));
        if answer == answer::DONE {
            if self.survivors.is_none() || recorder.begin_objects(py) {
                return Ok(());
            }
            recorder.stop();
        }
        if let Stage::Active(watcher, ..) = std::mem::replace(stage, Stage::Over) {
            let _ = watcher.finish();
        }
        self.remove();
        Err(match answer {
            answer::DONE => PyErr::take(py).unwrap_or_else(|| {
                PyRuntimeError::new_err("this interpreter does not tell of the lifetimes of objects")
            }),
            answer::RECORDING => PyRuntimeError::new_err(format!(
                "{ONLY_ONE}: this process is recorded by `memtrace run`, by `memtrace attach` or by a Tracker of its parent"
            )),
            answer::NO_LOG => PyOSError::new_err((errno, format!("cannot record into {}", self.path.display()))),
            _ => PyRuntimeError::new_err(format!("the recorder does not start (answer {answer})")),
        })
    }

    fn end(&self, py: Python<'_>) -> PyResult<()> {
        let mut stage = self.stage();
        let Stage::Active(watcher, recorder, _) = &*stage else { return Ok(()) };
        // The recorder of a forked child has noticed the fork, and the log is its parent's. One of its own is finished by
        // the parent's watcher when the child has ended.
        if getpid().as_raw() as u32 != self.pid {
            if self.options.follow_fork {
                recorder.stop();
            }
            std::mem::forget(std::mem::replace(&mut *stage, Stage::Over));
            IS_ACTIVE.store(false, Ordering::Release);
            return threads::stop_listening(py);
        }
        let held = self.survivors.as_ref().and_then(|_| recorder.end_objects(py));
        watcher.stop(*recorder);
        if let (Some(survivors), Some(held)) = (&self.survivors, held) {
            let objects = held.into_tuple(py)?;
            *lock(survivors) = Some(objects);
        }
        let Stage::Active(watcher, ..) = std::mem::replace(&mut *stage, Stage::Over) else { return Ok(()) };
        drop(stage);
        threads::stop_listening(py)?;
        let finished = py.detach(|| watcher.finish());
        IS_ACTIVE.store(false, Ordering::Release);
        finished.map_err(os_error)
    }

    /// Leaves nothing of a recording that there was not.
    fn remove(&self) {
        if self.is_kept {
            let _ = std::fs::remove_file(&self.path);
        }
    }

    /// The last object that was made is, where calls are made so, the tuple of this call's arguments.
    fn leave_out_arguments(&self, py: Python<'_>, arguments: [Option<Py<PyAny>>; 3]) -> PyResult<()> {
        let Some(survivors) = &self.survivors else { return Ok(()) };
        let mut survivors = lock(survivors);
        let Some(objects) = survivors.as_ref().map(|objects| objects.bind(py)) else { return Ok(()) };
        let Some(n_others) = objects.len().checked_sub(1) else { return Ok(()) };
        let last = objects.get_item(n_others)?;
        let is = |(object, argument): (Bound<'_, PyAny>, &Option<Py<PyAny>>)| match argument {
            Some(argument) => object.is(argument),
            None => object.is_none(),
        };
        let is_ours = last.cast_exact::<PyTuple>().is_ok_and(|it| it.len() == 3 && it.iter().zip(&arguments).all(is));
        if is_ours {
            let others = objects.get_slice(0, n_others).unbind();
            *survivors = Some(others);
        }
        Ok(())
    }

    fn write(&self, what: &str, write: impl FnOnce(&mut Log) -> bool) -> PyResult<()> {
        match &*self.stage() {
            Stage::Active(watcher, ..) if watcher.with_log(write) => Ok(()),
            Stage::Active(..) => Err(PyOSError::new_err(format!("cannot {what}: the capture can't be written to"))),
            _ => Err(PyRuntimeError::new_err(format!("cannot {what}: this Tracker is not active"))),
        }
    }

    fn stage(&self) -> MutexGuard<'_, Stage> {
        lock(&self.stage)
    }
}

impl Drop for Tracker {
    fn drop(&mut self) {
        // Never entered: there is nothing in it.
        if let Ok(Stage::New(_)) = self.stage.get_mut() {
            self.remove();
        }
    }
}

/// In a forked child no tracker is active.
#[pyfunction]
pub fn after_fork_in_child() {
    IS_ACTIVE.store(false, Ordering::Release);
}

/// Flags may be anything that is true or not, `None` and 1 for instance.
fn truth(value: &Bound<'_, PyAny>) -> PyResult<bool> {
    value.is_truthy()
}

/// What a destination says.
enum Destination {
    File { path: PathBuf, is_forced: bool, compresses: bool },
    Socket { address: String, port: u16 },
}

impl Destination {
    fn of(destination: &Bound<'_, PyAny>) -> PyResult<Destination> {
        let kinds = destination.py().import("memtrace._destination")?;
        if destination.is_instance(&kinds.getattr("SocketDestination")?)? {
            return Ok(Destination::Socket {
                address: destination.getattr("address")?.extract()?,
                port: destination.getattr("server_port")?.extract()?,
            });
        }
        if !destination.is_instance(&kinds.getattr("FileDestination")?)? {
            return Err(PyTypeError::new_err("destination must be a SocketDestination or FileDestination"));
        }
        Ok(Destination::File {
            path: destination.getattr("path")?.extract()?,
            is_forced: destination.getattr("overwrite")?.extract()?,
            compresses: destination.getattr("compress_on_exit")?.extract()?,
        })
    }
}

/// Returns when a reader of this user has come, who is answered when the recording has begun.
fn wait_for_reader(py: Python<'_>, address: &str, port: u16) -> PyResult<Server> {
    /// Between two looks whether the user would rather not wait.
    const PATIENCE: u16 = 100;
    let mut server = Server::default();
    py.detach(|| server.open_port(address, port)).map_err(os_error)?;
    while !server.has_viewer() {
        py.check_signals()?;
        let mut fds: Vec<_> = server.descriptors().map(|fd| PollFd::new(fd, PollFlags::POLLIN)).collect();
        let _ = py.detach(|| poll(&mut fds, PATIENCE));
    }
    Ok(server)
}

/// A name for a log that has none as soon as it is there.
fn nameless() -> PathBuf {
    std::env::temp_dir().join(format!("memtrace-{}-{}.bin", getpid(), unique()))
}

/// Makes an empty file that nobody else has, so that a wrong path is noticed at once. Its user calls it `named`.
fn reserve(path: &Path, named: &Path, is_forced: bool) -> PyResult<()> {
    let mut options = OpenOptions::new();
    options.write(true).mode(0o600);
    match is_forced {
        true => options.create(true).truncate(true),
        false => options.create_new(true),
    };
    let shown = named.display();
    match options.open(path) {
        Ok(_) => Ok(()),
        Err(error) if error.kind() == ErrorKind::AlreadyExists => Err(PyOSError::new_err(format!(
            "Output file {shown} already exists. memtrace can overwrite it with the overwrite=True API argument."
        ))),
        Err(error) => {
            let reason = io::Error::from_raw_os_error(error.raw_os_error().unwrap_or(0)).to_string();
            let reason = reason.split(" (os error").next().unwrap_or_default();
            Err(PyOSError::new_err(format!("Could not create output file {shown}: {reason}")))
        }
    }
}

/// The recorder, which lies beside the package.
fn library(py: Python<'_>) -> PyResult<PathBuf> {
    let package: PathBuf = py.import("memtrace")?.getattr("__file__")?.extract()?;
    Ok(package.with_file_name("libmemtrace_preload.so"))
}

fn info(py: Python<'_>, options: &RecordOptions, tracked: Tracked) -> PyResult<CaptureInfo> {
    let arguments: Vec<String> = py.import("sys")?.getattr("argv").and_then(|it| it.extract()).unwrap_or_default();
    let executable: String = py.import("sys")?.getattr("executable").and_then(|it| it.extract()).unwrap_or_default();
    let cwd = std::env::current_dir().map(|path| path.to_string_lossy().into_owned()).unwrap_or_default();
    Ok(CaptureInfo {
        memtrace_version: env!("CARGO_PKG_VERSION").to_string(),
        argv: std::iter::once(executable).chain(arguments.iter().cloned()).collect(),
        script: arguments.first().filter(|script| script.ends_with(".py")).cloned(),
        command_line: arguments,
        cwd,
        python_allocators: options.python_allocators,
        tracked: Some(tracked),
        aggregated: None,
    })
}

/// Earlier interpreters don't tell of objects, or not of all that are destroyed.
fn needs_lifetimes(py: Python<'_>) -> PyResult<()> {
    let found = py.version_info();
    if (found.major, found.minor, found.patch) >= (3, 13, 3) {
        return Ok(());
    }
    Err(PyRuntimeError::new_err(format!(
        "Python object reference tracking requires Python 3.13.3 or later. Current version: {}.{}.{}",
        found.major, found.minor, found.patch
    )))
}

/// Frames of this thread outside of the one that the `with` stands in.
fn n_frames_outside(py: Python<'_>) -> u32 {
    let innermost = py.import("sys").and_then(|sys| sys.call_method1("_getframe", (0,)));
    let Ok(mut frame) = innermost else { return 0 };
    let mut n_outside = 0;
    while let Ok(outer) = frame.getattr("f_back")
        && !outer.is_none()
    {
        n_outside += 1;
        frame = outer;
    }
    n_outside
}

fn is_null_device(path: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    let device = |path: &Path| std::fs::metadata(path).map(|it| (it.dev(), it.ino())).ok();
    device(path).is_some_and(|this| Some(this) == device(Path::new("/dev/null")))
}

fn unique() -> u64 {
    static NEXT: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(0);
    NEXT.fetch_add(1, Ordering::Relaxed)
}
