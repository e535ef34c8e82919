"""Random pictures of people without people."""

import torch

from mtlkit import DATASETS, Dataset, Target

POINTS = ("nose", "left_eye", "right_eye")


@DATASETS.register("people")
class People(Dataset):
    """Noise of 48 x 32 pixels with a red left eye and a blue right eye; targets are missing at random."""

    def __init__(self, split="train", size=None, limit=None):
        self.start = 1000 * ("train", "val", "test").index(split)
        self.length = min(limit or 12, 12)
        self.targets = {"points": Target("keypoints", POINTS), "stage": Target("ordinal", ("low", "middle", "high"))}

    def __len__(self):
        return self.length

    def __getitem__(self, index):
        if not 0 <= index < self.length:
            raise IndexError(f"There are {self.length} people.")
        draw = torch.Generator().manual_seed(self.start + index)
        image = torch.rand(3, 32, 48, generator=draw) / 10
        points = torch.rand(3, 3, generator=draw) * 0.6 + 0.2
        points[:, 2] = 1
        for row, channel in ((1, 0), (2, 2)):
            x, y = int(points[row, 0] * 48), int(points[row, 1] * 32)
            image[channel, y - 1 : y + 2, x - 1 : x + 2] = 1
        targets = {"points": points, "stage": torch.randint(0, 3, (), generator=draw)}
        present = torch.rand(2, generator=draw) < 0.6
        return {"image": image, "targets": {n: v for (n, v), p in zip(targets.items(), present, strict=True) if p}}
