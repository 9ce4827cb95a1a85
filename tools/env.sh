#!/usr/bin/env bash
# Runs a command in an environment that has everything mmctx needs.
#
#   bash tools/env.sh COMMAND [ARGUMENT...]   prepare it if needed, then run
#   bash tools/env.sh                         prepare it, say how to use it
#   bash tools/env.sh --help
#
# The first use builds the environment outside the checkout, from the versions
# in requirements.txt: 6 to 8 minutes on two cores, half of them to compile
# mmcv. An interrupted build goes on where it stopped.
#
# Variables:
#   MMCTX_ENV       auto (default), cpu, cuda; upstream: the last releases of
#                   OpenMMLab under their first names, on a CPU, without the
#                   compilation, from requirements-upstream.txt; or none: the
#                   command runs in the environment that is already active
#   MMCTX_ENV_HOME  where environments live; default ~/.cache/mmctx
#   PYTHON          interpreter to build with, 3.10 to 3.13 (upstream: to
#                   3.12); default python3

set -euo pipefail

readonly RECIPE=1 # raise it when a step below changes: all is built anew

say() { printf 'env.sh: %s\n' "$@" >&2; }

die() {
  say "$@"
  exit 1
}

# ------------------------------------------------------------ which environment

choose_kind() {
  kind=${MMCTX_ENV:-auto}
  if [ "$kind" = auto ]; then
    if compgen -G '/dev/nvidia[0-9]*' >/dev/null; then kind=cuda; else kind=cpu; fi
  fi
  requirements=("$root"/requirements.txt "$root"/requirements/*.txt)
  newest=13 need_gb=9 minutes='6 to 8'
  case $kind in
    cpu | cuda | none) ;;
    upstream)
      requirements=("$root"/requirements/build.txt "$root"/requirements-upstream.txt)
      newest=12 need_gb=7 minutes='2 to 3' ;;
    *) die "MMCTX_ENV is '$kind'; it can be auto, cpu, cuda, upstream or none." ;;
  esac
}

# The Python version, what this interpreter lacks for a build ('-': nothing),
# and a hash of the requirement files.
readonly PROBE='
import hashlib, importlib.util, os, sys, sysconfig
lacks = [m for m in ("venv", "ensurepip") if not importlib.util.find_spec(m)]
if not os.path.exists(os.path.join(sysconfig.get_paths()["include"], "Python.h")):
    lacks.append("Python.h")
digest = hashlib.sha256()
for name in sys.argv[1:]:
    with open(name, "rb") as file:
        digest.update(file.read() + b"\0")
print("%d.%d" % tuple(sys.version_info[:2]), "+".join(lacks) or "-", digest.hexdigest()[:12])'

choose_environment() {
  local answer version digest
  PYTHON=${PYTHON:-python3}
  answer=$("$PYTHON" -c "$PROBE" "${requirements[@]}") ||
    die "cannot run '$PYTHON'. Install Python 3.10 to 3.$newest, or set PYTHON=/path/to/python3."
  read -r version lacks digest <<<"$answer"
  case $version in 3.10 | 3.11 | 3.12 | "3.$newest") ;; *)
    die "'$PYTHON' is Python $version; the pinned packages exist for 3.10 to 3.$newest." \
      "Set PYTHON=/path/to/python3.11, or another of these." ;;
  esac
  home=${MMCTX_ENV_HOME:-${XDG_CACHE_HOME:-${HOME:?is not set; set it or MMCTX_ENV_HOME}/.cache}/mmctx}
  case $home in /*) ;; *) home=$PWD/$home ;; esac
  env=$home/envs/py$version-$kind-$RECIPE-$digest
  venv=$env/venv
}

is_ready() { [ -e "$env/done/check" ] && [ -x "$venv/bin/python" ]; }

# ---------------------------------------------------------- before any download

check_machine() {
  case $kind:$lacks in
    *:- | upstream:Python.h) ;;
    *Python.h*) die "'$PYTHON' lacks its C headers (Python.h), which compiling mmcv needs." \
      "Install them (Debian, Ubuntu: apt-get install python3-dev) or set PYTHON to another one." ;;
    *) die "'$PYTHON' lacks the modules $lacks, which make virtual environments." \
      "Install them (Debian, Ubuntu: apt-get install python3-venv) or set PYTHON to another one." ;;
  esac
  if [ "$kind" != upstream ]; then check_compilers; fi
}

check_compilers() {
  CXX=$(command -v "${CXX:-c++}" || command -v g++ || command -v clang++) ||
    die "no C++ compiler (c++, g++ or clang++), which compiling mmcv's operators needs." \
      "Install one (Debian, Ubuntu: apt-get install g++) or set CXX=/path/to/compiler." \
      "MMCTX_ENV=none needs none: it runs in an OpenMMLab environment that you have."
  export CXX
  if [ "$kind" = cuda ]; then
    PATH=$PATH:${CUDA_HOME:-/usr/local/cuda}/bin command -v nvcc >/dev/null ||
      die "no nvcc, which compiling mmcv's operators for CUDA needs." \
        "Load the CUDA toolkit of the pinned torch (13.0) or set CUDA_HOME to it." \
        "MMCTX_ENV=cpu needs none, and trains on the CPU."
  fi
}

check_home() {
  case $home in *[[:space:]]*) die "'$home' has a blank, which the compilation cannot take." \
    "Set MMCTX_ENV_HOME to a folder without one." ;; esac
  { mkdir -p "$env/done" "$env/logs" && [ -w "$env/done" ]; } 2>/dev/null ||
    die "cannot write to '$home'. Set MMCTX_ENV_HOME to a folder with $need_gb GB of room."
}

check_room() {
  local free
  free=$(df -Pk "$home" | awk 'NR == 2 { print int($4 / 1e6) }')
  if [ ! -e "$env/done/torch" ] && [ ! -e "$env/done/packages" ] && [ "$free" -lt $need_gb ]; then
    die "'$home' has $free GB of room left; a first build takes $need_gb GB." \
      "Make room, or set MMCTX_ENV_HOME to a folder on a larger disk."
  fi
}

# The kernel drops this lock when its last holder ends, however it ends. Python
# takes it, since the command flock is not everywhere; it stays with this shell,
# whose open file it is.
take_lock() {
  exec 9>"$home/lock"
  "$PYTHON" -c '
import fcntl, signal, sys
signal.signal(signal.SIGINT, signal.SIG_DFL)
try:
    fcntl.flock(9, fcntl.LOCK_EX | fcntl.LOCK_NB)
except BlockingIOError:
    sys.stderr.write("env.sh: another env.sh is building here; waiting for it\n")
    fcntl.flock(9, fcntl.LOCK_EX)' || die "cannot lock '$home/lock'. Set MMCTX_ENV_HOME to a folder on a local disk."
}

# ------------------------------------------------------------- steps in general

# step NAME USUAL_TIME FUNCTION: runs FUNCTION unless it has once succeeded. It
# is a process group of its own, so that an interruption ends all of it.
step() {
  local name=$1 log=$env/logs/$1.log start=$SECONDS
  if [ -e "$env/done/$name" ]; then return; fi
  say "$name: usually takes $2 (log: $log)"
  rm -rf "$env/tmp"
  mkdir "$env/tmp"
  set -m
  {
    unset PYTHONPATH PYTHONHOME
    export TMPDIR=$env/tmp
    "$3"
  } >"$log" 2>&1 </dev/null &
  job=$!
  set +m
  follow
  wait "$job" || fail
  job=
  rm -rf "$env/tmp"
  : >"$env/done/$name"
  say "$name: done in $((SECONDS - start)) s"
}

# Progress: one line, rewritten, on a terminal; else a line each half minute.
follow() {
  local form='env.sh: %.70s\n' every=30 shown=$SECONDS
  if [ -t 2 ]; then form='\r\033[Kenv.sh: %.70s' every=1; fi
  while kill -0 "$job" 2>/dev/null; do
    sleep 0.1
    if [ $((SECONDS - shown)) -lt $every ]; then continue; fi
    shown=$SECONDS
    # shellcheck disable=SC2059
    printf "$form" "$name: $((SECONDS - start)) s, $(progress)" >&2
  done
  if [ -t 2 ]; then printf '\r\033[K' >&2; fi
}

# How many files ninja has compiled ('[k/n]'), else what pip said last.
progress() {
  local count
  count=$(tail -n 400 "$log" | grep -oE '^ *\[[0-9]+/[0-9]+\]' | tail -n 1 | tr -d ' []') || true
  if [ -n "$count" ]; then echo "$count files compiled"; else tail -n 1 "$log" | sed 's/^ *//'; fi
}

fail() {
  tail -n 25 "$log" | cut -c 1-300 >&2
  say "step $name failed; its log, which ends above: $log"
  if grep -q 'No space left' "$log"; then say "Make room, or set MMCTX_ENV_HOME to a larger disk."; fi
  die "The same command tries again from this step on."
}

interrupted() {
  if [ -n "${job:-}" ]; then kill -- "-$job" 2>/dev/null || true; fi
  say "stopped; the same command goes on from this step"
  exit "$1"
}

# -------------------------------------------------------------------- the steps

pip() { PIP_USER=0 "$venv/bin/python" -I -m pip --no-input --disable-pip-version-check "$@"; }

# pip takes what an interrupted run left behind for installed, though its last
# files can be missing: drop it from the list, and it is installed once more.
install() {
  local info
  for info in "$venv"/lib/python*/site-packages/*.dist-info; do
    if [ ! -e "$info/INSTALLER" ] || [ ! -e "$info/RECORD" ]; then rm -rf "$info"; fi
  done
  pip install --progress-bar off "$@"
}

make_venv() {
  "$PYTHON" -m venv --clear "$venv"
  install -r "$root/requirements/build.txt"
}

install_torch() { install -r "$root/requirements/torch.txt"; }

# What compiled operators depend on: a wheel must never meet another torch.
readonly WHEEL_KEY='
import os, sys, sysconfig, torch
kind = sys.argv[1]
if kind == "cuda":
    devices = range(torch.cuda.device_count())
    arch = os.environ.get("TORCH_CUDA_ARCH_LIST") or "+".join(
        sorted({"%d.%d" % torch.cuda.get_device_capability(i) for i in devices}))
    if torch.version.cuda is None or not arch:
        sys.exit("torch %s (CUDA %s) sees no CUDA device: hidden, or its driver is too old. "
                 "Set TORCH_CUDA_ARCH_LIST (such as 9.0) to build for another machine, "
                 "or use MMCTX_ENV=cpu." % (torch.__version__, torch.version.cuda))
    kind += "-" + arch.replace(";", "+").replace(" ", "+")
print("torch-%s_%s_%s" % (torch.__version__, sysconfig.get_config_var("SOABI"), kind))'

install_mmcv() {
  local key wheels
  key=$("$venv/bin/python" -I -c "$WHEEL_KEY" "$kind")
  wheels=$home/wheels/$(sed -n 's/^onedl-mmcv==/mmcv-/p' "$root/requirements/mmcv.txt")_${key}_$RECIPE
  if [ ! -d "$wheels" ]; then compile_mmcv "$wheels"; fi
  install --no-deps "$wheels"/*.whl
}

# Makes the folder $1, all at once. Without pip's cache, which would hand out a
# wheel compiled against another torch. -g0 saves 40 % of the time.
compile_mmcv() {
  export PATH=$venv/bin:$PATH MMCV_WITH_OPS=1 CFLAGS='-g0 -O2' MAX_JOBS=${MAX_JOBS:-$(processors)}
  if [ "$kind" = cuda ]; then export FORCE_CUDA=1; else export FORCE_CUDA=0 CUDA_VISIBLE_DEVICES=; fi
  local source=$env/tmp/mmcv
  mkdir "$source"
  pip download --no-deps --no-build-isolation --no-cache-dir --no-binary :all: \
    --dest "$env/tmp" -r "$root/requirements/mmcv.txt"
  tar -xzf "$env"/tmp/*mmcv*.tar.gz -C "$source" --strip-components 1
  join_sources "$source/mmcv/ops/csrc/pytorch"
  pip wheel --verbose --no-deps --no-build-isolation --wheel-dir "$env/tmp/wheels" "$source"
  mkdir -p "$home/wheels"
  mv "$env/tmp/wheels" "$1"
}

# Each of nearly 60 short files spends its time on PyTorch's headers. Four files
# that include them spend it four times. Not contour_expand.cpp, which is
# 'using namespace std'.
join_sources() {
  local file count=0
  mkdir "$1/joined"
  for file in "$1"/*.cpp; do
    case $file in */pybind.cpp | */contour_expand.cpp) continue ;; esac
    mv "$file" "$1/joined/"
    echo "#include \"joined/${file##*/}\"" >>"$1/joined_$((count++ % 4)).cpp"
  done
}

processors() { env -u OMP_NUM_THREADS nproc 2>/dev/null || getconf _NPROCESSORS_ONLN; }

# The packages of OpenMMLab are built here: by the build tools that are pinned.
install_rest() {
  install --build-constraint "$root/requirements/build.txt" -r "$root/requirements.txt"
}

check_imports() { "$venv/bin/python" -I -c "import $1"; }

check_all() { check_imports 'cv2, mmcv.ops, mmdet.models, mmpretrain, mmseg, pycocotools.mask'; }

install_upstream() { install -r "$root/requirements-upstream.txt"; }

check_upstream() { check_imports 'cv2, decord, mmaction, mmpretrain, mmseg'; }

build() {
  trap 'interrupted 130' INT
  trap 'interrupted 143' TERM HUP
  if [ ! -x "$venv/bin/python" ]; then rm -f "$env"/done/*; fi
  check_room
  say "building $env" "the first time takes $minutes minutes on two cores and $need_gb GB of disk"
  step venv '20 seconds' make_venv
  if [ "$kind" = upstream ]; then build_upstream; else build_all; fi
  trap - INT TERM HUP
}

build_upstream() {
  step packages '2 minutes' install_upstream
  step check '20 seconds' check_upstream
}

build_all() {
  step torch '2 minutes' install_torch
  step mmcv '3 minutes on two cores, or seconds if an earlier build fits' install_mmcv
  step rest '1 to 2 minutes' install_rest
  step check '20 seconds' check_all
}

# ------------------------------------------------------------------------- main

prepare() {
  check_machine
  check_home
  take_lock
  if ! is_ready; then build; fi
  exec 9>&-
}

activate() {
  export VIRTUAL_ENV=$venv PATH=$venv/bin:$PATH
  unset PYTHONHOME
  # These environments are for the CPU: nothing may choose a GPU.
  if [ "$kind" != cuda ]; then export CUDA_VISIBLE_DEVICES=; fi
}

# On a CPU, glibc returns each large buffer to the kernel, which maps and clears
# it anew for the next operator. With trimming disabled, evaluation ran up to
# 1.7 times and training about 2 times as fast.
disable_trimming() {
  export MALLOC_TRIM_THRESHOLD_=${MALLOC_TRIM_THRESHOLD_:-4294967296}
  export MALLOC_MMAP_THRESHOLD_=${MALLOC_MMAP_THRESHOLD_:-4294967296}
}

explain() {
  say "ready: $venv" \
    "to run a command in it:     bash tools/env.sh python tools/train.py CONFIG" \
    "to use it in this shell:    . $venv/bin/activate; export PYTHONPATH=$root" \
    "to remove all environments: rm -r $home"
}

main() {
  case ${1:-} in -h | --help)
    sed -n '2,/^$/s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"
    return ;;
  esac
  root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
  choose_kind
  if [ "$kind" != none ]; then
    choose_environment
    if ! is_ready; then prepare; fi
    activate
  fi
  if [ "$kind" != cuda ]; then disable_trimming; fi
  export PYTHONPATH=$root${PYTHONPATH:+:$PYTHONPATH}
  if [ $# -gt 0 ]; then exec "$@"; fi
  if [ "$kind" != none ]; then explain; fi
}

main "$@"
