"""`python -m serving explain ID`: why a past request went where it went, from its row."""

from __future__ import annotations

import argparse
import sys

from models.errors import BadRequest
from serving.ledger.costs import usd
from serving.ledger.row import Row
from serving.ledger.store import Store, utc

REASONS = {
    "named": "the caller named it; nothing else is tried",
    "easy": "the score stayed under every threshold",
    "hard": "the score reached a threshold",
    "context": "the wanted tier's context is too small",
    "images": "the wanted tier takes no images",
    "tools": "the wanted tier takes no tools",
    "local_only": "the request may not leave this machine",
    "exact": "asked before, word for word",
    "semantic": "asked before in other words, and verified",
    "cascade_kept": "in doubt, and the small model's own tokens vouched for its answer",
    "cascade_dropped": "in doubt, and the small model's own tokens did not vouch for its answer",
    "explore": "another tier than the wanted one, by lot, to see what that gives",
    "router_late": "the router was late: the default tier",
    "router_down": "the router did not answer: the default tier",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("id", help="the x-request-id of the answer")


def run(args: argparse.Namespace, store: Store) -> int:
    row = store.row(args.id)
    if row is None:
        raise BadRequest(f"there is no request '{args.id}' in the ledger; ids are in the header x-request-id")
    sys.stdout.write("\n".join(explain(row)) + "\n")
    return 0


def explain(row: Row) -> list[str]:
    """One fact a line, those that are there."""
    facts = {
        "request": f"{row.request_id} of tenant {row.tenant}, {utc(row.at_ms)}",
        "asked for": f"{row.requested_model or '-'} at {row.endpoint}{', streamed' if row.stream else ''}",
        "ended": f"{row.status}, HTTP {row.http_status}{f' ({row.error_code})' if row.error_code else ''}",
        "answered by": f"{row.route} ({row.model})" if row.route else "",
        "because": reason(row.reason),
        "score": "" if row.score is None else f"{row.score:+.3f}",
        "decided by": ", ".join(filter(None, [row.policy_version, row.artifact])),
        "in shadow": f"{row.shadow} would have answered" if row.shadow else "",
        "cache": row.cache + (f", entry {row.cache_entry}" if row.cache_entry else ""),
        "similarity": "" if row.similarity is None else f"{row.similarity:.4f}",
        "tokens": f"{row.input_tokens} in ({row.cached_input_tokens} cached), {row.output_tokens} out",
        "dropped": f"an answer that cost {usd(row.cost_wasted_nusd)}" if row.cost_wasted_nusd else "",
        "cost": f"{usd(row.cost_nusd)}{f', saved {usd(row.saved_nusd)}' if row.saved_nusd else ''}",
        "time": f"{row.latency_ms:.0f} ms" + ("" if row.ttft_ms is None else f", first content {row.ttft_ms:.0f} ms"),
    }
    return [f"{name:15} {value}" for name, value in facts.items() if value]


def reason(code: str) -> str:
    kind, _, cause = code.partition("_")
    if kind in ("fallback", "degraded") and cause:
        stronger = "a stronger" if kind == "fallback" else "a weaker"
        return f"{code}: {stronger} tier, because the wanted one failed ({cause})"
    return f"{code}: {REASONS[code]}" if code in REASONS else code
