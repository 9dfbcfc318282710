#!/bin/bash -l
# A job of PBS: qsub -v CONFIG=my.toml launch/pbs.sh
# To go on with an earlier run: qsub -v CONFIG=my.toml,RUN=name launch/pbs.sh
# ------------------------------------------------------------------ for your site to change
#PBS -N lockstep
#PBS -l select=2:ncpus=2:mpiprocs=2:ompthreads=1
#PBS -l place=scatter
#PBS -l walltime=00:30:00
#PBS -j oe
# qsub takes no arguments for the script, so they stand here, or come by -v.
CONFIG=${CONFIG:-launch/presets/digits.toml}
OPTIONS=${OPTIONS:-}
# module load mpi
# . .venv/bin/activate
# ------------------------------------------------------------------
cd "$PBS_O_WORKDIR" || exit 1
RUN=${RUN:-$PBS_JOBNAME-${PBS_JOBID%%.*}}
# PBS alone counts ranks and cores: its file of nodes has a line for each rank.
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"
HOSTS=$(uniq "$PBS_NODEFILE" | paste -s -d , -)
# shellcheck disable=SC2086 - several options
exec lockstep train "$CONFIG" $OPTIONS --run-name "$RUN" --go-on \
    -n "$(wc -l < "$PBS_NODEFILE")" --hosts "$HOSTS" --restarts 2
