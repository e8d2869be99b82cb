"""Text cut into tokens: words in one spelling, numbers, literals that must match letter for letter, sentence ends.

Owns what a token is and which words are the same word written differently. Knows no grammar and compares nothing.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from enum import StrEnum

from router.cache.lexicon import Lexicon

POSSESSIVE = "'s"
_SAME_SIGNS = str.maketrans("‘’‚‛′“”„‟″–—−\u00a0", "'''''\"\"\"\"\"---\u0020")

_SCAN = re.compile(
    r"""
    (?P<code>```.*?```|`[^`\n]+`)
  | (?P<quote>"[^"\n]{1,200}"|(?<!\w)'[^'\n]{1,80}'(?!\w))
  | (?P<literal>
        (?:https?://|www\.)\S*[\w/]                       # address
      | [\w.+-]{1,64}@[\w-]+\.[\w.-]*\w                        # mail address
      | [A-Za-z]:\\[^\s,;?]+ | (?<![\w/])[.~]{0,2}/[\w.@-]+(?:/[\w.@-]*)*   # path
      | (?<![\w-])--?[A-Za-z][\w-]*                       # command line flag
      | [A-Za-z_]\w*(?:[.:/]{1,2}\w+)*\(\)                # call
      | \d+(?:[-/.:]\d+){2,} | \d+:\d+ | v\d+(?:\.\d+)*   # date, address, version, time
      | \w{1,64}(?:[._/:\\@-]{1,3}\w{1,64}){0,6}[_\\@]\w*(?:[.:/-]\w+)*     # snake_case and the like
      | [A-Za-z]\w*(?:\.[A-Za-z_]\w+)+                    # dotted name
      | [A-Z]{2,}-\d+                                     # ticket, error code
      | (?:[Cc]|[Ff])(?:\+\+|\#) | \.(?:net|NET|[a-z]{1,4})\b               # C++, F#, .env
      | [@\#]\w+
        )
  | (?P<number>(?:(?<![\w)-])-)?[$€£₹]?\d+(?:,\d{3})*(?:\.\d+)?)(?P<suffix>%|[A-Za-z]{1,7})?(?!\w)
  | (?P<mixed>\w*\d\w*)
  | (?P<initials>(?:[A-Za-z]\.){2,})
  | (?P<word>[^\W\d_]+(?:'[^\W\d_]+)*'?)
  | (?P<stop>[.?!;\n]+)
  | (?P<comma>[,:()\[\]{}"'…|-]+)
  | (?P<sign>[^\s\w])
    """,
    re.VERBOSE | re.DOTALL,
)
_FORMULA = re.compile(r"[+*/=<>^]|\w[(\[{]\w")
_BRACKETS = frozenset("()[]{}|-")
_SIGN_WORDS = {"&": "and", "%": "percent", "+": "plus"}
_PREFIXES = frozenset({"non", "anti", "multi", "semi"})
_CURRENCY = {"$": "dollar", "€": "euro", "£": "gbp", "₹": "rupee"}
_IZE = re.compile(r"(?<=\w{3})is(?=(?:e|ed|es|er|ers|ing|ation|ations)$)")
_YZE = re.compile(r"(?<=l)ys(?=(?:e|ed|es|er|ing)$)")
_OR = re.compile(r"(?<=\w{3})our(?=(?:s|ed|ing|ite|ites|ful|able|less|er|ers)?$)")
_OG = re.compile(r"(?<=\w{3})ogue(?=s?$)")

_TO_TWELVE = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve")
_TEENS = ("thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen")
_SMALL = {word: value for value, word in enumerate((*_TO_TWELVE, *_TEENS))}
_TENS = {
    word: 10 * value
    for value, word in enumerate(["twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"], 2)
}
_SCALES = {"hundred": 100, "thousand": 1000, "million": 10**6, "billion": 10**9, "dozen": 12}
_NUMBER_WORDS = frozenset(_SMALL) | frozenset(_TENS) | frozenset(_SCALES)


class Kind(StrEnum):
    WORD = "word"
    NUMBER = "number"
    LITERAL = "literal"
    STOP = "stop"
    COMMA = "comma"


@dataclass(frozen=True, slots=True)
class Token:
    """`text` as written, `word` as compared. `name`: its capitals say that it is one. `quoted`: talked about, not
    used."""

    text: str
    word: str
    kind: Kind = Kind.WORD
    name: bool = False
    quoted: bool = False


def tokenize(text: str, lexicon: Lexicon) -> list[Token]:
    """Tokens in order, spelling and contractions resolved, fixed phrases joined, numbers as digits."""
    plain = unicodedata.normalize("NFKC", text).translate(_SAME_SIGNS)
    names = _names_stand_out(plain)
    tokens: list[Token] = []
    for match in _SCAN.finditer(plain):
        starts = not tokens or tokens[-1].kind is Kind.STOP
        tokens.extend(_token(match, lexicon, names and not starts, names))
    if _FORMULA.search(plain):  # there a bracket or a dash is no punctuation
        marks = (t.kind is Kind.COMMA and not _BRACKETS.isdisjoint(t.text) for t in tokens)
        tokens = [replace(t, kind=Kind.LITERAL) if mark else t for t, mark in zip(tokens, marks, strict=True)]
    return _units(_numbers(_join(_prefixes(tokens), lexicon), lexicon), lexicon)


def _names_stand_out(text: str) -> bool:
    """False in text all in capitals, or with Most Words Capitalised, where capitals say nothing."""
    words = [word for word in re.findall(r"[^\W\d_]{2,}", text) if len(word) > 3 or word.isupper()]
    capital = sum(word[0].isupper() for word in words)
    return not (len(words) > 4 and capital > 0.8 * len(words)) and text != text.upper()


def _token(match: re.Match[str], lexicon: Lexicon, capital_counts: bool, names: bool) -> Iterator[Token]:
    group, text = match.lastgroup or "", match.group()
    if match["number"]:
        yield from _number(match["number"], match["suffix"] or "", lexicon)
    elif group == "word":
        yield from _word(text, lexicon, capital_counts, names)
    elif group == "quote":
        for inner in _SCAN.finditer(text[1:-1]):
            yield from (replace(t, quoted=True, name=t.kind is Kind.WORD) for t in _token(inner, lexicon, False, False))
    elif group in ("stop", "comma"):
        yield Token(text, text, Kind(group))
    elif group == "initials":
        yield Token(text, text.replace(".", "").lower(), name=True)
    elif group == "code":
        yield Token(text, " ".join(text.strip("`").split()), Kind.LITERAL)
    elif text in _SIGN_WORDS:
        yield Token(text, _SIGN_WORDS[text])
    else:  # a flag keeps its case: -v is not -V
        yield Token(text, text if text.startswith("-") else text.lower(), Kind.LITERAL)


def _number(digits: str, suffix: str, lexicon: Lexicon) -> Iterator[Token]:
    value, unit = Decimal(re.sub(r"[$€£₹,]", "", digits)), suffix.lower()
    if unit == "k":
        value, unit = value * 1000, ""
    known = unit in lexicon.units or unit in ("%", "am", "pm", "")
    if not known:
        written = (digits + suffix).lower()
        ordinal = lexicon.corrections.get(written)
        yield Token(digits + suffix, ordinal or written, Kind.WORD if ordinal else Kind.LITERAL)
        return
    yield Token(digits, _digits(value), Kind.NUMBER)
    if currency := _CURRENCY.get(digits.lstrip("-")[0]):
        yield Token(digits, currency)
    if unit:
        yield Token(suffix, "percent" if unit == "%" else unit)


def _digits(value: Decimal) -> str:
    whole = value == value.to_integral_value()
    return str(int(value)) if whole else str(value.normalize())


def _word(text: str, lexicon: Lexicon, capital_counts: bool, names: bool) -> Iterator[Token]:
    lower = text.lower()
    acronym = names and len(text) > 1 and text.isupper()
    camel = names and text[1:] != text[1:].lower()
    name = acronym or camel or (capital_counts and text[0].isupper() and lower.partition("'")[0] != "i")
    if lower in lexicon.contractions:
        parts: Sequence[str] = lexicon.contractions[lower] if not acronym else (lower,)
    else:
        parts = _apart(lower, lexicon)
    for part in parts:
        yield Token(text, part if name else spelling(part, lexicon), name=name and part == parts[0])


def _apart(lower: str, lexicon: Lexicon) -> Sequence[str]:
    stem, _, ending = lower.rpartition("'")
    if not stem:
        return (lower,)
    if ending == "t" and stem.endswith("n"):
        return (stem[:-1], "not")
    if ending in (full := {"re": "are", "ve": "have", "ll": "will", "d": "would", "m": "am"}):
        return (stem, full[ending])
    if ending == "s":
        return (stem, "is" if stem in lexicon.is_after else POSSESSIVE)
    return (stem, POSSESSIVE) if not ending else (lower.replace("'", ""),)


def spelling(word: str, lexicon: Lexicon) -> str:
    """American spelling, common misspellings corrected. Maps both sides alike, so it need not give real words."""
    word = lexicon.corrections.get(word, word)
    for pattern, ending in ((_IZE, "iz"), (_YZE, "yz"), (_OR, "or"), (_OG, "og")):
        word = pattern.sub(ending, word)
    return word


def _prefixes(tokens: list[Token]) -> list[Token]:
    """`non-linear` → `nonlinear`."""
    joined: list[Token] = []
    for token in tokens:
        *_, prefix, dash = (token, token, *joined)  # in a formula a dash is a literal and joins nothing
        if (dash.text, dash.kind) == ("-", Kind.COMMA) and _is_prefix(prefix) and token.kind is Kind.WORD:
            joined[-2:] = [replace(token, text=f"{prefix.text}-{token.text}", word=prefix.word + token.word)]
        else:
            joined.append(token)
    return joined


def _is_prefix(token: Token) -> bool:
    return token.word in _PREFIXES and token.kind is Kind.WORD and not token.quoted


def _join(tokens: list[Token], lexicon: Lexicon) -> list[Token]:
    """Fixed phrases become what they stand for; the longest at a place wins."""
    joined: list[Token] = []
    at = 0
    while at < len(tokens):
        for length in range(min(lexicon.longest_phrase, len(tokens) - at), 0, -1):
            run = tokens[at : at + length]
            found = lexicon.phrases.get(tuple(token.word for token in run))
            if found and all(token.kind is Kind.WORD and not token.quoted for token in run):
                text, name = " ".join(token.text for token in run), all(t.name for t in run if t.word != "the")
                joined.extend(Token(text, word, name=name) for word in found)
                at += length
                break
        else:
            joined.append(tokens[at])
            at += 1
    return joined


def _numbers(tokens: list[Token], lexicon: Lexicon) -> list[Token]:
    """Number words become digits. A lone "one" stays a word, more often a pronoun, unless a unit follows."""
    result: list[Token] = []
    at = 0
    while at < len(tokens):
        end = at
        while end < len(tokens) and tokens[end].word in _NUMBER_WORDS and not tokens[end].name:
            end += 1
        run = tokens[at:end]
        counts = end < len(tokens) and tokens[end].word in lexicon.units
        if run and (run[0].word != "one" or len(run) > 1 or counts) and run[0].word not in _SCALES:
            text = " ".join(token.text for token in run)
            result.extend(Token(text, str(value), Kind.NUMBER) for value in _values([t.word for t in run]))
            at = end
        elif tokens[at].word in _SCALES and result and result[-1].kind is Kind.NUMBER:
            last = result.pop()
            value = Decimal(last.word) * _SCALES[tokens[at].word]
            result.append(Token(f"{last.text} {tokens[at].text}", _digits(value), Kind.NUMBER))
            at += 1
        else:
            result.append(tokens[at])
            at += 1
    return result


def _values(words: list[str]) -> list[int]:
    """`two thousand five` is one number, `one two` are two."""
    values: list[int] = []
    total = current = 0
    previous = ""
    for word in words:
        if word in _SCALES:
            scale = _SCALES[word]
            current = max(current, 1) * scale
            if scale >= 1000:
                total, current = total + current, 0
        else:
            fits = not previous or previous in _SCALES or (previous in _TENS and word in _SMALL and _SMALL[word] < 10)
            if not fits:
                values.append(total + current)
                total = current = 0
            current += _SMALL.get(word, 0) + _TENS.get(word, 0)
        previous = word
    return [*values, total + current]


def _units(tokens: list[Token], lexicon: Lexicon) -> list[Token]:
    """Beside a number a word is read as a unit or a month where it can be one: `5 hrs`, `5h`, `24 Dec`."""
    read: list[Token] = []
    for at, token in enumerate(tokens):
        after = at > 0 and tokens[at - 1].kind is Kind.NUMBER
        beside = after or (at + 1 < len(tokens) and tokens[at + 1].kind is Kind.NUMBER)
        word = lexicon.units.get(token.word, token.word) if after else token.word
        word = lexicon.months.get(word, word) if beside else word
        read.append(replace(token, word=word) if token.kind is Kind.WORD else token)
    return read
