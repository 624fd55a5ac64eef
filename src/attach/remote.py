# Run by the interpreter of a process that memtrace attaches to or detaches from (src/attach/remote.rs). The thread that
# runs it may be the program's main one, whose signal handlers may raise: so the work is another one's.
def work():
    import _socket

    try:
        connection = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM)
        try:
            connection.connect(SOCKET)
            # Without a message memtrace has given up.
            size, flags = _socket.CMSG_SPACE(8), _socket.MSG_CMSG_CLOEXEC
            message, received, _, _ = connection.recvmsg(16384, size, flags)
            if message:
                try:
                    answer = str(call(message, [number for _, _, numbers in received for number in in_fours(numbers)]))
                except Exception as error:
                    answer = f"{type(error).__name__}: {error}"
                connection.send(answer.encode("utf-8", "replace"), _socket.MSG_NOSIGNAL)
        finally:
            connection.close()
    except OSError:
        pass


def in_fours(numbers):
    return [int.from_bytes(numbers[start : start + 4], "little") for start in range(0, len(numbers), 4)]


def call(message, descriptors):
    import posix

    try:
        import _ctypes

        function, ignore, options, shim, log = message.split(b"\0")
        if descriptors:
            shim, log = (b"/proc/self/fd/%d" % descriptor for descriptor in descriptors)
        function, ignore = int(function), int(ignore)
        if not function:
            library = _ctypes.dlopen(shim, 2)  # RTLD_NOW
            function, ignore = (_ctypes.dlsym(library, name) for name in ("memtrace_start", "memtrace_ignore_thread"))
        # Programs that it starts can't open what was handed over.
        answer = _ctypes.call_function(function, (log, int(options), None if descriptors else shim))
        _ctypes.call_function(ignore, ())
        return answer
    finally:
        for descriptor in descriptors:
            posix.close(descriptor)


try:
    import _thread

    _thread.start_new_thread(work, ())
except Exception:
    pass
