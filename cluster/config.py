"""The one file that says which boxes there should be, as frozen models. Every key is described in docs/cluster.md.

Unknown keys and impossible values are refused with the key's path. Knows no provider API and no state.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Self
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from cluster.vastai import BASE_URL
from models import yaml_file
from models.errors import ConfigError

DEFAULT_IMAGE = "nvidia/cuda:13.0.1-runtime-ubuntu24.04"
MAX_BYTES = 1_000_000  # the example has six hundred
ENV_VALUE_LIMIT = 256  # the provider's, for each value of a container's environment


def _number(value: Any) -> Any:
    if isinstance(value, bool):  # a cap of `yes` would be one dollar
        raise ValueError("a number is wanted, and yes, no, on and off are none")
    return value


def _url(value: str) -> str:
    try:
        named = bool(urlsplit(value).hostname) and urlsplit(value).port != 0
    except ValueError:
        named = False
    if not named:
        raise ValueError("no host or port that can be asked")
    return value


Number = BeforeValidator(_number)
Positive = Annotated[int, Field(gt=0), Number]
PositiveFloat = Annotated[float, Field(gt=0, allow_inf_nan=False), Number]
NotNegative = Annotated[float, Field(ge=0, allow_inf_nan=False), Number]
Share = Annotated[float, Field(ge=0, le=1), Number]
Url = Annotated[str, Field(pattern=r"^https?://\S+$", max_length=ENV_VALUE_LIMIT), AfterValidator(_url)]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Source(_Frozen):
    """A tarball of this repository that a box on a stock image fetches; the hash is checked before anything runs."""

    url: Url
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class Image(_Frozen):
    name: Annotated[str, Field(min_length=1, max_length=1024)] = DEFAULT_IMAGE
    source: Source | None = None  # None: the image was built from cluster/Dockerfile and holds the code

    @property
    def pinned(self) -> bool:
        return "@sha256:" in self.name


class Tls(_Frozen):
    """`days` is of a box's certificate; `up` and `watch` renew it at half of that."""

    days: Annotated[int, Field(ge=1, le=3650), Number] = 30


class Filter(_Frozen):
    """Which machines may be rented."""

    gpus: tuple[str, ...] = ()  # the provider's names, "RTX 4090"; empty: any that the model fits
    regions: tuple[Annotated[str, Field(pattern=r"^[A-Z]{2}$")], ...] = ()
    min_reliability: Share = 0.98
    min_down_mbps: PositiveFloat = 500.0
    max_usd_per_gb: NotNegative = 0.02
    min_hours_left: PositiveFloat = 72.0
    datacenter: bool = False


class Workload(_Frozen):
    """What a request looks like, for $/1k requests. `requests_per_s` is per box; None means as many as it can."""

    input_tokens: Positive = 500
    output_tokens: Positive = 150
    requests_per_s: PositiveFloat | None = None


class Speed(_Frozen):
    """The benchmark at boot: a box below `min_share` of what its profile and its GPU promise is replaced."""

    min_share: Share = 0.4
    requests: Positive = 16
    output_tokens: Positive = 64


class Timing(_Frozen):
    poll_s: PositiveFloat = 5.0
    boot_s: PositiveFloat = 900.0  # rented to reachable: image, packages
    model_s: PositiveFloat = 3600.0  # reachable to ready: weights, vLLM
    settle_s: NotNegative = 30.0  # until a rental without an answer counts as not made
    missing_s: NotNegative = 60.0
    unhealthy_s: NotNegative = 60.0
    drain_s: NotNegative = 30.0
    dead_man_hours: Annotated[float, Field(ge=0.1, le=8760), Number] = 6.0
    pause_s: NotNegative = 600.0  # after `failures` boxes in a row did not come up
    failures: Positive = 3


class Provider(_Frozen):
    url: Url = BASE_URL
    key_file: Path | None = None  # else VAST_API_KEY
    spacing: NotNegative = 1.0  # of the documented pauses between calls; 0 for a server of one's own


class Alarms(_Frozen):
    """Where `watch` posts what somebody should know at once (`cluster/alarms.py`)."""

    url: Url | None = None
    timeout_s: PositiveFloat = 5.0


class ClusterConfig(_Frozen):
    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]{0,30}$")] = "default"
    boxes: Annotated[int, Field(ge=1, le=64), Number] = 1
    profile: Annotated[str, Field(min_length=1, max_length=ENV_VALUE_LIMIT)]
    max_usd_per_hour: PositiveFloat  # of one box, GPU and disk
    budget_usd_per_day: PositiveFloat
    interruptible: bool = False
    bid_over_min: Annotated[float, Field(ge=1, allow_inf_nan=False), Number] = 1.2
    disk_gb: Annotated[int, Field(ge=8, le=100_000), Number] = 60
    machines: Filter = Filter()
    image: Image = Image()
    tls: Tls = Tls()
    ssh: bool = False
    workload: Workload = Workload()
    speed: Speed = Speed()
    timing: Timing = Timing()
    provider: Provider = Provider()
    alarms: Alarms = Alarms()
    state_dir: Path = Path(".farthing/cluster")

    @property
    def folder(self) -> Path:
        return self.state_dir.expanduser() / self.name

    @property
    def label_prefix(self) -> str:
        """What every instance of this cluster is labelled with; nothing else of the account is ever touched."""
        return f"farthing:{self.name}:"

    @model_validator(mode="after")
    def _budget_lasts_a_day(self) -> Self:
        day_usd = self.boxes * self.max_usd_per_hour * 24
        if self.budget_usd_per_day < self.max_usd_per_hour:
            raise ValueError(
                f"budget_usd_per_day: {self.budget_usd_per_day} does not pay one hour of one box at the cap; "
                f"{self.boxes} at {self.max_usd_per_hour}/h for 24 h are {day_usd:.2f}"
            )
        return self


def parse(text: str, *, source: str = "cluster file") -> ClusterConfig:
    """Parse YAML. Raises ConfigError naming each bad key by its path."""
    data = yaml_file.parse(text, source)
    if not isinstance(data, dict):
        raise ConfigError(f"{source}: expected a mapping with profile, max_usd_per_hour and budget_usd_per_day")
    try:
        return ClusterConfig.model_validate(data)
    except ValidationError as exc:
        raise ConfigError(f"{source}: " + "; ".join(map(_complaint, exc.errors()))) from exc


def load(path: Path) -> ClusterConfig:
    """Read a file. Relative paths in it are relative to the working directory."""
    try:
        if path.stat().st_size > MAX_BYTES:
            raise ConfigError(f"{path} has more than {MAX_BYTES:,} bytes: it is no cluster file")
        text = path.read_text(encoding="utf-8")
    except OSError as exc:
        raise ConfigError(f"cannot read the cluster file {path}: {exc.strerror}") from exc
    except UnicodeDecodeError as exc:
        raise ConfigError(f"cannot read the cluster file {path}: it is not UTF-8 text") from exc
    return parse(text, source=str(path))


def _complaint(error: Any) -> str:
    where = ".".join(str(part) for part in error["loc"])
    text = "unknown key" if error["type"] == "extra_forbidden" else error["msg"].removeprefix("Value error, ")
    if error["type"] == "string_type" and isinstance(error["input"], bool):  # Norway is one
        text += ": yes, no, on and off need quotes in YAML to be text"
    return f"{where}: {text}" if where else text
