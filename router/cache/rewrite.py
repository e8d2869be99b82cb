"""One sentence brought to one shape: courtesies off, the kind of question named, voice and genitives straightened.

Each rewriting keeps the meaning whatever the words are, so that two sentences which come out alike ask for the same.
Works on tokens; knows nothing of the other sentence.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from router.cache.forms import bases, is_participle
from router.cache.lexicon import Lexicon
from router.cache.tokens import POSSESSIVE, Kind, Token

STATEMENT = "statement"
YES_NO = "yesno"
DIFFER = "differ"
HOW_TO = "howto"
_BE = frozenset({"is", "are", "am", "was", "were", "be", "been", "being"})
_AUXILIARIES = _BE | frozenset(
    {"do", "does", "did", "have", "has", "had", "can", "could", "will", "would", "should", "shall", "may", "might"}
    | {"must"}
)
_ARTICLES = frozenset({"a", "an", "the"})
_FRONTED = frozenset(
    {"in", "on", "at", "for", "with", "from", "under", "during", "using", "after", "before", "if", "inside", "within"}
)
_NOUN_ENDS = _AUXILIARIES | frozenset(
    {"in", "on", "at", "for", "with", "from", "to", "by", "of", "before", "after", "and", "or", "but", "if", "when"}
    | {"while", "because", "that", "who", "which", "not"}
)
_ASKS = frozenset({"what", "which", "how", "who", "where", "why"})
_MAX_FRONTED = 8
_MAX_COURTESIES = 6
_MORE = {"more": "less", "less": "more"}


@dataclass(frozen=True, slots=True)
class Sentence:
    """What it asks for, who asks (`i`, `you`, ... or empty), the words that are left, and those it was said in."""

    kind: str
    asker: str
    tokens: tuple[Token, ...]
    said: tuple[Token, ...]


def sentence(tokens: Sequence[Token], lexicon: Lexicon) -> Sentence | None:
    """The sentence in its one shape; None where nothing but courtesy was said."""
    stripped = _stripped(_front_last(list(tokens)), lexicon)
    words = [token for token in stripped if token.kind is not Kind.COMMA]
    if not words:
        return None
    embedded = len(stripped) < len(tokens) and words[0].word == "if"
    if embedded:
        words = words[1:]
    kind, asker, body = _question(words, lexicon)
    if kind == STATEMENT and (embedded or (words and words[0].word in _AUXILIARIES)):
        kind = YES_NO
    body = _privatives(_relative(_genitive(_active(_negation_first(body, lexicon), lexicon), lexicon)), lexicon)
    return Sentence(kind, asker, tuple(_subject_first(body)), tuple(words))


def _front_last(tokens: list[Token]) -> list[Token]:
    """`In India, what is X` → `what is X in India`, with or without the comma where a question word follows."""
    if tokens[0].word not in _FRONTED:
        return tokens
    ends = [at for at, t in enumerate(tokens) if (t.kind is Kind.COMMA and "," in t.text) or t.word in _ASKS]
    if not ends or not 1 < ends[0] <= _MAX_FRONTED or len(tokens) - ends[0] < 3:
        return tokens
    return tokens[ends[0] + (tokens[ends[0]].kind is Kind.COMMA) :] + tokens[: ends[0]]


def _spans(tokens: Sequence[Token]) -> tuple[str, list[int]]:
    """The words joined by blanks, and where each begins. A literal or a name in quotes must not read as grammar."""
    starts, parts, at = [], [], 0
    for token in tokens:
        word = token.word if token.kind is Kind.WORD and not token.quoted else "«»"
        word = "," if token.kind is Kind.COMMA else word
        starts.append(at)
        parts.append(word)
        at += len(word) + 1
    return " ".join(parts), starts


def _stripped(tokens: list[Token], lexicon: Lexicon) -> list[Token]:
    for _ in range(_MAX_COURTESIES):
        text, starts = _spans(tokens)
        opening = max((m.end() for p in lexicon.courtesies if (m := p.match(text))), default=0)
        closing = min((m.start() for p in lexicon.closings if (m := p.search(text))), default=len(text))
        kept = [t for t, start in zip(tokens, starts, strict=True) if opening <= start < closing]
        while kept and len(kept) < len(tokens) and kept[0].kind is Kind.COMMA:
            kept = kept[1:]
        if len(kept) == len(tokens):
            return tokens
        tokens = kept
    return tokens


def _question(tokens: list[Token], lexicon: Lexicon) -> tuple[str, str, list[Token]]:
    text, starts = _spans(tokens)
    for question in lexicon.questions:
        match = question.pattern.match(text)
        if match is None:
            continue
        groups = match.groupdict()
        begin, end = match.span("body") if groups.get("body") else (match.end(), len(text))
        asker = next((lexicon.pronouns[w] for w in (groups.get("who") or "").split() if w in lexicon.pronouns), "")
        body = [t for t, start in zip(tokens, starts, strict=True) if begin <= start < end]
        return question.kind, asker, _asked_for(question.kind, body)
    return STATEMENT, "", tokens


def _asked_for(kind: str, body: list[Token]) -> list[Token]:
    """`how do I become rich` → `how do I be rich`: who asks how to be something is not that yet."""
    if kind == HOW_TO and body and body[0].word == "become":
        return [replace(body[0], word="be"), *body[1:]]
    return _two_sides(body) if kind == DIFFER else body


def _two_sides(tokens: list[Token]) -> list[Token]:
    """`X different from Y` → `X and Y`, as in "the difference between X and Y"."""
    for at in range(1, len(tokens) - 2):
        if tokens[at].word in ("different", "differ") and tokens[at + 1].word == "from":
            return [*tokens[:at], replace(tokens[at + 1], word="and"), *tokens[at + 2 :]]
    return tokens


def _negation_first(tokens: list[Token], lexicon: Lexicon) -> list[Token]:
    """`do cats not like it` → `do not cats like it`, as in "don't cats like it". Only past a plain subject: in "is it
    safe not to go" and "people who do not smoke" the negation belongs elsewhere."""
    words = [token.word for token in tokens]
    if "not" not in words or words[0] not in _AUXILIARIES:
        return tokens
    at = words.index("not")
    between = words[1:at]
    following = words[at + 1] if at + 1 < len(words) else "to"
    belongs = following == "to" or following.endswith("ing") != (words[0] in _BE)
    plain = 0 < len(between) <= 4 and not any(w in _NOUN_ENDS or w == "it" or w in lexicon.roles for w in between)
    return tokens if belongs or not plain else [tokens[0], tokens[at], *tokens[1:at], *tokens[at + 1 :]]


def _active(tokens: list[Token], lexicon: Lexicon) -> list[Token]:
    """`was the factory missed by Ann` → `was Ann missed the factory`: agent, deed, object."""
    by = next((at for at, token in enumerate(tokens) if token.word == "by" and at >= 1), 0)
    deed = by - 1
    if by < 1 or not is_participle(tokens[deed].word, lexicon):
        return tokens
    if by == len(tokens) - 1:  # "who was it written by": the agent is what is asked for
        return [tokens[deed], *(token for token in tokens[:deed] if token.word not in _BE)]
    be = next((at for at in range(deed - 1, -1, -1) if tokens[at].word in _BE), None)
    if be is None:
        return tokens
    end = by + 1
    while end < len(tokens) and (tokens[end].word not in _NOUN_ENDS or end == by + 1):
        end += 1
    agent, rest = tokens[by + 1 : end], tokens[end:]
    asks = all(token.word in _AUXILIARIES for token in tokens[: be + 1])
    auxiliaries = tokens[: be + 1] if asks else tokens[be : be + 1]
    patient = tokens[be + 1 : deed] if asks else tokens[:be]
    between = [] if asks else tokens[be + 1 : deed]
    if not patient:
        return tokens
    return [*auxiliaries, *agent, *between, tokens[deed], *patient, *rest]


def _genitive(tokens: list[Token], lexicon: Lexicon) -> list[Token]:
    """`the capital of France` and `France's capital` → `France capital`; `books on physics` → `physics books`."""
    words = list(tokens)
    owned = max((at for at, token in enumerate(words) if token.word == POSSESSIVE), default=0)
    longest = (
        1 if words and words[0].word in _AUXILIARIES else 3
    )  # a verb may follow the noun: "did the price of oil fall"
    for at in range(len(words) - 2, 0, -1):
        of = words[at].word == "of" and words[at - 1].word in lexicon.attributes
        on = words[at].word in ("on", "about") and not bases(words[at - 1].word, lexicon).isdisjoint(lexicon.works)
        if not (of or on):
            continue
        owner = at + 1
        if at < owned:  # "the name of Ann's dog": whose is what would be lost
            continue
        while owner < len(words) - 1 and words[owner].word in _ARTICLES:
            owner += 1
        end = owner + 1
        while (
            end < len(words)
            and words[end].word not in _NOUN_ENDS
            and (end - owner < longest or (words[end].name and words[owner].name))
        ):
            end += 1
        words[at - 1 : end] = [*words[owner:end], words[at - 1]]
    return words


def _relative(tokens: list[Token]) -> list[Token]:
    """`a person who is not kind` → `a not kind person`."""
    for at in range(1, len(tokens) - 2):
        if tokens[at].word in ("who", "that", "which") and tokens[at + 1].word in _BE:
            rest = tokens[at + 2 :]
            if len(rest) == 1 or (len(rest) == 2 and rest[0].word == "not"):
                return [*tokens[: at - 1], *rest, tokens[at - 1]]
    return tokens


def _privatives(tokens: list[Token], lexicon: Lexicon) -> list[Token]:
    """`impatient` → `not patient`; then `more not` → `less`, `less not` → `more`, `not not` → nothing."""
    words: list[Token] = []
    for token in tokens:
        plain = lexicon.privatives.get(token.word) if not token.name and token.kind is Kind.WORD else None
        for part in (replace(token, word="not"), replace(token, word=plain)) if plain else (token,):
            before = words[-1].word if words else ""
            if part.word == "not" and before in _MORE:
                words[-1] = replace(words[-1], word=_MORE[before])
            elif part.word == "not" and before == "not":
                words.pop()
            else:
                words.append(part)
    return words


def _subject_first(tokens: list[Token]) -> list[Token]:
    """`can I find it` after a question word → `I can find it`, as in "tell me where I can find it"."""
    if len(tokens) > 1 and tokens[0].word in _AUXILIARIES and tokens[1].word in ("i", "you", "we", "he", "she", "they"):
        return [tokens[1], tokens[0], *tokens[2:]]
    return tokens


def split(tokens: Sequence[Token]) -> list[list[Token]]:
    """Sentences, without their ends; a colon or comma does not end one."""
    sentences: list[list[Token]] = [[]]
    for token in tokens:
        if token.kind is Kind.STOP:
            sentences.append([])
        else:
            sentences[-1].append(token)
    return [each for each in sentences if each]


def joined(tokens: Sequence[Token]) -> str:
    """The text with nothing but case, spacing, punctuation and spelling taken out: equal means word for word equal."""
    return re.sub(r"\s+", " ", " ".join(t.word for t in tokens if t.kind not in (Kind.STOP, Kind.COMMA)))
