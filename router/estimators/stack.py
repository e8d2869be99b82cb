"""Members and their weights: what an artifact holds. The weights come from predictions on folds no member had seen.

Non-negative and summing to one: a stack may not lean against a member, which is what an unbounded fit does when members
agree as much as these do.
"""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from models.errors import ConfigError
from router import features
from router.estimators.base import FEATURE_SCALE, Estimator, Fitted, Floats, Inputs
from router.estimators.clusters import Clusters
from router.estimators.forest import Forest
from router.estimators.groups import Groups
from router.estimators.kernel import Kernel
from router.estimators.length import Line
from router.estimators.linear import FittedLinear, Logistic, Ridge
from router.estimators.neighbours import Neighbours

KINDS: Final[Mapping[str, type[Estimator]]] = {
    "ridge": Ridge,
    "logistic": Logistic,
    "knn": Neighbours,
    "clusters": Clusters,
    "groups": Groups,
    "kernel": Kernel,
    "forest": Forest,
    "line": Line,
}
TOWARDS_MEAN: Final = 0.1
_STEPS: Final = 2000
SPEC: Final = "estimators.json"
ARRAYS: Final = "estimators.npz"


def stack_weights(predictions: Sequence[Floats], correct: Floats) -> Floats:
    """Convex weights that minimise the squared error of the gain, held to the plain mean by a ridge penalty.

    Members agree so much that without it noise decides between them. By exponentiated gradient. predictions: for each
    member (n, 2), out of fold. correct: (n, 2).
    """
    gains = np.stack([p[:, 1] - p[:, 0] for p in predictions], axis=1)
    target = correct[:, 1] - correct[:, 0]
    members = gains.shape[1]
    even = np.full(members, 1.0 / members)
    gram, against = gains.T @ gains / len(target), gains.T @ target / len(target)
    penalty = TOWARDS_MEAN * float(np.trace(gram)) / members
    gram, against = gram + penalty * np.eye(members), against + penalty * even
    rate = 1.0 / max(1e-12, float(np.abs(gram).max()))
    weights = even
    for _ in range(_STEPS):
        weights = weights * np.exp(-rate * (gram @ weights - against))
        weights /= weights.sum()
    return weights


@dataclass(frozen=True, slots=True)
class Stack:
    """Fitted members with their weights. `dim` is that of the embedding. `names`: the features they were fitted on, of
    those that an input has.
    """

    members: Mapping[str, tuple[Estimator, Fitted]]
    weights: Mapping[str, float]
    dim: int
    names: tuple[str, ...] = features.NAMES

    def predict(self, inputs: Inputs) -> Floats:
        """(n, 2): the chance that the weak and the strong model are right, clipped to 0..1."""
        total, inputs = np.zeros((len(inputs), 2)), self._known(inputs)
        for name, (_, fitted) in self.members.items():
            total += self.weights[name] * fitted.predict(inputs)
        clipped: Floats = np.clip(total, 0.0, 1.0)
        return clipped

    def gain(self, inputs: Inputs) -> Floats:
        """(n,), not clipped: two prompts beyond doubt must still rank one above the other."""
        parts = self.parts(inputs)
        return np.sum(list(parts.values()), axis=0) if parts else np.zeros(len(inputs))

    def parts(self, inputs: Inputs) -> dict[str, Floats]:
        """What each member adds to the gain."""
        found, inputs = {}, self._known(inputs)
        for name, (_, fitted) in self.members.items():
            predicted = fitted.predict(inputs)
            found[name] = self.weights[name] * (predicted[:, 1] - predicted[:, 0])
        return found

    def feature_effects(self, inputs: Inputs) -> tuple[Floats, Floats] | None:
        """Of the first row, for each of `names`: standard deviations from usual, and what its weight adds to the gain.

        From the least-squares probe, the one member whose parts add up; None where the stack has none.
        """
        found = self.members.get("ridge")
        if found is None or not isinstance(found[1], FittedLinear):
            return None
        scaled = found[1].scaler.apply(self._known(inputs).features[:1])[0].astype(np.float64)
        slopes = found[1].weights[self.dim :].astype(np.float64)
        return scaled / FEATURE_SCALE, self.weights["ridge"] * scaled * (slopes[:, 1] - slopes[:, 0])

    def _known(self, inputs: Inputs) -> Inputs:
        """Without the features that came after these members were fitted."""
        if self.names == features.NAMES:
            return inputs
        columns = [features.NAMES.index(name) for name in self.names]
        return Inputs(inputs.vectors, inputs.features[:, columns])

    def files(self) -> dict[str, bytes]:
        """Contents by file name. Arrays are float16 where that loses nothing a decision looks at."""
        arrays = {
            f"{name}.{key}": _compact(array)
            for name, (_, fitted) in self.members.items()
            for key, array in fitted.arrays().items()
        }
        buffer = io.BytesIO()
        np.savez_compressed(buffer, allow_pickle=False, **arrays)
        members = {n: asdict(estimator) for n, (estimator, _) in self.members.items()}  # type: ignore[call-overload]
        spec = {"dim": self.dim, "features": self.names, "weights": dict(self.weights), "members": members}
        return {SPEC: json.dumps(spec, indent=1).encode(), ARRAYS: buffer.getvalue()}

    @classmethod
    def restore(cls, spec: bytes, arrays: bytes) -> Stack:
        """From `files`. Raises ConfigError for a damaged file, or one that reads features which are gone."""
        try:
            stated: dict[str, Any] = json.loads(spec)
            names = tuple(stated["features"])
            if not set(names) <= set(features.NAMES):
                raise ConfigError("the artifact was trained on features that this version lacks: train again")
            stored = np.load(io.BytesIO(arrays), allow_pickle=False)
            members = {name: _restored(name, args, stored) for name, args in stated["members"].items()}
            return cls(members, stated["weights"], int(stated["dim"]), names)
        except (KeyError, ValueError, TypeError, OSError, BadZipFile) as error:
            raise ConfigError(f"the artifact's estimators cannot be read ({error}): train again") from error


def _restored(name: str, arguments: Mapping[str, Any], stored: Mapping[str, Any]) -> tuple[Estimator, Fitted]:
    estimator = KINDS[name](**arguments)
    prefix = f"{name}."
    arrays = {key.removeprefix(prefix): stored[key].astype(np.float32) for key in stored if key.startswith(prefix)}
    return estimator, estimator.restore(arrays)


def _compact(array: NDArray[np.float32]) -> NDArray[np.generic]:
    """Directions as float16; coefficients, which may cancel, as float32."""
    return array.astype(np.float16) if array.ndim == 2 and array.shape[1] > 2 else array
