//! A recorded Python that does what it is told, a line at a time (`fixtures/programs/on_command.py`).

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use super::support::{fixture, memtrace, pythons, text};

pub struct OnCommand {
    pub pid: u32,
    launcher: Child,
    stdin: ChildStdin,
    stdout: BufReader<ChildStdout>,
}

impl OnCommand {
    /// Records it; `configure` may give the launcher another environment.
    pub fn start(capture: &Path, configure: impl FnOnce(&mut Command)) -> OnCommand {
        let mut command = memtrace();
        command.args(["run", "-q", "-o"]).arg(capture).arg("--python").arg(&pythons().last().unwrap().path);
        command.arg(fixture("programs/on_command.py"));
        configure(&mut command);
        let mut launcher = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let stdin = launcher.stdin.take().unwrap();
        let stdout = BufReader::new(launcher.stdout.take().unwrap());
        let mut program = OnCommand { pid: 0, launcher, stdin, stdout };
        program.pid = program.line().parse().unwrap();
        program
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.stdout.read_line(&mut line).unwrap();
        line.trim_end().to_string()
    }

    pub fn tell(&mut self, line: &str) {
        writeln!(self.stdin, "{line}").unwrap();
        assert_eq!(self.line(), "done");
    }

    /// Lets it end.
    pub fn finish(self) {
        drop(self.stdin);
        let output = self.launcher.wait_with_output().unwrap();
        assert!(output.status.success(), "{}", text(&output));
    }
}
