"""Materials: how the class of a thing influences its look, and procedural textures.

With probability `cue_p` a material comes from the pool of its class, otherwise from a pool that all classes share.
Colour and texture therefore give some information about the class, but not enough. With probability `decoy_p` the
material gets a painted gradient that looks like the shading of a relief. It gives false information about the shape.
"""

import colorsys
from dataclasses import dataclass

import numpy as np

from mtlkit.datasets.scenes.geometry import Array, Ints, dot

PLAIN, STRIPES, CHECKS, WOOD, CLOTH, TILES, PLANKS, SPINES, ART = range(9)


@dataclass(frozen=True)
class Pool:
    """Ranges of hue, saturation and value of the two colours, the possible textures, and the gloss."""

    hue: tuple[float, float]
    saturation: tuple[float, float]
    value: tuple[float, float]
    textures: tuple[int, ...] = (PLAIN,)
    gloss: float = 0.05
    glow: float = 0.0
    fixed: bool = False  # always from this pool: lights, screens, glass and spines have no other look


_ANY = (0.0, 1.0)
POOLS = {
    "wall": Pool((0.05, 0.18), (0.03, 0.28), (0.6, 0.9), (PLAIN, PLAIN, PLAIN, STRIPES, TILES)),
    "ceiling": Pool((0.08, 0.16), (0.0, 0.06), (0.82, 0.97)),
    "floor": Pool((0.05, 0.11), (0.25, 0.6), (0.3, 0.62), (PLANKS, PLANKS, TILES, CLOTH), 0.12),
    "rug": Pool(_ANY, (0.2, 0.7), (0.25, 0.8), (CLOTH, STRIPES, CHECKS)),
    "bed": Pool((0.5, 1.0), (0.05, 0.5), (0.55, 0.95), (PLAIN, CLOTH, STRIPES, CHECKS)),
    "sofa": Pool((0.95, 1.15), (0.3, 0.75), (0.25, 0.6), (CLOTH, CLOTH, PLAIN, STRIPES)),
    "chair": Pool((0.02, 0.12), (0.2, 0.75), (0.12, 0.5), (PLAIN, WOOD, CLOTH)),
    "table": Pool((0.06, 0.11), (0.35, 0.65), (0.4, 0.75), (WOOD, WOOD, PLAIN), 0.25),
    "furniture": Pool((0.05, 0.12), (0.05, 0.6), (0.4, 0.85), (WOOD, WOOD, PLAIN), 0.1),
    "wood": Pool((0.05, 0.1), (0.4, 0.7), (0.2, 0.6), (WOOD, PLAIN), 0.15),
    "objects": Pool(_ANY, (0.5, 0.95), (0.3, 0.9), (PLAIN, PLAIN, STRIPES, CHECKS), 0.3),
    "cover": Pool(_ANY, (0.4, 0.9), (0.3, 0.8)),
    "white": Pool(_ANY, (0.0, 0.05), (0.8, 0.95), (PLAIN,), 0.4),
    "metal": Pool((0.55, 0.65), (0.0, 0.15), (0.4, 0.8), (PLAIN,), 0.5),
    "leaf": Pool((0.24, 0.38), (0.5, 0.8), (0.2, 0.55), (CLOTH,)),
    "shade": Pool((0.08, 0.15), (0.1, 0.4), (0.6, 0.9)),
    "picture": Pool(_ANY, (0.3, 0.9), (0.3, 0.9), (ART,), 0.1, fixed=True),
    "books": Pool(_ANY, (0.3, 0.9), (0.3, 0.9), (SPINES,), 0.1, fixed=True),
    "dark": Pool(_ANY, (0.0, 0.1), (0.05, 0.15), (PLAIN,), 0.4, fixed=True),
    "screen": Pool((0.5, 0.7), (0.0, 0.3), (0.03, 0.12), (PLAIN,), 0.7, fixed=True),
    "mirror": Pool((0.5, 0.6), (0.0, 0.12), (0.45, 0.75), (ART,), 0.8, fixed=True),
    "night": Pool((0.58, 0.68), (0.3, 0.7), (0.04, 0.15), (ART,), 0.6, fixed=True),
    "glow_day": Pool((0.52, 0.6), (0.02, 0.3), (0.85, 1.0), (ART,), 0.0, 1.3, True),
    "glow_lamp": Pool((0.09, 0.14), (0.1, 0.4), (0.95, 1.0), (PLAIN,), 0.0, 1.2, True),
}
COMMON = Pool(_ANY, (0.05, 0.6), (0.2, 0.9), (PLAIN, PLAIN, STRIPES, CHECKS, WOOD, CLOTH))
MUTED = Pool(_ANY, (0.02, 0.35), (0.35, 0.95), (PLAIN, PLAIN, STRIPES, CLOTH, TILES))  # for large surfaces


@dataclass(frozen=True)
class Materials:
    """M materials as arrays: two linear colours (M, 3), texture with frequency (1/m), place and axes, and more."""

    first: Array
    second: Array
    texture: Ints
    frequency: Array
    phase: Array  # (M, 3)
    upright: Array  # 1 for vertical stripes, 0 for horizontal ones
    gloss: Array
    glow: Array
    decoy: Array  # the strength of the painted relief, 0 for none
    waves: Array  # (M, 3) the direction and frequency of the relief
    glass: Array  # 1 for window panes, mirrors and screens, which depth sensors cannot see


def draw(rng: np.random.Generator, pools: tuple[str, ...], cue_p: float, decoy_p: float) -> Materials:
    """Draws materials for these pools. Each takes the same number of draws, so a knob changes only its own effect."""
    u = rng.random((len(pools), 24))
    chosen = []
    for name, cue in zip(pools, u[:, 0], strict=True):
        shared = MUTED if name in ("wall", "ceiling", "floor") else COMMON
        chosen.append(POOLS[name] if POOLS[name].fixed or cue < cue_p else shared)
    texture = np.array([p.textures[int(x * len(p.textures))] for p, x in zip(chosen, u[:, 1], strict=True)])
    second = np.stack([_colour(p, x) for p, x in zip(chosen, u[:, 5:8], strict=True)])
    first = np.stack([_colour(p, x) for p, x in zip(chosen, u[:, 2:5], strict=True)])
    tone = first * (0.55 + 0.3 * u[:, 8:9])  # woods, planks and tiles have two tones of one colour
    second = np.where(np.isin(texture, (WOOD, PLANKS, TILES, CLOTH))[:, None], tone, second)
    fixed = np.array([p.fixed for p in chosen])
    glass = np.array([name in ("glow_day", "night", "mirror", "screen") for name in pools])
    direction = u[:, 18:21] - 0.5
    length = np.sqrt(dot(direction.T, direction.T))[:, None] + 1e-9
    return Materials(
        first=first,
        second=second,
        texture=texture,
        frequency=1.5 * 5 ** u[:, 9],
        phase=u[:, 10:13],
        upright=(u[:, 13] < 0.6).astype(float),
        gloss=np.array([p.gloss for p in chosen]) * (0.5 + u[:, 14]),
        glow=np.array([p.glow for p in chosen]),
        decoy=np.where((u[:, 15] < decoy_p) & ~fixed, 0.35 + 0.3 * u[:, 16], 0.0),
        waves=direction / length * (2 + 8 * u[:, 17:18]),
        glass=glass.astype(float),
    )


def _colour(pool: Pool, u: Array) -> Array:
    h, s, v = (
        low + (high - low) * x for (low, high), x in zip((pool.hue, pool.saturation, pool.value), u, strict=True)
    )
    return np.array(colorsys.hsv_to_rgb(h % 1, s, v)) ** 2.2


def albedo(materials: Materials, index: Ints, local: Array, half: Array) -> Array:
    """Returns linear colours (3, N) at local points (3, N), in metres, of primitives with half-sizes `half` (3, N)."""
    mix = np.zeros(index.shape)
    kinds = materials.texture[index]
    for kind, texture in TEXTURES.items():
        at = np.flatnonzero(kinds == kind)
        if at.size:
            m = index[at]
            mix[at] = texture(
                local[:, at], half[:, at], materials.frequency[m], materials.phase[m].T, materials.upright[m]
            )
    colour = (materials.first[index] * (1 - mix)[:, None] + materials.second[index] * mix[:, None]).T
    spines = np.flatnonzero(kinds == SPINES)
    if spines.size:
        colour[:, spines] = _spines(local[:, spines], materials.phase[index[spines]].T)
    decoyed = np.flatnonzero(materials.decoy[index] > 0)
    if decoyed.size:
        m = index[decoyed]
        wave = np.sin(dot(materials.waves[m].T, local[:, decoyed]) + 6.3 * materials.phase[m, 0])
        colour[:, decoyed] *= 1 + materials.decoy[m] * wave
    return colour


def _lattice(cells: Ints) -> Array:
    """Returns pseudo-random numbers in [0, 1) for vectors (3, N) of whole numbers."""
    x, y, z = cells.astype(np.uint64)
    h = x * np.uint64(0x9E3779B97F4A7C15) ^ y * np.uint64(0xC2B2AE3D27D4EB4F) ^ z * np.uint64(0x165667B19E3779F9)
    h = (h ^ (h >> np.uint64(29))) * np.uint64(0xBF58476D1CE4E5B9)
    return ((h ^ (h >> np.uint64(32))) & np.uint64(0xFFFFFF)).astype(float) / 2**24


def noise(points: Array) -> Array:
    """Returns smooth noise in [0, 1] with features of size 1 (value noise)."""
    base = np.floor(points)
    s = points - base
    s = s * s * (3 - 2 * s)
    cells, total = base.astype(np.int64), np.zeros(points.shape[1])
    for corner in np.ndindex(2, 2, 2):
        c = np.array(corner)[:, None]
        weight = np.where(c, s, 1 - s)
        total += weight[0] * weight[1] * weight[2] * _lattice(cells + c)
    return total


def _along(p: Array, upright: Array) -> Array:
    return np.where(upright > 0, p[0] + 0.6 * p[1], p[2] + 0.6 * p[1])


def _stripes(p: Array, half: Array, f: Array, phase: Array, upright: Array) -> Array:
    return (((_along(p, upright) * f + phase[0]) % 1) < 0.45).astype(float)


def _checks(p: Array, half: Array, f: Array, phase: Array, upright: Array) -> Array:
    return (np.floor(p * f + phase + 0.37).sum(axis=0) % 2 > 0).astype(float)


def _wood(p: Array, half: Array, f: Array, phase: Array, upright: Array) -> Array:
    long = np.where(upright > 0, p[2], p[0])
    across = np.where(upright > 0, p[0], p[2]) + p[1]
    grain = noise(np.stack([across * f * 4, long * 1.3, across * 0]) + 17 * phase)
    return 0.5 + 0.5 * np.sin(14 * grain + 9 * f * across)


def _cloth(p: Array, half: Array, f: Array, phase: Array, upright: Array) -> Array:
    return noise(p * 5 * f + 29 * phase)


def _tiles(p: Array, half: Array, f: Array, phase: Array, upright: Array) -> Array:
    on_face = np.abs(p) > half - 1e-6
    size = np.clip(f, 2, 4)
    return ((((p * size + phase) % 1) < 0.08) & ~on_face).any(axis=0).astype(float)


def _planks(p: Array, half: Array, f: Array, phase: Array, upright: Array) -> Array:
    a, b = np.where(upright > 0, p[:2], p[1::-1])
    row = np.floor(a * 7 + phase[0])
    column = np.floor(b * 0.8 + row * 0.37 + phase[1])
    tone = _lattice(np.stack([row, column, row * 0]).astype(np.int64))
    return np.where((a * 7 + phase[0]) % 1 < 0.07, 1.0, 0.8 * tone)


def _art(p: Array, half: Array, f: Array, phase: Array, upright: Array) -> Array:
    rise = p[2] / half[2]
    return np.clip(0.5 - 0.9 * rise + 1.2 * (noise(p * 2 * f + 41 * phase) - 0.5), 0, 1)


def _spines(p: Array, phase: Array) -> Array:
    """Returns the colours of book spines, 3 to 5 cm wide, with dark gaps."""
    cell = p[0] * 24 + 7 * phase[0]
    seed = np.stack([np.floor(cell), np.floor(97 * phase[1]), 0 * cell]).astype(np.int64)
    colour = np.stack([0.06 + 0.7 * _lattice(seed + k) ** 1.5 for k in (1, 2, 3)])
    return np.where(cell % 1 < 0.12, 0.02, colour)


TEXTURES = {STRIPES: _stripes, CHECKS: _checks, WOOD: _wood, CLOTH: _cloth, TILES: _tiles, PLANKS: _planks, ART: _art}
