"""Addresses of pictures that are made when they are asked for."""

from __future__ import annotations

import io

import numpy as np
from fastapi import APIRouter
from PIL import Image
from starlette.responses import Response

from ..images.drawing import cutout
from ..masks.rle import rle_to_mask
from .addresses import PNG, Frame, ObjectId, SessionId
from .app import App
from .schemas import ApiError


def add_pictures(router: APIRouter, app: App) -> None:
    place = "/sessions/{session_id}/objects/{object_id}/frames/{frame}/cutout"

    @router.get(place, response_class=Response, responses={200: PNG})
    async def get_cutout(session_id: SessionId, object_id: ObjectId, frame: Frame) -> Response:
        """An object on a frame as PNG: cut to its box, on a transparent ground."""
        session = app.sessions.get(session_id)
        session.require_frame(frame)
        session.object(object_id)
        mask = session.masks.get(object_id, {}).get(frame)
        if mask is None or not mask.area:
            raise ApiError(404, "empty", "the object has no mask on this frame")

        def read() -> bytes:
            x, y, width, height = mask.bbox
            part = np.s_[y : y + height, x : x + width]
            with app.sessions.loaded(session) as source:
                picture = cutout(source[frame][part], rle_to_mask(mask.rle)[part])
            file = io.BytesIO()
            Image.fromarray(picture).save(file, format="PNG", compress_level=3)
            return file.getvalue()

        return Response(await app.view(read), media_type="image/png")
