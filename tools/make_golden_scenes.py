"""Writes tests/golden/scenes.npz: three small frames that later versions of the renderer must reproduce.

    python tools/make_golden_scenes.py

Run it only together with a new `VERSION` in mtlkit/datasets/scenes/render.py.
"""

from pathlib import Path

import numpy as np

from mtlkit.datasets.scenes import render_frame
from mtlkit.datasets.scenes.render import VERSION

GOLDEN = Path(__file__).parents[1] / "tests" / "golden" / "scenes.npz"
FRAMES = (("train", 0), ("val", 3), ("test", 7))
SIZE = (48, 36)


def main() -> None:
    frames = [render_frame(index, split, SIZE) for split, index in FRAMES]
    GOLDEN.parent.mkdir(exist_ok=True)
    np.savez_compressed(
        GOLDEN,
        version=VERSION,
        image=np.stack([np.rint(frame.image * 255).astype(np.uint8) for frame in frames]),
        label=np.stack([frame.label.astype(np.int8) for frame in frames]),
        depth=np.stack([frame.depth.astype(np.float32) for frame in frames]),
        normals=np.stack([frame.normals.astype(np.float16) for frame in frames]),
    )


if __name__ == "__main__":
    main()
