#!/usr/bin/env bash
# Resolve requirements/*.in into locks with hashes. uv is used for this alone and installed beside, not into .venv.
# torch's CPU build must be findable: through PIP_FIND_LINKS, or the CPU index of the PyTorch project.
set -euo pipefail
cd "$(dirname "$0")/../requirements"
tools=$(mktemp -d)
trap 'rm -rf "$tools"' EXIT
python3 -m venv "$tools" && "$tools/bin/pip" install --quiet uv
if [ -n "${PIP_FIND_LINKS:-}" ]; then
  where=(--find-links "$PIP_FIND_LINKS")
else
  where=(--extra-index-url https://download.pytorch.org/whl/cpu --index-strategy unsafe-best-match)
fi
common=(--quiet --no-header --python-version 3.11 --python-platform x86_64-unknown-linux-gnu --generate-hashes)
"$tools/bin/uv" pip compile "${common[@]}" "${where[@]}" --override overrides.txt --override overrides-cpu.txt --no-emit-package torch cpu.in -o cpu.txt
"$tools/bin/uv" pip compile "${common[@]}" --override overrides.txt gpu.in -o gpu.txt
"$tools/bin/uv" pip compile "${common[@]}" "${where[@]}" dev.in -o dev.txt
