"""A text read for comparison: what it asks for, and the words that carry its meaning, in order.

Nothing here compares two texts or knows of vectors; `gates.py` does the first and `verify.py` brings in the second.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from router.cache import rewrite
from router.cache.forms import bases, is_participle, is_past
from router.cache.lexicon import Lexicon, english
from router.cache.rewrite import STATEMENT, Sentence
from router.cache.tokens import POSSESSIVE, Kind, Token, tokenize

_BE = frozenset({"is", "are", "am", "was", "were", "be", "been", "being"})
_PAST_AUXILIARIES = frozenset({"did", "was", "were", "had"})
_PERFECT = frozenset({"have", "has"})
_TIMELESS = frozenset({STATEMENT, "howto", "where_to", "who_to", "ask_can", "ask_must"})
_NO_SUBJECTS = frozenset(
    {"it", "there", "like", "to", "by", "of", "in", "on", "at", "for", "about", "from", "after", "before", "with"}
)
_PLURAL_KINDS = frozenset({"best", "what", "list", "example", "howto", "where_to"})
_COORDINATORS = frozenset({"and", "or", "vs", "versus"})
_CLAUSES = frozenset({"if", "when", "that", "why", "how", "what", "who", "where"})
_QUESTION_WORDS = {word: word for word in ("who", "whom", "whose", "when", "where", "why", "how", "what")} | {
    "which": "what"
}


@dataclass(frozen=True, slots=True)
class Item:
    """One word that carries meaning. `forms`: the base forms it may have. `links`: small prepositions right before it.

    `role` says which gate names it: word, name, number, literal, negation, pronoun, time, degree, quantity, modal,
    question.
    """

    word: str
    forms: frozenset[str]
    role: str
    links: frozenset[str] = frozenset()
    opens: bool = False

    def same(self, other: Item) -> bool:
        """The same word in any inflection; names, numbers and literals only in the very same form."""
        if self.word == other.word and (self.role == other.role or {self.role, other.role} <= {"word", "name"}):
            return True
        inflects = {"name", "number", "literal"}.isdisjoint((self.role, other.role))
        return inflects and self.role == other.role and not self.forms.isdisjoint(other.forms)


@dataclass(frozen=True, slots=True)
class Reading:
    """`plain`: the text less case, spacing and punctuation. `kinds`: what each sentence asks for. `past`, `ongoing`,
    `passive`: time, aspect and voice of its verbs."""

    plain: str
    kinds: tuple[str, ...]
    items: tuple[Item, ...]
    past: bool
    ongoing: bool
    passive: bool
    words: int


def read(text: str) -> Reading:
    """Read one text; some 0.1 to 0.3 ms for a question. Keep the result with the entry rather than read twice."""
    lexicon = english()
    tokens = tokenize(text, lexicon)
    kinds: list[str] = []
    items: list[Item] = []
    past = ongoing = passive = False
    for raw in rewrite.split(tokens):
        sentence = rewrite.sentence(raw, lexicon)
        if sentence is None:
            continue
        kinds.append(sentence.kind)
        items.extend(_items(sentence, lexicon))
        past |= _about_past(sentence, lexicon)
        passive |= _is_passive(sentence, lexicon)
        ongoing |= sentence.kind not in _TIMELESS and _is_ongoing(sentence.said, lexicon)
    plain = rewrite.joined(tokens)
    return Reading(plain, tuple(kinds), tuple(items), past, ongoing, passive, len(plain.split()))


def _about_past(sentence: Sentence, lexicon: Lexicon) -> bool:
    """An auxiliary in the past, or a past form that no "be" before it makes a passive."""
    said = [token.word for token in sentence.said]
    for at, word in enumerate(said):
        if word in _PAST_AUXILIARIES and not sentence.said[at].quoted:
            return True
        if (word == "been" or is_past(word, lexicon)) and not _PERFECT.isdisjoint(said[max(0, at - 4) : at]):
            return True
    left = [token.word for token in sentence.tokens]
    return any(
        is_past(word, lexicon) and not sentence.tokens[at].name and _BE.isdisjoint(left[max(0, at - 6) : at])
        for at, word in enumerate(left)
    )


def _is_ongoing(tokens: Sequence[Token], lexicon: Lexicon) -> bool:
    """A form of "be", at most a short subject, and a verb in -ing: "is Ann moving", not "is it fun moving"."""
    words = [token.word for token in tokens]
    for be in (at for at, word in enumerate(words) if word in _BE):
        for at in range(be + 1, min(be + 5, len(words))):
            if words[at].endswith("ing") and len(words[at]) > 4 and words[at] not in lexicon.uninflected:
                return _NO_SUBJECTS.isdisjoint(words[be + 1 : at])
    return False


def _is_passive(sentence: Sentence, lexicon: Lexicon) -> bool:
    """A passive that nobody is named for, "which animals are eaten": with "by" it was made active."""
    words = [token.word for token in sentence.tokens]
    if "by" not in words and any(token.word == "by" for token in sentence.said):
        return False
    return any(
        word in _BE and any(is_participle(later, lexicon) for later in words[at + 1 : at + 6])
        for at, word in enumerate(words)
    )


def _items(sentence: Sentence, lexicon: Lexicon) -> Iterator[Item]:
    if sentence.asker and _is_somebody(sentence):
        yield Item(sentence.asker, frozenset({sentence.asker}), "pronoun")
    links: set[str] = set()
    opens = True
    for at, token in enumerate(sentence.tokens):
        if token.word == POSSESSIVE or (
            token.word in lexicon.soft_links and not _is_content(sentence.tokens, at, lexicon)
        ):
            links.add(token.word)
            continue
        item = _item(sentence, at, lexicon)
        if item is not None:
            yield replace(item, links=frozenset(links), opens=opens)
            links, opens = set(), False


def _is_content(tokens: Sequence[Token], at: int, lexicon: Lexicon) -> bool:
    """A small word that is talked about ("a and the", quoted), or that belongs to the verb before it ("look at")."""
    token = tokens[at]
    following = tokens[at + 1].word if at + 1 < len(tokens) else ""
    before = tokens[at - 1].word if at else ""
    if token.quoted or token.kind is not Kind.WORD or token.name:
        return True
    if following in _COORDINATORS or (not following and (before in _COORDINATORS or token.word in lexicon.soft_links)):
        return True
    return (
        token.word in lexicon.soft_links - {"to", "of"}
        and at > 0
        and not bases(before, lexicon).isdisjoint(lexicon.phrasal)
    )


def _item(sentence: Sentence, at: int, lexicon: Lexicon) -> Item | None:
    token = sentence.tokens[at]
    word = token.word
    if token.kind in (Kind.NUMBER, Kind.LITERAL):
        return Item(word, frozenset({word}), token.kind.value)
    if token.quoted:
        return Item(word, frozenset({word}), "name")
    if pronoun := None if token.name else lexicon.pronouns.get(word):
        return _pronoun(sentence, word, pronoun)
    if modal := None if token.name else lexicon.modals.get(word):
        return Item(modal, frozenset({modal}), "modal")
    for form in (word, *sorted(bases(word, lexicon))):
        if role := lexicon.roles.get(form):
            return Item(form, frozenset({form}), role)
    if word in _QUESTION_WORDS and not token.name:
        return Item(_QUESTION_WORDS[word], frozenset({word}), "question")
    if word in ("some", "any"):
        return None if sentence.kind in _PLURAL_KINDS else Item(word, frozenset({word}), "quantity")
    if _is_auxiliary(sentence.tokens, at, lexicon):
        return None
    if word in lexicon.fillers and not _is_content(sentence.tokens, at, lexicon):
        return None
    known = lexicon.synonyms.get(word, word)
    if token.name:
        return Item(known, frozenset({known}), "name")
    return Item(known, bases(word, lexicon), "word")


def _is_auxiliary(tokens: Sequence[Token], at: int, lexicon: Lexicon) -> bool:
    """ "have" before a participle, "do" before its subject or "not", "be" before a participle: no words of their
    own."""
    word = tokens[at].word
    following = [token.word for token in tokens[at + 1 : at + 5]]
    before = tokens[at - 1].word if at else ""
    if word in ("have", "has", "had"):
        return any(next_ in ("been", "got", "had") or is_participle(next_, lexicon) for next_ in following)
    if word in ("do", "does", "did"):
        subject = before in lexicon.pronouns or before in lexicon.modals or before == "to"
        return bool(following) and (following[0] == "not" or not subject)
    return word == "be" and bool(following) and is_participle(following[0], lexicon)


def _pronoun(sentence: Sentence, word: str, pronoun: str) -> Item | None:
    """In "how do I reset my password" the asker is anyone; in "what is my name" I am I."""
    generic = sentence.kind in english().self_kinds and pronoun in ("i", "you", "we")
    if generic and (pronoun == sentence.asker or not sentence.asker) and not _others(sentence, pronoun):
        if word.endswith(("self", "selves")):
            return Item("oneself", frozenset({"oneself"}), "pronoun")
        if word in ("my", "our") or (word == "your" and not sentence.asker):
            return None
    return Item(pronoun, frozenset({pronoun}), "pronoun")


def _is_somebody(sentence: Sentence) -> bool:
    """Whether the asker is one of two people in it and not anyone: "how can you tell if I lie"."""
    return not _CLAUSES.isdisjoint(token.word for token in sentence.tokens) and _others(sentence, sentence.asker)


def _others(sentence: Sentence, pronoun: str) -> bool:
    table = english().pronouns
    found: Iterable[str] = (table[token.word] for token in sentence.tokens if token.word in table)
    return any(other in ("i", "you", "we") and other != pronoun for other in found)
