# Interpreters and their packages, for the scripts that run programs of fixtures/programs. Sourced by tests/run,
# benches/run and fixtures/demo, from the checkout, after they have defined `say`.
#
# The virtual environments lie outside the checkout, under MEMTRACE_TEST_ENV, and a second run finds them ready.

SUPPORTED_MINORS="3.11 3.12 3.13"
export MEMTRACE_TEST_ENV=${MEMTRACE_TEST_ENV:-${HOME:-/tmp}/.cache/memtrace-tests}

# is_python PATH MINOR. Asked rather than believed: a version manager's shim of that name may exist and start nothing.
is_python() {
    [ "$("$1" -S -c 'import sys; print(sys.implementation.name, "%d.%d" % sys.version_info[:2])' 2>/dev/null)" = "cpython $2" ]
}

# find_python MINOR prints a path, or nothing. MEMTRACE_TEST_PYTHONS (paths between colons) comes before pyenv and PATH.
find_python() {
    local minor=$1 candidate IFS=$' \t\n'
    if [ -n "${MEMTRACE_TEST_PYTHONS:-}" ]; then
        IFS=:
        for candidate in $MEMTRACE_TEST_PYTHONS; do
            if is_python "$candidate" "$minor"; then echo "$candidate"; return; fi
        done
        return
    fi
    for candidate in "${PYENV_ROOT:-${HOME:-/root}/.pyenv}"/versions/"$minor".*/bin/python"$minor" "python$minor" python3; do
        if is_python "$candidate" "$minor"; then command -v "$candidate"; return; fi
    done
}

# make_environment MINOR PYTHON: the packages of tests/requirements.txt, in $MEMTRACE_TEST_ENV/venv-MINOR. A folder is
# ready when its stamp names the same requirements and the same interpreter; of two runs at once, one makes it.
make_environment() {
    local minor=$1 python=$2 folder=$MEMTRACE_TEST_ENV/venv-$1 wanted
    wanted=$(cat tests/requirements.txt; echo "$python")
    mkdir -p "$MEMTRACE_TEST_ENV"
    (
        flock 9
        if [ "$(cat "$folder/stamp" 2>/dev/null)" != "$wanted" ]; then
            say "installing the Python packages of CPython $minor into $folder"
            rm -rf "$folder"
            "$python" -m venv "$folder"
            "$folder/bin/python" -m pip install -q --disable-pip-version-check --no-input -r tests/requirements.txt </dev/null >&2
            printf '%s\n' "$wanted" > "$folder/stamp"
        fi
    ) 9> "$MEMTRACE_TEST_ENV/lock"
}
