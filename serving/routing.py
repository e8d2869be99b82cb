"""The inside of the Router deployment: one decision a request, from rules or learned scores, and from stored answers.

The one owner of the encoder and the semantic cache. Knows no Ray; the deployment is a thin shell around it.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

from models.errors import ConfigError, FarthingError
from models.local.gpus import detect_gpu
from router.artifacts import current_version
from router.cache import tune
from router.cache.eligible import OptIns
from router.cache.index import VectorIndex
from router.cache.lexicon import english
from router.cache.recall import Found, Recall, RecallSettings
from router.cache.semantic import SemanticCache
from router.cache.shelf import Bounds
from router.cache.verify import Decider as CacheRules
from router.cache.verify import WrongHitMonitor
from router.decision import Decider, Decision, Facts, Fresh
from router.embedding.batcher import Batcher
from router.embedding.encoder import TextEncoder
from router.embedding.load import load as load_encoder
from router.embedding.minilm import load_default
from router.embedding.recipe import Stated
from serving.config import Config, Embedding
from serving.config import SemanticCache as SemanticConfig
from serving.deciding import Refusal, decide_or_refuse
from serving.learned import LearnedRouting, Vector, open_learned
from serving.runtime import Runtime
from serving.semantic import Embedded
from serving.telemetry import RouterMetrics

MIB = 1 << 20
LOOKUP_SHARE = 0.8  # of the decision's deadline: a late look-up must not make the decision late
ARTIFACT_LOOK_S = 1.0
LOOKS_PER_STATS = 5
EMBED_AT_ONCE = 16  # texts of one /v1/embeddings call between two looks at who else waits for the encoder

log = logging.getLogger(__name__)


@dataclass(slots=True)
class RouterProcess:
    """Made by `open_router`. Everything but `decide` may fail without a request failing."""

    decider: Decider
    metrics: RouterMetrics
    learned: LearnedRouting | None = None
    encoder: Batcher | None = None
    text_encoder: TextEncoder | None = None
    cache: SemanticCache | None = None
    recall: Recall | None = None
    labels_file: Path | None = None
    tasks: list[asyncio.Task[None]] = field(default_factory=list)
    _keeping: asyncio.Lock = field(default_factory=asyncio.Lock)

    async def decide(self, facts: Facts, deadline_s: float) -> Decision | Refusal:
        until_s = time.monotonic() + deadline_s * LOOKUP_SHARE
        learned = None if facts.named else self.learned
        vector = await self._vector(facts, until_s) if learned is not None else None
        if facts.named:
            decision: Decision | Refusal = Decision(tiers=(facts.named,), reason="named")
        elif learned is not None:
            decision = learned.decide(facts, vector)
        else:
            decision = await decide_or_refuse(self.decider, facts, deadline_s)
        if self.recall is None or facts.lookup is None or isinstance(decision, Refusal):
            return decision
        if decision.reason == "explore":  # the drawn tier's own answer is what it is drawn for
            return decision
        found = await self._find(self.recall, facts, decision.tiers[0], vector, until_s)
        return replace(decision, serve=found.serve, compare=found.compare, remember=found.remember)

    async def _vector(self, facts: Facts, until_s: float) -> Vector | None:
        """None when it is late or the encoder fails: then the rules decide, and nothing is looked up."""
        assert self.encoder is not None
        try:
            async with asyncio.timeout(max(0.0, until_s - time.monotonic())):
                vectors = await self.encoder.encode([facts.text])
        except TimeoutError:
            return None
        except Exception:  # the encoder's edge: whatever breaks there, the request goes on by the rules
            log.exception("the encoder failed on a request")
            return None
        vector: Vector = vectors[0]
        return vector

    async def _find(self, recall: Recall, facts: Facts, wanted: str, vector: Vector | None, until_s: float) -> Found:
        began_s = time.monotonic()
        try:
            async with asyncio.timeout(max(0.0, until_s - began_s)):
                found = await recall.find(facts, wanted, vector)
        except TimeoutError:
            found = Found("late")
        except Exception:  # the cache's edge: whatever breaks there is a miss, never a failed request
            log.exception("the semantic cache failed on a look-up, taken as a miss")
            found = Found("failed")
        self.metrics.looked_up(found.outcome, time.monotonic() - began_s)
        return found

    async def remember(self, made: Fresh) -> bool:
        return self.recall is not None and await self.recall.remember(made, time.time())

    async def label(self, request_id: str, right: bool) -> bool:
        if self.recall is None:
            return False
        told = await self.recall.label(request_id, right)
        self.metrics.labelled(right)
        await self._keep_labels()
        return told

    async def complain(self, request_id: str, entry_id: str) -> bool:
        """`entry_id` is what was served."""
        if self.recall is None:
            return False
        gone = await self.recall.complain(request_id, entry_id)
        self.metrics.labelled(False)
        await self._keep_labels()
        return gone

    async def drop_answers_of(self, request_ids: list[str]) -> bool:
        """Of requests that were answered afresh: their own answers."""
        return self.recall is not None and await self.recall.drop_answers_of(request_ids)

    async def delete(self, kind: str, name: str) -> int:
        """kind: entry, tenant, namespace or all. Durable when it returns."""
        if self.cache is None:
            return 0
        from router.cache.entries import from_public

        if kind == "entry":
            found = from_public(name)
            return 0 if found is None else await self.cache.delete_entries(found)
        if kind == "tenant":
            return await self.cache.delete_tenant(name)
        return await (self.cache.delete_namespace(name) if kind == "namespace" else self.cache.delete_all())

    async def embed(self, texts: Sequence[str]) -> Embedded:
        """Raises FarthingError when this service has no encoder."""
        if self.encoder is None or self.text_encoder is None:
            raise FarthingError("this service has no encoder: set embedding.enabled in its configuration")
        parts = [
            await self.encoder.encode(texts[at : at + EMBED_AT_ONCE]) for at in range(0, len(texts), EMBED_AT_ONCE)
        ]
        tokens = await asyncio.to_thread(self.text_encoder.count_tokens, texts)  # a megabyte takes long
        return Embedded(b"".join(part.tobytes() for part in parts), self.text_encoder.dim, sum(tokens))

    async def stats(self) -> dict[str, float]:
        return {} if self.cache is None else {**await self.cache.stats()}

    def check(self) -> None:
        for task in self.tasks:
            if task.done():
                raise RuntimeError(f"the task {task.get_name()} ended")

    async def close(self) -> None:
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)
        if self.cache is not None:
            await self.cache.close()
        if self.encoder is not None:
            self.encoder.close()

    async def _keep_labels(self) -> None:
        """One after the other: they share a draft. The label counts already, so a full disk is only logged."""
        if self.labels_file is None or self.recall is None:
            return
        async with self._keeping:
            try:
                await asyncio.to_thread(_write_whole, self.labels_file, json.dumps(self.recall.monitor.labels))
            except OSError as exc:
                log.warning("the labels of the semantic cache could not be written: %s", exc)

    async def _show(self, learned: LearnedRouting) -> None:
        """Publish what the learned router is watched by."""
        while True:
            self.metrics.router(learned.report(), learned.decider.acting, learned.fell_back)
            await asyncio.sleep(ARTIFACT_LOOK_S * LOOKS_PER_STATS)

    async def _tend(
        self, recall: Recall, cache: SemanticCache, wanted: SemanticConfig, sha256: str, version: str
    ) -> None:
        """Publish the figures, and take up a new artifact when the pointer moves from `version`, the one in use."""
        artifacts = wanted.artifacts
        for look in itertools.count():
            if look % LOOKS_PER_STATS == 0:
                self.metrics.semantic(await cache.stats(), recall.monitor)
            await asyncio.sleep(ARTIFACT_LOOK_S)
            if artifacts is not None and (now := current_version(artifacts)) != version:
                version = now
                try:
                    loaded = await asyncio.to_thread(tune.load, artifacts, sha256)
                except (FarthingError, OSError) as exc:
                    log.error("the new thresholds are not taken up: %s", exc)
                    continue
                recall.use(_targeted(loaded.decider, wanted))
                recall.monitor.renew(wanted.max_wrong_hit_rate, loaded.evidence_hits, loaded.evidence_wrong)
                log.warning("semantic cache: thresholds %s are in use", version)


async def open_router(config: Config, runtime: Runtime, decider: Decider) -> RouterProcess:
    """Raises StartError for an encoder or a cache file that cannot be used."""
    process = RouterProcess(decider, RouterMetrics())
    if not config.embeds:
        return process
    encoder = await asyncio.to_thread(_encoder, config.embedding, runtime)
    process.encoder, process.text_encoder = Batcher(encoder), encoder
    if config.routing.decider == "learned":
        process.learned = await asyncio.to_thread(open_learned, config, encoder.identity.sha256)
        process.tasks.append(asyncio.create_task(process._show(process.learned), name="router's watch"))
    wanted = config.cache.semantic
    if wanted.mode == "disabled":
        return process
    sha256 = encoder.identity.sha256
    bounds = Bounds(max_entries=wanted.max_entries, max_bytes=wanted.max_mib * MIB)
    index = await asyncio.to_thread(_index, wanted, sha256, encoder.dim)
    tiers = [tier.name for tier in config.tiers]
    process.cache = await SemanticCache.open(runtime.semantic_file, index, tiers, bounds)
    version = current_version(wanted.artifacts) if wanted.artifacts else ""  # before: a later one is seen as new
    rules, monitor = await asyncio.to_thread(_rules, wanted, sha256)
    process.labels_file = runtime.state / "semantic-labels.json"
    with suppress(OSError, ValueError):
        monitor.restore([bool(label) for label in json.loads(process.labels_file.read_text(encoding="utf-8"))])
    settings = RecallSettings(
        "shadow" if wanted.mode == "shadow" else "serve", float(wanted.ttl_s), OptIns(**wanted.allow.model_dump())
    )
    process.recall = Recall(process.encoder, process.cache, rules, monitor, settings)
    await asyncio.to_thread(english)  # a tenth of a second, which would make the first question late
    if wanted.verifier is not None:
        process.recall.second = await asyncio.to_thread(_verifier, wanted, _device(config.embedding))
    tend = process._tend(process.recall, process.cache, wanted, sha256, version)
    process.tasks.append(asyncio.create_task(tend, name="semantic cache"))
    return process


def _device(wanted: Embedding) -> str:
    if wanted.device != "auto":
        return wanted.device
    return "cpu" if detect_gpu() is None else "cuda"


def _verifier(wanted: SemanticConfig, device: str) -> Callable[[str, str], Awaitable[bool]]:
    """Raises ConfigError for a model that says nothing of entailment."""
    from router.cache.entailment import Entailment, accepts  # transformers and torch: where configured only

    assert wanted.verifier is not None
    try:
        model = Entailment.load(wanted.verifier, device)
    except (OSError, ValueError) as exc:
        raise ConfigError(f"cache.semantic.verifier: {exc}") from exc
    return lambda question, cached: asyncio.to_thread(accepts, model, question, cached, wanted.verifier_at_least)


def _encoder(wanted: Embedding, runtime: Runtime) -> TextEncoder:
    device = _device(wanted)
    if wanted.model == "minilm":
        return load_default(device=device, threads=wanted.threads)
    stated = Stated(wanted.pooling, wanted.prefix, wanted.max_tokens)
    return load_encoder(wanted.model, runtime.state / "models", stated, device=device, threads=wanted.threads)


def _index(wanted: SemanticConfig, sha256: str, dim: int) -> VectorIndex:
    on_gpu = wanted.index == "cuda" or (wanted.index == "auto" and detect_gpu() is not None)
    if on_gpu:
        from router.cache.gpu_ring import GpuRing  # torch: seconds and hundreds of MB, on a GPU only

        return GpuRing(sha256, dim, wanted.gpu_mib * MIB)
    from router.cache.faiss_index import FaissIndex

    return FaissIndex(sha256, dim)


def _rules(wanted: SemanticConfig, sha256: str) -> tuple[CacheRules, WrongHitMonitor]:
    """The artifact's thresholds where there is one, else the shipped ones; the target is the configuration's."""
    tuned = wanted.artifacts is not None and current_version(wanted.artifacts)
    loaded = tune.load(wanted.artifacts, sha256) if wanted.artifacts and tuned else tune.shipped(sha256)
    rules = _targeted(loaded.decider, wanted)
    return rules, WrongHitMonitor(wanted.max_wrong_hit_rate, loaded.evidence_hits, loaded.evidence_wrong)


def _targeted(decider: CacheRules, wanted: SemanticConfig) -> CacheRules:
    """The operator's target and exploration hold over those an artifact was tuned with."""
    rules = replace(decider.rules, max_wrong_hit_rate=wanted.max_wrong_hit_rate, explore_rate=wanted.explore_rate)
    return replace(decider, rules=rules)


def _write_whole(path: Path, text: str) -> None:
    draft = path.with_name(path.name + ".draft")
    draft.write_text(text, encoding="utf-8")
    draft.replace(path)
