"""Where a `Tracker` writes what it records."""

import os
from dataclasses import dataclass
from typing import Union


@dataclass(frozen=True)
class Destination:
    """What all destinations are."""


@dataclass(frozen=True)
class FileDestination(Destination):
    """A capture file.

    Args:
        path: Where the file is written.
        overwrite: Whether a file that is there already is replaced. Without it, that is an error.
        compress_on_exit: Whether the capture is made small when tracking ends.
        buffered: Accepted for code that was written for memray. The recorder finds out by itself whether the file
            system can map the capture.
    """

    path: Union[str, "os.PathLike[str]"]
    overwrite: bool = False
    compress_on_exit: bool = True
    buffered: bool = False


@dataclass(frozen=True)
class SocketDestination(Destination):
    """A TCP port on which one reader is waited for.

    Args:
        server_port: The port to listen on.
        address: The address to listen on.
    """

    server_port: int
    address: str = "127.0.0.1"
