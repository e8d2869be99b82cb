"""The lexical gates: each looks at one way in which two texts may ask for different things, and says what differs.

A gate is a name and a pure, symmetric function of two readings. Together they are strict: every word that carries
meaning must be in both texts, in the same order but for the rearrangements known to keep the meaning. A difference
that nobody here understands is a difference. They know no vectors; reasons are written for a person.

After the measurements in docs/semantic-cache.md: cosine similarity is blind to just these differences.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from router.cache.lexicon import english
from router.cache.text import Item, Reading
from router.cache.tokens import POSSESSIVE

_JOINTS = frozenset({"and", "or", "vs", "versus"})
_FIXED_PLACES = frozenset({"negation", "time", "degree", "modal", "question", "pronoun"})
_OWNS = frozenset({POSSESSIVE})
_MUTUAL_VERBS = frozenset({"marry", "date", "meet", "resemble", "equal", "each_other"})
_MAX_SWAPPED = 3


@dataclass(frozen=True, slots=True)
class Verdict:
    """`passed`, and where not, what differed: `12 / 14`, `not / -`."""

    gate: str
    passed: bool
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Gate:
    """`differs` gives an empty text where nothing that this gate looks at differs."""

    name: str
    differs: Callable[[Reading, Reading], str]

    def __call__(self, a: Reading, b: Reading) -> Verdict:
        detail = self.differs(a, b)
        return Verdict(self.name, not detail, detail)


def judge(a: Reading, b: Reading) -> Verdict | None:
    """The first gate that refuses the pair; None where all let it pass. Equal words always pass."""
    if a.plain == b.plain and _literals(a) == _literals(b):
        return None
    return next((verdict for gate in GATES if not (verdict := gate(a, b)).passed), None)


def refusals(a: Reading, b: Reading) -> list[Verdict]:
    """Every gate that refuses the pair, in order."""
    return [verdict for gate in GATES if not (verdict := gate(a, b)).passed]


def unmatched(a: Sequence[Item], b: Sequence[Item]) -> tuple[list[Item], list[Item]]:
    """The items of each that have no partner in the other; each partner counts once."""
    left, right = [], list(b)
    for item in a:
        at = next((at for at, other in enumerate(right) if item.same(other)), None)
        if at is None:
            left.append(item)
        else:
            del right[at]
    return left, right


def _words(items: Iterable[Item]) -> str:
    return " ".join(item.word for item in items) or "-"


def _says(left: Sequence[Item], right: Sequence[Item]) -> str:
    return f"{_words(left)} / {_words(right)}" if left or right else ""


def _of(reading: Reading, *roles: str) -> list[Item]:
    return [item for item in reading.items if item.role in roles]


def _same_order(a: Sequence[Item], b: Sequence[Item]) -> bool:
    return len(a) == len(b) and all(x.same(y) for x, y in zip(a, b, strict=True))


def _literals(reading: Reading) -> list[str]:
    return [item.word for item in _of(reading, "literal")]


def _in_order(*roles: str) -> Callable[[Reading, Reading], str]:
    def differs(a: Reading, b: Reading) -> str:
        left, right = _of(a, *roles), _of(b, *roles)
        return "" if _same_order(left, right) else _says(left, right)

    return differs


def _in_any_order(*roles: str) -> Callable[[Reading, Reading], str]:
    def differs(a: Reading, b: Reading) -> str:
        return _says(*unmatched(_of(a, *roles), _of(b, *roles)))

    return differs


def _quantities(a: Reading, b: Reading) -> str:
    """Numbers in order, each with the word it counts or its unit."""
    left, right = _counted(a), _counted(b)
    return "" if _same_order(left, right) else _says(left, right)


def _counted(reading: Reading) -> list[Item]:
    units = english().units
    found: list[Item] = []
    for at, item in enumerate(reading.items):
        if item.role == "number":
            found.append(item)
            found.extend(unit for unit in reading.items[at + 1 : at + 2] if unit.word in units)
    return found


def _antonyms(a: Reading, b: Reading) -> str:
    left, right = unmatched(a.items, b.items)
    known = english().antonyms
    for x in left:
        for y in right:
            if any(frozenset({p, q}) in known for p in {x.word, *x.forms} for q in {y.word, *y.forms}):
                return f"{x.word} / {y.word}"
    return ""


def _names(a: Reading, b: Reading) -> str:
    """A capitalised word needs the very same word in the other text, in whatever case it stands there."""
    left, right = unmatched(a.items, b.items)
    names = [item for item in (*left, *right) if item.role == "name"]
    return _says(left, right) if names else ""


def _questions(a: Reading, b: Reading) -> str:
    if a.kinds != b.kinds:
        return f"{' '.join(a.kinds) or '-'} / {' '.join(b.kinds) or '-'}"
    return _in_any_order("question")(a, b)


def _tense(a: Reading, b: Reading) -> str:
    if a.past != b.past:
        return "past / present" if a.past else "present / past"
    if a.ongoing != b.ongoing:
        return "ongoing / habitual" if a.ongoing else "habitual / ongoing"
    if a.passive != b.passive:
        return "passive / active" if a.passive else "active / passive"
    return ""


def _content(a: Reading, b: Reading) -> str:
    if not a.items or not b.items:
        return "" if a.plain == b.plain else f"{a.plain[:40] or '-'} / {b.plain[:40] or '-'}"
    return _says(*unmatched(a.items, b.items))


def _order(a: Reading, b: Reading) -> str:
    if _same_order(a.items, b.items):
        return ""
    if swaps_harmlessly(a.items, b.items) and swaps_harmlessly(b.items, a.items):
        return ""
    return f"{_words(a.items)} / {_words(b.items)}"


def swaps_harmlessly(a: Sequence[Item], b: Sequence[Item]) -> bool:
    """Whether b is a with the two sides of one "and", "or" or symmetric relation exchanged, and nothing else."""
    if len(a) != len(b):
        return False
    places = [at for at, (x, y) in enumerate(zip(a, b, strict=True)) if not x.same(y)]
    if not places:
        return True
    begin, end = places[0], places[-1] + 1
    for middle in range(begin + 1, end - 1):
        if not _exchangeable(a[middle]):
            continue
        left, joint, right = a[begin:middle], a[middle], a[middle + 1 : end]
        swapped = [*right, joint, *left]
        if _same_order(swapped, b[begin:end]) and _may_swap(a, begin, middle, end):
            return True
    return False


def _exchangeable(item: Item) -> bool:
    return item.word in _JOINTS or not english().symmetric.isdisjoint({item.word, *item.forms})


def _may_swap(items: Sequence[Item], begin: int, middle: int, end: int) -> bool:
    """Only short noun phrases: a verb after the right side may belong to it alone ("hit Ann and Bob kicked Sue"), and
    so may what one of them owns ("Tom and Ann's house"). A relation must take its other side by a preposition, or be
    a verb."""
    left, joint, right = items[begin:middle], items[middle], items[middle + 1 : end]
    if max(len(left), len(right)) > _MAX_SWAPPED or any(item.role in _FIXED_PLACES for item in (*left, *right)):
        return False
    if any(item.links & _OWNS for item in items[begin : end + 1]):
        return False
    ends = end == len(items) or bool(items[end].links) or items[end].opens
    if joint.word in _JOINTS:
        return ends or items[begin].opens
    return ends and (bool(right[0].links) or not _MUTUAL_VERBS.isdisjoint({joint.word, *joint.forms}))


def _links(a: Reading, b: Reading) -> str:
    """Small prepositions before the same word: equal, of one kin, or missing where that says nothing."""
    for item in a.items:
        others = [other for other in b.items if item.same(other)]
        if others and not any(_linked_alike(item, other) for other in others):
            return f"{' '.join(item.links) or '-'} {item.word} / {' '.join(others[0].links) or '-'} {others[0].word}"
    return ""


def _linked_alike(item: Item, other: Item) -> bool:
    lexicon = english()
    mine, its = item.links - _OWNS, other.links - _OWNS
    if mine == its:
        return True
    name = bool({"name", "literal"} & {item.role, other.role})
    if not mine or not its:
        return (mine | its) <= ({"of", "to"} | (lexicon.name_links if name else set()))
    if "number" in (item.role, other.role):
        return False
    return all(
        x == y or frozenset({x, y}) in lexicon.link_kin or (name and {x, y} <= lexicon.name_links)
        for x in mine
        for y in its
    )


GATES: tuple[Gate, ...] = (
    Gate("number", _quantities),
    Gate("literal", _in_order("literal")),
    Gate("negation", _in_any_order("negation")),
    Gate("antonym", _antonyms),
    Gate("name", _names),
    Gate("question", _questions),
    Gate("pronoun", _in_any_order("pronoun")),
    Gate("time", _in_any_order("time")),
    Gate("degree", _in_any_order("degree")),
    Gate("modality", _in_any_order("modal", "quantity")),
    Gate("tense", _tense),
    Gate("content", _content),
    Gate("link", _links),
    Gate("order", _order),
)
