"""The tasks that come with mtlkit, one per file; importing this package registers them."""

if __name__ == "tasks":
    raise ImportError("Import mtlkit.tasks, not tasks: pyproject.toml maps the folder (make install).")

from mtlkit.tasks.classification import Classification
from mtlkit.tasks.depth import Depth
from mtlkit.tasks.multilabel import Multilabel
from mtlkit.tasks.normals import Normals
from mtlkit.tasks.reconstruction import Reconstruction
from mtlkit.tasks.regression import Regression
from mtlkit.tasks.segmentation import Segmentation

__all__ = ["Classification", "Depth", "Multilabel", "Normals", "Reconstruction", "Regression", "Segmentation"]
