#!/bin/sh
# What Ray Serve takes for HAProxy, and calls as: haproxy -db -f CONFIG ... (serving/haproxy.py says why).
#
# FARTHING_HAPROXY           the real one
# FARTHING_HAPROXY_TETHER    what ties it to its parent, or nothing
# FARTHING_NODE_ADDRESS      this node's: replicas listen there
# FARTHING_LISTEN_HOST       where the service listens; empty: at the node's address
# FARTHING_LISTEN_PORT
here=$FARTHING_NODE_ADDRESS
host=${FARTHING_LISTEN_HOST:-$here}
case $host in *:*) host="[$host]" ;; esac
sed -i \
  -e '/^ *bind \**:/d' \
  -e "s|^\\( *bind \\)127.0.0.1:$FARTHING_LISTEN_PORT\$|\\1$host:$FARTHING_LISTEN_PORT|" \
  -e 's|mode 666|mode 600|' \
  -e 's|http-request return .* if routes$|http-request return status 404 if routes|' \
  -e '/^ *log /d' -e '/^ *log-format/d' -e '/^ *option httplog$/d' -e '/set-var-fmt(txn\.serve_/d' \
  -e "s|^\\( *server SERVE_REPLICA[^ ]* \\)127.0.0.1:|\\1$here:|" \
  -e '/^backend http-gateway$/,/^[bl]/{' -e "/ $here:/!s|^ *server SERVE_REPLICA.*|& backup|" -e '}' \
  "$3"
# shellcheck disable=SC2086  # the tether is several words
exec $FARTHING_HAPROXY_TETHER "$FARTHING_HAPROXY" "$@"
