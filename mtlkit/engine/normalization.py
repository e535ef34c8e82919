"""Losses divided by what they were at the start."""


class FirstLosses:
    """What each loss is divided by: its mean over the first `steps` optimizer steps (0: nothing, 1 as it stands).

    Until then the mean so far serves, so that with `steps=1` every normalised loss starts at exactly 1.

    >>> first = FirstLosses(steps=1)
    >>> first.scale("depth", 4.0, number=0), first.scale("depth", 2.0, number=1)
    (4.0, 4.0)
    """

    def __init__(self, steps: int = 0) -> None:
        self.steps = steps
        self.sums: dict[str, list[float]] = {}  # name -> [sum, number]

    def scale(self, name: str, loss: float, number: int) -> float:
        if self.steps == 0:
            return 1.0
        if number < self.steps or name not in self.sums:  # a task may first appear later
            total, count = self.sums.get(name, [0.0, 0])
            self.sums[name] = [total + loss, count + 1]
        total, count = self.sums[name]
        return total / count if total > 0 else 1.0
