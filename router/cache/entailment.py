"""A second opinion on a pair of questions: a natural-language-inference model that must hold each to follow from the
other.

Optional, named by configuration. It can only refuse: where it fails, or says anything but "entailment" both ways, the
pair is a miss. Never run against a downloaded model here: docs/semantic-cache.md says what was tested.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol


class PairVerifier(Protocol):
    """Whether one answer serves both questions, as a chance in 0..1. Blocks; give it a thread."""

    def chance_same(self, question: str, cached: str) -> float: ...


@dataclass(frozen=True, slots=True)
class Entailment:
    """Bidirectional entailment with a transformers sequence classifier; `entails` is the index of that label."""

    tokenizer: Any
    model: Any
    entails: int
    device: str

    @classmethod
    def load(cls, model: str, device: str = "cpu") -> Entailment:
        """`model`: a folder or a Hub id. Raises ValueError where its labels name no entailment."""
        # Heavy, and needed by nobody who configured no verifier.
        from transformers import AutoModelForSequenceClassification, AutoTokenizer

        network = AutoModelForSequenceClassification.from_pretrained(model).to(device).eval()
        labels = {str(name).lower(): int(index) for index, name in network.config.id2label.items()}
        entails = next((at for name, at in labels.items() if name.startswith("entail") or name == "duplicate"), None)
        if entails is None:
            raise ValueError(f"{model} has the labels {sorted(labels)}, none of which is entailment or duplicate")
        return cls(AutoTokenizer.from_pretrained(model), network, entails, device)

    def chance_same(self, question: str, cached: str) -> float:
        """The lower of the two directions."""
        import torch

        pairs = self.tokenizer(
            [question, cached], [cached, question], padding=True, truncation=True, return_tensors="pt"
        ).to(self.device)
        with torch.inference_mode():
            chances = self.model(**pairs).logits.float().softmax(dim=-1)[:, self.entails]
        return float(chances.min())


def accepts(verifier: PairVerifier, question: str, cached: str, at_least: float) -> bool:
    """Fails closed: an error of the model is a refusal, and so is a chance that is no number."""
    try:
        return verifier.chance_same(question, cached) >= at_least
    except (RuntimeError, ValueError, OSError):
        return False
