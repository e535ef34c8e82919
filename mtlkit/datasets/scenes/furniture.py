"""The furniture: functions that draw the sizes of a thing and build it (metres, before the scale jitter)."""

import numpy as np

from mtlkit.datasets.scenes.smalls import book_row, pillow, small
from mtlkit.datasets.scenes.things import BED, CHAIR, FURNITURE, ON_TABLE, SOFA, TABLE, TV, Ink, Palette, Thing

Rng = np.random.Generator


def bed(rng: Rng, palette: Palette) -> Thing:
    """A bed: frame, mattress, blanket and headboard, with pillows on it."""
    width, length, height = rng.uniform(1.0, 1.9), rng.uniform(1.9, 2.1), rng.uniform(0.4, 0.6)
    cloth = palette.thing(BED, "bed")
    frame, blanket = palette.also(cloth, "wood"), palette.also(cloth, "bed")
    thing = Thing().box(frame, (0, 0.04, 0), (width + 0.08, 0.07, height + rng.uniform(0.35, 0.65)))
    thing.box(frame, (0, 0.07 + length / 2, 0.08), (width, length, 0.2))
    thing.box(cloth, (0, 0.08 + length / 2, 0.28), (width - 0.02, length, height - 0.28))
    thing.box(blanket, (0, 0.1 + length * 0.66, 0.14), (width + 0.05, length * 0.68, height - 0.1))
    for x in (-width / 4, width / 4) if width > 1.3 else (0.0,):
        thing.put(pillow(rng, palette, rng.uniform(0.5, 0.65)), (x, 0.35, height - 0.02))
    return thing


def sofa(rng: Rng, palette: Palette) -> Thing:
    """A sofa: seat, back and arms (round or square), with cushions on it."""
    width, depth, seat = rng.uniform(1.3, 2.4), rng.uniform(0.85, 1.0), rng.uniform(0.38, 0.46)
    cloth = palette.thing(SOFA, "sofa")
    thing = Thing().box(cloth, (0, depth / 2, 0.06), (width, depth, seat - 0.14))
    thing.box(cloth, (0, 0.13, 0.06), (width, 0.22, rng.uniform(0.7, 0.85)), lean=0.08)
    inner, count = width - 0.36, 3 if width > 1.8 else 2
    for k in range(count):
        x = inner * ((k + 0.5) / count - 0.5)
        thing.box(cloth, (x, depth / 2 + 0.1, seat - 0.08), (inner / count - 0.02, depth - 0.22, 0.14))
    arm, round_arms = rng.uniform(0.55, 0.65), rng.random() < 0.5
    for x in (0.09 - width / 2, width / 2 - 0.09):
        thing.box(cloth, (x, depth / 2, 0), (0.18, depth, arm))
        if round_arms:
            side = Thing().tube(cloth, (0, 0, arm), 0.13, depth)
            thing.put(side, (x, depth / 2, 0), yaw=np.pi / 2)
    for _ in range(rng.integers(0, 3)):
        thing.put(pillow(rng, palette, 0.42, upright=True), (rng.uniform(-0.35, 0.35) * inner, 0.36, seat + 0.03))
    return thing


def _legs(thing: Thing, ink: Ink, x: float, y: float, middle: float, height: float, width: float) -> None:
    for dx in (-x, x):
        for dy in (-y, y):
            thing.box(ink, (dx, middle + dy, 0), (width, width, height))


def chair(rng: Rng, palette: Palette) -> Thing:
    """A chair with four legs, or a swivel chair. Its back is at y = 0."""
    seat, width = rng.uniform(0.42, 0.5), rng.uniform(0.4, 0.52)
    ink = palette.thing(CHAIR, "chair")
    cloth, middle = palette.also(ink, "chair"), 0.27
    if rng.random() < 0.35:
        thing = Thing().cylinder(ink, (0, middle, 0), 0.27, 0.06).cylinder(ink, (0, middle, 0.06), 0.04, seat - 0.1)
        thing.ellipsoid(cloth, (0, middle, seat - 0.05), (width + 0.06, width + 0.04, 0.14))
        return thing.ellipsoid(cloth, (0, 0.05, seat + 0.08), (width + 0.02, 0.13, rng.uniform(0.45, 0.65)), lean=0.12)
    thing = Thing().box(cloth, (0, middle, seat - 0.04), (width, width, 0.06))
    _legs(thing, ink, width / 2 - 0.03, width / 2 - 0.03, middle, seat - 0.04, 0.045)
    back = rng.uniform(0.36, 0.55)
    if rng.random() < 0.5:
        return thing.box(cloth, (0, 0.03, seat), (width, 0.05, back), lean=0.1)
    for x in np.linspace(-1, 1, 4) * (width / 2 - 0.025):
        thing.box(ink, (x, 0.03, seat), (0.045, 0.04, back - 0.02), lean=0.1)
    return thing.box(ink, (0, -0.01, seat + back - 0.14), (width, 0.045, 0.14), lean=0.1)


def table(rng: Rng, palette: Palette, low: bool = False, things: int = 3) -> Thing:
    """A table, rectangular or round, with things on it. `low` makes a table for the place in front of a sofa."""
    height = rng.uniform(0.35, 0.48) if low else rng.uniform(0.7, 0.78)
    width, depth = rng.uniform(1.2, 2.1) * (0.75 if low else 1), rng.uniform(0.7, 1.1) * (0.85 if low else 1)
    ink = palette.thing(TABLE, "table")
    leg = palette.also(ink, "table")
    if rng.random() < 0.3:
        radius = width * 0.42
        thing = Thing().cylinder(ink, (0, radius, height - 0.05), radius, 0.05)
        thing.cylinder(leg, (0, radius, 0), 0.06, height - 0.05).cylinder(leg, (0, radius, 0), radius * 0.55, 0.04)
        width = depth = radius * 1.5
        middle = radius
    else:
        middle = depth / 2
        thing = Thing().box(ink, (0, middle, height - 0.05), (width, depth, 0.05))
        _legs(thing, leg, width / 2 - 0.06, depth / 2 - 0.06, middle, height - 0.05, 0.07)
    _load(rng, palette, thing, (width, depth, middle, height), int(rng.integers(0, things + 1)))
    return thing


def _load(rng: Rng, palette: Palette, thing: Thing, top: tuple[float, float, float, float], count: int) -> None:
    """Puts small things side by side on the top of a table. `top` is its width, depth, middle and height."""
    width, depth, middle, height = top
    for x in rng.permutation(np.linspace(-0.36, 0.36, 4))[:count]:
        at = (x * width, middle + rng.uniform(-0.25, 0.25) * depth, height)
        thing.put(small(rng, palette), at, yaw=rng.uniform(0, np.pi), flags=ON_TABLE)


def desk(rng: Rng, palette: Palette) -> Thing:
    """A table with drawers below it and often a screen on it."""
    width, depth, height = rng.uniform(1.2, 1.9), rng.uniform(0.65, 0.85), rng.uniform(0.7, 0.78)
    ink = palette.thing(TABLE, "table")
    side = palette.also(ink, "table")
    thing = Thing().box(ink, (0, depth / 2, height - 0.04), (width, depth, 0.04))
    thing.box(side, (0.03 - width / 2, depth / 2, 0), (0.05, depth - 0.04, height - 0.04))
    thing.box(side, (width / 2 - 0.22, depth / 2, 0), (0.42, depth - 0.06, height - 0.04))
    for z in (0.08, 0.3, 0.5):
        thing.box(side, (width / 2 - 0.22, depth - 0.025, z), (0.38, 0.02, 0.17))
    if rng.random() < 0.5:
        thing.put(screen(rng, palette, rng.uniform(0.42, 0.6)), (rng.uniform(-0.2, 0.1), 0.2, height))
    _load(rng, palette, thing, (width, depth, depth * 0.65, height), int(rng.integers(0, 4)))
    return thing


def screen(rng: Rng, palette: Palette, width: float) -> Thing:
    """A television or computer screen on a foot. Its back is at y = 0."""
    ink = palette.thing(TV, "screen")
    height, frame = width * rng.uniform(0.56, 0.64), palette.also(ink, "dark")
    thing = Thing().box(frame, (0, 0.09, 0), (width * 0.45, 0.16, 0.02)).box(frame, (0, 0.08, 0.02), (0.08, 0.03, 0.06))
    return thing.box(frame, (0, 0.09, 0.06), (width, 0.05, height)).box(
        ink, (0, 0.117, 0.085), (width - 0.05, 0.01, height - 0.05)
    )


def cabinet(rng: Rng, palette: Palette, rows: int = 1, width: float = 0) -> Thing:
    """A wardrobe or cupboard with doors, or a chest with `rows` rows of drawers."""
    height = rng.uniform(1.1, 2.1) if rows == 1 else rng.uniform(0.25, 0.3) * rows
    width, depth = width or rng.uniform(0.8, 1.6), rng.uniform(0.4, 0.6)
    body = palette.thing(FURNITURE, "furniture")
    door, knob = palette.also(body, "furniture") if rng.random() < 0.4 else body, palette.also(body, "metal")
    thing = Thing().box(body, (0, depth / 2, 0), (width, depth, height))
    columns, rise = 2, (height - 0.12) / rows
    for row in range(rows):
        for column in range(columns):
            x, z = width * ((column + 0.5) / columns - 0.5), 0.08 + row * rise
            thing.box(door, (x, depth + 0.01, z), (width / columns - 0.05, 0.025, rise - 0.04))
            at = (x + (0.5 - column) * (width / columns - 0.18), depth + 0.01, z + rise / 2 - 0.03)
            thing.ellipsoid(knob, at, (0.05, 0.05, 0.05))
    return thing


def drawers(rng: Rng, palette: Palette) -> Thing:
    """A chest of drawers with small things on it."""
    thing = cabinet(rng, palette, rows=int(rng.integers(2, 5)))
    (x0, _, _), (x1, y1, top) = thing.bounds()
    for x in rng.permutation(np.linspace(x0, x1, 5)[1:-1])[: rng.integers(1, 4)]:
        thing.put(small(rng, palette), (x, y1 * 0.5, top))
    return thing


def shelf(rng: Rng, palette: Palette) -> Thing:
    """An open shelf with rows of books and small things."""
    width, depth, count = rng.uniform(0.8, 1.5), rng.uniform(0.28, 0.36), int(rng.integers(3, 6))
    gap = rng.uniform(0.32, 0.4)
    ink = palette.thing(FURNITURE, "furniture")
    thing = Thing().box(ink, (0, 0.01, 0), (width, 0.02, gap * count + 0.06))
    for x in (0.015 - width / 2, width / 2 - 0.015):
        thing.box(ink, (x, depth / 2, 0), (0.03, depth, gap * count + 0.06))
    for row in range(count + 1):
        thing.box(ink, (0, depth / 2, 0.03 + row * gap), (width, depth, 0.03))
    for row in range(count):
        z, kind = 0.06 + row * gap, rng.random()
        if kind < 0.6:
            thing.put(book_row(rng, palette, width * rng.uniform(0.45, 0.9), gap - 0.06), (0, depth / 2, z))
        elif kind < 0.9:
            for x in np.linspace(-0.3, 0.3, 2) * width:
                thing.put(small(rng, palette, gap - 0.05, lamps=False), (x, depth / 2, z))
    return thing


def tv_bench(rng: Rng, palette: Palette) -> Thing:
    """A low chest with a television on it."""
    thing = cabinet(rng, palette, rows=2)
    _, (_, depth, top) = thing.bounds()
    return thing.put(screen(rng, palette, rng.uniform(0.8, 1.3)), (0, depth * 0.35, top))


def counter(rng: Rng, palette: Palette) -> Thing:
    """A kitchen counter with cupboards above it, a tap and small things."""
    width, body = rng.uniform(1.6, 2.6), palette.thing(FURNITURE, "furniture")
    top, knob = palette.also(body, "table"), palette.also(body, "metal")
    thing = Thing().box(body, (0, 0.3, 0), (width, 0.56, 0.86)).box(top, (0, 0.31, 0.86), (width + 0.02, 0.64, 0.04))
    count = int(width / 0.5)
    upper = rng.random() < 0.7
    for k in range(count):
        x, door = width * ((k + 0.5) / count - 0.5), width / count - 0.03
        thing.box(body, (x, 0.59, 0.1), (door, 0.02, 0.72)).ellipsoid(
            knob, (x + door / 3, 0.6, 0.7), (0.05, 0.05, 0.05)
        )
        if upper:
            thing.box(body, (x, 0.17, 1.45), (door + 0.02, 0.34, 0.65)).box(body, (x, 0.35, 1.48), (door, 0.02, 0.59))
    for x in rng.permutation(np.linspace(-0.4, 0.4, 6))[: rng.integers(2, 5)] * width:
        thing.put(small(rng, palette, 0.5), (x, rng.uniform(0.25, 0.4), 0.9))
    return thing


def fridge(rng: Rng, palette: Palette) -> Thing:
    """A fridge with two doors."""
    width, height = rng.uniform(0.6, 0.75), rng.uniform(1.5, 1.85)
    body = palette.thing(FURNITURE, "white")
    handle = palette.also(body, "metal")
    thing = Thing().box(body, (0, 0.32, 0), (width, 0.6, height))
    for z, rise in ((0.05, height * 0.6), (height * 0.6 + 0.08, height * 0.4 - 0.1)):
        thing.box(body, (0, 0.63, z), (width - 0.02, 0.05, rise)).cylinder(
            handle, (width / 3, 0.68, z + 0.1), 0.02, 0.3
        )
    return thing
