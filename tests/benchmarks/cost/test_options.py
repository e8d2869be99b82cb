from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.cost import options


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ("--rps 0", "--rps: 0 is not above 0"),
        ("--rps nan", "--rps: nan is not above 0"),
        ("--rps fast", "--rps: invalid number value: 'fast'"),
        ("--check-rps 1 -2", "--check-rps: -2 is not above 0"),
        ("--check-s inf", "--check-s: inf is not above 0"),
        ("--questions -1", "--questions: -1 is below 0"),
        ("--questions many", "--questions: invalid count value: 'many'"),
        ("--max-input-tokens 0", "--max-input-tokens: '0' is not at least 1"),
        ("--max-answer-tokens 0", "--max-answer-tokens: '0' is not at least 1"),
        ("--repeat-rate 1.5", "--repeat-rate: 1.5 is not a part from 0 to 1"),
        ("--paraphrase-rate -1", "--paraphrase-rate: -1 is not a part from 0 to 1"),
        ("--deferrable nan", "--deferrable: nan is not a part from 0 to 1"),
        ("--repeat-rate 0.6 --paraphrase-rate 0.4", "together they stay below 1"),
        ("--gpu-usd-per-hour -0.1", "--gpu-usd-per-hour: -0.1 is not at least 0"),
        ("--gpu-prefill-tokens-per-s 0", "--gpu-prefill-tokens-per-s: 0 is not above 0"),
        ("--gpu-decode-tokens-per-s 0", "--gpu-decode-tokens-per-s: 0 is not above 0"),
        ("--seed x", "--seed: invalid int value"),
        ("--peer other", "--peer: invalid choice"),
        ("--live --max-usd -1", "--max-usd: -1 is not at least 0"),
        ("--trace a --from-ledger b", "one workload at a time: --trace or --from-ledger"),
        ("--requests a", "--requests goes with --live"),
        ("--journal a", "--journal goes with --live"),
        ("--max-usd 1", "--max-usd goes with --live"),
        ("--live --trace a", "--trace does not go with --live"),
        ("--live --peer litellm", "--peer does not go with --live"),
        ("--live --config a", "--config does not go with --live"),
        ("--out README.md", "--out: README.md is no folder"),
        ("--build-zeroeval README.md/x", "--build-zeroeval: README.md/x is no folder"),
        ("--live --journal README.md/x", "--journal: README.md is no folder"),
        ("--zeroeval", "--zeroeval: expected one argument"),
        ("--frontiers x", "unrecognized arguments: --frontiers"),
    ],
)
def test_what_cannot_be_meant_is_refused_by_name(
    arguments: str, complaint: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(Path(__file__).parents[3])
    with pytest.raises(SystemExit) as ended:
        options.parse(arguments.split())
    assert ended.value.code == 2
    assert complaint in capsys.readouterr().err.replace("\n", " ")


def test_the_usual_run_needs_no_option() -> None:
    assert options.parse([]).live is None
    assert options.parse(["--live"]).live is True
    assert options.parse(["--live", "c.yaml", "--from-ledger", "x"]).live == "c.yaml"
