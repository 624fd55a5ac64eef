"""memray's command line in the words of ours: ``python -m memtrace`` takes every subcommand and flag of memray.

It only translates, and becomes the program then. What memray does not have goes through as it is, so that everything
the program can do can be said here too.
"""

import os
import sys
from typing import Callable, Dict, List, NoReturn, Optional, Tuple

from ._executable import find_executable

#: Options of ``run`` whose value may be the next word, ours among them: what stands behind them is no script.
RUN_VALUES = ("-o", "--output", "-p", "--live-port", "--python", "--report")
#: Options of ``run`` that may stand between ``-m`` or ``-c`` and what it is about.
_RUN_FLAGS = (
    "-q", "--quiet", "-f", "--force", "--native", "--follow-fork", "--trace-python-allocators", "--aggregate",
    "--buffered-file-io", "--compress-on-exit", "--no-compress", "--live", "--live-remote",
)  # fmt: skip

#: What a flag is called here. Nothing: it asks for what is always so, or for nothing that we need.
_RECORDING = {"--trace-python-allocators": "--python-allocators", "--buffered-file-io": None}
_METHODS = {"auto": "auto", "sys.remote_exec": "remote-exec", "gdb": "ptrace", "lldb": "ptrace"}


def main(arguments: Optional[List[str]] = None) -> NoReturn:
    """Becomes the program."""
    words = translated(sys.argv[1:] if arguments is None else arguments)
    os.execv(find_executable(), ["memtrace", *words])


def translated(arguments: List[str]) -> List[str]:
    """The same for the program."""
    words = list(arguments)
    # memray's own messages can be made louder; ours say what there is to say.
    while words and words[0].strip("v") == "-" or words[:1] == ["--verbose"]:
        words.pop(0)
    if not words:
        return words
    command, rest = words[0], words[1:]
    return [command, *_COMMANDS.get(command, _unchanged)(rest)]


def _unchanged(words: List[str]) -> List[str]:
    return words


# --- run --------------------------------------------------------------------------------------------------------------


def _run(words: List[str]) -> List[str]:
    options, kind, target = _split_run(words)
    options = _renamed(options, _RECORDING)
    if not target:
        return [*options, *kind]
    if not (_has(options, "o", "--output") or _has(options, "", "--live") or _has(options, "", "--live-remote")):
        options += ["--output", _default_capture(kind, target[0])]
    if _has(options, "", "--python") or not sys.executable:
        return [*options, *kind, *target]
    # The interpreter that runs us, as it was started.
    flags = _interpreter_flags()
    if not flags or not (kind or os.path.exists(target[0])):
        return [*options, "--python", sys.executable, *(kind or ["--"]), *target]
    return [*options, "--", sys.executable, *flags, *kind, *target]


def _split_run(words: List[str]) -> Tuple[List[str], List[str], List[str]]:
    """Options, ``-m`` or ``-c`` or nothing, and the target with its arguments."""
    options: List[str] = []
    kind: List[str] = []
    rest = list(words)
    while rest and rest[0].startswith("-") and rest[0] != "-":
        word = rest[0]
        if kind and word not in _RUN_FLAGS and word.partition("=")[0] not in RUN_VALUES:
            # What -m or -c is about, even when it begins with a dash.
            break
        rest.pop(0)
        if word == "--":
            break
        if word.startswith("--"):
            options.append(word)
            takes_next = word in RUN_VALUES
        else:
            flags, kind_letter, value = _split_cluster(word)
            takes_next = bool(flags) and f"-{flags[-1]}" in RUN_VALUES and not value
            if flags:
                options.append(f"-{flags}{'' if kind_letter else value}")
            if kind_letter:
                kind = [f"-{kind_letter}"]
                if value:
                    return options, kind, [value, *rest]
        if takes_next and rest:
            options.append(rest.pop(0))
    return options, kind, rest


def _split_cluster(word: str) -> Tuple[str, str, str]:
    """Of ``-qmMODULE``: the flags ``q``, the letter ``m``, and MODULE. Of ``-qoFILE``: ``qo``, no letter, and FILE."""
    for index, letter in enumerate(word[1:], 1):
        if letter in "mc":
            return word[1:index], letter, word[index + 1 :]
        if f"-{letter}" in RUN_VALUES:
            return word[1 : index + 1], "", word[index + 1 :]
    return word[1:], "", ""


def _interpreter_flags() -> List[str]:
    """What stands between the interpreter and ``-m memtrace``; CPython 3.9 does not tell."""
    flags: List[str] = []
    for word in getattr(sys, "orig_argv", [])[1:]:
        if word[:1] == "-" != word[1:2] and word.endswith("m"):
            return flags if word == "-m" else [*flags, word[:-1]]
        flags.append(word)
    return []


def _default_capture(kind: List[str], target: str) -> str:
    """As memray has it: beside the script, with the script's whole name."""
    if kind == ["-c"]:
        target = "string"
    return os.path.join(os.path.dirname(target), f"memtrace-{os.path.basename(target)}.%p.bin")


# --- the others -------------------------------------------------------------------------------------------------------


def _attach(words: List[str]) -> List[str]:
    return _with_method(_renamed(words, {**_RECORDING, "-v": None, "--verbose": None}))


def _detach(words: List[str]) -> List[str]:
    # How a process was entered makes no difference to leaving it.
    words = _renamed(words, {"-v": None, "--verbose": None})
    for index, word in enumerate(words):
        if word == "--method":
            return words[:index] + words[index + 2 :]
        if word.startswith("--method="):
            return words[:index] + words[index + 1 :]
    return words


def _with_method(words: List[str]) -> List[str]:
    """memray's methods of entering a process are those of debuggers; ours needs none of these."""
    out = list(words)
    for index, word in enumerate(words):
        if word == "--method" and index + 1 < len(words):
            out[index + 1] = _METHODS.get(words[index + 1], words[index + 1])
        elif word.startswith("--method="):
            value = word[len("--method=") :]
            out[index] = f"--method={_METHODS.get(value, value)}"
    return out


_STATS_VALUES = ("-n", "--num-largest", "-o", "--output")


def _stats(words: List[str]) -> List[str]:
    """memray writes JSON to a file unless told otherwise; the program prints it."""
    results = [word for before, word in zip(["", *words], words) if word[:1] != "-" and before not in _STATS_VALUES]
    if "--json" not in words or _has(words, "o", "--output") or not results:
        return words
    folder, name = os.path.split(results[-1])
    if name.startswith("memtrace-"):
        name = name[len("memtrace-") :]
    return [*words, "--output", os.path.join(folder, f"memtrace-stats-{name}.json")]


def _transform(words: List[str]) -> List[str]:
    """Formats may be written in capitals."""
    formats = ("gprof2dot", "csv", "speedscope")
    return [word.lower() if word.lower() in formats else word for word in words]


def _renamed(words: List[str], names: Dict[str, Optional[str]]) -> List[str]:
    renamed = (names.get(word, word) for word in words)
    return [word for word in renamed if word is not None]


def _has(words: List[str], letter: str, name: str) -> bool:
    return any(
        word == name or word.startswith(f"{name}=") or (letter and word[:1] == "-" != word[1:2] and letter in word)
        for word in words
    )


_COMMANDS: Dict[str, Callable[[List[str]], List[str]]] = {
    "run": _run,
    "attach": _attach,
    "detach": _detach,
    "stats": _stats,
    "transform": _transform,
}
