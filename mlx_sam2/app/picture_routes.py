"""Addresses of pictures that are made when they are asked for."""

from __future__ import annotations

import io
from typing import Annotated

import numpy as np
from fastapi import APIRouter, Query
from PIL import Image
from starlette.responses import Response

from ..masks.rle import rle_to_mask
from .addresses import PNG, Frame, ObjectId, SessionId, compute
from .app import App
from .export_asks import CutoutAsk
from .films import boxed, edges_of
from .logits import logits_of
from .schemas import ApiError


def add_pictures(router: APIRouter, app: App) -> None:
    place = "/sessions/{session_id}/objects/{object_id}/frames/{frame}/cutout"

    @router.get(place, response_class=Response, responses={200: PNG})
    async def get_cutout(
        session_id: SessionId, object_id: ObjectId, frame: Frame, asked: Annotated[CutoutAsk, Query()]
    ) -> Response:
        """An object on a frame as PNG: cut to its box, on a transparent ground, with the edges of exports."""
        session = app.sessions.get(session_id)
        session.require_frame(frame)
        session.object(object_id)
        mask = session.masks.get(object_id, {}).get(frame)
        if mask is None or not mask.area:
            raise ApiError(404, "empty", "the object has no mask on this frame")

        edges = edges_of(asked.edges)
        field = None

        def soft() -> np.ndarray | None:
            with app.sessions.loaded(session):
                return logits_of(session, app.engine.work_of(session), object_id, frame, mask)

        if edges.edge == "soft":
            field = await compute(app, soft)

        def read() -> bytes:
            with app.sessions.loaded(session) as source:
                pixels = source[frame]
            picture = boxed(pixels, rle_to_mask(mask.rle) if field is None else field, edges)
            if picture is None:
                raise ApiError(409, "empty", "these edges leave nothing of the object")
            made = Image.fromarray(picture)
            if asked.side is not None:
                made.thumbnail((asked.side, asked.side))
            file = io.BytesIO()
            made.save(file, format="PNG", compress_level=3)
            return file.getvalue()

        return Response(await app.view(read), media_type="image/png")
