#!/usr/bin/env bash
# A Slurm of one node on this machine, on loopback, as root and without systemd: slurm_up.sh DIRECTORY PORT
# PORT and the one after it must be free. Afterwards SLURM_CONF=DIRECTORY/slurm.conf leads every Slurm command to it.
set -euo pipefail
PATH=$PATH:/usr/sbin
state=$(realpath -m "$1")
port=$2
mkdir -p "$state"/{ctld,spool,log}
memory=$(awk '/MemTotal/ { printf "%d", $2 / 1024 * 0.9 }' /proc/meminfo)

if ! munge -n >/dev/null 2>&1; then
    install -d -o munge -g munge -m 0755 /run/munge
    runuser -u munge -- munged
    cp /run/munge/munged.pid "$state/munged.pid" # ours, so slurm_down.sh ends it
fi

# Four CPUs whatever the machine has, so that the jobs of a sweep can run side by side.
cat >"$state/slurm.conf" <<CONF
ClusterName=test
SlurmctldHost=localhost(127.0.0.1)
SlurmctldPort=$port
AuthType=auth/munge
SlurmUser=root
SlurmdUser=root
StateSaveLocation=$state/ctld
SlurmdSpoolDir=$state/spool
SlurmctldPidFile=$state/slurmctld.pid
SlurmdPidFile=$state/slurmd.pid
SlurmctldLogFile=$state/log/slurmctld.log
SlurmdLogFile=$state/log/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SlurmdParameters=config_overrides
ReturnToService=2
CommunicationParameters=NoCtldInAddrAny,NoInAddrAny
SchedulerParameters=sched_interval=1,sched_min_interval=0,batch_sched_delay=0
KillWait=5
NodeName=n1 NodeHostname=localhost NodeAddr=127.0.0.1 Port=$((port + 1)) CPUs=4 SocketsPerBoard=4 RealMemory=$memory
PartitionName=debug Nodes=ALL Default=YES MaxTime=INFINITE State=UP
CONF
export SLURM_CONF=$state/slurm.conf
slurmctld -c
slurmd -N n1 -c
for _ in $(seq 120); do
    [ "$(sinfo -h -t idle -o %D 2>/dev/null)" = 1 ] && exit 0
    sleep 0.25
done
tail "$state"/log/* >&2
exit 1
