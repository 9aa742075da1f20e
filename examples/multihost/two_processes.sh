#!/bin/sh
# Two processes on this machine, with two virtual CPU devices each, train and evaluate: sh two_processes.sh [RUN [OPTIONS]]
set -eu
run=${1:-runs/two-processes}
[ $# -eq 0 ] || shift
coordinator=127.0.0.1:${PORT:-4321}

both() { # the same command twice; the second process prints nothing
    python -m bess_jax "$@" --coordinator "$coordinator" --n-process 2 --process 1 &
    python -m bess_jax "$@" --coordinator "$coordinator" --n-process 2 --process 0
    wait $!
}

both train --run "$run" --platform cpu --n-shard 4 --n-device 4 --n-epoch 1 "$@"
both evaluate "$run"
