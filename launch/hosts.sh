#!/bin/sh
# The hosts of a file, without a scheduler: sh launch/hosts.sh HOSTFILE CONFIG.toml [options]
# The file has a name or an address to a line; all hosts see this folder under the same path, and
# can be reached by ssh without a password.
# ------------------------------------------------------------------ for you to change
RANKS_PER_HOST=${RANKS_PER_HOST:-2}
# BLAS threads of a rank.
THREADS=${THREADS:-1}
# How often to go on from the newest checkpoint, without a host that is lost.
RESTARTS=${RESTARTS:-0}
# . .venv/bin/activate
# ------------------------------------------------------------------
HOSTFILE=${1:?The file of hosts comes first: sh launch/hosts.sh HOSTFILE CONFIG.toml}
shift
# Comments and empty lines are no hosts, and one that is named twice is one.
HOSTS=$(sed 's/#.*//' "$HOSTFILE" | awk 'NF && !seen[$1]++ { print $1 }')
# Without any, all ranks would run here.
: "${HOSTS:?$HOSTFILE names no host}"
NUM_HOSTS=$(echo "$HOSTS" | wc -l)
export OMP_NUM_THREADS="$THREADS"
exec lockstep train "$@" -n "$((NUM_HOSTS * RANKS_PER_HOST))" \
    --hosts "$(echo "$HOSTS" | paste -s -d , -)" --restarts "$RESTARTS"
