"""Brings a profile's weights to a local folder: converted from a package, downloaded, or already there.

A folder under the root is whole or absent: work happens in `NAME.partial`, a manifest with the size and SHA-256 of
every file is written last, and a rename publishes it. One process prepares at a time (a lock the kernel drops with its
holder); a second run compares names and sizes and is done. Knows no GPU and no engine.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from models.errors import StartError
from models.local import smollm2
from models.local.profiles import Profile

DEFAULT_ROOT = Path(".farthing/models")
MANIFEST = "farthing-manifest.json"
PACKAGE_PREFIX = "package:"
# what vLLM reads: not the same weights again in other formats
HUB_PATTERNS = ["*.safetensors", "*.json", "*.txt", "*.model", "*.jinja", "LICENSE*", "*.tiktoken"]

Report = Callable[[str], None]


def prepare(profile: Profile, root: Path, report: Report) -> Path:
    """The folder to give to vLLM. Blocks for as long as it takes; safe to call from several processes at once."""
    if Path(profile.weights).is_dir():
        return _local_folder(Path(profile.weights))
    folder = root / profile.name
    origin = _origin(profile)
    if is_prepared(folder, origin):
        return folder
    root.mkdir(parents=True, exist_ok=True)
    with _locked(root / f".{profile.name}.lock", report):
        if not is_prepared(folder, origin):
            _make(profile, folder, origin, report)
    return folder


def is_prepared(folder: Path, origin: dict[str, str]) -> bool:
    """Whether the folder was made from `origin` and every file of its manifest is there in full size."""
    manifest = _manifest(folder)
    return manifest.get("origin") == origin and all(
        (folder / name).is_file() and (folder / name).stat().st_size == entry["bytes"]
        for name, entry in manifest["files"].items()
    )


def verify(folder: Path) -> None:
    """Reads every byte. Raises StartError naming the files that are not what the manifest says."""
    files = _manifest(folder).get("files")
    if not files:
        raise StartError(f"{folder} holds no prepared model; run: python -m models prepare")
    wrong = [n for n, e in files.items() if not (folder / n).is_file() or _sha256(folder / n) != e["sha256"]]
    if wrong:
        raise StartError(f"{folder} is damaged ({', '.join(wrong)}); delete it and run: python -m models prepare")


def _origin(profile: Profile) -> dict[str, str]:
    """What the folder's content follows from; a change of any part makes it anew."""
    if profile.weights.startswith(PACKAGE_PREFIX):
        if profile.weights != PACKAGE_PREFIX + smollm2.PACKAGE:
            raise StartError(f"{profile.name}: no converter for '{profile.weights}', only for {smollm2.PACKAGE}")
        return {"source": smollm2.source_version(), "recipe": f"{smollm2.RECIPE}-{_sha256(smollm2.CHAT_TEMPLATE)}"}
    return {"source": profile.weights, "revision": profile.revision or "main"}


def _make(profile: Profile, folder: Path, origin: dict[str, str], report: Report) -> None:
    partial = folder.with_name(folder.name + ".partial")
    _check_space(profile, folder.parent, partial)
    if profile.weights.startswith(PACKAGE_PREFIX):
        report(f"converting {origin['source']} (about ten seconds, once)")
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir()
        smollm2.convert(partial)
    else:
        report(f"downloading {profile.weights} ({origin['revision']}) to {folder}; an interrupted download resumes")
        _download(profile, partial)
    report("checking the files")
    _write_manifest(partial, origin)
    shutil.rmtree(folder, ignore_errors=True)
    partial.rename(folder)
    _sync(folder.parent)
    report(f"ready in {folder}")


def _download(profile: Profile, partial: Path) -> None:
    """A token, for gated models, is found by huggingface_hub itself: HF_TOKEN or the file `hf auth login` writes.

    The commit is asked for first: without it a `local_dir` that stopped half-way counts as complete when the hub cannot
    be reached.
    """
    import httpx2  # huggingface_hub's client; half a second that a prepared folder need not pay
    from huggingface_hub import HfApi, errors, snapshot_download

    where = f"{profile.weights} ({profile.revision or 'main'})"
    try:
        info = HfApi().model_info(profile.weights, revision=profile.revision)
        snapshot_download(profile.weights, revision=info.sha, local_dir=partial, allow_patterns=HUB_PATTERNS)
    except errors.GatedRepoError as error:
        raise StartError(f"{where} wants its terms accepted on huggingface.co, then HF_TOKEN set to a token") from error
    except (errors.RepositoryNotFoundError, errors.RevisionNotFoundError, errors.HFValidationError) as error:
        raise StartError(f"there is no {where} on the hub, or it is private and HF_TOKEN is not set") from error
    except (httpx2.HTTPError, errors.XetDownloadError, OSError) as error:
        raise StartError(
            f"could not download {where}: {type(error).__name__}. Run the same command again when the network is back "
            "(it resumes), or put the files into a folder yourself and name that folder as the model"
        ) from error
    in_this_commit = {file.rfilename for file in info.siblings or []}
    for path in [p for p in partial.rglob("*") if p.is_file() and str(p.relative_to(partial)) not in in_this_commit]:
        path.unlink()  # of an older commit, or the downloader's bookkeeping
    if not any(partial.glob("*.safetensors")):
        raise StartError(f"{where} holds no safetensors files; vLLM needs them, choose another repository")


def _check_space(profile: Profile, root: Path, partial: Path) -> None:
    if profile.architecture is None:
        return
    have = sum(f.stat().st_size for f in partial.rglob("*") if f.is_file())
    missing = profile.architecture.weight_bytes - have - shutil.disk_usage(root).free
    if missing > 0:
        raise StartError(f"{root} lacks {missing / 1e9:.1f} GB for {profile.name}; free some space or pass --dir")


def _local_folder(folder: Path) -> Path:
    if not (folder / "config.json").is_file() or not any(folder.glob("*.safetensors")):
        raise StartError(f"{folder} is not a model: it needs a config.json and *.safetensors files")
    return folder.resolve()


def _write_manifest(folder: Path, origin: dict[str, str]) -> None:
    files = {}
    for path in sorted(p for p in folder.rglob("*") if p.is_file() and p.name != MANIFEST):
        path.chmod(0o644)  # safetensors writes 0600, which another user's engine could not read
        _sync(path)
        files[str(path.relative_to(folder))] = {"bytes": path.stat().st_size, "sha256": _sha256(path)}
    manifest = folder / MANIFEST
    manifest.write_text(json.dumps({"origin": origin, "files": files}, indent=2) + "\n", encoding="utf-8")
    _sync(manifest)
    _sync(folder)


def _manifest(folder: Path) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def _locked(path: Path, report: Report) -> Iterator[None]:
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            report("another process is preparing this model; waiting for it")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield
