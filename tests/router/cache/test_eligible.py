"""What may be answered by meaning at all."""

from dataclasses import replace

import pytest

from router.cache.eligible import OptIns, why_not
from router.decision import Facts

FACTS = Facts("id", "acme", "How do I reset a password?", 26, 7)


@pytest.mark.parametrize(
    "text",
    [
        "How do I reset my password?",
        "How do I track a parcel in the app?",
        "What is the capital of France?",
        "Write a polite email declining an invitation",
        "How do I convert JSON to CSV in Python?",
        "¿Is it spelled café or cafe?",
    ],
)
def test_a_question_that_stands_alone_may(text: str) -> None:
    assert why_not(replace(FACTS, text=text)) == ""


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("What is on TV today?", "time"),
        ("What is the latest version of Python?", "time"),
        ("Who won the match last night?", "time"),
        ("Where is my order?", "personal"),
        ("Is my parcel on its way?", "personal"),
        ("Show me my invoices", "personal"),
        ("And in Spanish?", "backward"),
        ("Translate it into German", "backward"),
        ("What about Mondays?", "backward"),
        ("Why?", "short"),
        ("Tell me a random fact", "chance"),
        ("Explain\n```\n" + "x = 1\n" * 50 + "```", "code_block"),
        ("Summarize the following. " + "word " * 500, "long"),
        ("Wie setze ich mein altes Passwort zurück", "language"),
        ("パスワードを リセット する 方法", "language"),
    ],
)
def test_what_depends_on_more_than_its_words_may_not(text: str, reason: str) -> None:
    assert why_not(replace(FACTS, text=text)) == reason


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"images": True}, "images"),
        ({"tools": True}, "tools"),
        ({"tool_results": True}, "tools"),
        ({"turns": 3}, "turns"),
    ],
)
def test_more_than_text_may_not(changed: dict[str, object], reason: str) -> None:
    assert why_not(replace(FACTS, **changed)) == reason  # type: ignore[arg-type]


def test_an_operator_may_allow_it() -> None:
    assert why_not(replace(FACTS, text="What is new today in Python?"), OptIns(time_dependent=True)) == ""
    assert why_not(replace(FACTS, turns=3), OptIns(turns=True)) == ""


def test_a_pronoun_that_points_to_earlier_turns_is_never_allowed() -> None:
    assert why_not(replace(FACTS, turns=3, text="How long does it take?"), OptIns(turns=True)) == "turns"
