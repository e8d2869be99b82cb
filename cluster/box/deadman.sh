#!/usr/bin/env bash
# The dead man's switch: a box whose controller has not called for FARTHING_DEAD_MAN_S seconds destroys itself, with the
# key to itself alone that the provider puts into every container. It needs neither Python nor the door to be up, and
# counts by the kernel's uptime, so a clock that is set wrong neither fires nor holds it.
set -u
: "${FARTHING_DATA:?}" "${FARTHING_DEAD_MAN_S:?}" "${FARTHING_PROVIDER_URL:?}" "${CONTAINER_ID:?}" "${CONTAINER_API_KEY:?}"
beat=$FARTHING_DATA/heartbeat
uptime_s() { cut -d. -f1 /proc/uptime; }

# a started container counts as a call: the controller gets its N hours after every boot
uptime_s > "$beat"
while sleep "${FARTHING_DEAD_MAN_LOOK_S:-60}"; do
  last=$(cat "$beat" 2>/dev/null || echo 0)
  now=$(uptime_s)
  # of a file cut off half-way, or from before the host restarted, start counting anew
  case $last in '' | *[!0-9]*) last=$now; echo "$now" > "$beat" ;; esac
  if [ "$last" -gt "$now" ]; then last=$now; echo "$now" > "$beat"; fi
  if [ $((now - last)) -ge "$FARTHING_DEAD_MAN_S" ]; then
    echo "farthing-box: no controller for $((now - last)) s; this box destroys itself"
    # the key by standard input: an argument would show in the host's process list
    printf 'header = "Authorization: Bearer %s"\n' "$CONTAINER_API_KEY" |
      curl -fsS --retry 3 --max-time 60 -K - -X DELETE "$FARTHING_PROVIDER_URL/api/v0/instances/$CONTAINER_ID/" && exit 0
  fi
done
