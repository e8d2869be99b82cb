#!/usr/bin/env bash
# From a container with this repository in it to a serving box: what is missing is installed, then the box's own program
# runs until the container ends. Works on the stock CUDA image and on the one of cluster/Dockerfile, where there is
# nothing left to install. Everything that should survive a restart lies in FARTHING_DATA.
set -uo pipefail
cd "$(dirname "$0")/.."
say() { echo "farthing-bootstrap: $*"; }
fail() { say "FAILED: $*"; exit 1; }

export FARTHING_DATA=${FARTHING_DATA:-/var/lib/farthing} FARTHING_TLS_PORT=${FARTHING_TLS_PORT:-8443}
export FARTHING_SET=${FARTHING_SET:-gpu} PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
umask 077
mkdir -p "$FARTHING_DATA"
bash cluster/box/deadman.sh &

min_driver=580 # NVIDIA's first with CUDA 13, which the wheels of requirements/gpu.txt are built for
if [ "$FARTHING_SET" = gpu ]; then
  driver=$(nvidia-smi --query-gpu=driver_version --format=csv,noheader | head -n 1) || fail "nvidia-smi does not answer"
  [ "${driver%%.*}" -ge "$min_driver" ] || fail "driver $driver is older than $min_driver"
  say "$(nvidia-smi --query-gpu=name,memory.total --format=csv,noheader | head -n 1), driver $driver"
fi

if [ ! -e .venv/.farthing/"$FARTHING_SET" ]; then
  say "installing packages"
  export DEBIAN_FRONTEND=noninteractive
  apt-get update -qq && apt-get install -y -qq --no-install-recommends \
    python3 python3-venv python3-dev gcc libc6-dev libnuma1 util-linux curl ca-certificates || fail "apt-get"
  ./tools/setup.sh serve || fail "the Python packages cannot be installed"
fi

child=
trap 'kill -TERM "$child" 2>/dev/null; wait "$child"; exit 0' TERM INT
pause=2
while :; do
  say "starting the box"
  .venv/bin/python -m cluster.box &
  child=$!
  wait "$child"
  say "the box's program ended with status $?; again in $pause s"
  sleep "$pause"
  pause=$((pause < 60 ? pause * 2 : 60))
done
