#!/bin/bash
# 4 hosts with 8 GPUs each: sbatch slurm.sh. One process a GPU, which is what JAX makes of a SLURM step.
#SBATCH --nodes=4
#SBATCH --ntasks-per-node=8
#SBATCH --gpus-per-node=8
#SBATCH --time=24:00:00
#SBATCH --signal=TERM@300
#SBATCH --requeue

# The folder is on a file system that all hosts have. A job that was requeued goes on from the last checkpoint.
run=$HOME/runs/$SLURM_JOB_ID
if [ -e "$run/config.toml" ]; then
    srun --kill-on-bad-exit python -m bess_jax train --resume "$run"
else
    srun --kill-on-bad-exit python -m bess_jax train --run "$run" --dataset wn18rr --n-shard 32
fi
if [ $? -eq 143 ]; then # SIGTERM, five minutes before the end: the state is saved
    scontrol requeue "$SLURM_JOB_ID"
fi
