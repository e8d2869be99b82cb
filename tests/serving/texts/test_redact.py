"""Redaction: what it is for goes, whatever stands around it; what it is not for stays."""

from __future__ import annotations

import ipaddress
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.errors import ConfigError
from serving.texts.redact import Redactor

WORDS = st.text(st.characters(codec="utf-8", categories=["Lu", "Ll", "Zs", "Po", "Sm"], exclude_characters="@+.%'-_:/"))
DIGITS = "0123456789"
GLUE = st.sampled_from([" ", "\n", ", ", " (", "; ", ' "', "<", " = "])


def clean(text: str) -> str:
    return Redactor().redact(text, Counter())


def luhn(payload: str) -> str:
    """The payload with its check digit."""
    total = sum(sum(divmod(int(d) * (2 if i % 2 == 0 else 1), 10)) for i, d in enumerate(reversed(payload)))
    return payload + str(-total % 10)


def iban(country: str, account: str) -> str:
    number = int("".join(str(int(c, 36)) for c in account + country + "00"))
    return f"{country}{98 - number % 97:02}{account}"


def in_groups(text: str, size: int, separator: str) -> str:
    return separator.join(text[i : i + size] for i in range(0, len(text), size))


EMAILS = st.from_regex(r"[a-z0-9][a-z0-9.+_%-]{0,20}@[a-z0-9][a-z0-9-]{0,10}(\.[a-z]{2,6}){1,3}", fullmatch=True)
CARDS = st.builds(
    lambda first, rest, size, sep: in_groups(luhn(first + rest), size, sep),
    st.sampled_from("23456"),
    st.text(DIGITS, min_size=11, max_size=17),
    st.sampled_from([4, 5, 19]),
    st.sampled_from([" ", "-"]),
)
IBANS = st.builds(
    lambda country, account, size, lower: (
        in_groups(iban(country, account), size, " ").lower() if lower else in_groups(iban(country, account), size, " ")
    ),
    st.sampled_from(["DE", "GB", "FR", "NO", "MT"]),
    st.text(DIGITS + "ABCXYZ", min_size=11, max_size=27),
    st.sampled_from([4, 40]),
    st.booleans(),
)
ADDRESSES = st.one_of(
    st.ip_addresses(v=4).map(str),
    st.ip_addresses(v=6).map(str),
    st.ip_addresses(v=6).map(lambda a: ipaddress.IPv6Address(a).exploded),
).filter(lambda text: any(c.isdigit() for c in text))
KEYS = st.builds(
    str.__add__,
    st.sampled_from(["sk-", "sk-proj-", "sk-ant-api03-", "fk-0123456789ab-", "ghp_", "hf_", "glpat-", "gsk_"]),
    st.text(DIGITS + "abcdefXYZ", min_size=24, max_size=60),
)
PHONES = st.one_of(
    st.builds(lambda c, n, s: f"+{c}{s}{in_groups(n, 3, s)}", st.sampled_from(["1", "49", "44", "353"]),
              st.text(DIGITS, min_size=8, max_size=11), st.sampled_from([" ", "-", "", "."])),
    st.builds(lambda a, n: f"0{a} {n}", st.sampled_from(["30", "171"]), st.text(DIGITS, min_size=6, max_size=8)),
    st.builds(lambda n: f"(415) 555-{n}", st.text(DIGITS, min_size=4, max_size=4)),
)  # fmt: skip


@pytest.mark.parametrize(
    ("things", "placeholder"),
    [(EMAILS, "EMAIL"), (CARDS, "CARD"), (IBANS, "IBAN"), (ADDRESSES, "IP"), (KEYS, "SECRET"), (PHONES, "PHONE")],
    ids=["email", "card", "iban", "ip", "secret", "phone"],
)
@given(data=st.data())
def test_nothing_of_it_is_left_whatever_stands_around_it(
    things: st.SearchStrategy[str], placeholder: str, data: st.DataObject
) -> None:
    thing = data.draw(things)
    before, after = (
        data.draw(WORDS) + data.draw(GLUE),
        data.draw(st.sampled_from([" ", "\n", ", ", ". ", ")", '"'])) + data.draw(WORDS),
    )
    found: Counter[str] = Counter()
    text = Redactor().redact(before + thing + after, found)
    assert thing not in text
    assert "[" in text and sum(found.values()) >= 1
    digits = [part for part in thing.replace("-", " ").split() if len(part) > 3]
    if placeholder in ("CARD", "IBAN"):
        assert not any(part in text for part in digits)


@given(st.lists(CARDS, min_size=1, max_size=4), st.lists(st.text(DIGITS, min_size=1, max_size=6), max_size=3))
def test_cards_between_other_numbers_go(cards: list[str], numbers: list[str]) -> None:
    text = clean(" ".join(["take", *numbers, *cards, *numbers, "please"]))
    # A number beside a card may make another valid card with some of it: what counts is that no card is left.
    assert not any(card in text for card in cards)


@given(WORDS)
def test_words_stay(text: str) -> None:
    assert clean(text) == text


@given(st.text(), st.one_of(EMAILS, CARDS, IBANS, ADDRESSES, KEYS, PHONES), st.text())
def test_twice_is_once_and_nothing_raises(before: str, thing: str, after: str) -> None:
    once = clean(f"{before} {thing} {after}")
    assert clean(once) == once


@pytest.mark.parametrize(
    "text",
    [
        "What is 12345678 * 3.14159265358979 on 2024-01-15 or 01-02-2024?",
        "5 + 1234567 = 1,234,572; then 1000 2000 3000 4000 5000",
        "std::vector<a::b> v; // 12:30:45, v1.2.3, 1.2.3.4.5",
        "Card 4111 1111 1111 1112 fails Luhn, order 1234567812345670 starts with 1.",
        "GB82 WEST 1234 5698 7654 33 has a wrong check sum.",
        "sk-short, ask-questions-later-please-now, user@host, @mention",
        "def f(x): return x[1:2] + 0.123456789e-10",
    ],
)
def test_what_only_looks_like_it_stays(text: str) -> None:
    assert clean(text) == text


def test_two_of_a_kind_side_by_side() -> None:
    assert clean("0171 2345678 0171 2345679") == "[PHONE]"
    assert clean("AB12 DE89 3704 0044 0532 0130 00 and so on") == "AB12 [IBAN] and so on"
    assert clean("4111 1111 1111 1111 5500-0000-0000-0004 7") == "[CARD] [CARD] 7"
    assert clean("postgres://me:geheim@10.0.0.1/db") == "postgres://[SECRET]@[IP]/db"


def test_own_patterns_come_first_and_are_counted() -> None:
    found: Counter[str] = Counter()
    text = Redactor({"TICKET": r"TCK-\d+"}).redact("TCK-4111111111111111 of a@b.org", found)
    assert text == "[TICKET] of [EMAIL]"
    assert found == {"TICKET": 1, "EMAIL": 1}


@pytest.mark.parametrize(
    ("patterns", "says"),
    [({"ticket": "x"}, "capitals"), ({"A": "("}, "not a regular"), ({"A": "x*"}, "where nothing is")],
)
def test_a_pattern_that_cannot_be_used_is_refused(patterns: dict[str, str], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        Redactor(patterns)


def test_a_pattern_that_takes_for_ever_is_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("serving.texts.redact.MATCH_S", 0.2)
    with pytest.raises(TimeoutError):
        Redactor({"SLOW": r"(?:a|a)+(?:a|a)+(?:a|a)+b"}).redact("a" * 5_000, Counter())


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("redis://:hunter2@cache:6379/0", "redis://[SECRET]@cache:6379/0"),
        ("see http://[::1]:80/a:b@c", "see http://[[IP]]:80/a:b@c"),
        ("DE89\u00a03704\u00a00044\u00a00532\u00a00130\u00a000.", "[IBAN]."),
        ("令牌eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0In0.abc-_1好", "令牌[SECRET]好"),
    ],
)
def test_as_it_is_written_elsewhere(text: str, left: str) -> None:
    assert clean(text) == left


def test_json_is_read_through_and_through() -> None:
    value = {"to a@b.org": ["x", 4111111111111111, 7, True, None, 0.5, {"n": "+49 30 1234567"}]}
    found: Counter[str] = Counter()
    assert Redactor().redact_json(value, found) == {
        "to [EMAIL]": ["x", "[CARD]", 7, True, None, 0.5, {"n": "[PHONE]"}]
    }  # fmt: skip
    assert found == {"EMAIL": 1, "CARD": 1, "PHONE": 1}


@pytest.mark.parametrize(
    "unit",
    ["a", "1 ", "1", ":", "-----BEGIN PRIVATE KEY-----", "a.", "a@", "+1 ", "://a:", "0171 ", "eyJ-", "AB12 ", "4111 "],
)
def test_long_texts_end(unit: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The quadratic would take minutes, and this test's time limit ends it; a busy machine's two seconds would not."""
    monkeypatch.setattr("serving.texts.redact.MATCH_S", 60.0)
    clean(unit * (64_000 // len(unit)))
