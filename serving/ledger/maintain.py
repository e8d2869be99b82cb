"""`python -m serving ledger migrate | retain | delete-tenant`: care for the database, also while the service runs."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from serving.ledger.store import Store


def add_arguments(parser: argparse.ArgumentParser) -> None:
    verbs = parser.add_subparsers(dest="verb", required=True)
    migrate = verbs.add_parser("migrate", help="bring the schema up to date (every start does this, too)")
    retain = verbs.add_parser("retain", help="delete older requests")
    retain.add_argument("days", type=int)
    forget = verbs.add_parser("delete-tenant", help="delete a tenant's keys and requests")
    forget.add_argument("tenant")
    for verb in (migrate, retain, forget):  # before the verb or after it, as one happens to write it
        verb.add_argument("--config", type=Path, default=argparse.SUPPRESS, help="the service's configuration")


def run(args: argparse.Namespace, store: Store) -> int:
    """Opening the store has migrated it already."""
    if args.verb == "retain":
        sys.stdout.write(f"{store.retain(args.days):,} requests deleted\n")
    elif args.verb == "delete-tenant":
        sys.stdout.write(f"{store.delete_tenant(args.tenant):,} requests deleted\n")
        sys.stderr.write("requests of this tenant still in flight arrive later: run this again when they have ended\n")
    return 0
