#!/usr/bin/env bash
# Trains on several GPUs: dist_train.sh CONFIG GPUS [flags of train.py]
# Environment: NNODES NODE_RANK PORT MASTER_ADDR
set -e

USAGE='usage: dist_train.sh CONFIG GPUS [flags of train.py]'
CONFIG=${1:?$USAGE}
GPUS=${2:?$USAGE}
TOOLS=$(cd "$(dirname "$0")" && pwd)

PYTHONPATH="$(dirname "$TOOLS")${PYTHONPATH:+:$PYTHONPATH}" \
python -m torch.distributed.run \
    --nnodes="${NNODES:-1}" \
    --node_rank="${NODE_RANK:-0}" \
    --master_addr="${MASTER_ADDR:-127.0.0.1}" \
    --master_port="${PORT:-29500}" \
    --nproc_per_node="$GPUS" \
    "$TOOLS/train.py" "$CONFIG" --launcher pytorch "${@:3}"
