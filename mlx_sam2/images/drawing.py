"""Pictures of a result: masks, cut-outs, and overlays.

One mask with its prompts (``overlay``), all masks of a photo (``overlay_labels``), and the objects of a frame with
their numbers (``draw_masks``). All tint by ``tinted_values``.
"""

from __future__ import annotations

import colorsys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

BLUE = (30, 144, 255)
GREEN = (46, 204, 64)
RED = (255, 65, 54)
YELLOW = (255, 220, 0)
WHITE = (255, 255, 255)
DARK = (16, 16, 16)

STRIP_PIXELS = 1 << 20  # coloured at once

Rounding = Callable[[np.ndarray], np.ndarray]


def mask_picture(mask: np.ndarray) -> np.ndarray:
    """(H, W) mask, or a matte in 0..1 -> (H, W) uint8, 255 inside and 0 outside."""
    if mask.dtype.kind == "f":
        return np.rint(255 * np.clip(mask, 0, 1)).astype(np.uint8)
    return np.where(mask, np.uint8(255), np.uint8(0))


def cutout(image: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """(H, W, 4) RGBA, straight: the image inside the mask or matte, transparent and black outside."""
    alpha = mask_picture(mask)
    return np.dstack([np.where(mask.astype(bool)[..., None], image, np.uint8(0)), alpha])


# ---- tints and outlines


def tinted_values(colours: Any, opacity: float, rounding: Rounding = np.rint) -> np.ndarray:
    """Every value of a pixel under every tint, (N, 3, 256) uint8, for N colours (N, 3): [colour, channel, value]."""
    plain = (1 - opacity) * np.arange(256)
    return rounding(plain + opacity * np.asarray(colours)[..., None]).astype(np.uint8)


def paint(
    picture: np.ndarray,
    mask: np.ndarray,
    colour: Sequence[int] | np.ndarray,
    opacity: float,
    outline: np.ndarray | None = None,
    rounding: Rounding = np.rint,
) -> None:
    """Tint a picture (H, W, 3) uint8 in place inside a mask (H, W) bool; pixels of `outline` get the colour itself."""
    for channel, values in enumerate(tinted_values([colour], opacity, rounding)[0]):
        plane = picture[..., channel]
        tinted = np.where(mask, values[plane], plane)
        picture[..., channel] = tinted if outline is None else np.where(outline, np.uint8(colour[channel]), tinted)


def paint_object(
    picture: np.ndarray,
    mask: np.ndarray,
    colour: Sequence[int] | np.ndarray,
    opacity: float,
    inner: Callable[[np.ndarray, int], np.ndarray],
    rounding: Rounding = np.rint,
) -> None:
    """Tint an object in place and outline it inside its edge, working on the part around it only.

    Args:
        picture: (H, W, 3) uint8.
        mask: (H, W) bool.
        colour: red, green, blue.
        opacity: of the tint, 0..1; the outline is opaque.
        inner: what is left of a mask without its outline, ``without_diamond`` or ``without_cross``.
        rounding: of tinted values.
    """
    part = part_around(mask, 0)
    inside = mask[part]
    if inside.size:
        paint(picture[part], inside, colour, opacity, inside & ~inner(inside, outline_width(picture)), rounding)


def outline_width(picture: np.ndarray) -> int:
    return max(1, round(min(picture.shape[:2]) / 300))


def part_around(mask: np.ndarray, margin: int) -> tuple[slice, slice]:
    """Rows and columns of a mask's box, wider by `margin`; empty for an empty mask."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not len(rows):
        return slice(0, 0), slice(0, 0)
    return (
        slice(max(int(rows[0]) - margin, 0), int(rows[-1]) + margin + 1),
        slice(max(int(columns[0]) - margin, 0), int(columns[-1]) + margin + 1),
    )


def without_diamond(mask: np.ndarray, steps: int) -> np.ndarray:
    """A mask without its outermost `steps` pixels, counted by 4-neighbours. What lies beyond the array is outside."""
    for _ in range(steps):
        padded = np.pad(mask, 1)
        mask = mask & padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    return mask


def without_cross(mask: np.ndarray, steps: int) -> np.ndarray:
    """As ``without_diamond``, but only the pixels straight above, below, left and right count: corners stay sharp."""
    padded = np.pad(mask, steps)
    kept = mask.copy()
    height, width = mask.shape
    for shift in range(2 * steps + 1):
        kept &= padded[shift : shift + height, steps : steps + width]
        kept &= padded[steps : steps + height, shift : shift + width]
    return kept


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


# ---- one mask and its prompts


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
        _draw_mask(picture, inside, unit, opacity)
    shown = Image.fromarray(picture)
    if box is not None:
        _draw_box(shown, box, unit)
    for (x, y), label in zip(points, labels, strict=True):
        _draw_point(shown, x, y, label == 1, max(4, round(side / 75)))
    return np.asarray(shown)


def _draw_mask(picture: np.ndarray, mask: np.ndarray, unit: int, opacity: float) -> None:
    """Tint and outline in place, working on the part around the mask only."""
    part = part_around(mask, 3 * unit)
    inside, region = mask[part], picture[part]
    paint(region, inside, BLUE, opacity)
    line = _dilated(inside, unit)
    rim = _dilated(line, max(1, unit // 2)) & ~line
    region[rim] = (0.5 * region[rim]).astype(np.uint8)
    region[line & ~inside] = WHITE


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


# ---- all masks of a photo


def label_colours(count: int) -> np.ndarray:
    """(count, 3) uint8 colours. Neighbours in the list differ as much as they can; a longer list begins alike."""
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
    values = tinted_values(colours, opacity)
    values[0] = np.arange(256)  # no mask: as it is
    edge = np.zeros(labels.shape, bool)
    for here, there in ((np.s_[1:], np.s_[:-1]), (np.s_[:, 1:], np.s_[:, :-1])):
        differ = labels[here] != labels[there]
        edge[here] |= differ
        edge[there] |= differ
    unit = max(1, round(max(image.shape[:2]) / 600))
    edge = _dilated(edge, unit - 1) & (labels > 0)
    picture = image.copy()
    rows = max(1, STRIP_PIXELS // image.shape[1])
    for i in range(0, image.shape[0], rows):  # indexing needs 16 bytes a pixel
        strip = np.s_[i : i + rows]
        label, outline = labels[strip], edge[strip]
        for channel in range(3):
            plane = picture[strip][..., channel]
            plane[...] = np.where(outline, colours[label, channel], values[label, channel, plane])
    return picture


# ---- the objects of a frame


def object_colour(number: int) -> tuple[int, int, int]:
    """A bright colour for object `number`; the hues of consecutive numbers lie far apart (golden ratio)."""
    r, g, b = colorsys.hsv_to_rgb((0.02 + 0.618034 * (number - 1)) % 1.0, 0.85, 1.0)
    return round(255 * r), round(255 * g), round(255 * b)


def draw_masks(frame: np.ndarray, masks: Mapping[Any, np.ndarray], opacity: float = 0.45, mark: str = "") -> np.ndarray:
    """A copy of `frame` (H, W, 3) uint8 with each object tinted, outlined and marked with its id.

    Args:
        frame: (H, W, 3) uint8.
        masks: (H, W) bool by object id. Whole-number ids choose the colour; others are coloured in their order.
        opacity: of the tint, 0..1, in steps of 1/255.
        mark: stands behind each id.
    """
    picture = frame.copy()
    opacity = round(255 * opacity) / 255
    labels = []
    for order, (obj_id, mask) in enumerate(masks.items(), start=1):
        rows, columns = part_around(mask, 0)
        if rows.stop == 0:
            continue
        colour = object_colour(int(obj_id) if isinstance(obj_id, (int, np.integer)) else order)
        paint_object(picture, mask, colour, opacity, without_diamond)
        middle = columns.start + (columns.stop - columns.start) // 2
        labels.append((f"{obj_id}{mark}", colour, middle, rows.start - outline_width(frame)))
    return _numbered(picture, labels) if labels else picture


def _numbered(picture: np.ndarray, labels: list[tuple[str, tuple[int, int, int], int, int]]) -> np.ndarray:
    """A copy with texts: each with the colour of its ground, and x, y of its lower middle."""
    image = Image.fromarray(picture)
    draw = ImageDraw.Draw(image)
    size = max(10, round(min(picture.shape[:2]) / 24))
    font = ImageFont.load_default(size)
    for text, colour, x, y in labels:
        # Above the object if there is room; dark on bright colours and the other way round.
        left, top, right, bottom = draw.textbbox((x, max(y, size + 4)), text, font=font, anchor="mb")
        draw.rectangle((left - 3, top - 3, right + 2, bottom + 2), fill=colour)
        bright = np.dot(colour, (0.299, 0.587, 0.114)) > 128
        draw.text((left, top), text, fill=(0, 0, 0) if bright else (255, 255, 255), font=font, anchor="lt")
    return np.array(image)
