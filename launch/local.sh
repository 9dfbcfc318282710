#!/bin/sh
# One machine, a rank for each physical core: sh launch/local.sh CONFIG.toml [options of lockstep train]
# ------------------------------------------------------------------ for you to change
# BLAS threads of a rank. Several ranks of one thread are usually faster than one of several.
THREADS=${THREADS:-1}
# How often to go on from the newest checkpoint when a rank was lost.
RESTARTS=${RESTARTS:-0}
# . .venv/bin/activate
# ------------------------------------------------------------------
# Hyper-threads share a core, so they count only where there is no lscpu to tell.
CORES=$(lscpu --parse=CORE 2>/dev/null | grep -v '^#' | sort -u | wc -l)
# This shell may be kept to fewer cores.
USABLE=$(env -u OMP_NUM_THREADS nproc)
[ "$CORES" -gt 0 ] && [ "$CORES" -lt "$USABLE" ] || CORES=$USABLE
RANKS=${RANKS:-$((CORES / THREADS))}
export OMP_NUM_THREADS="$THREADS"
exec lockstep train "$@" -n "$RANKS" --restarts "$RESTARTS"
