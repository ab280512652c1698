"""Pictures of a result: masks, cut-outs, overlays of one mask with its prompts or of all masks of a photo."""

from __future__ import annotations

import colorsys
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw

BLUE = (30, 144, 255)
GREEN = (46, 204, 64)
RED = (255, 65, 54)
YELLOW = (255, 220, 0)
WHITE = (255, 255, 255)
DARK = (16, 16, 16)


def mask_picture(mask: np.ndarray) -> np.ndarray:
    """(H, W) mask -> (H, W) uint8, 255 inside and 0 outside."""
    return np.where(mask, np.uint8(255), np.uint8(0))


def cutout(image: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """(H, W, 4) RGBA: the image inside the mask, transparent and black outside."""
    alpha = mask_picture(mask)
    return np.dstack([np.where(mask.astype(bool)[..., None], image, np.uint8(0)), alpha])


def overlay(
    image: np.ndarray,
    mask: np.ndarray,
    points: Sequence[tuple[float, float]] = (),
    labels: Sequence[int] = (),
    box: Sequence[float] | None = None,
    opacity: float = 0.5,
) -> np.ndarray:
    """Show a mask and its prompts on a photo: (H, W, 3) uint8.

    The mask is tinted blue and outlined in white with a dark rim, just outside its pixels. Points are green
    discs with a plus, or red ones with a minus; the box is yellow. Sizes follow the photo's.

    Args:
        image: (H, W, 3) uint8.
        mask: (H, W).
        points: (x, y) in pixels, with `labels` 1 or 0.
        box: x0, y0, x1, y1 in pixels.
        opacity: of the tint, 0..1.
    """
    picture = image.copy()
    inside = np.asarray(mask, bool)
    side = max(image.shape[:2])
    unit = max(1, round(side / 400))  # the thickness of a line
    if inside.any():
        _tint(picture, inside, unit, opacity)
    shown = Image.fromarray(picture)
    if box is not None:
        _draw_box(shown, box, unit)
    for (x, y), label in zip(points, labels, strict=True):
        _draw_point(shown, x, y, label == 1, max(4, round(side / 75)))
    return np.asarray(shown)


def _tint(picture: np.ndarray, inside: np.ndarray, unit: int, opacity: float) -> None:
    """Tint and outline in place, working on the part around the mask only."""
    rows, columns = np.flatnonzero(inside.any(axis=1)), np.flatnonzero(inside.any(axis=0))
    part = (
        slice(max(rows[0] - 3 * unit, 0), rows[-1] + 3 * unit + 1),
        slice(max(columns[0] - 3 * unit, 0), columns[-1] + 3 * unit + 1),
    )
    inside, region = inside[part], picture[part]
    for channel, colour in enumerate(BLUE):
        blend = np.rint((1 - opacity) * np.arange(256) + opacity * colour).astype(np.uint8)
        region[..., channel] = np.where(inside, blend[region[..., channel]], region[..., channel])
    line = _dilated(inside, unit)
    rim = _dilated(line, max(1, unit // 2)) & ~line
    region[rim] = (0.5 * region[rim]).astype(np.uint8)
    region[line & ~inside] = WHITE


def _dilated(mask: np.ndarray, steps: int) -> np.ndarray:
    """Grow by `steps` pixels in an octagon: 4 and 8 neighbours in turn."""
    mask, grown, across = mask.copy(), np.empty_like(mask), np.empty_like(mask)
    for step in range(steps):
        np.copyto(across, mask)
        across[:, 1:] |= mask[:, :-1]
        across[:, :-1] |= mask[:, 1:]
        np.copyto(grown, across)
        above_and_below = across if step % 2 else mask
        grown[1:] |= above_and_below[:-1]
        grown[:-1] |= above_and_below[1:]
        mask, grown = grown, mask
    return mask


def _draw_box(shown: Image.Image, box: Sequence[float], unit: int) -> None:
    """A yellow frame with a dark rim on both sides."""
    draw = ImageDraw.Draw(shown)
    x0, y0, x1, y1 = (round(c) for c in box)
    x1, y1 = min(x1, shown.width - 1), min(y1, shown.height - 1)
    rim = max(1, unit // 2)
    for grow, colour, width in ((rim, DARK, unit + 2 * rim), (0, YELLOW, unit)):
        corners = (x0 - grow, y0 - grow, max(x1, x0) + grow, max(y1, y0) + grow)
        draw.rectangle(corners, outline=colour, width=width)


def _draw_point(shown: Image.Image, x: float, y: float, positive: bool, radius: int) -> None:
    """A disc with a plus or a minus, drawn four times as large and reduced for smooth edges."""
    scale, size = 4, 2 * radius + 1
    sprite = Image.new("RGBA", (scale * size, scale * size))
    draw = ImageDraw.Draw(sprite)
    centre = scale * size / 2
    for share, colour in ((1.0, DARK), (0.9, WHITE), (0.72, GREEN if positive else RED)):
        r = share * centre
        draw.ellipse((centre - r, centre - r, centre + r, centre + r), fill=(*colour, 255))
    long, thick = 0.4 * centre, 0.1 * centre
    draw.rectangle((centre - long, centre - thick, centre + long, centre + thick), fill=(*WHITE, 255))
    if positive:
        draw.rectangle((centre - thick, centre - long, centre + thick, centre + long), fill=(*WHITE, 255))
    sprite = sprite.resize((size, size), Image.Resampling.BOX)
    shown.paste(sprite, (round(x) - radius, round(y) - radius), sprite)


# ---- many masks


def label_colours(count: int) -> np.ndarray:
    """(count, 3) uint8 colours, neighbours in the list as unlike as can be; those of a shorter list stay."""
    golden = (5**0.5 - 1) / 2  # of the circle of hues: no step divides what is left more evenly
    shades = [(0.85, 1.0), (0.6, 1.0), (0.9, 0.8)]  # saturation, value
    rgb = [colorsys.hsv_to_rgb((0.6 + i * golden) % 1, *shades[i % len(shades)]) for i in range(count)]
    return np.rint(255 * np.array(rgb).reshape(count, 3)).astype(np.uint8)


def overlay_labels(image: np.ndarray, labels: np.ndarray, opacity: float = 0.5) -> np.ndarray:
    """Show many masks on a photo, each tinted and outlined in a colour of its own: (H, W, 3) uint8.

    Args:
        image: (H, W, 3) uint8.
        labels: (H, W) unsigned, 0 for none, as from ``masks.to_label_image``.
        opacity: of the tint, 0..1; outlines are opaque and lie inside.
    """
    colours = np.vstack([np.zeros((1, 3), np.uint8), label_colours(int(labels.max(initial=0)))])
    edge = np.zeros(labels.shape, bool)
    for here, there in ((np.s_[1:], np.s_[:-1]), (np.s_[:, 1:], np.s_[:, :-1])):
        differ = labels[here] != labels[there]
        edge[here] |= differ
        edge[there] |= differ
    unit = max(1, round(max(image.shape[:2]) / 600))
    inside = labels > 0
    edge = _dilated(edge, unit - 1) & inside
    picture = image.copy()
    for channel in range(3):  # one at a time: a third of the memory
        photo, colour = picture[..., channel], colours[:, channel][labels]
        blend = np.rint(np.float32(1 - opacity) * photo + np.float32(opacity) * colour).astype(np.uint8)
        picture[..., channel] = np.where(edge, colour, np.where(inside, blend, photo))
    return picture
