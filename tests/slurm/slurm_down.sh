#!/usr/bin/env bash
# Ends what slurm_up.sh started, and nothing else: slurm_down.sh DIRECTORY
set -uo pipefail
state=$(realpath "$1")
export SLURM_CONF=$state/slurm.conf
scancel --user="$(id -un)"
for _ in $(seq 60); do
    [ -z "$(squeue -h)" ] && break
    sleep 0.25
done
for pid_file in "$state"/{slurmd,slurmctld,munged}.pid; do
    [ -f "$pid_file" ] || continue
    pid=$(cat "$pid_file")
    kill "$pid"
    for _ in $(seq 40); do
        kill -0 "$pid" 2>/dev/null || break
        sleep 0.25
    done
done
exit 0
