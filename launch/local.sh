#!/bin/sh
# One machine, a rank for each core: sh launch/local.sh CONFIG.toml [options of lockstep train]
# ------------------------------------------------------------------ for you to change
# BLAS threads of a rank. Several ranks of one thread are usually faster than one of several.
THREADS=${THREADS:-1}
# How often to go on from the newest checkpoint when a rank was lost.
RESTARTS=${RESTARTS:-0}
# . .venv/bin/activate
# ------------------------------------------------------------------
# The cores that this shell may use; half of them where hyper-threads count as cores.
RANKS=${RANKS:-$(($(env -u OMP_NUM_THREADS nproc) / THREADS))}
export OMP_NUM_THREADS="$THREADS"
exec lockstep train "$@" -n "$RANKS" --restarts "$RESTARTS"
