"""Several data sets, with different tasks, as one."""

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from itertools import accumulate

from mtlkit.data.dataset import Camera, Dataset, Sample, Target
from mtlkit.registry import suggest


class Concat(Dataset):
    """Joins data sets one after the other. A sample has the targets of its own set; all images must have one size.

    `targets` chooses, for each set, which of its targets are used and their new names: {own name: name}. Two sets may
    share a target if it is the same: one type and the same classes.

    Raises `LookupError` for a target that a set does not have. Raises `ValueError` for a set without targets, and if
    two sets use one name for different targets.
    """

    def __init__(
        self, sets: Sequence[Dataset], names: Sequence[str], targets: Sequence[Mapping[str, str] | None]
    ) -> None:
        self.sets, self.names = list(sets), list(names)
        self.renames = [
            {name: name for name in part.targets} if chosen is None else dict(chosen)
            for part, chosen in zip(sets, targets, strict=True)
        ]
        found: dict[str, tuple[Target, str]] = {}
        for part, name, renamed in zip(self.sets, self.names, self.renames, strict=True):
            if not renamed or len(set(renamed.values())) < len(renamed):
                raise ValueError(f"The data set {name!r} gives no targets, or two under one name: {renamed}.")
            for own, new in renamed.items():
                if own not in part.targets:
                    raise LookupError(f"The data set {name!r} has no target {own!r}. {suggest(own, part.targets)}")
                target, other = found.setdefault(new, (part.targets[own], name))
                if target != part.targets[own]:
                    raise ValueError(
                        f"The target {new!r} is not the same in the data sets {other!r} and {name!r}: {target} and "
                        f"{part.targets[own]}. Rename one of them: targets: {{{own}: another_name}}."
                    )
        self.targets = {new: target for new, (target, _) in found.items()}
        ways = {part.resizing for part in self.sets}
        self.resizing = ways.pop() if len(ways) == 1 else "area"
        bounds = {part.bounds for part in self.sets}
        self.bounds = bounds.pop() if len(bounds) == 1 else None
        self.lengths = [len(part) for part in self.sets]
        self._ends = list(accumulate(self.lengths))
        self.licence = " ".join(dict.fromkeys(part.licence for part in self.sets if part.licence))
        self.missing = " ".join(
            f"{name}: {part.missing}" for part, name in zip(self.sets, self.names, strict=True) if part.missing
        )
        self.notes = [
            f"{name}: {note}" for part, name in zip(self.sets, self.names, strict=True) for note in part.notes
        ]

    def __len__(self) -> int:
        return self._ends[-1]

    def __getitem__(self, index: int) -> Sample:
        i, own = self._place(index)
        return self._renamed(i, self.sets[i][own])

    def stored(self, index: int) -> Sample | None:
        i, own = self._place(index)
        sample = self.sets[i].stored(own)
        return None if sample is None else self._renamed(i, sample)

    def _renamed(self, i: int, sample: Sample) -> Sample:
        targets = {new: sample["targets"][name] for name, new in self.renames[i].items() if name in sample["targets"]}
        return {"image": sample["image"], "targets": targets}

    def label(self, index: int) -> str:
        i, own = self._place(index)
        return f"{self.names[i]}: {self.sets[i].label(own)}"

    def camera_of(self, index: int) -> Camera | None:
        i, own = self._place(index)
        return self.sets[i].camera_of(own)

    def part_of(self, index: int) -> str:
        """Returns the data set's name, with a number if the name occurs twice."""
        i, _ = self._place(index)
        before = self.names[: i + 1].count(self.names[i])
        return self.names[i] if self.names.count(self.names[i]) == 1 else f"{self.names[i]} ({before})"

    def probes(self) -> Sequence[int]:
        """Returns the first sample of every set."""
        return [end - length for end, length in zip(self._ends, self.lengths, strict=True)]

    def _place(self, index: int) -> tuple[int, int]:
        index = range(len(self))[index]
        i = bisect_right(self._ends, index)
        return i, index - (self._ends[i] - self.lengths[i])
