"""The asynchronous predictors: the bits of the synchronous ones, a free event loop, and cancellation."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import synthetic
from async_runs import CLICK, EVERYTHING, assert_same, clip, wait_for
from mlx_sam2 import aio
from mlx_sam2.automatic_mask_generator import SAM2AutomaticMaskGenerator
from mlx_sam2.hub.client import HubError
from mlx_sam2.model.sam2 import SAM2
from mlx_sam2.sam2_image_predictor import SAM2ImagePredictor
from mlx_sam2.sam2_video_predictor import SAM2VideoPredictor
from mlx_sam2.track_everything import track_everything
from mlx_sam2.video.stream import VideoStream
from mlx_sam2.worker import Worker

PAIRS = [
    (aio.AsyncImagePredictor, SAM2ImagePredictor),
    (aio.AsyncVideoPredictor, SAM2VideoPredictor),
    (aio.AsyncMaskGenerator, SAM2AutomaticMaskGenerator),
    (aio.AsyncVideoStream, VideoStream),
]


@pytest.mark.parametrize(("front", "behind"), PAIRS, ids=lambda kind: kind.__name__)
def test_every_method_is_there_under_its_name(front: type, behind: type) -> None:
    """Except the other side's own way (close, context manager, loop) and what it inherits for old scripts."""
    left_out = {"close", "device", "fill_hole_area", "image_size", "from_pretrained"}
    left_out |= {
        "generate_in_stages",
        "image_features",
        "upscale",
        "frame",
        "obj_ids",
        "object_scores",
        "unread_frames",
    }
    left_out |= {"non_overlap_masks", "clear_non_cond_mem_around_input", "add_all_frames_to_correct_as_cond"}
    for name, method in vars(behind).items():
        if not name.startswith("_") and name not in left_out:
            ours, theirs = inspect.signature(getattr(front, name)), inspect.signature(method)
            assert list(theirs.parameters) == [n for n in ours.parameters if n != "progress"], name


# ---- the same bits


def test_images_have_the_bits_of_the_synchronous_predictor(images: aio.AsyncImagePredictor, nano_model: SAM2) -> None:
    pictures = [synthetic.picture(), synthetic.picture(90, 120, seed=3)]

    async def main() -> list[Any]:
        await images.set_image(pictures[0])
        single = await images.predict(**CLICK)
        refined = await images.predict(**CLICK, mask_input=single[2][:1], multimask_output=False, return_logits=True)
        embedding = await images.get_image_embedding()
        await images.set_image_batch(pictures)
        batch = await images.predict_batch(box_batch=[[10, 10, 90, 80]] * 2)
        await images.reset_predictor()
        return [*single, *refined, embedding, *batch[0], *batch[1]]

    sync = SAM2ImagePredictor(nano_model)
    sync.set_image(pictures[0])
    single = sync.predict(**CLICK)
    refined = sync.predict(**CLICK, mask_input=single[2][:1], multimask_output=False, return_logits=True)
    embedding = sync.get_image_embedding()
    sync.set_image_batch(pictures)
    batch = sync.predict_batch(box_batch=[[10, 10, 90, 80]] * 2)
    assert_same(wait_for(main()), [*single, *refined, embedding, *batch[0], *batch[1]])
    assert not images.predictor._is_image_set


def test_a_video_has_the_bits_of_the_synchronous_predictor(videos: aio.AsyncVideoPredictor, video_model: SAM2) -> None:
    async def main() -> list[Any]:
        async with videos.session(clip()) as state:
            outputs = [await videos.add_new_points_or_box(state, 0, "a", points=[[30, 20]], labels=[1])]
            async for output in videos.propagate_in_video(state):
                outputs.append(output)
                if output[0] == 2:
                    break
            outputs.append(await videos.add_new_points_or_box(state, 3, "b", box=[40, 10, 80, 50]))
            outputs += [o async for o in videos.propagate_in_video(state, 3, 1)]
            await videos.remove_object(state, "a")
            outputs += [o async for o in videos.propagate_in_video(state, 4, reverse=True)]
        with pytest.raises(ValueError, match="closed"):
            state.require_frame(0)
        return outputs

    sync = SAM2VideoPredictor(video_model)
    with sync.init_state(clip()) as state:
        expected = [sync.add_new_points_or_box(state, 0, "a", points=[[30, 20]], labels=[1])]
        for output in sync.propagate_in_video(state):
            expected.append(output)
            if output[0] == 2:
                break
        expected.append(sync.add_new_points_or_box(state, 3, "b", box=[40, 10, 80, 50]))
        expected += sync.propagate_in_video(state, 3, 1)
        sync.remove_object(state, "a")
        expected += sync.propagate_in_video(state, 4, reverse=True)
    ours = wait_for(main())
    assert [o[:2] for o in ours] == [o[:2] for o in expected]
    assert_same([o[2] for o in ours], [o[2] for o in expected])


@pytest.mark.parametrize("source", [clip, lambda: iter(clip())], ids=["list", "generator"])
def test_a_stream_has_the_bits_of_the_synchronous_one(
    videos: aio.AsyncVideoPredictor, video_model: SAM2, source: Callable[[], Any]
) -> None:
    async def main() -> list[Any]:
        outputs = []
        async with videos.stream(source()) as stream:
            for stop in (1, 99):  # a second loop goes on where the first one stopped
                async for frame_idx, obj_ids, masks in stream:
                    if frame_idx == 0:
                        _, obj_ids, masks = await stream.add_new_points_or_box(1, points=[[30, 20]], labels=[1])
                    outputs.append((frame_idx, obj_ids, masks))
                    if frame_idx == stop:
                        break
            np.testing.assert_array_equal(stream.stream.frame, clip()[-1])
        return outputs

    expected = []
    with SAM2VideoPredictor(video_model).stream(source()) as stream:
        for frame_idx, obj_ids, masks in stream:
            if frame_idx == 0:
                _, obj_ids, masks = stream.add_new_points_or_box(1, points=[[30, 20]], labels=[1])
            expected.append((frame_idx, obj_ids, masks))
    ours = wait_for(main())
    assert [o[:2] for o in ours] == [o[:2] for o in expected]
    assert_same([o[2] for o in ours], [o[2] for o in expected])


def test_everything_in_two_images_at_once(video_model: SAM2, worker: Worker) -> None:
    """Their batches alternate on the worker, and each image gets its own masks."""
    sync = SAM2AutomaticMaskGenerator(video_model, output_mode="coco_rle", **EVERYTHING)
    pictures = [synthetic.picture(60, 80), synthetic.picture(80, 60, seed=5)]
    both = aio.AsyncMaskGenerator(sync, worker)
    progress: list[tuple[int, int]] = []

    async def main() -> list[Any]:
        seen = both.generate(pictures[0], progress=lambda done, total: progress.append((done, total)))
        return await asyncio.gather(seen, both.generate(pictures[1]))

    assert wait_for(main()) == [sync.generate(picture) for picture in pictures]
    assert progress == [(i, 10) for crop in range(5) for i in range(2 * crop, 2 * crop + 3)]


def test_everything_in_a_video(videos: aio.AsyncVideoPredictor, video_model: SAM2) -> None:
    def look() -> SAM2AutomaticMaskGenerator:
        return SAM2AutomaticMaskGenerator(
            video_model, 4, pred_iou_thresh=0.0, stability_score_thresh=0.0, output_mode="uncompressed_rle"
        )

    async def main() -> list[Any]:
        frames = videos.track_everything(clip(3), look(), every=2, max_objects=2)
        return [frame async for frame in frames]

    expected = list(track_everything(SAM2VideoPredictor(video_model), clip(3), look(), every=2, max_objects=2))
    ours = wait_for(main())
    assert [(f.index, f.new, f.merged, f.scores) for f in ours] == [
        (f.index, f.new, f.merged, f.scores) for f in expected
    ]
    for a, b in zip(ours, expected, strict=True):
        assert a.masks.keys() == b.masks.keys() and len(a.masks) > 0
        assert_same(list(a.masks.values()), list(b.masks.values()))


def test_loading_happens_on_the_worker(nano_model: SAM2, tmp_path: Any) -> None:
    from mlx_sam2.checkpoint import loading

    loading.save(nano_model, tmp_path / "nano")
    image = synthetic.picture(60, 80)
    sync = SAM2ImagePredictor(nano_model)
    sync.set_image(image)

    async def main() -> Any:
        predictor = await aio.AsyncImagePredictor.from_pretrained(str(tmp_path / "nano"), mask_threshold=0.5)
        assert predictor.predictor.mask_threshold == 0.5
        video = await aio.AsyncVideoPredictor.from_pretrained(str(tmp_path / "nano"), worker=predictor.worker)
        everything = await aio.AsyncMaskGenerator.from_pretrained(str(tmp_path / "nano"), worker=video.worker)
        assert everything.worker is predictor.worker
        with pytest.raises(HubError, match="no such file or folder"):
            await aio.AsyncImagePredictor.from_pretrained("./nowhere/at/all", worker=predictor.worker)
        await predictor.set_image(image)
        return await predictor.predict(**CLICK, return_logits=True)

    assert_same(wait_for(main()), sync.predict(**CLICK, return_logits=True))
