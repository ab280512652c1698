"""Simulated users: first prompts, and corrective clicks from where the answer is wrong (SAM 2 paper, section D.2.2)."""

from __future__ import annotations

import torch
import torch.nn.functional as F

__all__ = ["boxes_of", "correct", "first_click", "pick_points", "rough_masks", "shrunk"]

Points = tuple[torch.Tensor, torch.Tensor]  # coordinates (N, P, 2), labels (N, P)


def shrunk(planes: torch.Tensor, by: int) -> torch.Tensor:
    """Means of by x by pixels, (N, C, S, S) -> (N, C, S / by, S / by): F.avg_pool2d, several times as fast on a CPU."""
    n, c, height, width = planes.shape
    return planes.view(n, c, height // by, by, width // by, by).mean((3, 5))


def pick_points(regions: torch.Tensor, centred: float = 0.5) -> torch.Tensor:
    """A random pixel of every region, (N, S, S) bool -> (N, 2) float x, y; the `centred` part deep inside.

    An empty region gives pixel (0, 0).
    """
    count, height, width = regions.shape
    inside = regions.float()
    deep = F.avg_pool2d(shrunk(inside[:, None], 4), 3, 1, 1)[:, 0] ** 6  # coarse: pooling all pixels is slow
    deep = deep.repeat_interleave(4, 1).repeat_interleave(4, 2)
    weights = torch.where(torch.rand(count, 1, 1) < centred, deep * inside, inside).flatten(1)
    sums = weights.cumsum(1, dtype=torch.float64)  # multinomial draws a number for every pixel
    total = sums[:, -1:]
    index = torch.searchsorted(sums, torch.rand(count, 1, dtype=torch.float64) * total, right=True)[:, 0]
    index = torch.where(total[:, 0] > 0, index.clamp(max=height * width - 1), 0)
    return torch.stack([index % width, index // width], 1).float()


def first_click(targets: torch.Tensor, elsewhere: torch.Tensor) -> Points:
    """One positive click on each target; where there is none, at the place given."""
    present = targets.flatten(1).any(1)
    coords = torch.where(present[:, None], pick_points(targets), elsewhere)
    return coords[:, None], torch.ones(len(targets), 1, dtype=torch.int32)


def boxes_of(targets: torch.Tensor, elsewhere: torch.Tensor, noise: float = 0.1) -> Points:
    """Boxes as two points labelled 2 and 3, each corner off by up to `noise` of the side; targets (N, S, S) bool."""
    size = targets.shape[-1]
    columns, rows = targets.any(1), targets.any(2)
    at = torch.arange(size).float()
    corners = []
    for line in (columns, rows):
        low = torch.where(line, at, size).amin(1)
        high = torch.where(line, at, -1).amax(1)
        corners.append((low, high))
    (x0, x1), (y0, y1) = corners
    box = torch.stack([x0, y0, x1, y1], 1)
    reach = torch.stack([x1 - x0, y1 - y0] * 2, 1) * noise
    box = box + (torch.rand(box.shape) * 2 - 1) * torch.rand(len(box), 1) * reach.clamp(max=size * 0.05)
    absent = ~targets.flatten(1).any(1)
    side = torch.rand(len(box), 2) * size * 0.2 + 6
    box = torch.where(absent[:, None], torch.cat([elsewhere - side, elsewhere + side], 1), box)
    labels = torch.tensor([2, 3], dtype=torch.int32).expand(len(box), 2)
    return box.clamp(0, size - 1).reshape(-1, 2, 2), labels


def rough_masks(targets: torch.Tensor) -> torch.Tensor:
    """What a poor earlier answer might look like: (N, S, S) bool -> logits (N, 1, S/4, S/4)."""
    soft = shrunk(targets[:, None].float(), 4)
    noise = F.interpolate(torch.randn(len(soft), 1, 6, 6), size=soft.shape[-2:], mode="bilinear") * 0.35
    blurred = F.avg_pool2d(soft, 5, 1, 2)
    amount = torch.rand(len(soft), 1, 1, 1)
    return ((soft * (1 - amount) + blurred * amount + noise * amount) - 0.5) * 16


def correct(points: Points | None, logits: torch.Tensor, targets: torch.Tensor, centred: float = 0.5) -> Points:
    """Add a click where mask and target differ: positive on what is missing, negative on what is too much.

    Args:
        logits: (N, S/4, S/4), the answer to correct.
        targets: (N, S, S) bool.
    """
    answer = F.interpolate(logits[:, None], size=targets.shape[-2:], mode="bilinear", align_corners=False)[:, 0] > 0
    wrong = answer != targets
    fine = ~wrong.flatten(1).any(1)
    wrong[fine] = True  # nothing to correct: any pixel, with its true label
    coords = pick_points(wrong, centred)
    x, y = coords.long().unbind(1)
    label = targets[torch.arange(len(targets)), y, x].int()
    if points is None:
        return coords[:, None], label[:, None]
    return torch.cat([points[0], coords[:, None]], 1), torch.cat([points[1], label[:, None]], 1)
