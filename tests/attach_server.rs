//! A uvicorn server under load that is attached to and detached from again and again: no request fails, and afterwards it
//! is as it was.
//!
//! What a request costs is printed and not judged: before the first attach and after the last detach, beside a server
//! that was left alone.

mod support;

use std::fs;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

use support::{Scratch, fixture, memtrace};

/// uvicorn with one worker; killed at the end.
struct Server {
    process: Child,
    port: u16,
}

impl Server {
    fn start(python: &Path) -> Server {
        let mut command = Command::new(python);
        command.args(["-m", "uvicorn", "--port", "0", "--no-access-log", "--lifespan", "off", "--app-dir"]);
        command.arg(fixture("attach")).arg("asgi:app").stdin(Stdio::null()).stderr(Stdio::piped());
        let mut process = command.spawn().unwrap();
        let mut errors = BufReader::new(process.stderr.take().unwrap());
        let mut server = Server { process, port: 0 };
        let mut line = String::new();
        while server.port == 0 {
            line.clear();
            assert!(errors.read_line(&mut line).unwrap() > 0, "the server ended");
            if let Some((_, address)) = line.split_once("http://127.0.0.1:") {
                server.port = address.split(' ').next().unwrap().parse().unwrap();
            }
        }
        thread::spawn(move || errors.read_to_string(&mut line));
        server
    }

    fn pid(&self) -> u32 {
        self.process.id()
    }

    fn connect(&self) -> Connection {
        let stream = TcpStream::connect(("127.0.0.1", self.port)).unwrap();
        stream.set_nodelay(true).unwrap();
        Connection { stream: BufReader::new(stream) }
    }

    /// Processor time so far, of all its threads, in nanoseconds.
    fn nanos(&self) -> u64 {
        let tasks = fs::read_dir(format!("/proc/{}/task", self.pid())).unwrap();
        let times = tasks.filter_map(|task| fs::read_to_string(task.unwrap().path().join("schedstat")).ok());
        times.map(|text| text.split(' ').next().unwrap().parse::<u64>().unwrap()).sum()
    }

    /// Processor time of one of many requests, in microseconds.
    fn cost(&self) -> f64 {
        const N_REQUESTS: u32 = 300;
        let mut connection = self.connect();
        let before = self.nanos();
        for _ in 0..N_REQUESTS {
            connection.ask().unwrap();
        }
        (self.nanos() - before) as f64 / 1e3 / f64::from(N_REQUESTS)
    }

    fn n_mappings(&self) -> usize {
        fs::read_to_string(format!("/proc/{}/maps", self.pid())).unwrap().lines().count()
    }

    /// What it has open or mapped of a folder.
    fn holds(&self, folder: &Path) -> Vec<String> {
        let maps = fs::read_to_string(format!("/proc/{}/maps", self.pid())).unwrap();
        let open = fs::read_dir(format!("/proc/{}/fd", self.pid())).unwrap();
        let open = open.filter_map(|entry| fs::read_link(entry.unwrap().path()).ok());
        let open = open.map(|path| path.display().to_string());
        let folder = folder.to_str().unwrap();
        open.chain(maps.lines().map(str::to_owned)).filter(|line| line.contains(folder)).collect()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Kept open for many requests.
struct Connection {
    stream: BufReader<TcpStream>,
}

impl Connection {
    fn ask(&mut self) -> io::Result<()> {
        self.stream.get_mut().write_all(b"GET / HTTP/1.1\r\nHost: test\r\n\r\n")?;
        let (mut len, mut line) = (0, String::new());
        self.stream.read_line(&mut line)?;
        if !line.starts_with("HTTP/1.1 200 ") {
            return Err(io::Error::other(format!("the server answered {line:?}")));
        }
        while line != "\r\n" {
            line.clear();
            self.stream.read_line(&mut line)?;
            if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length: ") {
                len = value.trim_end().parse().map_err(io::Error::other)?;
            }
        }
        let mut body = vec![0; len];
        self.stream.read_exact(&mut body)?;
        let is_whole = body.starts_with(b"{\"pid\"") && body.ends_with(b"]}");
        if is_whole { Ok(()) } else { Err(io::Error::other(String::from_utf8_lossy(&body))) }
    }
}

/// Of servers, in turns: what a request costs each of them, at least, because others take the caches of the machine.
fn costs<const N: usize>(servers: [&Server; N]) -> [f64; N] {
    const N_TURNS: usize = 15;
    let mut costs = [(); N].map(|()| Vec::new());
    for _ in 0..N_TURNS {
        for (server, costs) in servers.iter().zip(&mut costs) {
            costs.push(server.cost());
        }
    }
    costs.map(|costs| costs.into_iter().fold(f64::INFINITY, f64::min))
}

/// Ends the load also when something else fails.
struct AtEnd<'a>(&'a AtomicBool);

impl Drop for AtEnd<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

fn attach_and_detach(n_times: u32) {
    let scratch = Scratch::new("attach-server");
    let python = support::servers();
    let (server, control) = (Server::start(&python), Server::start(&python));
    let before = costs([&server, &control]);
    let (is_over, n_requests) = (AtomicBool::new(false), AtomicU64::new(0));
    let mut n_mappings = 0;
    thread::scope(|scope| {
        let loads: [_; 2] = std::array::from_fn(|_| {
            scope.spawn(|| -> io::Result<()> {
                // Connections come and go, too.
                while !is_over.load(Ordering::Relaxed) {
                    let mut connection = server.connect();
                    for _ in 0..100 {
                        connection.ask()?;
                        n_requests.fetch_add(1, Ordering::Relaxed);
                    }
                }
                Ok(())
            })
        });
        let _at_end = AtEnd(&is_over);
        for number in 0..n_times {
            let capture = scratch.join("capture.bin");
            let ways = [&[][..], &["--native"], &["--no-python-allocators"], &["--method", "ptrace"]];
            let mut command = memtrace();
            command.args(["attach", &server.pid().to_string(), "--duration", "0.2", "-f", "-o"]).arg(&capture);
            let output = command.args(ways[number as usize % ways.len()]).output().unwrap();
            assert!(output.status.success(), "{number}: {}", support::text(&output));
            assert!(!loads.iter().any(|load| load.is_finished()), "{number}: a request failed");
            let stats = support::run(memtrace().args(["stats", "--no-native", "--json", "-n", "1000"]).arg(&capture));
            let stats = String::from_utf8(stats.stdout).unwrap();
            assert!(stats.contains("asgi.py"), "{number}: {stats}");
            // After each way was gone once.
            if number as usize == ways.len() {
                n_mappings = server.n_mappings();
            }
        }
        is_over.store(true, Ordering::Relaxed);
        loads.into_iter().for_each(|load| load.join().unwrap().unwrap());
    });
    assert_eq!(server.holds(scratch.path()), [""; 0]);
    let after = costs([&server, &control]);
    let ratio = after[0] / before[0] / (after[1] / before[1]);
    eprintln!(
        "{} requests during {n_times} recordings; mappings {n_mappings} → {}; µs per request: {:.1} → {:.1}, left alone: \
         {:.1} → {:.1}, so {ratio:.3} of what it was",
        n_requests.into_inner(),
        server.n_mappings(),
        before[0],
        after[0],
        before[1],
        after[1]
    );
    assert_eq!(server.holds(scratch.path()), [""; 0]);
}

#[test]
fn a_server_under_load_is_recorded_a_few_times_and_no_request_fails() {
    attach_and_detach(5);
}

#[test]
#[ignore = "long tier"]
fn a_server_under_load_is_recorded_a_hundred_times_and_no_request_fails() {
    attach_and_detach(100);
}
