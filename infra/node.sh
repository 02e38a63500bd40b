#!/usr/bin/env bash
# One machine's part of a training stage: infra/node.sh pretrain|distill
# Machine 0 runs the phase of that name as always, the others only help to train.
# Needs SELFSIGHT_NODES, SELFSIGHT_NODE_RANK and SELFSIGHT_RENDEZVOUS, and one working tree that all machines see.
set -euo pipefail

stage=${1:?name the stage: pretrain or distill}
export SELFSIGHT_NODE_RANK=${SELFSIGHT_NODE_RANK:-0}

if [[ $SELFSIGHT_NODE_RANK == 0 ]]; then
    exec selfsight run "$stage"
fi
exec python -m "components.stages.$stage"
