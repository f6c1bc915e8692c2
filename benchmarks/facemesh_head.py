"""Train the head of the facemesh measurer: `python -m benchmarks.facemesh_head DATA [WEIGHTS]`.

DATA is a folder that holds a checkout of github.com/muxspace/facial_expressions (Apache-2.0 by its LICENSE file) as
`facial_expressions/`. Its photographs are first measured by the face measurer's networks, which is kept in
`DATA/faces.npz` and takes a quarter of an hour; then a linear head learns to say from the mesh alone what the
expression network says of the picture. People whose name is held out (`held_out`) are never learned from.
WEIGHTS is written where it is said, by default where the package has it.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.measuring.face_pictures import held_out, measured
from humebatch.server.measure import carried
from humebatch.server.measure.face_mesh import BlendshapeReader
from humebatch.server.measure.mesh_expression import HEAD, features

FLOOR = 1e-4  # below it the network's own word is noise
STRENGTH = 300.0  # of the ridge; the best of 30, 100, 300, 1000 by folds over the learned-from people


def learn(inputs: npt.NDArray[Any], logs: npt.NDArray[Any]) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    """Weights (inputs, classes) and bias of a ridge regression on standardised inputs, for inputs as they are."""
    mean, spread = inputs.mean(axis=0), inputs.std(axis=0) + 1e-6
    standard = (inputs - mean) / spread
    middle = logs.mean(axis=0)
    gram = standard.T @ standard + STRENGTH * np.eye(standard.shape[1])
    weights = np.linalg.solve(gram, standard.T @ (logs - middle)) / spread[:, None]
    return weights, middle - mean @ weights


def main(data: Path, target: Path) -> None:
    faces = measured(data)
    reader = BlendshapeReader(carried.find("face_landmarker.task"))
    chosen = [number for number, name in enumerate(faces.names) if not held_out(name)]
    inputs = np.array([features(faces.points[number], reader) for number in chosen], np.float64)
    weights, bias = learn(inputs, np.log(faces.expressions[chosen].astype(np.float64) + FLOOR))
    np.savez(target, weights=weights.astype(np.float16), bias=bias.astype(np.float32))
    print(f"{target}: learned from {len(chosen)} photographs, {target.stat().st_size:,} bytes")


if __name__ == "__main__":
    if len(sys.argv) not in (2, 3):
        sys.exit("usage: python -m benchmarks.facemesh_head DATA [WEIGHTS]")
    ours = Path(__file__).parents[1] / "humebatch" / "server" / "measure" / "weights" / HEAD
    main(Path(sys.argv[1]), Path(sys.argv[2]) if len(sys.argv) == 3 else ours)
