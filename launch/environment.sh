# Sourced by the scripts beside it: makes the virtual environment of this repository.
#
#   LOCKSTEP_MPI    the MPI library that is installed into it: mpich (default) or openmpi
#   LOCKSTEP_VENV   where it is (default: .venv, and .venv-openmpi for Open MPI)
#   PYTHON          the Python to make it with (default: the first of 3.11 or newer)

fail() {
    echo "$1" >&2
    exit 1
}

LOCKSTEP_MPI=${LOCKSTEP_MPI:-mpich}
case $LOCKSTEP_MPI in
    mpich | openmpi) ;;
    *) fail "LOCKSTEP_MPI=$LOCKSTEP_MPI: there are mpich and openmpi." ;;
esac
if [ "$LOCKSTEP_MPI" = mpich ]; then
    LOCKSTEP_VENV=${LOCKSTEP_VENV:-.venv}
else
    LOCKSTEP_VENV=${LOCKSTEP_VENV:-.venv-$LOCKSTEP_MPI}
fi
marker="$LOCKSTEP_VENV/.made-for-lockstep"


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

# An environment survives neither being moved nor another MPI library beside its own, so its
# marker remembers both.
works() {
    [ "$(cat "$marker" 2>/dev/null)" = "$(pwd) $LOCKSTEP_MPI" ] &&
        "$LOCKSTEP_VENV/bin/python" -c '' 2>/dev/null
}

make_environment() {
    # Only what was made here is ever removed.
    if [ -n "$(ls -A "$LOCKSTEP_VENV" 2>/dev/null)" ] && [ ! -f "$marker" ]; then
        fail "$LOCKSTEP_VENV exists and was not made by this script, so it is left alone.
Remove it, or name another folder: LOCKSTEP_VENV=.venv-lockstep sh $0"
    fi
    python=$(find_python) || exit 1
    rm -rf "$LOCKSTEP_VENV"
    mkdir -p "$LOCKSTEP_VENV" || fail "Can't make $(pwd)/$LOCKSTEP_VENV: may you write there?"
    echo "$(pwd) $LOCKSTEP_MPI" >"$marker"
    "$python" -m venv "$LOCKSTEP_VENV" || fail "Can't make a virtual environment with $python.
On Debian and Ubuntu its module is a package of its own: apt install python3-venv"
}

# Print the first Python that is new enough. A name may exist and still not run, so try each.
find_python() {
    for candidate in "${PYTHON:-python3}" ${PYTHON:-python3.14 python3.13 python3.12 python3.11 python}; do
        if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            echo "$candidate"
            return
        fi
    done
    found=$("${PYTHON:-python3}" --version 2>/dev/null) || found="nothing that is a Python"
    fail "Lockstep needs Python 3.11 or newer, but ${PYTHON:-python3} is $found.
Install one, or name it: PYTHON=/path/to/python3.12 sh $0"
}
