#!/usr/bin/env bash
# Tests on several GPUs: dist_test.sh CONFIG CHECKPOINT GPUS [flags of test.py]
# Environment: NNODES NODE_RANK PORT MASTER_ADDR
set -e

USAGE='usage: dist_test.sh CONFIG CHECKPOINT GPUS [flags of test.py]'
CONFIG=${1:?$USAGE}
CHECKPOINT=${2:?$USAGE}
GPUS=${3:?$USAGE}
TOOLS=$(cd "$(dirname "$0")" && pwd)

PYTHONPATH="$(dirname "$TOOLS")${PYTHONPATH:+:$PYTHONPATH}" \
python -m torch.distributed.run \
    --nnodes="${NNODES:-1}" \
    --node_rank="${NODE_RANK:-0}" \
    --master_addr="${MASTER_ADDR:-127.0.0.1}" \
    --master_port="${PORT:-29500}" \
    --nproc_per_node="$GPUS" \
    "$TOOLS/test.py" "$CONFIG" "$CHECKPOINT" --launcher pytorch "${@:4}"
