"""A plug-in: the attributes of the rendered rooms, each as a task of its own. CelebA has the same form."""

from collections.abc import Sequence

from mtlkit import DATASETS, Dataset, Target
from mtlkit.data.dataset import Sample


@DATASETS.register("room_attributes")
class RoomAttributes(Dataset):
    """Rendered rooms with 12 targets, one per attribute, each present or not."""

    def __init__(
        self,
        root: str | None = None,
        split: str = "train",
        size: Sequence[int] | None = (64, 48),
        limit: int | None = None,
    ) -> None:
        super().__init__()
        self.rooms = DATASETS.build("scenes", root=root, split=split, size=size, limit=limit)
        self.names = self.rooms.targets["attributes"].classes
        self.targets = {name: Target("multilabel", (name,)) for name in self.names}

    def __len__(self) -> int:
        return len(self.rooms)

    def __getitem__(self, index: int) -> Sample:
        sample = self.rooms[index]
        values = sample["targets"]["attributes"]
        return {"image": sample["image"], "targets": {name: values[i : i + 1] for i, name in enumerate(self.names)}}
