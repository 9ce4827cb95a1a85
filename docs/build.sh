#!/usr/bin/env bash
# Builds the site into a folder, in an environment of its own:
#   bash docs/build.sh [FOLDER]      default: site/
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
out=$(realpath -m "${1:-$root/site}")
home=${MMCTX_ENV_HOME:-${XDG_CACHE_HOME:-$HOME/.cache}/mmctx}
venv=$home/site-$(sha256sum "$root/docs/requirements.txt" | cut -c1-12)
if ! [ -e "$venv/done" ]; then
  "${PYTHON:-python3}" -m venv --clear "$venv"
  "$venv/bin/pip" install -q -r "$root/docs/requirements.txt"
  touch "$venv/done"
fi
cd "$root"
NO_MKDOCS_2_WARNING=1 "$venv/bin/mkdocs" build --strict -q -d "$out"
