"""One class per pixel."""

from mtlkit.target import KINDS, DenseKind

from .classification import Labels


@KINDS.register("segmentation")
class Segmentation(Labels, DenseKind):
    """One of C classes per pixel: int64 (H, W), -1 ignored."""

    def shape(self, height: int, width: int) -> tuple[int, ...]:
        return height, width
