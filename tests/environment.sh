# Interpreters and their packages, for the scripts that run programs of fixtures/programs. Sourced by tests/run,
# benches/run and fixtures/demo, from the checkout, after they have defined `say`.
#
# The virtual environments lie outside the checkout, under MEMTRACE_TEST_ENV, and a second run finds them ready.
# A `t` behind the minor version, as in 3.13t, is the free-threaded build.

SUPPORTED_PYTHONS="3.9 3.10 3.11 3.12 3.13 3.13t 3.14 3.15"
export MEMTRACE_TEST_ENV=${MEMTRACE_TEST_ENV:-${HOME:-/tmp}/.cache/memtrace-tests}

# is_python PATH NAME. Asked rather than believed: a version manager's shim of that name may exist and start nothing.
is_python() {
    local script='import sys; print(sys.implementation.name, "%d.%d" % sys.version_info[:2] + sys.abiflags.strip("dmu"))'
    [ "$("$1" -S -c "$script" 2>/dev/null)" = "cpython $2" ]
}

# find_python NAME prints a path, or nothing. MEMTRACE_TEST_PYTHONS (paths between colons) comes before pyenv and PATH,
# and these before what tests/provide-python has put under MEMTRACE_TEST_ENV.
find_python() {
    local name=$1 candidate IFS=$' \t\n'
    if [ -n "${MEMTRACE_TEST_PYTHONS:-}" ]; then
        IFS=:
        for candidate in $MEMTRACE_TEST_PYTHONS; do
            if is_python "$candidate" "$name"; then echo "$candidate"; return; fi
        done
        return
    fi
    for candidate in "${PYENV_ROOT:-${HOME:-/root}/.pyenv}"/versions/"${name%t}".*/bin/python"$name" "python$name" python3 \
        "$MEMTRACE_TEST_ENV/python-$name/bin/python$name" "$MEMTRACE_TEST_ENV/debian-sid/usr/bin/python$name"; do
        if is_python "$candidate" "$name"; then command -v "$candidate"; return; fi
    done
}

# make_environment NAME PYTHON [LIST]: the packages of tests/requirements.txt, or of LIST, in $MEMTRACE_TEST_ENV/venv-NAME.
# A folder is ready when its stamp names the same packages and the same interpreter; of two runs at once, one makes it.
# Packages that have nothing for this interpreter are left out: the file `missing` beside the stamp names them.
make_environment() {
    local name=$1 python=$2 list=${3:-tests/requirements.txt} folder=$MEMTRACE_TEST_ENV/venv-$1 wanted requirement
    wanted=$(cat "$list"; echo "$python")
    mkdir -p "$MEMTRACE_TEST_ENV"
    (
        flock 9
        if [ "$(cat "$folder/stamp" 2>/dev/null)" != "$wanted" ]; then
            say "installing the Python packages of $list into $folder"
            rm -rf "$folder"
            "$python" -m venv "$folder"
            if ! pip_install "$folder" -r "$list"; then
                for requirement in $(grep -v '^#' "$list"); do
                    pip_install "$folder" "$requirement" || echo "$requirement" >> "$folder/missing"
                done
            fi
            printf '%s\n' "$wanted" > "$folder/stamp"
        fi
        [ ! -f "$folder/missing" ] || say "not to be had for $python:" $(cat "$folder/missing")
    ) 9> "$MEMTRACE_TEST_ENV/lock"
}

# Only what is built already: a compiler may be missing, and building pandas takes longer than all the tests.
pip_install() {
    "$1/bin/python" -m pip install -q --disable-pip-version-check --no-input --only-binary :all: "${@:2}" </dev/null >&2
}
