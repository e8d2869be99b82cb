"""Cluster means: k-means on the embedding, and how often each model was right in each cluster (arXiv 2508.12631)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from router.estimators.base import Arrays, Fitted, Floats, Inputs, Labels


def spherical_kmeans(vectors: NDArray[np.float32], count: int, seed: int = 0) -> NDArray[np.float32]:
    """(count, dim) centroids of length one; fewer when there are fewer rows."""
    import faiss  # offline only: what is fitted needs numpy alone

    count = min(count, len(vectors))
    kmeans = faiss.Kmeans(
        vectors.shape[1],
        count,
        niter=25,
        seed=seed,
        spherical=True,
        min_points_per_centroid=1,
        max_points_per_centroid=10**6,
    )
    kmeans.train(np.ascontiguousarray(vectors, np.float32))
    return np.asarray(kmeans.centroids, np.float32)


def nearest(vectors: NDArray[np.float32], centroids: NDArray[np.float32]) -> NDArray[np.int64]:
    found: NDArray[np.int64] = (vectors @ centroids.T).argmax(axis=1)
    return found


@dataclass(frozen=True, slots=True)
class FittedClusters:
    """centroids: (k, dim). correct: (k, 2), shrunk towards the overall mean."""

    centroids: NDArray[np.float32]
    correct: NDArray[np.float32]

    def predict(self, inputs: Inputs) -> Floats:
        return self.correct[nearest(inputs.vectors, self.centroids)].astype(np.float64)

    def arrays(self) -> Arrays:
        return {"centroids": self.centroids, "correct": self.correct}


@dataclass(frozen=True, slots=True)
class Clusters:
    """prior_rows: a cluster of so many rows lies halfway between its own mean and that of all."""

    count: int = 64
    prior_rows: float = 10.0
    name: str = "clusters"

    def fit(self, inputs: Inputs, labels: Labels) -> Fitted:
        centroids = spherical_kmeans(inputs.vectors, self.count)
        label = nearest(inputs.vectors, centroids)
        rows = np.bincount(label, minlength=len(centroids))[:, None]
        sums = np.stack([np.bincount(label, head, len(centroids)) for head in labels.correct.T], axis=1)
        means = (sums + self.prior_rows * labels.correct.mean(axis=0)) / (rows + self.prior_rows)
        return FittedClusters(centroids, means.astype(np.float32))

    def restore(self, arrays: Arrays) -> Fitted:
        return FittedClusters(arrays["centroids"], arrays["correct"])
