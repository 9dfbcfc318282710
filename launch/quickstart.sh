#!/bin/sh
# The first five minutes: install, convert the embedded digits, train under 2 MPI ranks.
set -eu
cd "$(dirname "$0")/.."
. launch/environment.sh

install "$LOCKSTEP_MPI"
lockstep="$LOCKSTEP_VENV/bin/lockstep"
[ -f data/digits.h5 ] || "$lockstep" convert digits data/digits.h5
"$lockstep" train launch/presets/digits.toml -n 2 --results "$(pwd)/results"
