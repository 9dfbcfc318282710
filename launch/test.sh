#!/bin/sh
# Install with the test extras and run the test suite; arguments go to pytest.
set -eu
cd "$(dirname "$0")/.."
. launch/environment.sh

install "$LOCKSTEP_MPI,test"
exec "$LOCKSTEP_VENV/bin/python" -m pytest "$@"
