"""What must not reach the disk is taken out of a text and a placeholder left: `[EMAIL]`, `[PHONE]`, `[CARD]` and so on.

Shapes with a check where the thing has one (Luhn, ISO 7064 for IBANs, `ipaddress`). Names, addresses and what is spelt
out in words are not recognised: that takes a language model, and misses, too. Matching runs without the interpreter's
lock and under a time limit, so that neither a long text nor somebody's pattern can hold up a request. Pure.
"""

from __future__ import annotations

import ipaddress
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import regex

from models.errors import ConfigError

MATCH_S: Final = 2.0  # for one pattern on one text
PLACEHOLDER_NAME: Final = regex.compile(r"[A-Z][A-Z0-9_]{0,31}")
MIN_CARD_DIGITS, MAX_CARD_DIGITS = 13, 19
CARD_FIRST_DIGITS: Final = frozenset({2, 3, 4, 5, 6})
MIN_IBAN_CHARS, MAX_IBAN_CHARS = 15, 34
MIN_PHONE_DIGITS = 7

Measure = Callable[[str], int]
"""How many characters from the start of what a pattern found are the thing; 0 if it is none after all."""


@dataclass(frozen=True, slots=True)
class Rule:
    name: str
    pattern: Any  # a compiled `regex` pattern; the library has no types
    measure: Measure = len


class Redactor:
    """Built-in rules and a deployment's own: placeholder to regular expression, which come first."""

    def __init__(self, own: Mapping[str, str] | None = None) -> None:
        """Raises ConfigError for a pattern that cannot be used."""
        self._rules = (*(_own(name, pattern) for name, pattern in (own or {}).items()), *_built_in())

    def redact(self, text: str, found: Counter[str]) -> str:
        """The text with placeholders; `found` is told how many of which. Raises TimeoutError."""
        text = text.replace("\0", "\ufffd")  # PostgreSQL takes no NUL
        for rule in self._rules:
            text = _apply(rule, text, found)
        return text

    def redact_json(self, value: Any, found: Counter[str]) -> Any:
        """The same for every string of a JSON value, names of fields included."""
        if isinstance(value, str):
            return self.redact(value, found)
        if isinstance(value, list):
            return [self.redact_json(item, found) for item in value]
        if isinstance(value, dict):
            return {self.redact(name, found): self.redact_json(item, found) for name, item in value.items()}
        if isinstance(value, int | float) and not isinstance(value, bool):
            written = self.redact(str(value), found)  # a card number may well be a number
            return value if written == str(value) else written
        return value


def _apply(rule: Rule, text: str, found: Counter[str]) -> str:
    """Where a pattern's find is none after all, or only begins with one, the search goes on inside it."""
    pieces: list[str] = []
    until_s, kept, at = time.monotonic() + MATCH_S, 0, 0
    while match := rule.pattern.search(text, at, concurrent=True, timeout=_left(until_s)):
        length = rule.measure(match.group())
        at = match.start() + (length or 1)
        if length:
            pieces += [text[kept : match.start()], f"[{rule.name}]"]
            kept = at
            found[rule.name] += 1
    return "".join([*pieces, text[kept:]])


def _left(until_s: float) -> float:
    left_s = until_s - time.monotonic()
    if left_s <= 0:
        raise TimeoutError
    return left_s


def _own(name: str, pattern: str) -> Rule:
    if not PLACEHOLDER_NAME.fullmatch(name):
        raise ConfigError(f"texts.patterns: '{name}' is no placeholder; write it in capitals, like TICKET")
    try:
        compiled = regex.compile(pattern)
    except regex.error as exc:
        raise ConfigError(f"texts.patterns.{name}: not a regular expression: {exc}") from exc
    if compiled.search(""):
        raise ConfigError(f"texts.patterns.{name}: it matches where nothing is")
    return Rule(name, compiled)


def _built_in() -> list[Rule]:
    """Keys before addresses, so that a password in a URL is no e-mail address; cards before phones."""
    return [
        Rule("SECRET", regex.compile(_SECRET)),
        Rule("EMAIL", regex.compile(_EMAIL)),
        Rule("IBAN", regex.compile(_IBAN), _iban),
        Rule("IP", regex.compile(_IPV4), _ip),
        Rule("IP", regex.compile(_IPV6), _ip),
        Rule("CARD", regex.compile(_DIGIT_GROUPS), _card),
        Rule("PHONE", regex.compile(_PHONE), _phone),
    ]


# Possessive quantifiers (`++`) and bounds throughout: no text makes these take longer than its length.
_SECRET = r"""(?x)
    -----BEGIN\ [A-Z\ ]*+(?<=PRIVATE\ KEY)-----(?s:.*?)(?:-----END\ [A-Z\ ]*+-----|\Z)
  | (?<![A-Za-z0-9])(?:
        (?:sk|pk|rk|fk|fo)[-_][A-Za-z0-9_-]{16,}+       # OpenAI, Anthropic, Stripe; ours
      | gh[oprsu]_[A-Za-z0-9]{20,}+ | github_pat_\w{20,}+ | glpat-[\w-]{16,}+
      | xox[a-z]-[A-Za-z0-9-]{10,}+                     # Slack
      | (?:AKIA|ASIA)[A-Z0-9]{16}(?![A-Za-z0-9])        # AWS
      | AIza[\w-]{30,}+ | ya29\.[\w-]{16,}+             # Google
      | hf_[A-Za-z0-9]{16,}+ | gsk_[A-Za-z0-9]{16,}+ | npm_[A-Za-z0-9]{20,}+ | pypi-[\w-]{16,}+
    )
  | (?<![A-Za-z0-9_-])eyJ[A-Za-z0-9_-]{8,}+\.eyJ[A-Za-z0-9_-]{8,}+\.[A-Za-z0-9_-]*+  # a JSON web token
  | (?i:(?<=\bbearer\ ))[\w.~+/-]{16,}+=*+
  | (?<=://)[^\s/@:]*+:[^\s/@]++(?=@)                   # user:password of a URL, or :password alone (Redis)
"""
_EMAIL = r"(?<![\w.+%'-])[\w.+%'-]++@[\w-]++(?:\.[\w-]++)++"
_IBAN = r"(?<![A-Za-z0-9])[A-Za-z]{2}[0-9]{2}(?:[ \u00a0\u202f-]?[A-Za-z0-9]){11,30}(?![A-Za-z0-9])"
_IPV4 = r"(?<![\w.])[0-9]{1,3}(?:\.[0-9]{1,3}){3}(?!\.?\w)"
_IPV6 = r"(?<![\w:.])(?:[0-9A-Fa-f]{0,4}:){2,7}(?:[0-9]{1,3}(?:\.[0-9]{1,3}){3}|[0-9A-Fa-f]{0,4})(?![\w:])"
_DIGIT_GROUPS = r"(?<!\d)\d(?=(?:[ .\u00a0\u202f-]?\d){12})\d*+(?:[ .\u00a0\u202f-]\d++){0,18}+"
_PHONE = r"""(?x)(?=[+(0-9])(?:
    (?<![\w+])(?:\+|00)[1-9][0-9]*+(?:[\ \u00a0./()-]{1,3}[0-9]++)*+                    # +49 (0)30 1234-567
  | (?<![\w.-])(?:1[\ .-])?(?:\([2-9][0-9]{2}\)\ ?|[2-9][0-9]{2}[\ .-])[0-9]{3}[\ .-][0-9]{4}(?![\w-])  # US
  | (?<![\w.,-])0[1-9](?:[\ .-][0-9]{2}){4}(?![\w-])                                 # 01 23 45 67 89
  | (?<![\w.,-])\(?0[1-9][0-9]{1,4}+\)?[\ /-]{1,3}[0-9]++(?:[\ /-][0-9]++)*+          # 030 1234567, (0171) 234 56 78
  | (?<![\w.,-])0[1-9][0-9]{8,10}(?![\w.,]?\d|\w)                                    # 01712345678
)"""


def _ip(text: str) -> int:
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return 0
    # `::` and `a::b` are code far more often
    return len(text) if address.version == 4 or any(c.isdigit() for c in text) else 0


def _phone(text: str) -> int:
    """All of the run: where one number ends and the next begins cannot be told, and no part of either may stay."""
    return len(text) if sum(c.isdigit() for c in text) >= MIN_PHONE_DIGITS else 0


def _iban(text: str) -> int:
    """The longest beginning that passes ISO 7064 (mod 97): the words that follow are of the same characters."""
    head = int("".join(str(int(c, 36)) for c in text[:4]))  # two letters and two digits, which count as the last six
    count, rest, found = 4, 0, 0
    for at, c in enumerate(text[4:], 5):
        if not c.isalnum():
            continue
        value, count = int(c, 36), count + 1
        rest = (rest * (100 if value > 9 else 10) + value) % 97
        if MIN_IBAN_CHARS <= count <= MAX_IBAN_CHARS and (rest * 1_000_000 + head) % 97 == 1:
            found = at
    return found


def _card(text: str) -> int:
    """The longest beginning, in whole groups of digits, that is a card number; other numbers may follow.

    A first digit that payment cards have, and Luhn's check (ISO/IEC 7812-1) at the end of each group.
    """
    if int(text[0]) not in CARD_FIRST_DIGITS:
        return 0
    count, found = 0, 0
    sums = [0, 0]  # for an even and an odd number of digits: which ones are doubled is told from the end
    for at, c in enumerate(text, 1):
        if not c.isdecimal():
            continue
        digit = int(c)
        sums[count % 2] += digit * 2 - 9 * (digit > 4)
        sums[1 - count % 2] += digit
        count += 1
        if count > MAX_CARD_DIGITS:
            break
        if count >= MIN_CARD_DIGITS and not text[at : at + 1].isdecimal() and sums[count % 2] % 10 == 0:
            found = at
    return found
