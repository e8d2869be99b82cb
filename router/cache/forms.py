"""Inflection undone: which base forms a word may have. Inflection only, since a stemmer that also cuts derivations
takes "general" for "generate" and "policy" for "police".

A word may have several bases ("left": leave, left); two words are the same when they share one.
"""

from __future__ import annotations

from router.cache.lexicon import Lexicon

_VOWELS = frozenset("aeiouy")
_UNCHANGED = frozenset({"hit", "hurt", "put", "set", "cut", "read"})
_KEEPS_DOUBLE = ("ll", "ss", "zz", "ff")


def bases(word: str, lexicon: Lexicon) -> frozenset[str]:
    """Every base form the word may have, synonyms replaced by the name of their group."""
    found = lexicon.lemmas.get(word, frozenset()) | _regular(word, lexicon)
    return frozenset(lexicon.synonyms.get(base, base) for base in found)


def is_past(word: str, lexicon: Lexicon) -> bool:
    """Whether the form alone says past or participle."""
    return word in lexicon.pasts or _has_ed(word, lexicon)


def _has_ed(word: str, lexicon: Lexicon) -> bool:
    return len(word) > 3 and word.endswith("ed") and not word.endswith("eed") and word not in lexicon.uninflected


def is_participle(word: str, lexicon: Lexicon) -> bool:
    """What may follow "was" in a passive: "written", "missed", "beat"."""
    return word in lexicon.participles or _has_ed(word, lexicon) or word in _UNCHANGED


def _regular(word: str, lexicon: Lexicon) -> frozenset[str]:
    if len(word) < 4 or word in lexicon.uninflected:
        return frozenset({word})
    if word.endswith("s"):
        return frozenset(_without_s(word))
    if word.endswith("ied"):
        return frozenset({word[:-3] + "y"})
    if _has_ed(word, lexicon):
        return _restored(word[:-2])
    if word.endswith("ing") and len(word) > 5 and any(letter in _VOWELS for letter in word[:-3]):
        return _restored(word[:-3])
    return frozenset({word})


def _without_s(word: str) -> set[str]:
    if word.endswith(("ss", "us", "is")):
        return {word}
    if word.endswith("ies") and len(word) > 4:
        return {word[:-3] + "y"}
    if word.endswith(("xes", "ches", "shes", "sses", "zes", "oes")):
        return {word[:-2], word[:-1]}
    return {word[:-1]}


def _restored(stem: str) -> frozenset[str]:
    """The verb whose -ed or -ing was cut off: stopp → stop, hop → hope, creat → creat or create."""
    if len(stem) > 2 and stem[-1] == stem[-2] and stem[-1] not in _VOWELS:
        return frozenset({stem, stem[:-1]}) if stem.endswith(_KEEPS_DOUBLE) else frozenset({stem[:-1]})
    one_syllable = sum(letter in _VOWELS for letter in stem) == 1
    closed = len(stem) > 1 and stem[-1] not in _VOWELS | set("wx") and stem[-2] in _VOWELS
    return frozenset({stem + "e"}) if one_syllable and closed else frozenset({stem, stem + "e"})
