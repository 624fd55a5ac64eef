"""`SocketDestination` and `SocketReader`: a recording that somebody reads while it goes on."""

import errno
import fcntl
import os
import pty
import select
import signal
import socket
import struct
import subprocess
import sys
import sysconfig
import termios
import textwrap
import unittest
from typing import List, Tuple

import captures
from captures import EXTRA, MANY, ONE, find, stack

from memtrace import FileReader, SocketReader

IS_FREE_THREADED = bool(sysconfig.get_config_var("Py_GIL_DISABLED"))

BEGIN = """
import os, socket, sys, threading
from memtrace import FileFormat, SocketDestination, SocketReader, Tracker
port = int(sys.argv[1])
destination = SocketDestination(server_port=port)

def tell(line):
    os.write(1, line.encode() + b"\\n")

def wait():
    assert os.read(0, 1) == b"!"

def make(n):
    return bytearray(n)
"""
if IS_FREE_THREADED:
    BEGIN += "import functools\nTracker = functools.partial(Tracker, trace_python_allocators=True)\n"


def free_port() -> int:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        port = server.getsockname()[1]
    assert isinstance(port, int)
    return port


class Program:
    """A program that goes on when it is told to."""

    def __init__(self, code: str, port: int, command: List[str] = [sys.executable, "-c"]) -> None:
        command = [*command, BEGIN + textwrap.dedent(code), str(port)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)

    def __enter__(self) -> "Program":
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.communicate()

    def hear(self, expected: str) -> None:
        assert self.process.stdout is not None
        line = self.process.stdout.readline().decode()
        if line != expected + "\n":
            _, errors = self.process.communicate()
            raise AssertionError(line + errors.decode())

    def is_silent(self) -> bool:
        assert self.process.stdout is not None
        return not select.select([self.process.stdout], [], [], 0.3)[0]

    def go_on(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(b"!")
        self.process.stdin.flush()

    def end(self, status: int = 0) -> str:
        """Its last words."""
        out, errors = self.process.communicate()
        assert self.process.returncode == status, (self.process.returncode, errors.decode())
        return out.decode() + errors.decode()


def watch(port: int) -> Tuple["subprocess.Popen[bytes]", int]:
    """The live view, and its terminal."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    command = [sys.executable, "-m", "memtrace", "live", str(port)]
    view = subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, env=dict(os.environ, TERM="xterm"))
    os.close(theirs)
    return view, ours


#: A size that nothing else has.
OTHER = 7_777_777

TRACKED = f"""
with Tracker(destination=destination):
    kept = [make({MANY}) for _ in range(3)]
    tell("made")
    wait()
    kept.pop()
    tell("freed")
    wait()
    other = make({OTHER})
tell("ended")
wait()
"""


#: A reader that knows where the log is and never opens it.
STOPS_WHEN_ANSWERED = """
import glob, json, os, socket, sys, time
port = int(sys.argv[1])
folders = [os.environ.get("XDG_RUNTIME_DIR", "/tmp") + "/memtrace", f"/tmp/memtrace-{os.geteuid()}"]
found = []
while not found:
    found = [path for folder in folders for path in glob.glob(f"{folder}/{port}.token")]
    time.sleep(0.01)
time.sleep(0.1)
with socket.create_connection(("127.0.0.1", port)) as stream:
    request = {"token": open(found[0]).read(), "request": "watch"}
    stream.sendall(json.dumps(request).encode() + b"\\n")
    assert b"log" in stream.makefile("rb").readline()
    time.sleep(60)
"""


def sizes(reader: SocketReader, size: int, merge_threads: bool = True) -> List[int]:
    """Of what `make` made, so many bytes at a time."""
    total = size + EXTRA
    records = reader.get_current_snapshot(merge_threads=merge_threads)
    return sorted(it.size for it in records if total <= it.size < 10 * total and it.size % total < 1000)


class Reading(unittest.TestCase):
    def test_a_snapshot_shows_what_there_is_at_that_moment(self) -> None:
        port = free_port()
        with Program(TRACKED, port) as program:
            with SocketReader(port) as reader:
                program.hear("made")
                self.assertTrue(reader.is_active)
                self.assertEqual(reader.pid, program.process.pid)
                self.assertEqual(reader.command_line, f"-c {port}")
                self.assertFalse(reader.has_native_traces)
                [made] = [it for it in reader.get_current_snapshot(merge_threads=False) if it.size >= 3 * MANY]
                self.assertEqual((made.n_allocations, made.tid), (3, 1))
                self.assertEqual(stack(made)[0], "make")
                self.assertEqual(stack(made)[-1], "<module>")
                program.go_on()
                program.hear("freed")
                self.assertEqual(len(sizes(reader, MANY)), 1)
                self.assertLess(sizes(reader, MANY)[0], 3 * MANY)
                unasked = reader.get_current_snapshot(merge_threads=True)
                program.go_on()
                program.hear("ended")
                self.assertFalse(reader.is_active)
                self.assertEqual(len(sizes(reader, OTHER)), 1)
            self.assertEqual(list(unasked), [])
            self.assertEqual(list(reader.get_current_snapshot(merge_threads=True)), [])
            self.assertFalse(reader.is_active)
            self.assertEqual(reader.pid, program.process.pid)
            self.assertEqual(stack(made)[0], "make")
            program.go_on()
            program.end()

    def test_threads_are_told_apart_when_they_should_be(self) -> None:
        port = free_port()
        code = f"""
            kept = []
            def work():
                kept.append(make({ONE}))
            with Tracker(destination=destination):
                for _ in range(2):
                    thread = threading.Thread(target=work)
                    thread.start()
                    thread.join()
                tell("made")
                wait()
            """
        with Program(code, port) as program, SocketReader(port) as reader:
            program.hear("made")
            self.assertEqual(len(sizes(reader, ONE, merge_threads=False)), 2)
            self.assertEqual(sum(sizes(reader, ONE, merge_threads=True)) // ONE, 2)
            program.go_on()
            program.end()

    def test_native_stacks_are_there_when_they_are_recorded(self) -> None:
        port = free_port()
        code = f"""
            with Tracker(destination=destination, native_traces=True):
                kept = make({ONE})
                tell("made")
                wait()
            """
        with Program(code, port) as program, SocketReader(port) as reader:
            program.hear("made")
            self.assertTrue(reader.has_native_traces)
            [made] = [it for it in reader.get_current_snapshot(merge_threads=True) if it.size >= ONE]
            self.assertEqual(stack(made)[0], "make")
            self.assertGreater(len(made.native_stack_trace()), 0)
            self.assertIn("make", [function for function, _, _ in made.hybrid_stack_trace()])
            program.go_on()
            program.end()

    def test_that_they_will_be_is_known_before_there_are_any(self) -> None:
        for is_native in (True, False):
            port = free_port()
            code = f"""
                with Tracker(destination=destination, native_traces={is_native}):
                    wait()
                """
            with Program(code, port) as program, SocketReader(port) as reader:
                self.assertIs(reader.has_native_traces, is_native)
                program.go_on()
                program.end()
            self.assertIs(reader.has_native_traces, is_native)

    def test_a_recording_can_end_at_once(self) -> None:
        code = f"""
            tracker = Tracker(destination=destination)
            with tracker:
                kept = make({ONE})
            os._exit(0)
            """
        for _ in range(10):
            port = free_port()
            with Program(code, port) as program, SocketReader(port) as reader:
                program.process.wait()
                self.assertFalse(reader.is_active)
                self.assertEqual(len(sizes(reader, ONE)), 1)

    def test_who_comes_and_stops_holds_nobody_up_for_long(self) -> None:
        port = free_port()
        with Program(f"with Tracker(destination=destination): kept = make({ONE})", port) as program:
            with subprocess.Popen([sys.executable, "-c", STOPS_WHEN_ANSWERED, str(port)]) as reader:
                try:
                    program.end()
                finally:
                    reader.kill()

    def test_what_was_killed_can_still_be_asked_about(self) -> None:
        port = free_port()
        with Program(TRACKED, port) as program, SocketReader(port) as reader:
            program.hear("made")
            program.process.kill()
            program.process.wait()
            self.assertFalse(reader.is_active)
            self.assertEqual(len(sizes(reader, MANY)), 1)

    def test_memtrace_run_is_read_as_well(self) -> None:
        port = free_port()
        capture = captures.scratch("run-live-remote.bin")
        command = [sys.executable, "-m", "memtrace", "run", "--live-remote", "--live-port", str(port), "-o", capture, "-c"]
        code = f"kept = make({ONE})\ntell('made')\nwait()\n"
        with Program(code, port, command) as program:
            with SocketReader(port) as reader:
                program.hear("made")
                self.assertTrue(reader.is_active)
                self.assertEqual(len(sizes(reader, ONE)), 1)
                self.assertIn(str(port), reader.command_line or "")
            program.go_on()
            program.end()
        with FileReader(capture) as whole:
            self.assertEqual(len(find(whole.get_allocation_records(), ONE)), 1)

    def test_the_live_view_reads_it_as_well(self) -> None:
        port = free_port()
        code = f"""
            with Tracker(destination=destination):
                kept = make(60_000_000)
                wait()
            """
        with Program(code, port) as program:
            view, ours = watch(port)
            shown = b""
            while b"make" not in shown:
                try:
                    shown += os.read(ours, 4096)
                except OSError:
                    # It has ended: the program was not there yet.
                    view.wait()
                    os.close(ours)
                    view, ours = watch(port)
            os.write(ours, b"q")
            self.assertEqual(view.wait(), 0)
            os.close(ours)
            program.go_on()
            program.end()


class Waiting(unittest.TestCase):
    def test_the_tracker_waits_for_a_reader_and_strangers_get_nothing(self) -> None:
        port = free_port()
        code = """
            tracker = Tracker(destination=destination)
            tell("constructed")
            wait()
            with tracker:
                wait()
            """
        with Program(code, port) as program:
            strangers = []
            while not strangers:
                try:
                    strangers.append(socket.create_connection(("127.0.0.1", port)))
                except ConnectionRefusedError:
                    pass
            for request in (b'{"request":"watch"}\n', b'{"token":"00","request":"watch"}\n', b"GET / HTTP/1.0\n\n"):
                strangers.append(socket.create_connection(("127.0.0.1", port)))
                strangers[-1].sendall(request)
            self.assertTrue(program.is_silent())
            # It is entered when its `with` is.
            code = "SocketReader(port).__enter__()\ntell('entered')\nwait()"
            with Program(code, port) as reader:
                program.hear("constructed")
                # More than are let in at a time do not drive the reader away.
                strangers += [socket.create_connection(("127.0.0.1", port)) for _ in range(20)]
                self.assertTrue(reader.is_silent())
                program.go_on()
                reader.hear("entered")
                for stranger in strangers[1:4]:
                    self.assertEqual(stranger.recv(100), b"")
                reader.go_on()
                reader.end()
            program.go_on()
            program.end()
            for stranger in strangers:
                stranger.close()

    def test_a_reader_that_waits_can_be_interrupted(self) -> None:
        with Program("tell('waiting')\nwith SocketReader(port): pass", free_port()) as program:
            program.hear("waiting")
            program.process.send_signal(signal.SIGINT)
            self.assertIn("KeyboardInterrupt", program.end(status=-signal.SIGINT))

    def test_a_tracker_that_waits_can_be_interrupted(self) -> None:
        with Program("tell('waiting')\nTracker(destination=destination)", free_port()) as program:
            program.hear("waiting")
            program.process.send_signal(signal.SIGINT)
            self.assertIn("KeyboardInterrupt", program.end(status=-signal.SIGINT))

    def test_a_reader_that_goes_away_leaves_the_program_alone_and_the_disk_empty(self) -> None:
        port = free_port()
        code = f"""
            def has_log():
                links = []
                for fd in os.listdir("/proc/self/fd"):
                    try:
                        links.append(os.readlink("/proc/self/fd/" + fd))
                    except OSError:
                        pass
                return any("memtrace-" in link for link in links)
            with Tracker(destination=destination) as tracker:
                assert has_log()
                kept = make({ONE})
                tell("made")
                while has_log():
                    more = make({MANY})
                tell("left alone")
                more = make({MANY})
            with Tracker("/dev/null"):
                pass
            """
        with Program(code, port) as program:
            with SocketReader(port):
                program.hear("made")
            program.hear("left alone")
            program.end()

    def test_the_port_is_free_again_although_a_child_goes_on(self) -> None:
        port = free_port()
        # Its input is for the child.
        is_read = captures.scratch("is-read")
        code = f"""
            import time
            with Tracker(destination=destination):
                child = os.fork()
                if child == 0:
                    wait()
                    os._exit(0)
                while not os.path.exists({is_read!r}):
                    time.sleep(0.01)
            tell("ended")
            with Tracker(destination=destination):
                tell("again")
                wait()
            os.waitpid(child, 0)
            """
        with Program(code, port) as program:
            with SocketReader(port) as reader:
                open(is_read, "w").close()
                program.hear("ended")
                self.assertFalse(reader.is_active)
            with SocketReader(port):
                program.hear("again")
                program.go_on()
                program.go_on()
                program.end()


class Mistakes(unittest.TestCase):
    def test_a_port_that_somebody_has(self) -> None:
        with socket.socket() as server:
            server.bind(("127.0.0.1", 0))
            server.listen()
            code = """
                try:
                    Tracker(destination=destination)
                except OSError as error:
                    tell(f"{error.errno} {error}")
                """
            with Program(code, server.getsockname()[1]) as program:
                told = program.end()
        self.assertTrue(told.startswith(str(errno.EADDRINUSE)), told)
        self.assertIn("cannot use port", told)

    def test_a_port_that_is_offered_by_something_else(self) -> None:
        with socket.socket() as server:
            server.bind(("127.0.0.1", 0))
            server.listen(1000)
            with self.assertRaisesRegex(OSError, "something else than a memtrace of this user"):
                SocketReader(server.getsockname()[1]).__enter__()

    def test_what_is_no_port(self) -> None:
        code = """
            for port in (70000, -1, "x"):
                try:
                    Tracker(destination=SocketDestination(port))
                except (OverflowError, TypeError) as error:
                    tell(type(error).__name__)
            for option in (dict(follow_fork=True), dict(file_format=FileFormat.AGGREGATED_ALLOCATIONS)):
                try:
                    Tracker(destination=destination, **option)
                except RuntimeError as error:
                    tell(str(error))
            """
        with Program(code, free_port()) as program:
            told = program.end()
        expected = "OverflowError\nOverflowError\nTypeError\n"
        expected += "follow_fork requires an output file\nAGGREGATED_ALLOCATIONS requires an output file\n"
        self.assertEqual(told, expected)
        with self.assertRaises(TypeError):
            SocketReader("x")  # type: ignore[arg-type]

    def test_a_reader_outside_of_its_with_knows_nothing(self) -> None:
        reader = SocketReader(port=free_port())
        self.assertEqual((reader.pid, reader.command_line, reader.has_native_traces), (None, None, False))
        self.assertFalse(reader.is_active)
        self.assertEqual(list(reader.get_current_snapshot(merge_threads=True)), [])

    def test_a_reader_is_entered_once_at_a_time(self) -> None:
        port = free_port()
        with Program(TRACKED, port) as program:
            with SocketReader(port) as reader:
                program.hear("made")
                with self.assertRaisesRegex(ValueError, "Can not enter .* more than once"):
                    reader.__enter__()


if __name__ == "__main__":
    unittest.main()
