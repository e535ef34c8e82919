"""A picture: the image itself, or one that is hidden in it."""

from mtlkit.target import KINDS, DenseKind


@KINDS.register("reconstruction")
class Reconstruction(DenseKind):
    """A picture of C channels: float32 (C, H, W) in [0, 1], NaN unknown."""

    def shape(self, height: int, width: int) -> tuple[int, ...]:
        return len(self.classes), height, width

    @property
    def admitted(self) -> tuple[float, float]:
        return 0, 1
