"""Messages of the package."""

import logging

logger = logging.getLogger("memtrace")


def set_log_level(level: int) -> None:
    """Sets from which severity on messages of memtrace are printed: a level of `logging`, ``WARNING`` at first."""
    if not isinstance(level, int):
        raise TypeError("an integer is required")
    logger.setLevel(level)
