#!/usr/bin/env bash
# Find a Python that will do, then let tools/setup.py do the rest. `make` calls it before every target that needs more.
set -euo pipefail
cd "$(dirname "$0")/.."

fail() { echo "farthing: $1" >&2; exit 2; }

[ "$(uname -s)" = Linux ] && [ "$(uname -m)" = x86_64 ] ||
  fail "needs x86-64 Linux; this is $(uname -m) $(uname -s). The wheels of vLLM and Ray it is pinned to exist for no other."

suits() { "$1" -c 'import sys; sys.exit(not (sys.implementation.name == "cpython" and (3, 11) <= sys.version_info[:2] <= (3, 12)))' 2>/dev/null; }

if [ -n "${PYTHON:-}" ]; then
  suits "$PYTHON" || fail "PYTHON=$PYTHON is not CPython 3.11 or 3.12"
else
  for name in python3.12 python3.11 python3; do
    if suits "$name"; then PYTHON=$name; break; fi
  done
  [ -n "${PYTHON:-}" ] || fail "needs CPython 3.11 or 3.12, found $(python3 --version 2>&1 || echo none); install one or set PYTHON="
fi
exec "$PYTHON" tools/setup.py "$@"
