"""Prints statistics of the rendered rooms: class shares beside NYUv2's, attributes, depth, and the time to render.

python tools/scenes_stats.py [--size 64 48] [--limit 400] [--picture sheet.png]
"""

import argparse
import sys
import tempfile
import time

import numpy as np
from PIL import Image

from mtlkit.datasets.scenes import ATTRIBUTES, CLASSES, Scenes, cache

# Shares of pixels in the 654 official test labels of NYUv2 (13 classes, 640x480), without void, which is .171.
NYU = (0.041, 0.0066, 0.0128, 0.0327, 0.0979, 0.1388, 0.1208, 0.0220, 0.0307, 0.0354, 0.0042, 0.2355, 0.0507)
COLOURS = np.random.default_rng(5).integers(40, 255, (14, 3)).astype("u1") * (np.arange(14) > 0)[:, None].astype("u1")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--split", default="train")
    parser.add_argument("--size", nargs=2, type=int, default=(64, 48))
    parser.add_argument("--limit", type=int, default=400)
    parser.add_argument("--picture", help="a PNG with image, labels, depth and normals of the first 24 frames")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as root:
        start = time.perf_counter()
        scenes = Scenes(root, args.split, args.size, args.limit)
        seconds = time.perf_counter() - start
        start = time.perf_counter()
        Scenes(root, args.split, args.size, args.limit)
        print_statistics(cache.load_arrays(scenes.folder), seconds, time.perf_counter() - start)
        if args.picture:
            contact_sheet(cache.load_arrays(scenes.folder)).save(args.picture)


def print_statistics(arrays: cache.Arrays, seconds: float, opening: float) -> None:
    out = sys.stdout.write
    label, depth, attributes = arrays["label"], arrays["depth"] / 1000, arrays["attributes"]
    out(f"{len(label)} frames: rendered in {seconds:.1f} s, opened again in {opening:.2f} s\n\n")
    out(f"{'class':<12}{'share':>8}{'NYUv2':>8}{'ratio':>7}\n{'void':<12}{(label < 0).mean():8.3f}{0.171:8.3f}\n")
    for k, (name, wanted) in enumerate(zip(CLASSES, NYU, strict=True)):
        share = (label == k).mean()
        out(f"{name:<12}{share:8.4f}{wanted:8.4f}{share / wanted:7.2f}\n")
    out(f"\n{'attribute':<24}{'share':>6}\n")
    for name, share in zip(ATTRIBUTES, attributes.mean(axis=0), strict=True):
        out(f"{name:<24}{share:6.2f}\n")
    valid = depth[depth > 0]
    low, middle, high = np.quantile(valid, (0.05, 0.5, 0.95))
    out(f"\ndepth in m: median {middle:.2f}, mean {valid.mean():.2f}, std {valid.std():.2f}, ")
    out(f"5 % {low:.2f}, 95 % {high:.2f}; missing {(depth == 0).mean():.3f}\n")


def contact_sheet(arrays: cache.Arrays) -> Image.Image:
    rows = []
    for k in range(min(24, len(arrays["image"]))):
        depth = np.clip(arrays["depth"][k] / 6000, 0, 1)[..., None].repeat(3, axis=2)
        normals = arrays["normals"][k] / 32767 * [1, -1, -1] / 2 + 0.5
        maps = [arrays["image"][k], COLOURS[arrays["label"][k] + 1], depth * 255, normals * 255]
        rows.append(np.concatenate([m.astype("u1") for m in maps], axis=1))
    return Image.fromarray(np.concatenate(rows))


if __name__ == "__main__":
    main()
