"""What holds of the gates whatever is asked."""

from hypothesis import given, settings
from hypothesis import strategies as st

from router.cache import gates
from router.cache.text import read

FRAMES = [
    "How do I {}?",
    "Can I {}?",
    "Why did Anna {}?",
    "{}",
    "Please {}.",
    "When should we {}?",
    "Is it wise to {}?",
]
VERBS = ["export", "rename", "delete", "paint", "measure", "compare", "encrypt"]
THINGS = ["invoice", "table", "garden", "backup", "letter", "window", "report"]
PLACES = ["in Berlin", "with Python", "for beginners", "before lunch", "from the archive", "without tools"]


@st.composite
def questions(draw: st.DrawFn) -> str:
    number = draw(st.integers(2, 999))
    deed = f"{draw(st.sampled_from(VERBS))} {number} {draw(st.sampled_from(THINGS))}s {draw(st.sampled_from(PLACES))}"
    return draw(st.sampled_from(FRAMES)).format(deed)


def passes(a: str, b: str) -> bool:
    return gates.judge(read(a), read(b)) is None


@settings(deadline=None)
@given(st.text(max_size=200))
def test_any_text_passes_with_itself(text: str) -> None:
    assert passes(text, text)


@settings(deadline=None)
@given(questions(), questions())
def test_the_verdict_does_not_depend_on_which_came_first(a: str, b: str) -> None:
    assert passes(a, b) == passes(b, a)


@settings(deadline=None)
@given(st.text(max_size=60), st.text(max_size=60))
def test_no_text_breaks_the_gates_and_the_verdict_is_symmetric(a: str, b: str) -> None:
    assert passes(a, b) == passes(b, a)


@settings(deadline=None)
@given(questions())
def test_case_and_end_do_not_matter(text: str) -> None:
    assert passes(text, text.rstrip("?.").lower())


@settings(deadline=None)
@given(questions(), st.data())
def test_not_anywhere_never_passes(text: str, data: st.DataObject) -> None:
    words = text.split()
    at = data.draw(st.integers(0, len(words) - 1))
    assert not passes(text, " ".join([*words[:at], "not", *words[at:]]))


@settings(deadline=None)
@given(questions(), st.integers(1, 99))
def test_another_number_never_passes(text: str, more: int) -> None:
    words = [str(int(word) + more) if word.isdigit() else word for word in text.split()]
    assert not passes(text, " ".join(words))


@settings(deadline=None)
@given(questions(), st.sampled_from(VERBS + THINGS), st.data())
def test_a_word_more_never_passes(text: str, word: str, data: st.DataObject) -> None:
    words = text.split()
    at = data.draw(st.integers(0, len(words)))
    assert not passes(text, " ".join([*words[:at], word, *words[at:]]))


@settings(deadline=None)
@given(questions(), st.data())
def test_a_content_word_less_never_passes(text: str, data: st.DataObject) -> None:
    words = text.split()
    at = data.draw(st.sampled_from([i for i, w in enumerate(words) if w in VERBS or w.rstrip("s") in THINGS]))
    assert not passes(text, " ".join(words[:at] + words[at + 1 :]))
