"""The two files that a run records for its page, as a fixture: every form that they can have."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from mtlkit.report.pictures import save_pictures

SAMPLES: dict[str, Any] = {
    "chosen_from": 50,
    "split_size": 100,
    "rule": "4 samples are evenly spread over the split.",
    "samples": [
        {
            "role": role,
            "label": f"rooms/<b>{i}</b>.png",
            "losses": {"parts": 0.25 * i, "depth": 1.5},
            "numbers": {
                "things": {"names": ["lamp", "chair"], "target": [1.0, None], "prediction": [0.75, None]},
                "size": {"names": ["width"], "target": [2.5], "prediction": [2.0], "unit": "m", "left_out": 3},
            },
        }
        for i, role in enumerate(("spread", "spread", "best", "worst"))
    ],
    "legends": {
        "parts": {"colours": [["wall", "#1f77b4"], ["floor", "#ff7f0e"]]},
        "depth": {"low": 0, "high": 10, "colours": ["#30123b", "#a4fc3c", "#7a0403"], "unit": "m", "note": "Black."},
        "normals": "Red is right.",
        "parts_error": "Red is wrong.",
    },
}
DETAILS: dict[str, Any] = {
    "samples": 100,
    "split_size": 100,
    "confusion": {"parts": {"classes": ["wall", "floor"], "counts": [[5, 1], [2, 8]]}},
    "reliability": {
        "things": {
            "of": "the probability of each class",
            "bins": [
                {"low": i / 10, "high": (i + 1) / 10, "predicted": None, "observed": None, "count": 0} for i in range(9)
            ]
            + [{"low": 0.9, "high": 1.0, "predicted": 0.95, "observed": 0.5, "count": 2}],
        }
    },
}


def write_looks(run: Path) -> None:
    """Writes pictures, `pictures/samples.json` and `details.json` into the folder of a run."""
    names = (
        "image",
        *(f"{task}_{kind}" for task in ("parts", "depth", "normals") for kind in ("target", "prediction")),
    )
    picture = np.arange(48 * 64 * 3, dtype=np.uint32).reshape(48, 64, 3).astype(np.uint8)
    save_pictures(run, [[(name, picture) for name in names] for _ in SAMPLES["samples"]])
    (run / "pictures" / "samples.json").write_text(json.dumps(SAMPLES))
    (run / "details.json").write_text(json.dumps(DETAILS))
