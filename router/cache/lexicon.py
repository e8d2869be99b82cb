"""The gates' knowledge of English, read once from `lexicon.yaml`. Owns no rule: only word lists and their look-up
tables."""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

_FILE = Path(__file__).parent / "lexicon.yaml"


@dataclass(frozen=True, slots=True)
class Question:
    """One way of asking: what it asks for, and the words that say so."""

    kind: str
    pattern: re.Pattern[str]


@dataclass(frozen=True, slots=True)
class Lexicon:
    """Look-up tables over lower-case words. `synonyms`, `units`, `roles` map a word to the name of its class."""

    contractions: Mapping[str, tuple[str, ...]]
    is_after: frozenset[str]
    corrections: Mapping[str, str]
    phrases: Mapping[tuple[str, ...], tuple[str, ...]]
    longest_phrase: int
    courtesies: tuple[re.Pattern[str], ...]
    closings: tuple[re.Pattern[str], ...]
    questions: tuple[Question, ...]
    self_kinds: frozenset[str]
    synonyms: Mapping[str, str]
    antonyms: frozenset[frozenset[str]]
    privatives: Mapping[str, str]
    symmetric: frozenset[str]
    attributes: frozenset[str]
    works: frozenset[str]
    phrasal: frozenset[str]
    fillers: frozenset[str]
    soft_links: frozenset[str]
    link_kin: frozenset[frozenset[str]]
    name_links: frozenset[str]
    pronouns: Mapping[str, str]
    modals: Mapping[str, str]
    roles: Mapping[str, str]
    units: Mapping[str, str]
    months: Mapping[str, str]
    pasts: frozenset[str]
    participles: frozenset[str]
    lemmas: Mapping[str, frozenset[str]]
    uninflected: frozenset[str]


def _classes(table: Mapping[str, list[str]]) -> dict[str, str]:
    return {word: name for name, words in table.items() for word in words}


def _lemmas(raw: Mapping[str, Any]) -> dict[str, frozenset[str]]:
    found: dict[str, set[str]] = {}
    for base, *others in raw["irregular_verbs"]:
        for form in others:
            found.setdefault(form, set()).add(base)
    for form, base in raw["irregular_forms"].items():
        found.setdefault(form, set()).add(base)
    return {form: frozenset(bases) for form, bases in found.items()}


def _roles(raw: Mapping[str, Any]) -> dict[str, str]:
    """Later classes give way to earlier ones: "before" is about time wherever else it may be listed."""
    ordered = {
        "negation": raw["negations"],
        "time": raw["times"],
        "degree": raw["degrees"],
        "quantity": raw["quantities"],
    }
    roles: dict[str, str] = {}
    for role, words in ordered.items():
        for word in words:
            roles.setdefault(word, role)
    return roles


@functools.cache
def english() -> Lexicon:
    """The shipped lexicon. Every scalar is read as text: YAML would take "no" and "on" for booleans."""
    raw: dict[str, Any] = yaml.load(_FILE.read_text(encoding="utf-8"), Loader=yaml.BaseLoader)
    phrases = {tuple(left.split()): tuple(right.split()) for left, right in raw["phrases"].items()}
    verbs = raw["irregular_verbs"]
    return Lexicon(
        contractions={short: tuple(full.split()) for short, full in raw["contractions"].items()},
        is_after=frozenset(raw["is_after"]),
        corrections=raw["misspellings"] | raw["spelling"],
        phrases=phrases,
        longest_phrase=max(map(len, phrases)),
        courtesies=tuple(re.compile(rf"(?:{words})(?= |$)") for words in raw["courtesies"]),
        closings=tuple(re.compile(rf"(?:{words})$") for words in raw["closings"]),
        questions=tuple(Question(kind, re.compile(rf"(?:{words})(?= |$)")) for kind, words in raw["questions"]),
        self_kinds=frozenset(raw["answer_with_self"]),
        synonyms={word: group[0] for group in raw["synonyms"] for word in group},
        antonyms=frozenset(frozenset(pair) for pair in raw["antonyms"]),
        privatives=raw["privatives"],
        symmetric=frozenset(raw["symmetric"]),
        attributes=frozenset(raw["attributes"]),
        works=frozenset(raw["works"]),
        phrasal=frozenset(raw["phrasal"]),
        fillers=frozenset(raw["fillers"]),
        soft_links=frozenset(raw["soft_links"]),
        link_kin=frozenset(frozenset(pair) for pair in raw["link_kin"]),
        name_links=frozenset(raw["name_links"]),
        pronouns=_classes(raw["pronouns"]),
        modals=_classes(raw["modals"]),
        roles=_roles(raw),
        units=_classes(raw["units"]),
        months=raw["months"],
        pasts=frozenset(form for forms in verbs for form in forms[1:]) - {forms[0] for forms in verbs},
        participles=frozenset(form for forms in verbs for form in forms[1:]),
        lemmas=_lemmas(raw),
        uninflected=frozenset(raw["uninflected"]),
    )
