//! A gunicorn with the service of `fixtures/children`, on a port of its own choice: which one that is, and who answers.

use std::io::{BufRead, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

/// Its port, once it says so.
pub fn port(errors: &mut impl BufRead) -> u16 {
    let mut line = String::new();
    loop {
        line.clear();
        assert!(errors.read_line(&mut line).unwrap() > 0, "the server ended");
        if let Some((_, address)) = line.split_once("http://127.0.0.1:") {
            return address.split(' ').next().unwrap().trim().parse().unwrap();
        }
    }
}

/// One answer: the process id of the worker that gave it; `None` when it gave none.
pub fn ask(port: u16) -> Option<u32> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(60))).ok()?;
    stream.write_all(b"GET / HTTP/1.0\r\n\r\n").ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    answer.rsplit("\r\n\r\n").next()?.parse().ok()
}
