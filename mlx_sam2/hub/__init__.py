"""The Hugging Face Hub: finding and downloading a model's files, and publishing a folder."""

from __future__ import annotations

from ..config.published import published, short_names
from .client import HubError
from .download import Fetched, check_model, fetch, resolve
from .publish import upload

__all__ = ["Fetched", "HubError", "check_model", "fetch", "published", "resolve", "short_names", "upload"]
