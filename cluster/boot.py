"""What a rental is asked for: image, environment, and the few lines that turn a stock CUDA image into a box.

The provider limits what can be sent (4,096 characters of script, 256 of each value), so the script only fetches this
repository, checks its hash and runs `cluster/bootstrap.sh` from it. No secret goes along but a join token that works
once.
"""

from __future__ import annotations

from typing import Any

from cluster.config import ClusterConfig
from cluster.offers import Candidate

TLS_PORT = 8443
SCRIPT_LIMIT = 4096
CODE = "/opt/farthing"
# A box whose script failed must not bill for ever: it waits for the controller, then destroys itself.
LOADER = """\
set -u
export DEBIAN_FRONTEND=noninteractive
install="apt-get install -y -qq --no-install-recommends"
say() { echo "farthing-bootstrap: $*"; }
me="$FARTHING_PROVIDER_URL/api/v0/instances/$CONTAINER_ID/"
getcurl() { command -v curl >/dev/null || { apt-get update -qq && $install curl ca-certificates; }; }
bye() { getcurl; curl -fsS -X DELETE -H "Authorization: Bearer $CONTAINER_API_KEY" "$me"; }
stuck() { say "FAILED: $*"; sleep "$FARTHING_DEAD_MAN_S"; while ! bye; do sleep 60; done; sleep infinity; }
"""
FETCH = """\
getcurl || stuck "no curl"
mkdir -p {code} && cd {code} || stuck "no disk"
tgz=/tmp/farthing.tgz
curl -fsSL --retry 5 --retry-all-errors -o $tgz "$FARTHING_SOURCE_URL" || stuck "the source cannot be fetched"
echo "$FARTHING_SOURCE_SHA256  $tgz" | sha256sum -c --status || stuck "the source is not the one of image.source.sha256"
tar xzf $tgz --strip-components=1 --no-same-owner || stuck "the source is no tar.gz"
"""
RUN = """\
cd {code} && bash cluster/bootstrap.sh
stuck "the bootstrap ended with status $?"
"""


def image_gaps(config: ClusterConfig) -> list[str]:
    """Why no box of this file could ever boot."""
    gaps = []
    if config.image.source is None and "nvidia/cuda" in config.image.name:
        gaps.append(
            "image.source: a stock CUDA image holds no Farthing; name a tarball {url, sha256} or your own image"
        )
    if len(script(config)) > SCRIPT_LIMIT:
        gaps.append(f"image: the start script is over the provider's {SCRIPT_LIMIT} characters")
    return gaps


def script(config: ClusterConfig) -> str:
    return (LOADER + (FETCH if config.image.source else "") + RUN).replace("{code}", CODE)


def environment(config: ClusterConfig, label: str, server_name: str, join_token: str) -> dict[str, str]:
    """A dict, as the API wants it; ports are keys of it. Only the TLS port is published, SSH's where asked for."""
    values = {
        "FARTHING_LABEL": label,
        "FARTHING_SERVER_NAME": server_name,
        "FARTHING_JOIN_TOKEN": join_token,
        "FARTHING_PROFILE": config.profile,
        "FARTHING_DEAD_MAN_S": str(round(config.timing.dead_man_hours * 3600)),
        "FARTHING_PROVIDER_URL": config.provider.url,
        f"-p {TLS_PORT}:{TLS_PORT}": "1",
    }
    if config.image.source:
        values["FARTHING_SOURCE_URL"] = config.image.source.url
        values["FARTHING_SOURCE_SHA256"] = config.image.source.sha256
    return values


def rent_body(config: ClusterConfig, candidate: Candidate, label: str, env: dict[str, str]) -> dict[str, Any]:
    """`price` is there for an interruptible box only: sending it at all makes a rental interruptible."""
    body: dict[str, Any] = {
        "image": config.image.name,
        "label": label,
        "disk": config.disk_gb,
        "target_state": "running",
        "cancel_unavail": True,
        "env": env,
    }
    if config.ssh:
        body |= {"runtype": "ssh_direct", "onstart": script(config)}
    else:
        body |= {"runtype": "args", "args": ["bash", "-c", script(config)]}
    if candidate.bid_usd_per_hour is not None:
        body["price"] = candidate.bid_usd_per_hour
    return body
