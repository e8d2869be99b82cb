#!/usr/bin/env bash
# Prometheus and Grafana in the foreground, without Docker: takes the programs from PATH (apt-get install prometheus;
# Grafana's archive has bin/grafana). Both listen on loopback, keep their data in .farthing/monitoring, and end together.
set -euo pipefail
cd "$(dirname "$0")/../.."
here=$PWD/cluster/monitoring data=$PWD/.farthing/monitoring
mkdir -p "$data/prometheus" "$data/grafana"
command -v prometheus >/dev/null || { echo "no prometheus in PATH; or: docker compose -f cluster/monitoring/compose.yaml up" >&2; exit 2; }
trap 'kill $(jobs -p) 2>/dev/null; wait' EXIT INT TERM

prometheus --config.file="$here/prometheus.yml" --storage.tsdb.path="$data/prometheus" \
  --storage.tsdb.retention.time=30d --web.listen-address="127.0.0.1:${PROMETHEUS_PORT:-9090}" --log.level=warn &
if command -v grafana >/dev/null; then
  home=${GRAFANA_HOME:-$(dirname "$(dirname "$(readlink -f "$(command -v grafana)")")")}
  export FARTHING_DASHBOARDS=$here/grafana/dashboards GF_PATHS_PROVISIONING=$here/grafana/provisioning
  export GF_PATHS_DATA=$data/grafana GF_SERVER_HTTP_ADDR=127.0.0.1 GF_AUTH_ANONYMOUS_ENABLED=true
  export GF_AUTH_ANONYMOUS_ORG_ROLE=Viewer GF_ANALYTICS_REPORTING_ENABLED=false GF_ANALYTICS_CHECK_FOR_UPDATES=false
  grafana server --homepath "$home" &
  echo "boards: http://127.0.0.1:3000"
else
  echo "no grafana in PATH: boards are in cluster/monitoring/grafana/dashboards; Prometheus alone runs" >&2
fi
echo "Prometheus: http://127.0.0.1:${PROMETHEUS_PORT:-9090}"
wait -n
