#!/usr/bin/env bash
# Template of a batch job that goes on after preemption and time limits:
#   sbatch [flags of sbatch] slurm_job.sh CONFIG [flags of train.py]
#   sbatch --array=0-1 slurm_job.sh CONFIG_0 CONFIG_1 [flags of train.py]
#   sbatch --nodes=4 slurm_job.sh CONFIG
# from a checkout, or where the package is installed. One array task trains one
# config. WORK_DIR is $WORK_DIRS/NAME, by default work_dirs/NAME; each process
# logs to WORK_DIR/logs/slurm-JOB-rankN.txt.
# The configs' checkpoint hook is mmctx's ResumableCheckpoint.
#SBATCH --job-name=mmctx
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=8
#SBATCH --gres=gpu:8
#SBATCH --cpus-per-task=5
#SBATCH --time=1-00:00:00
#SBATCH --signal=USR1@120
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=slurm-%j.txt
set -u

configs=()
while [ $# -gt 0 ] && [ "${1#-}" = "$1" ]; do configs+=("$1") && shift; done
task=${SLURM_ARRAY_TASK_ID:-0}
CONFIG=${configs[$task]:?"no config for array task $task: slurm_job.sh CONFIG..."}
WORK_DIR=${WORK_DIRS:-work_dirs}/$(basename "$CONFIG" .py)
mkdir -p "$WORK_DIR/logs"
started=$WORK_DIR/logs/slurm-$SLURM_JOB_ID-started
touch "$started"

# After scancel or preemption, which end the script too, Slurm itself decides
# whether the job comes back.
ended=
trap 'ended=1' TERM
srun --cpus-per-task="${SLURM_CPUS_PER_TASK:-1}" --kill-on-bad-exit=1 \
    --output="$WORK_DIR/logs/slurm-%j-rank%t.txt" --open-mode=append \
    python -u -m mmctx train "$CONFIG" --work-dir "$WORK_DIR" \
    --launcher slurm --resume "$@"
code=$?
if [ -z "$ended" ] && [ "$WORK_DIR/interrupted.pth" -nt "$started" ]; then
    scontrol requeue "$SLURM_JOB_ID"
fi
exit $code
