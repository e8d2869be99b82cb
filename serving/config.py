"""The one configuration file, as frozen models. Parsed once; below the composition root code gets plain values.

Every key is described in docs/config.md. Unknown keys and impossible values are refused with the key's path.
"""

from __future__ import annotations

import datetime
import ipaddress
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from models import yaml_file
from models.errors import ConfigError
from models.prices import PriceOverride
from serving.config_routing import Routing
from serving.texts.settings import Texts

RESERVED_NAMES = frozenset({"auto", "cache"})
TierName = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,31}$")]
Positive = Annotated[int, Field(gt=0)]
Usd = Annotated[Decimal, Field(ge=0)]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Listen(_Frozen):
    host: str = "127.0.0.1"
    port: Annotated[int, Field(ge=1, le=65535)] = 8000
    admin_port: Annotated[int, Field(ge=1, le=65535)] | None = None

    @property
    def loopback(self) -> bool:
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False


class Auth(_Frozen):
    required: bool | None = None  # None: as soon as the address is not loopback


class EngineBackend(_Frozen):
    kind: Literal["engine"]
    profile: str = "auto"
    weights: Path | None = None
    replicas: Positive = 1
    gpus: Annotated[float, Field(ge=0)] | None = None
    kv_cache_gib: Annotated[float, Field(gt=0)] | None = None
    args: dict[str, str | int | float | bool] = {}


class BackendLimits(_Frozen):
    context_tokens: Positive = 128_000
    images: bool = True
    tools: bool = True
    completions: bool = False


class HttpBackend(_Frozen):
    kind: Literal["http"]
    wire: Literal["openai", "anthropic"] = "openai"
    url: Annotated[str, Field(pattern=r"^https?://")]
    model: str
    key_env: str | None = None
    key_file: Path | None = None
    ca_file: Path | None = None
    headers: dict[str, str] = {}
    limits: BackendLimits = BackendLimits()
    health_path: str | None = None

    @property
    def wants_key(self) -> bool:
        return self.key_env is not None or self.key_file is not None


class MembersBackend(_Frozen):
    """Boxes that join and leave while the service runs, as `python -m cluster` lists them (docs/cluster.md)."""

    kind: Literal["members"]
    file: Path
    profile: str  # what runs on them: a name of the catalogue, a Hugging Face id, or a folder


class TokenPrice(PriceOverride):
    """A price of our own for a hosted model: dated, so that a reader can tell whether it still holds."""

    source: str = "the configuration"


class LocalPrice(_Frozen):
    """What an hour of the machine costs; throughput not given here is the profile's (docs/profiles.md)."""

    usd_per_hour: Usd
    prefill_tokens_per_s: Annotated[Decimal, Field(gt=0)] | None = None
    decode_tokens_per_s: Annotated[Decimal, Field(gt=0)] | None = None
    as_of: datetime.date | None = None


class Tier(_Frozen):
    name: TierName
    backends: Annotated[
        list[Annotated[EngineBackend | HttpBackend | MembersBackend, Field(discriminator="kind")]], Field(min_length=1)
    ]
    price: TokenPrice | LocalPrice | None = None
    price_ref: str | None = None  # the model's name in genai-prices where it differs from the backend's
    price_provider: str | None = None  # the provider's id there, where the name alone is ambiguous
    optional: bool = False  # without its key the tier is absent instead of stopping the start

    @property
    def local(self) -> bool:
        """On this machine: what may not leave it can go here."""
        return any(b.kind == "engine" for b in self.backends)

    @property
    def owned(self) -> bool:
        """Paid by the hour, not by the token."""
        return any(b.kind != "http" for b in self.backends)

    @model_validator(mode="after")
    def _one_kind(self) -> Self:
        if len({b.kind for b in self.backends}) > 1:
            raise ValueError(
                "a tier's backends must all be of one kind: put engine and http backends in tiers of their own"
            )
        if isinstance(self.price, TokenPrice if self.owned else LocalPrice):
            stated = "usd_per_hour" if self.owned else "input_usd_per_mtok and output_usd_per_mtok"
            raise ValueError(f"price: a tier of {self.backends[0].kind} backends is priced by {stated}")
        if self.name in RESERVED_NAMES:
            raise ValueError(f"'{self.name}' is reserved; name the tier otherwise")
        return self


class ExactCache(_Frozen):
    enabled: bool = True
    ttl_s: Positive = 86_400
    max_mib: Positive = 512
    memory_mib: Positive = 64
    sampled: bool = False  # also serve requests that set temperature > 0 or n > 1


class Embedding(_Frozen):
    """The encoder: shared by the semantic cache, the router's score and /v1/embeddings."""

    enabled: bool = False  # also without the semantic cache, for /v1/embeddings
    model: str = "minilm"  # the embedded all-MiniLM-L6-v2, a Hugging Face id, or a folder
    pooling: Literal["mean", "cls", "last"] | None = None
    prefix: str | None = None
    max_tokens: Positive | None = None
    device: Literal["auto", "cpu", "cuda"] = "auto"
    threads: Positive = 1


class SemanticAllow(_Frozen):
    """Classes of questions that an operator lets be matched by meaning all the same."""

    time_dependent: bool = False
    personal: bool = False
    turns: bool = False
    tools: bool = False


class SemanticCache(_Frozen):
    mode: Literal["serve", "shadow", "disabled"] = "disabled"
    max_wrong_hit_rate: Annotated[float, Field(gt=0, lt=0.5)] = 0.02
    explore_rate: Annotated[float, Field(ge=0, le=1)] = 0.02
    ttl_s: Positive = 86_400
    max_entries: Positive = 100_000
    max_mib: Positive = 1024
    index: Literal["auto", "cpu", "cuda"] = "auto"
    gpu_mib: Positive = 512  # of GPU memory, beside vLLM's share
    artifacts: Path | None = None  # thresholds of `python -m router tune-cache`, loaded hot
    verifier: str | None = None  # a model that must hold each question to follow from the other: id or folder
    verifier_at_least: Annotated[float, Field(gt=0, le=1)] = 0.9
    compare: Literal["none", "exact", "normalised", "judge"] = "none"
    judge: str | None = None  # the tier that is asked whether two answers say the same
    shared: dict[str, list[str]] = {}  # namespace -> the tenants that share it
    allow: SemanticAllow = SemanticAllow()

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if (self.compare == "judge") != (self.judge is not None):
            raise ValueError("cache.semantic: `compare: judge` and `judge: <tier>` go together")
        tenants = [tenant for members in self.shared.values() for tenant in members]
        for tenant in tenants:
            if tenants.count(tenant) > 1:
                raise ValueError(f"cache.semantic.shared: tenant '{tenant}' is in two namespaces; it can be in one")
        return self


class Cache(_Frozen):
    exact: ExactCache = ExactCache()
    semantic: SemanticCache = SemanticCache()
    coalesce: bool = True


class Gateway(_Frozen):
    nodes: Literal["head", "every"] = "head"  # of a cluster: where gateways, and addresses to call, are
    replicas: Positive = 1  # on each of them
    max_in_flight: Positive = 512
    max_body_mib: Positive = 20
    max_messages: Positive = 2_000
    deadline_s: Annotated[float, Field(gt=0)] = 600.0
    drain_s: Annotated[float, Field(gt=0)] = 30.0


class Retry(_Frozen):
    attempts: Positive = 2
    base_s: Annotated[float, Field(gt=0)] = 0.2
    cap_s: Annotated[float, Field(gt=0)] = 5.0
    max_retry_after_s: Annotated[float, Field(gt=0)] = 5.0


class Breaker(_Frozen):
    failures: Positive = 5
    open_s: Annotated[float, Field(gt=0)] = 10.0
    cool_down_s: Annotated[float, Field(gt=0)] = 300.0


class Ledger(_Frozen):
    url: str | None = None  # SQLite in the state directory if not set
    retention_days: Positive | None = None


class Budget(_Frozen):
    frontier_usd_per_day: Usd | None = None


class RayCluster(_Frozen):
    """A cluster that `python -m serving node` started; without an address the service brings its own, on loopback."""

    address: str | None = None
    token_file: Path = Path(".farthing/ray.token")


class Serve(_Frozen):
    haproxy: bool | None = None  # None: when its wheel is there
    engine_start_s: Positive = 900


class Config(_Frozen):
    listen: Listen = Listen()
    auth: Auth = Auth()
    state_dir: Path = Path(".farthing")
    tiers: Annotated[list[Tier], Field(min_length=1)]
    aliases: dict[str, str] = {}
    prices: dict[str, TokenPrice] = {}
    routing: Routing = Routing()
    embedding: Embedding = Embedding()
    cache: Cache = Cache()
    gateway: Gateway = Gateway()
    retry: Retry = Retry()
    breaker: Breaker = Breaker()
    ledger: Ledger = Ledger()
    texts: Texts = Texts()
    budget: Budget = Budget()
    serve: Serve = Serve()
    ray: RayCluster = RayCluster()

    @property
    def private(self) -> bool:
        """Whether only this machine can reach it: in a cluster of nodes each replica has a port on the network."""
        return self.listen.loopback and self.ray.address is None

    @property
    def auth_required(self) -> bool:
        return self.auth.required if self.auth.required is not None else not self.private

    @property
    def embeds(self) -> bool:
        learned = self.routing.decider == "learned"
        return self.embedding.enabled or learned or self.cache.semantic.mode != "disabled"

    @property
    def ledger_url(self) -> str:
        return self.ledger.url or f"sqlite:///{self.state_dir.resolve() / 'ledger.db'}"

    @property
    def default_tier(self) -> str:
        return self.routing.default_tier or self.tiers[0].name

    def tier(self, name: str) -> Tier:
        return next(t for t in self.tiers if t.name == name)

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        names = [t.name for t in self.tiers]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"tiers: the name '{name}' is used twice")
        known = set(names)
        for tier in [*(self.routing.thresholds or {}), self.default_tier]:
            if tier not in known:
                raise ValueError(f"routing: there is no tier '{tier}'; tiers are {', '.join(names)}")
        if self.cache.semantic.judge not in (None, *names):
            raise ValueError(f"cache.semantic.judge: there is no tier '{self.cache.semantic.judge}'")
        if self.routing.cascade.mode != "off" and not (self.tiers[0].owned and len(self.tiers) > 1):
            raise ValueError("routing.cascade: the first tier must be our own engine, with another tier behind it")
        strengths = self.routing.learned.strengths
        if strengths is not None and set(strengths) != known:
            raise ValueError(f"routing.learned.strengths: give one for each tier ({', '.join(names)})")
        models = {b.model for t in self.tiers for b in t.backends if b.kind == "http"} | known | {"auto"}
        for alias, target in self.aliases.items():
            if target not in models:
                raise ValueError(f"aliases.{alias}: '{target}' is neither a tier, a model of a backend, nor 'auto'")
            if alias in known or alias in RESERVED_NAMES:
                raise ValueError(f"aliases.{alias}: the name is taken by a tier")
        if not self.private and self.auth.required is False:
            raise ValueError(
                "auth.required: keys cannot be turned off where others can reach the service; listen on 127.0.0.1, "
                "without ray.address"
            )
        if self.listen.admin_port == self.listen.port:
            raise ValueError("listen.admin_port: the service itself listens there; choose another")
        if sum(t.local for t in self.tiers) > 1:
            raise ValueError("tiers: only one tier may hold engine backends on one node")
        return self


def parse(text: str, *, source: str = "config") -> Config:
    """Parse YAML. Raises ConfigError naming each bad key by its path."""
    data = yaml_file.parse(text, source)
    if not isinstance(data, dict):
        raise ConfigError(f"{source}: expected a mapping with at least 'tiers'")
    return parsed(data, source=source)


def parsed(data: dict[str, Any], *, source: str) -> Config:
    """A configuration from plain values. Raises ConfigError."""
    try:
        return Config.model_validate(data)
    except ValidationError as exc:
        raise ConfigError(f"{source}: " + "; ".join(_complaint(e) for e in exc.errors())) from exc


def load(path: Path) -> Config:
    """Read a file. Relative paths in it are relative to the working directory, as on a command line."""
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as exc:
        raise ConfigError(f"cannot read the config file {path}: {exc.strerror}; give one with --config FILE") from exc
    except UnicodeDecodeError as exc:
        raise ConfigError(f"cannot read the config file {path}: it is not UTF-8 text") from exc
    return parse(text, source=str(path))


def _complaint(error: Any) -> str:
    where = ".".join(str(p) for p in error["loc"] if p not in ("engine", "http", "members", "TokenPrice", "LocalPrice"))
    if error["type"] == "extra_forbidden":
        return f"{where}: unknown key"
    return (
        f"{where}: {error['msg'].removeprefix('Value error, ')}"
        if where
        else error["msg"].removeprefix("Value error, ")
    )
