"""The scene grammar: which things belong to a kind of room, and where they stand."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from mtlkit.datasets.scenes import furniture as f
from mtlkit.datasets.scenes import smalls as s
from mtlkit.datasets.scenes.geometry import ROOM, Array, Shapes
from mtlkit.datasets.scenes.things import CEILING, FLOOR, WALL, Ink, Palette, Part, Thing, yaw_axes

Rng = np.random.Generator
Maker = Callable[[Rng, Palette], Thing]

MAX_SCALE = 1.6  # scale_jitter = 1 draws every thing's scale between 1 / 1.6 and 1.6


def bed_place(rng: Rng, palette: Palette) -> Thing:
    """A bed with small chests beside it."""
    group = f.bed(rng, palette)
    (left, _, _), (right, _, _) = group.bounds()
    for x in rng.permutation([left - 0.32, right + 0.32])[: rng.integers(1, 3)]:
        chest = f.cabinet(rng, palette, rows=2, width=0.5)
        group.put(chest.put(s.small(rng, palette), (0, 0.25, chest.bounds()[1][2])), (x, 0.02, 0))
    return group


def sofa_place(rng: Rng, palette: Palette) -> Thing:
    """A sofa, usually with a low table in front of it."""
    group = f.sofa(rng, palette)
    if rng.random() < 0.7:
        group.put(f.table(rng, palette, low=True), (rng.uniform(-0.2, 0.2), 1.3, 0))
    return group


def dinner_place(rng: Rng, palette: Palette) -> Thing:
    """A table with chairs around it."""
    group = f.table(rng, palette)
    (x0, y0, _), (x1, y1, _) = group.bounds()
    x, y = (x0 + x1) / 2, (y0 + y1) / 2
    seats = [((x - 0.3, y0 - 0.4), 0.0), ((x + 0.3, y1 + 0.4), np.pi), ((x0 - 0.4, y), -np.pi / 2)]
    seats += [((x1 + 0.4, y), np.pi / 2), ((x + 0.35, y0 - 0.4), 0.0), ((x - 0.35, y1 + 0.4), np.pi)]
    for k in rng.permutation(len(seats))[: rng.integers(3, 7)]:
        at, yaw = seats[k]
        group.put(f.chair(rng, palette), (*at, 0), yaw + rng.normal(0, 0.2))
    return group


def desk_place(rng: Rng, palette: Palette) -> Thing:
    """A desk with a chair."""
    group = f.desk(rng, palette)
    return group.put(f.chair(rng, palette), (rng.uniform(-0.3, 0), 1.25, 0), np.pi + rng.normal(0, 0.4))


@dataclass(frozen=True)
class RoomKind:
    """A kind of room: how often, how large, and the mean number of things at the walls, in the middle, on the walls."""

    weight: float
    size: tuple[float, float]
    walls: tuple[tuple[Maker, float], ...]
    middle: tuple[tuple[Maker, float], ...]
    hung: tuple[tuple[Maker, float], ...]


KINDS = {
    "bedroom": RoomKind(
        0.3,
        (3.4, 5.4),
        ((bed_place, 1.6), (f.cabinet, 1.4), (f.drawers, 1), (f.shelf, 0.4), (desk_place, 0.6), (f.tv_bench, 0.3)),
        ((s.rug, 0.6), (f.chair, 1), (s.clutter, 5)),
        ((s.window, 1.5), (s.picture, 2.5), (s.board, 0.7), (s.door, 1)),
    ),
    "living": RoomKind(
        0.28,
        (3.8, 6.6),
        ((sofa_place, 2.6), (f.tv_bench, 0.7), (f.shelf, 0.8), (f.cabinet, 1.2), (f.drawers, 0.8)),
        ((dinner_place, 1), (s.rug, 0.7), (f.chair, 1), (s.clutter, 6)),
        ((s.window, 1.8), (s.picture, 3), (s.board, 0.5), (s.door, 1)),
    ),
    "office": RoomKind(
        0.14,
        (3.0, 5.2),
        ((desk_place, 2.5), (f.shelf, 0.9), (f.cabinet, 1.4), (f.drawers, 0.8)),
        ((f.chair, 1.2), (s.clutter, 5)),
        ((s.window, 1.4), (s.picture, 2), (s.board, 1), (s.door, 1)),
    ),
    "kitchen": RoomKind(
        0.14,
        (3.2, 5.0),
        ((f.counter, 1.6), (f.fridge, 0.9), (f.cabinet, 0.8)),
        ((dinner_place, 1.2), (f.chair, 0.7), (s.clutter, 4)),
        ((s.window, 1.5), (s.picture, 1.6), (s.door, 1)),
    ),
    "bath": RoomKind(
        0.07,
        (2.6, 3.8),
        ((s.tub, 1), (s.toilet, 1), (s.sink, 1.2), (f.cabinet, 0.7), (f.drawers, 0.4)),
        ((s.clutter, 3),),
        ((s.board, 1.5), (s.window, 0.9), (s.door, 1)),
    ),
    "classroom": RoomKind(
        0.09,
        (5.0, 8.0),
        ((desk_place, 1), (f.shelf, 1), (f.cabinet, 2)),
        ((dinner_place, 3), (s.clutter, 5)),
        ((s.board, 2), (s.window, 2.4), (s.picture, 2), (s.door, 1)),
    ),
}


class Room:
    """A room that is being furnished. A new thing never overlaps the bounding box of an earlier thing."""

    def __init__(self, rng: Rng, scales: Rng, kind: RoomKind, scale_jitter: float) -> None:
        self.rng, self.scales, self.jitter = rng, scales, scale_jitter
        self.size = np.array([*rng.uniform(*kind.size, 2), rng.uniform(2.4, 3.0)])
        self.palette, self.all, self.taken = Palette(), Thing(), list[tuple[Array, Array]]()
        ink = self.palette.thing(WALL, "wall")
        self.all.parts.append(Part(ROOM, self.size / 2, np.eye(3), self.size / 2, ink))
        self.floor, self.ceiling = self.palette.thing(FLOOR, "floor"), self.palette.thing(CEILING, "ceiling")
        if rng.random() < 0.3:  # a corner is missing, so the room is L-shaped
            corner, notch = rng.integers(0, 2, 2), rng.uniform(0.2, 0.42, 2) * self.size[:2]
            centre = np.where(corner, self.size[:2] - notch / 2, notch / 2)
            self._add(Thing().box(ink, (*centre, -0.01), (*notch, self.size[2] + 0.02)))

    def furnish(self, kind: RoomKind) -> None:
        for makers, place in ((kind.walls, self._lean), (kind.hung, self._hang), (kind.middle, self._stand)):
            for maker, mean in makers:
                for _ in range(int(mean + self.rng.random())):
                    place(self._scaled(maker(self.rng, self.palette)))

    def _scaled(self, thing: Thing) -> Thing:
        low, high = thing.bounds()
        factor = MAX_SCALE ** (self.jitter * self.scales.uniform(-1, 1))
        return thing.scaled(min(factor, (self.size[2] - 0.1) / (high[2] - min(low[2], 0))))

    def _lean(self, thing: Thing) -> None:
        """Puts a thing on the floor with its back to a wall, if there is space."""
        back = max(0.0, -thing.bounds()[0][1]) + 0.01
        self._try(thing, lambda: self._wall_place(thing, back, 0.0))

    def _hang(self, thing: Thing) -> None:
        """Fixes a thing to a wall. A tall thing (a door) stands on the floor."""
        low, high = thing.bounds()
        rise = high[2] - max(low[2], -0.1)
        top = min(self.size[2] - 0.1, 2.25)
        bottom = 0.0 if rise > 1.8 else max(0.3, self.rng.uniform(0.75, 1.0) * (top - rise))
        self._try(thing, lambda: self._wall_place(thing, 0.0, bottom))

    def _wall_place(self, thing: Thing, back: float, bottom: float) -> tuple[Array, float]:
        wall, low, high = int(self.rng.integers(4)), *thing.bounds()
        length = self.size[wall % 2]
        along = self.rng.uniform(0.03 - low[0], max(length - high[0] - 0.03, 0.04 - low[0]))
        x, y = ((along, back), (self.size[0] - back, along), (self.size[0] - along, self.size[1] - back),
                (back, self.size[1] - along))[wall]  # fmt: skip
        return np.array([x, y, bottom]), wall * np.pi / 2

    def _stand(self, thing: Thing) -> None:
        """Puts a thing anywhere on the floor, turned at random."""

        def somewhere() -> tuple[Array, float]:
            at = self.rng.uniform(0.3, self.size[:2] - 0.3)
            return np.array([*at, 0.0]), self.rng.uniform(0, 2 * np.pi)

        self._try(thing, somewhere)

    def _try(self, thing: Thing, draw: Callable[[], tuple[Array, float]], attempts: int = 20) -> None:
        corners = np.stack(thing.bounds())
        centre, reach = corners.mean(axis=0), (corners[1] - corners[0]) / 2
        for _ in range(attempts):
            at, yaw = draw()
            turn = yaw_axes(yaw)
            middle, half = centre @ turn + at, reach @ np.abs(turn)
            low, high = middle - half, middle + half
            inside = (low[:2] > -0.03).all() and (high[:2] < self.size[:2] + 0.03).all() and high[2] < self.size[2]
            if inside and not any((low < b).all() and (high > a).all() for a, b in self.taken):
                self._add(thing.moved(at, yaw))
                return

    def _add(self, thing: Thing) -> None:
        self.all.parts += thing.parts
        self.all.lights += thing.lights
        low, high = thing.bounds()
        if high[2] > 0.1:  # people walk on carpets
            self.taken.append((low + 0.005, high - 0.005))


@dataclass(frozen=True)
class Scene:
    """A furnished room: the primitives, the pools of their materials, and the possible places of lights.

    The first primitive is the room itself. Its floor and ceiling have their own materials.
    """

    kind: str
    size: Array
    shapes: Shapes
    pools: tuple[str, ...]
    floor: Ink
    ceiling: Ink
    lights: tuple[Array, ...]
    boxes: tuple[tuple[Array, Array], ...]  # bounding boxes of the things


def build_scene(rng: Rng, scales: Rng, scale_jitter: float) -> Scene:
    """Draws a room and furnishes it."""
    weights = np.array([kind.weight for kind in KINDS.values()])
    name = list(KINDS)[rng.choice(len(KINDS), p=weights / weights.sum())]
    room = Room(rng, scales, KINDS[name], scale_jitter)
    room.furnish(KINDS[name])
    return Scene(
        name, room.size, room.all.shapes(), tuple(room.palette.pools), room.floor, room.ceiling,
        tuple(room.all.lights), tuple(room.taken),
    )  # fmt: skip
