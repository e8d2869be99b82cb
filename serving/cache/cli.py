"""Stored answers from the command line. A running service is asked over HTTP, since it holds answers in memory and owns
the semantic cache's file; without one the files are opened here."""

from __future__ import annotations

import fcntl
import http.client
import json
from collections.abc import Iterator
from urllib.parse import quote, urlsplit

from models.errors import ConfigError, Unavailable
from router.cache.entries import from_public
from router.cache.entry_store import Batch, EntryStore, Which
from serving.cache.store import Store
from serving.config import Config
from serving.runtime import Runtime, read_secret

ASK_TIMEOUT_S = 60.0


def show(config: Config) -> Iterator[str]:
    """A line for each cache; what is read is what the files hold."""
    with _exact(config) as store:
        entries, size = store.size()
    yield f"exact: {entries} answers, {size} bytes"
    if running(config) is not None:
        yield "semantic: in use by the running service; its metrics (farthing_semantic_entries) say what it holds"
        return
    semantic = EntryStore.existing(_runtime(config).semantic_file)
    if semantic is None:
        yield "semantic: none"
        return
    try:
        entries, size = semantic.size()
    finally:
        semantic.close()
    yield f"semantic: {entries} answers, {size} bytes"


def delete(config: Config, kind: str, name: str) -> int:
    """kind: entry, tenant, namespace or all. How many; durable when it returns. Raises Unavailable."""
    url = running(config)
    if url is not None:
        return _ask(config, url, f"{kind}={quote(name, safe='')}")
    return _delete_exact(config, kind, name) + _delete_semantic(config, kind, name)


def _delete_exact(config: Config, kind: str, name: str) -> int:
    with _exact(config) as store:
        if kind == "tenant":
            return store.delete_tenant(name)
        if kind == "all":
            return store.delete_all()
        if kind == "entry":
            try:
                return store.delete_entry(bytes.fromhex(name))
            except ValueError:
                raise ConfigError(f"'{name}' is no entry: give what x-farthing-cache-entry said") from None
    return 0


def _delete_semantic(config: Config, kind: str, name: str) -> int:
    store = EntryStore.existing(_runtime(config).semantic_file)
    if store is None:
        return 0
    try:
        if kind == "entry":
            entry_id = from_public(name)
            return 0 if entry_id is None else store.delete(Which(ids=(entry_id,)), Batch())
        which = {
            "tenant": Which(tenant=name), "namespace": Which(namespace=name), "all": Which(everything=True)
        }  # fmt: skip
        return store.delete(which[kind], Batch())
    finally:
        store.close()


def _exact(config: Config) -> Store:
    exact = config.cache.exact
    return Store(_runtime(config).cache_file, exact.max_mib << 20, float(exact.ttl_s))


def _runtime(config: Config) -> Runtime:
    return Runtime(config.state_dir.resolve(), "", metrics_in_service=True)


def running(config: Config) -> str | None:
    """Where the service of this state folder answers, if one runs: it holds the folder's lock for as long."""
    run = _runtime(config).run
    try:
        with (run / "lock").open("rb") as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return None
    except BlockingIOError:
        try:
            return str(json.loads((run / "instance.json").read_text(encoding="utf-8"))["url"])
        except (OSError, ValueError, KeyError):
            raise Unavailable("the service is starting or stopping; try again in a moment") from None
    return None


def _ask(config: Config, url: str, query: str) -> int:
    address = urlsplit(url)
    connection = http.client.HTTPConnection(address.hostname or "", address.port, timeout=ASK_TIMEOUT_S)
    token = read_secret(_runtime(config).operator_token_file)
    try:
        connection.request("DELETE", f"/v1/farthing/cache?{query}", headers={"authorization": f"Bearer {token}"})
        response = connection.getresponse()
        told = json.loads(response.read())
    except (OSError, http.client.HTTPException, ValueError) as exc:
        raise Unavailable(f"the running service at {url} did not answer: {exc}") from exc
    finally:
        connection.close()
    if response.status != 200:
        raise Unavailable(f"the running service refused: {told['error']['message']}")
    return int(told["deleted"])
