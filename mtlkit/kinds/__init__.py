"""The kinds of target that come with mtlkit, one per file. Importing this package registers them."""

from mtlkit.kinds.classification import Classification
from mtlkit.kinds.depth import Depth
from mtlkit.kinds.disparity import Disparity
from mtlkit.kinds.multilabel import Multilabel
from mtlkit.kinds.normals import Normals
from mtlkit.kinds.reconstruction import Reconstruction
from mtlkit.kinds.regression import Regression
from mtlkit.kinds.segmentation import Segmentation

__all__ = [
    "Classification",
    "Depth",
    "Disparity",
    "Multilabel",
    "Normals",
    "Reconstruction",
    "Regression",
    "Segmentation",
]
