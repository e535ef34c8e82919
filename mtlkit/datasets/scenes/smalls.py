"""Small things, lamps, plumbing and things on walls (metres, before the scale jitter)."""

import numpy as np

from mtlkit.datasets.scenes.things import (
    BOOKS,
    FLOOR,
    LIT_LAMP,
    LIT_WINDOW,
    OBJECTS,
    PICTURE,
    WALL,
    WINDOW,
    Palette,
    Thing,
)

Rng = np.random.Generator


def pillow(rng: Rng, palette: Palette, width: float, upright: bool = False) -> Thing:
    """A pillow, lying or leaning back."""
    ink = palette.thing(OBJECTS, "bed" if not upright else "objects")
    size = (width, width * 0.65, 0.17) if not upright else (width, 0.17, width * 0.9)
    return Thing().ellipsoid(ink, (0, 0, 0), size, lean=0.3 if upright else 0)


def book_row(rng: Rng, palette: Palette, width: float, height: float) -> Thing:
    """Books side by side: blocks of equal height with painted spines, and one book that leans."""
    ink = palette.thing(BOOKS, "books")
    thing, x = Thing(), -width / 2
    for share in rng.dirichlet((4, 4, 4)):
        tall = height * rng.uniform(0.7, 0.98)
        thing.box(ink, (x + share * width / 2, 0, 0), (share * width, 0.2, tall))
        x += share * width
    return thing


def book_pile(rng: Rng, palette: Palette) -> Thing:
    """A few books on top of each other."""
    thing, z, ink = Thing(), 0.0, palette.thing(BOOKS, "books")
    for _ in range(rng.integers(2, 6)):
        thick = rng.uniform(0.025, 0.06)
        thing.box(
            palette.also(ink, "cover"), (0, 0, z), (rng.uniform(0.2, 0.3), 0.2, thick), turn=rng.uniform(-0.4, 0.4)
        )
        z += thick
    return thing


def lamp(rng: Rng, palette: Palette, height: float) -> Thing:
    """A lamp with a round shade, on or off. It stands on a table, or on the floor if it is tall."""
    ink, on = palette.thing(OBJECTS, "metal"), rng.random() < 0.6
    shade = palette.also(ink, "glow_lamp" if on else "shade")
    top, radius = min(0.3, height * 0.4), min(0.2, 0.06 + 0.2 * height)
    thing = Thing().cylinder(ink, (0, 0, 0), radius * 0.7, 0.03).cylinder(ink, (0, 0, 0.03), 0.02, height - top)
    thing.cylinder(shade, (0, 0, height - top), radius, top)
    if on:
        thing = thing.flagged(LIT_LAMP, OBJECTS)
        thing.lights.append(np.array([0.0, 0.0, height + 0.1]))
    return thing


def plant(rng: Rng, palette: Palette, height: float) -> Thing:
    """A pot with round leaves."""
    ink = palette.thing(OBJECTS, "objects")
    leaf, wide = palette.also(ink, "leaf"), height * 0.28
    thing = Thing().cylinder(ink, (0, 0, 0), wide * 0.6, height * 0.35).cylinder(leaf, (0, 0, height * 0.35), 0.02, 0.1)
    for _ in range(4):
        x, y = rng.uniform(-0.6, 0.6, 2) * wide
        thing.ellipsoid(leaf, (x, y, height * rng.uniform(0.35, 0.6)), (wide * 1.2, wide * 1.2, height * 0.4))
    return thing


def small(rng: Rng, palette: Palette, room: float = 0.6, lamps: bool = True) -> Thing:
    """Any small thing with a height of at most `room`."""
    kind, ink = rng.random(), palette.thing(OBJECTS, "objects")
    height = min(rng.uniform(0.12, 0.36), room)
    if kind < 0.13:
        return book_pile(rng, palette)
    if kind < 0.29 and lamps:
        return lamp(rng, palette, min(rng.uniform(0.4, 0.6), room))
    if kind < 0.38:
        return plant(rng, palette, min(1.3 * height, room))
    if kind < 0.52:
        return Thing().ellipsoid(ink, (0, 0, 0), (height * 0.8,) * 3)
    if kind < 0.68:
        return Thing().cylinder(ink, (0, 0, 0), rng.uniform(0.05, 0.12), height)
    if kind < 0.8:
        wide = rng.uniform(0.14, 0.26)
        return (
            Thing()
            .ellipsoid(ink, (0, 0, 0), (wide, wide, height * 0.7))
            .cylinder(ink, (0, 0, height * 0.5), wide * 0.2, height * 0.45)
        )
    return Thing().box(ink, (0, 0, 0), (rng.uniform(0.15, 0.4), rng.uniform(0.1, 0.25), height))


def clutter(rng: Rng, palette: Palette) -> Thing:
    """A thing on the floor: cartons, a ball, a beanbag, a basket, a plant or a tall lamp."""
    kind, ink = rng.random(), palette.thing(OBJECTS, "objects")
    if kind < 0.3:
        w, d, h = rng.uniform(0.35, 0.75, 3)
        thing = Thing().box(ink, (0, 0.3, 0), (w, d, h))
        other = palette.thing(OBJECTS, "objects")
        return thing.box(other, (0, 0.3, h), (w * 0.7, d * 0.8, h * 0.6), turn=rng.uniform(-0.5, 0.5))
    if kind < 0.4:
        wide = rng.uniform(0.3, 0.6)
        return Thing().ellipsoid(ink, (0, 0.25, 0), (wide,) * 3)
    if kind < 0.55:
        wide = rng.uniform(0.6, 0.9)
        return Thing().ellipsoid(ink, (0, 0.4, -0.1), (wide, wide, wide * 0.9))
    if kind < 0.7:
        return Thing().cylinder(ink, (0, 0.25, 0), rng.uniform(0.18, 0.32), rng.uniform(0.4, 0.8))
    if kind < 0.85:
        return Thing().put(plant(rng, palette, rng.uniform(0.8, 1.7)), (0, 0.3, 0))
    return Thing().put(lamp(rng, palette, rng.uniform(1.4, 1.8)), (0, 0.25, 0))


def rug(rng: Rng, palette: Palette) -> Thing:
    """A carpet, part of the floor."""
    ink = palette.thing(FLOOR, "rug")
    w, d = rng.uniform(1.4, 2.4), rng.uniform(1.0, 1.7)
    if rng.random() < 0.3:
        return Thing().cylinder(ink, (0, d / 2, 0), d / 2, 0.012)
    return Thing().box(ink, (0, d / 2, 0), (w, d, 0.012))


def tub(rng: Rng, palette: Palette) -> Thing:
    """A bathtub with water in it."""
    ink = palette.thing(OBJECTS, "white")
    water, length, height = palette.also(ink, "shade"), rng.uniform(1.5, 1.8), rng.uniform(0.5, 0.6)
    thing = Thing().box(water, (0, 0.38, 0), (length - 0.1, 0.66, height - 0.1))
    for y in (0.04, 0.72):
        thing.box(ink, (0, y, 0), (length, 0.08, height))
    for x in (0.04 - length / 2, length / 2 - 0.04):
        thing.box(ink, (x, 0.38, 0), (0.08, 0.76, height)).tube(ink, (x, 0.38, height), 0.05, 0.1)
    return thing


def toilet(rng: Rng, palette: Palette) -> Thing:
    """A toilet: cistern, bowl and seat."""
    ink = palette.thing(OBJECTS, "white")
    thing = Thing().box(ink, (0, 0.1, 0.38), (0.4, 0.18, 0.42)).cylinder(ink, (0, 0.38, 0), 0.13, 0.3)
    return thing.ellipsoid(ink, (0, 0.42, 0.15), (0.38, 0.5, 0.36)).ellipsoid(ink, (0, 0.42, 0.4), (0.42, 0.54, 0.05))


def sink(rng: Rng, palette: Palette) -> Thing:
    """A wash basin on a column."""
    ink = palette.thing(OBJECTS, "white")
    thing = Thing().cylinder(ink, (0, 0.2, 0), 0.1, 0.72).box(ink, (0, 0.24, 0.7), (0.6, 0.46, 0.15))
    metal = palette.also(ink, "metal")
    return thing.cylinder(metal, (0, 0.06, 0.85), 0.02, 0.18).box(metal, (0, 0.12, 1.0), (0.03, 0.16, 0.03))


def picture(rng: Rng, palette: Palette) -> Thing:
    """A framed picture. As for all things on a wall, its origin is on the wall at the middle of its underside."""
    ink = palette.thing(PICTURE, "picture")
    width, height = rng.uniform(0.6, 1.4), rng.uniform(0.5, 1.0)
    thing = Thing().box(palette.also(ink, "wood"), (0, 0.015, 0), (width, 0.03, height))
    return thing.box(ink, (0, 0.03, 0.05), (width - 0.1, 0.012, height - 0.1))


def board(rng: Rng, palette: Palette) -> Thing:
    """A mirror or a white board."""
    ink = palette.thing(OBJECTS, "mirror" if rng.random() < 0.5 else "white")
    width, height = rng.uniform(0.5, 1.5), rng.uniform(0.6, 1.0)
    thing = Thing().box(palette.also(ink, "metal"), (0, 0.012, 0), (width, 0.024, height))
    return thing.box(ink, (0, 0.02, 0.04), (width - 0.08, 0.02, height - 0.08))


def door(rng: Rng, palette: Palette) -> Thing:
    """A door, part of the wall."""
    ink = palette.thing(WALL, "furniture")
    frame, height = palette.also(ink, "white"), rng.uniform(1.95, 2.1)
    thing = Thing().box(ink, (0, 0.01, 0), (0.85, 0.03, height)).box(frame, (0, 0.015, height), (1.0, 0.05, 0.08))
    for x in (-0.465, 0.465):
        thing.box(frame, (x, 0.015, 0), (0.08, 0.05, height))
    return thing.ellipsoid(palette.also(ink, "metal"), (0.34, 0.05, 1.0), (0.07, 0.07, 0.07))


def window(rng: Rng, palette: Palette) -> Thing:
    """A window by day or by night, with bars and often with curtains (which NYUv2 counts as window)."""
    day = rng.random() < 0.6
    glass = palette.thing(WINDOW, "glow_day" if day else "night")
    frame, cloth = palette.also(glass, "white"), palette.also(glass, "sofa")
    width, height, bars = rng.uniform(1.1, 2.2), rng.uniform(1.1, 1.5), int(rng.integers(2, 4))
    thing = Thing().box(glass, (0, 0.005, 0), (width, 0.02, height))
    for k in range(bars + 1):
        thing.box(frame, (width * (k / bars - 0.5), 0.01, 0), (0.06, 0.06, height))
    for z in (0.0, height - 0.05):
        thing.box(frame, (0, 0.01, z), (width + 0.06, 0.07, 0.05))
    if rng.random() < 0.65:
        folds, long = int(rng.integers(3, 6)), rng.random() < 0.4
        bottom = -0.75 if long else -0.1
        for side in (-1, 1):
            for k in range(folds):
                at = (side * (width / 2 + 0.12 - 0.1 * k), 0.07, bottom)
                thing.cylinder(cloth, at, 0.06, height + 0.12 - bottom)
    if day:
        thing = thing.flagged(LIT_WINDOW, WINDOW)
        thing.lights.append(np.array([0.0, 0.45, height * 0.6]))
    return thing
