"""Addresses of jobs: following, everything, exports."""

from __future__ import annotations

from fastapi import APIRouter
from starlette.responses import FileResponse, Response

from .addresses import BYTES, Edited, JobId, SessionId, compute
from .app import App
from .export_asks import ExportAsk
from .exports import export_steps
from .job import Job
from .jobs import propagate_steps
from .schemas import ApiError, EverythingAsk, JobState, PropagateAsk


def add_jobs(router: APIRouter, app: App) -> None:
    place = "/sessions/{session_id}"

    @router.post(place + "/propagate", status_code=202)
    async def propagate(session_id: SessionId, ask: PropagateAsk, asked: Edited) -> JobState:
        """Follow all objects of a video from a frame."""
        session = app.sessions.get(session_id)
        session.require_frame(ask.frame)
        if session.kind == "image":
            raise ApiError(409, "bad_request", "this is a picture: there is nothing to follow")
        prompted = session.prompts()
        if not prompted:
            raise ApiError(409, "empty", "no object has a prompt yet: click on one first")
        for obj_id in ask.objects or ():
            if obj_id not in prompted:
                raise ApiError(409, "empty", f"object {obj_id} has no prompt yet: click on it first")
        if ask.direction == "backward" and ask.frame == ask.first:
            raise ApiError(422, "bad_request", f"there is nothing before frame {ask.first}")

        def require() -> None:
            app.edits.require(session, asked)  # first: a repeated one would find its own job
            app.jobs.require_room(session)

        def start() -> JobState:
            require()
            with app.edits.edit(session, "propagate", asked) as edit:
                steps = propagate_steps(app.edits, edit, ask, app.engine.work_of)
            return app.jobs.start(session, "propagate", steps, edit.revision).state()

        require()
        return await compute(app, start)  # after the clicks that came before

    @router.post(place + "/everything", status_code=202)
    async def everything(session_id: SessionId, ask: EverythingAsk, asked: Edited) -> JobState:
        """Find all masks of a frame, and make objects of them."""
        session = app.sessions.get(session_id)
        session.require_frame(ask.frame)
        app.edits.require(session, asked)
        return app.jobs.start(session, "everything", app.engine.everything_steps(ask, asked)).state()

    @router.post(place + "/export", status_code=202)
    async def export(session_id: SessionId, ask: ExportAsk) -> JobState:
        """Write a file; when the job is done it is at /exports/{job}."""
        session = app.sessions.get(session_id)
        if ask.frame is not None:
            session.require_frame(ask.frame)
        session.require_frame(ask.first)
        if session.kind == "image" and ask.format in ("film", "matte"):
            raise ApiError(409, "bad_request", "this is a picture: export masks or cut-outs of it")
        return app.jobs.start(session, "export", export_steps(app.sessions, ask, app.engine.work_of)).state()

    @router.get(place + "/jobs/{job_id}")
    def get_job(session_id: SessionId, job_id: JobId) -> JobState:
        return _job(app, session_id, job_id).state()

    @router.delete(place + "/jobs/{job_id}")
    async def cancel_job(session_id: SessionId, job_id: JobId) -> JobState:
        """End a job after the step in work; what is done stays."""
        job = _job(app, session_id, job_id)
        job.cancel()
        return job.state()

    @router.get(place + "/exports/{job_id}", response_class=Response, responses={200: BYTES})
    def get_export(session_id: SessionId, job_id: JobId) -> Response:
        """The file that an export has written."""
        job = _job(app, session_id, job_id)
        if job.status != "done" or job.path is None or not job.path.is_file():
            raise ApiError(404, "not_found", "this job has no file, or not yet")
        return FileResponse(job.path, media_type=job.media_type, filename=job.file)


def _job(app: App, session_id: str, job_id: str) -> Job:
    job = app.sessions.get(session_id).jobs.get(job_id)
    if job is None:
        raise ApiError(404, "not_found", "there is no such job")
    return job
