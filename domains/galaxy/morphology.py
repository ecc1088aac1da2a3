"""Draw shapes of synthetic galaxies, render them, and say what volunteers would answer about them.

Three classes: ellipticals (Sersic profiles), inclined spiral discs, edge-on discs; and a few mergers. Colour,
brightness and size come from the same distributions in all, so that only the shape tells them apart. All numbers are
ours.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

import numpy as np
from scipy.ndimage import gaussian_filter

from sciencessl.spec import LabelSchema

CLASSES = ("elliptical", "spiral", "edge-on", "merger")
BANDS = ("g", "r", "z")
BOX = 80
"""Side in pixels of the box that a galaxy is rendered in; its light fades to nothing at the rim."""

_ELLIPTICAL, _SPIRAL, _EDGE_ON, _MERGER = range(4)
_MERGER_EVERY = 13
_ARM_COUNTS = (1, 2, 3, 4)
_PATCH = 1.3  # sigma of a patch of a disc, pixels


@dataclass(frozen=True)
class Galaxies:
    """Shapes and brightness of N galaxies, each attribute an array of N.

    Attributes:
        kind: Index into `CLASSES`.
        radius: Half-light radius along the major axis, pixels.
        axis_ratio: Apparent minor over major axis; thickness of the disc for edge-on ones.
        angle: Position angle of the major axis, radians from the x axis.
        sersic: Sersic index of ellipticals and bulges.
        bulge: Share of the light in the bulge, 0 to 1.
        arms: Number of spiral arms.
        pitch: Pitch angle of the arms, degrees.
        handedness: +1 or -1: which way the arms wind.
        phase: Where the arms start, radians.
        contrast: Strength of the arms, 0 to 1.
        bar: Share of the disc's light in a bar.
        boxiness: Exponent of an edge-on bulge's outline: 2 is an ellipse, more is boxy.
        dust: Optical depth of the dust lane of an edge-on disc.
        separation: Distance of a merger's second nucleus, in half-light radii.
        companion: Share of the light in that second galaxy.
        seed: Of the patchiness of discs.
        gradient: Colour difference between old and young light; same distribution for all classes.
        flux: (N, 3) flux in g, r, z, nanomaggies.
    """

    kind: np.ndarray
    radius: np.ndarray
    axis_ratio: np.ndarray
    angle: np.ndarray
    sersic: np.ndarray
    bulge: np.ndarray
    arms: np.ndarray
    pitch: np.ndarray
    handedness: np.ndarray
    phase: np.ndarray
    contrast: np.ndarray
    bar: np.ndarray
    boxiness: np.ndarray
    dust: np.ndarray
    separation: np.ndarray
    companion: np.ndarray
    seed: np.ndarray
    gradient: np.ndarray
    flux: np.ndarray

    def __len__(self) -> int:
        return len(self.kind)

    def take(self, rows: np.ndarray) -> Galaxies:
        """The galaxies of some rows, in that order."""
        return Galaxies(**{f.name: getattr(self, f.name)[rows] for f in fields(self)})


def draw_galaxies(n: int, rng: np.random.Generator) -> Galaxies:
    """Draw N galaxies: one in 13 a merger, the other classes as equally as N allows; all else independent of class
    but the axis ratio.

    Args:
        n: How many.
        rng: Source of the draws.

    Returns:
        Half-light radii of 3.2 to 13 px, r magnitudes of 16.5 to 19.5; a galaxy of given size may be faint or bright.
    """
    number = np.arange(n)
    merger = number % _MERGER_EVERY == _MERGER_EVERY - 1
    kind = rng.permutation(np.where(merger, _MERGER, (number - number // _MERGER_EVERY) % _MERGER))
    thickness = {_ELLIPTICAL: (0.4, 1.0), _SPIRAL: (0.45, 1.0), _EDGE_ON: (0.12, 0.26), _MERGER: (0.4, 1.0)}
    low, high = np.array([thickness[k] for k in range(len(CLASSES))]).T[:, kind]
    axis_ratio = rng.uniform(low, high)
    return Galaxies(
        kind=kind,
        # Near enough the same area on the sky for all classes, so that mean brightness does not give them away.
        radius=np.minimum(rng.uniform(3.2, 7.6, n) * axis_ratio**-0.45, 13.0),
        axis_ratio=axis_ratio,
        angle=rng.uniform(0, np.pi, n),
        sersic=rng.uniform(0.7, 3.0, n),
        bulge=rng.beta(1.3, 3.5, n),
        arms=rng.choice(_ARM_COUNTS, size=n, p=(0.08, 0.64, 0.16, 0.12)),
        pitch=rng.uniform(10.0, 32.0, n),
        handedness=rng.choice((-1, 1), size=n),
        phase=rng.uniform(0, 2 * np.pi, n),
        contrast=rng.uniform(0.35, 0.95, n),
        bar=np.where(rng.random(n) < 0.35, rng.uniform(0.05, 0.25, n), 0.0),
        boxiness=np.where(rng.random(n) < 0.25, 4.0, 2.0),
        dust=np.where(rng.random(n) < 0.5, rng.uniform(0.4, 1.5, n), 0.0),
        separation=rng.uniform(1.2, 2.4, n),
        companion=rng.uniform(0.2, 0.45, n),
        seed=rng.integers(0, 2**32, n),
        gradient=rng.uniform(0.0, 0.35, n),
        flux=_draw_flux(n, rng),
    )


def render(galaxies: Galaxies, centre: np.ndarray) -> np.ndarray:
    """Render galaxies without sky, noise or blur; the same galaxy looks the same wherever it is rendered.

    Args:
        galaxies: N of them.
        centre: (N, 2) x and y of the (brighter) nucleus in the box, 0-based pixels, near (BOX - 1) / 2.

    Returns:
        (N, 3, BOX, BOX) float32, nanomaggies a pixel in g, r, z; each band sums to its flux.
    """
    out = np.empty((len(galaxies), len(BANDS), BOX, BOX), dtype=np.float32)
    for kind, shape in enumerate((_elliptical, _spiral, _edge_on, _merger)):
        rows = np.flatnonzero(galaxies.kind == kind)
        if len(rows):
            some = galaxies.take(rows)
            x, y, window = _axes(centre[rows], some.angle)
            out[rows] = _colour(some, *(part * window for part in shape(some, x, y)))
    return out


def answer_fractions(galaxies: Galaxies, schema: LabelSchema, rng: np.random.Generator) -> np.ndarray:
    """Fractions of volunteers who would pick each answer of gzd5's questions, from the true shape.

    Soft bins of the shape, then a Dirichlet of concentration 30 around them: galaxies differ beyond what we model.

    Args:
        galaxies: N of them.
        schema: gzd5.
        rng: Source of the scatter.

    Returns:
        (N, 34) in the order of `schema.columns`, each question summing to 1, conditional on being asked.
    """
    means = _mean_fractions(galaxies)
    out = np.empty((len(galaxies), len(schema.columns)))
    for question, (start, stop) in zip(schema.questions, schema.groups, strict=True):
        weights = np.maximum(means[question.name.rpartition("-")[0]], 1e-3)
        # Gamma variates divided by their sum are Dirichlet, and gamma takes one row of parameters a galaxy.
        drawn = rng.gamma(30.0 * weights / weights.sum(axis=1, keepdims=True)) + 1e-12
        out[:, start:stop] = drawn / drawn.sum(axis=1, keepdims=True)
    return out


def _draw_flux(n: int, rng: np.random.Generator) -> np.ndarray:
    mag_r = rng.uniform(16.5, 19.5, n)
    # Mostly one colour, from blue to red, with a little of its own in each band.
    colour = rng.uniform(0.35, 0.95, n)
    mag_g = mag_r + colour + rng.normal(0, 0.05, n)
    mag_z = mag_r - 0.8 * colour + rng.normal(0, 0.05, n)
    magnitudes: np.ndarray = np.stack([mag_g, mag_r, mag_z], axis=1)
    flux: np.ndarray = 10 ** (0.4 * (22.5 - magnitudes))
    return flux


def _axes(centre: np.ndarray, angle: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    grid = np.arange(BOX, dtype=np.float32)
    dx = grid[None, None, :] - _column(centre[:, 0])
    dy = grid[None, :, None] - _column(centre[:, 1])
    cos, sin = _column(np.cos(angle)), _column(np.sin(angle))
    rim = np.clip((BOX / 2 - np.hypot(dx, dy)) / (BOX / 8), 0, 1)
    return dx * cos + dy * sin, dy * cos - dx * sin, rim * rim * (3 - 2 * rim)


def _column(values: np.ndarray) -> np.ndarray:
    return np.asarray(values, dtype=np.float32)[:, None, None]


def _profile(r: np.ndarray, radius: np.ndarray, index: np.ndarray) -> np.ndarray:
    """Sersic profile of unit sum; b_n after Ciotti and Bertin (1999), leading terms."""
    b = 2 * index - 1 / 3 + 4 / (405 * index)
    # Half a pixel of softening keeps the cusp of a large index from landing in one pixel.
    light = np.exp(-_column(b) * (np.sqrt(r * r + 0.25) / _column(radius)) ** _column(1 / index))
    return _unit(light)


def _unit(light: np.ndarray) -> np.ndarray:
    scaled: np.ndarray = light / light.sum(axis=(1, 2), keepdims=True)
    return scaled


def _elliptical(g: Galaxies, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    r = np.hypot(x, y / _column(g.axis_ratio))
    outer = _profile(r, 1.3 * g.radius, g.sersic)
    return 0.5 * _profile(r, 0.8 * g.radius, g.sersic), 0.5 * outer


def _spiral(g: Galaxies, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    deprojected = y / _column(g.axis_ratio)
    r = np.hypot(x, deprojected)
    disc = _profile(r, 1.2 * g.radius, np.ones(len(g)))
    bar = _unit(np.exp(-((np.abs(_turn(x, deprojected, g, 0)) / _column(0.75 * g.radius)) ** 4)
                       - (_turn(x, deprojected, g, 1) / _column(0.2 * g.radius)) ** 2))
    bulge = _profile(np.hypot(x, y / np.maximum(_column(g.axis_ratio), 0.7)), 0.3 * g.radius, 0.6 * g.sersic + 0.4)
    arms = _unit(disc * _arm_pattern(g, x, deprojected, r) * _patches(g, 0.45))
    strength = _column(g.contrast)
    old = _column(g.bulge) * bulge + _column((1 - g.bulge) * g.bar) * bar
    rest = _column((1 - g.bulge) * (1 - g.bar))
    return old + rest * (1 - strength) * disc, rest * strength * arms


def _turn(x: np.ndarray, y: np.ndarray, g: Galaxies, axis: int) -> np.ndarray:
    """Coordinates along (0) and across (1) the bar, which points to where an arm starts."""
    start = g.phase / g.arms
    cos, sin = _column(np.cos(start)), _column(np.sin(start))
    turned: np.ndarray = x * cos + y * sin if axis == 0 else y * cos - x * sin
    return turned


def _arm_pattern(g: Galaxies, x: np.ndarray, y: np.ndarray, r: np.ndarray) -> np.ndarray:
    """Logarithmic spirals: theta = ln(r / r0) / tan(pitch) along a crest; fading in outside 0.4 radii."""
    start = 0.45 * _column(g.radius)
    winding = np.log((r + 0.3) / start) / _column(np.tan(np.deg2rad(g.pitch)))
    phase = _column(g.arms) * (np.arctan2(y, x) - _column(g.handedness) * winding) - _column(g.phase)
    sharpness = _column(1.2 + 2.2 * g.contrast)
    crest = np.exp(sharpness * (np.cos(phase) - 1))
    # Near the nucleus the crests are finer than a pixel: fade into an even disc.
    inside = np.clip((r / start - 0.7) / 0.6, 0, 1)
    # Arms shine further out than the disc, as star formation does.
    outwards = np.exp(0.25 * np.minimum(r / _column(g.radius), 3.0))
    pattern: np.ndarray = outwards * (inside * crest + (1 - inside) * 0.3)
    return pattern


def _patches(g: Galaxies, depth: float) -> np.ndarray:
    white = [np.random.default_rng(seed).standard_normal((BOX, BOX), dtype=np.float32) for seed in g.seed.tolist()]
    # White noise of unit variance has a standard deviation of 1 / (2 sqrt(pi) sigma) when smoothed.
    field = gaussian_filter(np.stack(white), sigma=(0, _PATCH, _PATCH)) * (2 * np.sqrt(np.pi) * _PATCH)
    lognormal: np.ndarray = np.exp(depth * field)
    return lognormal


def _edge_on(g: Galaxies, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    length = _column(g.radius / 1.35)
    height = _column(np.maximum(1.35 * g.radius * g.axis_ratio, 0.6))
    disc = np.exp(-np.abs(x) / length) / np.cosh(np.clip(y / height, -20, 20)) ** 2
    disc = _unit(disc * _patches(g, 0.15))
    power = _column(g.boxiness)
    r = (np.abs(x) ** power + np.abs(y / 0.75) ** power) ** (1 / power)
    bulge = _profile(r, 0.38 * g.radius, 0.5 * g.sersic + 0.3)
    lane = np.exp(-_column(g.dust) / np.cosh(np.clip(3.0 * (y / height - 0.25), -20, 20)) ** 2)
    share = _column(g.bulge)
    old, young = share * bulge + 0.4 * (1 - share) * disc, 0.6 * (1 - share) * disc
    return old * lane, young * lane


def _merger(g: Galaxies, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Two nuclei, the first in the middle, and one arm of young stars drawn out of the first: a tidal tail."""
    r = np.hypot(x, y / _column(g.axis_ratio))
    dx = x - _column(g.separation * g.radius * np.cos(g.phase))
    dy = y - _column(g.separation * g.radius * np.sin(g.phase))
    second = _profile(np.hypot(dx, dy), 0.6 * g.radius, g.sersic)
    one = replace(g, arms=np.ones(len(g), int), pitch=g.pitch + 10)
    tail = _unit(_profile(r, 1.5 * g.radius, np.ones(len(g))) * _arm_pattern(one, x, y, r) * _patches(g, 0.45))
    share = _column(g.companion)
    return 0.6 * (1 - share) * _profile(r, 0.7 * g.radius, g.sersic) + share * second, 0.4 * (1 - share) * tail


def _colour(g: Galaxies, old: np.ndarray, young: np.ndarray) -> np.ndarray:
    tilt = np.stack([-g.gradient, np.zeros(len(g)), g.gradient], axis=1)[:, :, None, None]
    light = (1 + tilt) * old[:, None] + (1 - tilt) * young[:, None]
    total = light.sum(axis=(2, 3), keepdims=True)
    bands: np.ndarray = g.flux[:, :, None, None] * light / total
    return bands.astype(np.float32)


def _bins(values: np.ndarray, centres: tuple[float, ...], width: float) -> np.ndarray:
    """Soft membership of values in bins around centres: a Gaussian kernel, normalised; (N, bins)."""
    distance = (values[:, None] - np.asarray(centres)) / width
    near = np.exp(-0.5 * distance**2) + 1e-6
    shares: np.ndarray = near / near.sum(axis=1, keepdims=True)
    return shares


def _binary(yes: np.ndarray) -> np.ndarray:
    return np.stack([yes, 1 - yes], axis=1)


def _mean_fractions(g: Galaxies) -> dict[str, np.ndarray]:
    spiral, edge_on, merger = (g.kind == kind for kind in (_SPIRAL, _EDGE_ON, _MERGER))
    # Volunteers see less in small galaxies: features fade towards half of what is there.
    clarity = np.clip((g.radius - 2.0) / 5.0, 0.3, 1.0)
    visible = np.where(spiral, g.contrast * clarity, 0.0)
    featured = np.select([spiral, edge_on, merger], [0.25 + 0.7 * visible, 0.45 + 0.4 * clarity, 0.55], 0.10)
    barred = np.where(spiral, np.clip(g.bar * 4.0 * clarity, 0, 1), 0.04)
    boxy = np.where(g.boxiness > 2, 0.45, 0.06)
    no_bulge = np.clip(1 - 4 * g.bulge, 0.05, 0.9)
    arms = 0.75 * (g.arms[:, None] == np.asarray(_ARM_COUNTS)) + 0.03
    flat = np.where(edge_on, 0.3, g.axis_ratio)
    return {
        "smooth-or-featured": np.stack([0.97 * (1 - featured), 0.97 * featured, np.full(len(g), 0.03)], axis=1),
        "disk-edge-on": _binary(np.where(edge_on, 0.92, np.where(g.axis_ratio < 0.5, 0.15, 0.04))),
        "has-spiral-arms": _binary(np.where(spiral, 0.35 + 0.62 * visible, 0.12)),
        "bar": np.stack([0.6 * barred, 0.4 * barred, 1 - barred], axis=1),
        "bulge-size": _bins(g.bulge, (0.75, 0.5, 0.3, 0.15, 0.0), 0.08),
        "how-rounded": _bins(flat, (0.9, 0.65, 0.3), 0.12),
        "edge-on-bulge": np.stack([boxy * (1 - no_bulge), no_bulge, (1 - boxy) * (1 - no_bulge)], axis=1),
        "spiral-winding": _bins(g.pitch, (12.0, 20.0, 30.0), 4.0),
        "spiral-arm-count": np.concatenate([arms, np.full((len(g), 1), 0.03), _column(0.4 - 0.3 * clarity)[:, 0]], 1),
        "merging": np.where(merger[:, None], (0.08, 0.12, 0.25, 0.55), (0.88, 0.08, 0.02, 0.02)),
    }
