#!/bin/sh
# Install with the test extras and run tests: those of a few minutes, or what the arguments tell pytest
# (`sh launch/test.sh tests` for all).
set -eu
cd "$(dirname "$0")/.."
. launch/environment.sh

install "$LOCKSTEP_MPI,test"
[ $# -gt 0 ] || set -- tests/unit tests/integration/test_commands.py tests/mpi/test_same_bits.py
exec "$LOCKSTEP_VENV/bin/python" -m pytest "$@"
