"""Where an instance keeps its secrets: files nobody else can read, and no environment."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from models.errors import ConfigError
from serving.config import Config, parse
from serving.runtime import (
    Runtime,
    forget_secrets,
    fresh_run_folder,
    read_secret,
    store_keys,
    without_secrets,
    write_secret,
)

CONFIG = """
tiers:
  - name: small
    backends: [{kind: engine, profile: embedded}]
  - name: cheap
    optional: true
    backends:
      - {kind: http, url: "https://a.example/v1", model: m, key_env: SOME_ODD_NAME}
      - {kind: http, url: "http://127.0.0.1:1/v1", model: keyless}
  - name: frontier
    backends: [{kind: http, url: "https://b.example/v1", model: m, key_file: KEYFILE}]
"""


@pytest.fixture
def runtime(tmp_path: Path) -> Iterator[Runtime]:
    found = Runtime(tmp_path / "state", "http://127.0.0.1:1", metrics_in_service=True)
    found.run.mkdir(parents=True)
    before = os.umask(0)  # the most open one: modes must not depend on it
    fresh_run_folder(found)
    yield found
    os.umask(before)


@pytest.fixture
def config(tmp_path: Path) -> Config:
    key = tmp_path / "key"
    write_secret(key, "sk-from-a-file\n")
    return parse(CONFIG.replace("KEYFILE", str(key)))


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o777


def test_every_secret_is_a_0600_file_in_a_0700_folder(runtime: Runtime, config: Config) -> None:
    assert store_keys(config, runtime, {"SOME_ODD_NAME": "sk-env"}) == {"cheap/0": True, "frontier/0": True}
    files = [runtime.engine_token_file, runtime.secret_file("cheap/0"), runtime.secret_file("frontier/0")]
    assert [mode(file) for file in files] == [0o600] * 3
    assert mode(runtime.run / "secrets") == 0o700
    assert [read_secret(file) for file in files[1:]] == ["sk-env", "sk-from-a-file"]
    assert len(read_secret(files[0])) >= 32
    forget_secrets(runtime)
    assert not any(file.exists() for file in files)


def test_a_file_that_was_open_to_others_is_closed_when_a_secret_goes_in(tmp_path: Path) -> None:
    path = tmp_path / "secret"
    path.write_text("old")
    path.chmod(0o644)
    write_secret(path, "new")
    assert (mode(path), path.read_text()) == (0o600, "new")


def test_each_start_has_a_token_of_its_own_and_nothing_of_the_last_one(runtime: Runtime) -> None:
    token = read_secret(runtime.engine_token_file)
    (runtime.run / "draining").touch()
    runtime.presence("small").mkdir(parents=True)
    (runtime.run / "lock").touch()
    fresh_run_folder(runtime)
    assert read_secret(runtime.engine_token_file) != token
    assert sorted(p.name for p in runtime.run.iterdir()) == [
        "engine.token",
        "lock",
        "metrics",
        "operator.token",
        "secrets",
    ]


def test_a_missing_key_is_an_absence_for_an_optional_tier_and_an_error_for_another(
    runtime: Runtime, config: Config, tmp_path: Path
) -> None:
    assert store_keys(config, runtime, {"SOME_ODD_NAME": ""})["cheap/0"] is False
    (tmp_path / "key").unlink()
    with pytest.raises(ConfigError, match="tier 'frontier': no key in"):
        store_keys(config, runtime, {})


@pytest.mark.parametrize("bits", [0o640, 0o604, 0o666])
def test_a_key_file_that_others_can_read_is_refused_with_the_command(
    runtime: Runtime, config: Config, tmp_path: Path, bits: int
) -> None:
    (tmp_path / "key").chmod(bits)
    with pytest.raises(ConfigError, match="chmod 600"):
        store_keys(config, runtime, {})


def test_the_environment_that_reaches_ray_holds_no_secret(config: Config) -> None:
    secrets = {
        "SOME_ODD_NAME": "1",
        "OPENAI_API_KEY": "2",
        "HF_TOKEN": "3",
        "AWS_SECRET_ACCESS_KEY": "4",
        "my_password": "5",
        "DB_SECRET": "6",
    }
    kept = {"PATH": "/bin", "HOME": "/root", "CUDA_VISIBLE_DEVICES": "0", "TOKENIZERS_PARALLELISM": "false"}
    assert without_secrets(secrets | kept, config) == kept
