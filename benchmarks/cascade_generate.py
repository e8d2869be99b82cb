"""Greedy answers of a local model to the cascade's tasks, with the probability of every token. Resumable.

Runs a Hugging Face folder with transformers, on the CPU unless told otherwise: what is wanted are the probabilities,
not speed. Knows no router.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from benchmarks.cascade_tasks import SHOTS, Task, tasks
from router.grading import grade

TOP: Final = 5  # alternatives kept for each token: what OpenAI's wire format gives as `top_logprobs`
BATCH: Final = 24
MAX_TOKENS: Final = 48
BRIEFLY: Final = "Answer briefly."  # a chat model lectures otherwise, and is cut off before it has answered


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", type=Path, required=True, metavar="DIR", help="weights, config and tokenizer")
    parser.add_argument("--name", required=True, help="how the rows call it")
    parser.add_argument(
        "--style", choices=["chat", "shots"], required=True,
        help="chat: its own template; shots: examples and a line to complete, for a model never instructed",
    )  # fmt: skip
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="JSON lines; what is there stays")
    parser.add_argument("--seed", type=int, default=0, help="of the tasks")
    parser.add_argument("--max-tokens", type=int, default=MAX_TOKENS)
    parser.add_argument("--device", default="cpu")


def run(arguments: argparse.Namespace) -> int:
    done = {json.loads(line)["id"] for line in _lines(arguments.out)}
    left = sorted((t for t in tasks(arguments.seed) if t.id not in done), key=lambda t: len(t.prompt))
    writer = Writer(arguments.model, arguments.style, arguments.device)
    began_s, made = time.monotonic(), 0
    with arguments.out.open("a", encoding="utf-8") as out:
        for at in range(0, len(left), BATCH):
            batch = left[at : at + BATCH]
            for task, answer in zip(batch, writer.answers(batch, arguments.max_tokens), strict=True):
                out.write(json.dumps(_row(task, arguments.name, answer), ensure_ascii=False) + "\n")
                made += len(answer["tokens"])
            out.flush()
            print(f"{at + len(batch)} of {len(left)}: {made / (time.monotonic() - began_s):.0f} tokens/s", flush=True)
    return 0


def _lines(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8").splitlines() if path.exists() else []


def _row(task: Task, name: str, answer: dict[str, Any]) -> dict[str, Any]:
    right = grade(answer["text"], task.reference, task.checker)
    head = {"id": task.id, "group": task.group, "prompt": task.prompt, "model": name, "correct": int(right)}
    return head | answer


class Writer:
    """One model. `answers` gives, for each task, `text` and `tokens`: [logprob, the best `TOP` logprobs...] each."""

    def __init__(self, folder: Path, style: str, device: str) -> None:
        import torch  # seconds to import, and only here
        from transformers import AutoModelForCausalLM, AutoTokenizer

        self._torch, self._style, self._device = torch, style, device
        self._tokenizer: Any = AutoTokenizer.from_pretrained(folder, padding_side="left")
        self._model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).to(device).eval()
        vocabulary = self._tokenizer.get_vocab()
        self._stops = {self._tokenizer.eos_token_id}
        if style == "shots":  # the answer is one line
            self._stops |= {number for token, number in vocabulary.items() if "\n" in token}

    def _prompt(self, task: Task) -> str:
        if self._style == "chat":
            message = [{"role": "user", "content": f"{task.prompt} {BRIEFLY}"}]
            return str(self._tokenizer.apply_chat_template(message, tokenize=False, add_generation_prompt=True))
        shots = "".join(f"Question: {question}\nAnswer: {answer}\n\n" for question, answer in SHOTS)
        return f"{self._tokenizer.bos_token}{shots}Question: {task.prompt}\nAnswer:"

    def answers(self, batch: Sequence[Task], max_tokens: int) -> list[dict[str, Any]]:
        given = self._tokenizer(
            [self._prompt(task) for task in batch], return_tensors="pt", padding=True, add_special_tokens=False
        ).to(self._device)
        with self._torch.inference_mode():
            chosen, evidence = self._decode(given["input_ids"], given["attention_mask"], max_tokens)
        return [
            {"text": self._tokenizer.decode(ids, skip_special_tokens=True).strip(), "tokens": tokens}
            for ids, tokens in zip(chosen, evidence, strict=True)
        ]

    def _decode(self, ids: Any, mask: Any, max_tokens: int) -> tuple[list[list[int]], list[list[list[float]]]]:
        """The likeliest token each time, until all have ended. The token that ends an answer is counted, too."""
        torch, past = self._torch, None
        chosen: list[list[int]] = [[] for _ in ids]
        evidence: list[list[list[float]]] = [[] for _ in ids]
        running = set(range(len(ids)))
        places = mask.cumsum(-1).sub(1).clamp(min=0)
        for _ in range(max_tokens):
            out = self._model(
                input_ids=ids, attention_mask=mask, position_ids=places, past_key_values=past, logits_to_keep=1
            )
            past = out.past_key_values
            best = torch.log_softmax(out.logits[:, -1].float(), dim=-1).topk(TOP)
            ids, places = best.indices[:, :1], places[:, -1:] + 1
            mask = torch.cat([mask, torch.ones_like(ids)], dim=1)
            for row in list(running):
                values = [round(value, 3) for value in best.values[row].tolist()]
                evidence[row].append([values[0], *values])
                token = int(ids[row, 0])
                if token in self._stops:
                    running.discard(row)
                else:
                    chosen[row].append(token)
            if not running:
                break
        return chosen, evidence
