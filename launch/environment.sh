# Sourced by the scripts beside it: makes the virtual environment of this repository.
#
#   LOCKSTEP_VENV   where it is (default: .venv)
#   LOCKSTEP_MPI    the MPI library that is installed into it: mpich (default) or openmpi
#   PYTHON          the Python to make it with (default: the first of 3.11 or newer)

LOCKSTEP_VENV=${LOCKSTEP_VENV:-.venv}
LOCKSTEP_MPI=${LOCKSTEP_MPI:-mpich}

fail() {
    echo "$1" >&2
    exit 1
}

# Print the first Python that is new enough. A name may exist and still not run, so try each.
find_python() {
    for candidate in ${PYTHON:+"$PYTHON"} python3 python3.14 python3.13 python3.12 python3.11 python; do
        if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            echo "$candidate"
            return
        fi
    done
    found=$(python3 --version 2>&1 || true)
    fail "Lockstep needs Python 3.11 or newer, and there is none on the PATH (python3: $found).
Install one, or name it: PYTHON=/path/to/python3.12 sh $0"
}

# install EXTRAS: make sure that the environment holds this repository with these extras.
install() {
    stamp="$LOCKSTEP_VENV/.installed-$1"
    # Whatever changes this text asks for a new installation.
    wanted="$(pwd) $(cksum <pyproject.toml)"
    if works && [ "$(cat "$stamp" 2>/dev/null)" = "$wanted" ]; then
        return
    fi
    echo "Installing Lockstep [$1] into $LOCKSTEP_VENV ..."
    works || make_environment
    "$LOCKSTEP_VENV/bin/python" -m pip install --quiet --disable-pip-version-check --retries 2 \
        --editable ".[$1]" || fail "The installation failed; see pip's message above.
Is there a network, and can pip reach a package index from here (proxy, PIP_INDEX_URL)?"
    echo "$wanted" >"$stamp"
}

# An environment does not survive being moved, so it remembers where it was made.
works() {
    [ "$(cat "$LOCKSTEP_VENV/.made-in" 2>/dev/null)" = "$(pwd)" ] &&
        "$LOCKSTEP_VENV/bin/python" -c '' 2>/dev/null
}

make_environment() {
    python=$(find_python) || exit 1
    "$python" -m venv --clear "$LOCKSTEP_VENV" || fail "Can't make a virtual environment with $python.
On Debian and Ubuntu its module is a package of its own: apt install python3-venv"
    pwd >"$LOCKSTEP_VENV/.made-in"
}
