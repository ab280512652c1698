"""What huggingface_hub (to 2.4) does not check of a download: names for its cache, lengths, hashes, later damage.

A file of the cache is called by the ETag that the server stated, and the record that a file is absent by the commit.
A server may state "../../.bashrc" for either. ``guarded_client`` refuses that before anything is written.
"""

from __future__ import annotations

import hashlib
import os
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from .. import files
from ..formats import safetensors_file, torch_file
from .client import HubError, endpoint, response_of

_NAME = re.compile(r"\w[\w.-]*")  # of a blob or a commit
UNSTATED = 16 << 30  # bytes of a body whose size is not stated; the largest published checkpoint has 0.9 GB
_client = threading.Lock()  # one download at a time is guarded


@contextmanager
def guarded_client() -> Iterator[None]:
    """While the client downloads: refuse stated names that are paths, and cut off a body at its stated size.

    Raises:
        HubError: the server stated such a name, or sent more than it stated (more than ``UNSTATED`` if it stated none).
    """
    from huggingface_hub import errors, file_download

    metadata_of, download = file_download.get_hf_file_metadata, file_download.http_get

    def checked_metadata(*args: Any, **options: Any) -> Any:
        try:
            found = metadata_of(*args, **options)
        except errors.EntryNotFoundError as error:  # the client stores that the file is absent, below the commit
            _check_name(getattr(response_of(error), "headers", {}).get("X-Repo-Commit"))
            raise
        _check_name(found.etag)
        return found

    def bounded_download(url: str, temp_file: BinaryIO, **options: Any) -> None:
        download(url, _Bounded(temp_file, options.get("expected_size")), **options)

    with _client:
        file_download.get_hf_file_metadata, file_download.http_get = checked_metadata, bounded_download
        try:
            yield
        finally:
            file_download.get_hf_file_metadata, file_download.http_get = metadata_of, download


def _check_name(name: str | None) -> None:
    if name is not None and not _NAME.fullmatch(name):
        raise HubError(
            f"{endpoint()} states {ascii(name)[:120]} as the name of a file's contents or of a commit, which no Hub "
            "does; nothing was written: check HF_ENDPOINT and proxies"
        )


class _Bounded:
    """A file that refuses to grow beyond the size that a server stated for it."""

    def __init__(self, file: BinaryIO, stated: int | None) -> None:
        self._file, self._stated = file, stated

    def write(self, data: bytes) -> int:
        if self._file.tell() + len(data) > (UNSTATED if self._stated is None else self._stated):
            if self._stated is None:
                raise HubError(f"{endpoint()} sends more than {UNSTATED >> 30} GiB for one file: check HF_ENDPOINT")
            raise HubError(f"{endpoint()} sends more than the {self._stated} bytes that it stated: run the same again")
        return self._file.write(data)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


def check_place(file: Path, name: str, repo_id: str) -> None:
    """Refuse a file of the cache that leads out of it.

    Raises:
        HubError: it is a link to somewhere else.
    """
    from huggingface_hub import constants

    cache = Path(constants.HF_HUB_CACHE).resolve()
    if not file.resolve().is_relative_to(cache):
        raise HubError(f"{name} of {repo_id} leads out of the cache, to {file.resolve()}: remove {file}")


def check_whole(file: Path, stated: str, name: str, repo_id: str, revision: str | None) -> None:
    """Notice a file that was cut off or damaged since it came into the cache; its headers say so.

    Raises:
        HubError: it was; ``stated`` is the hash that it should have.
    """
    try:
        if name.endswith(".safetensors"):
            safetensors_file.check(file)
        elif name.endswith(".json"):
            safetensors_file.read_json(file, max(safetensors_file.MAX_CONFIG_BYTES, safetensors_file.MAX_INDEX_BYTES))
        else:
            with file.open("rb") as opened:
                zeros = not any(opened.read(16))  # nothing at all, or what a power cut leaves
            if zeros or (torch_file.is_torch_zip(file) and not torch_file.has_end(file)):
                raise torch_file.TorchFileError("its end is missing, or all of it")
    except (safetensors_file.SafetensorsFileError, torch_file.TorchFileError):
        if _has_hash(file, stated):
            raise HubError(f"{name} of {repo_id} is damaged on the Hub already: tell its owner") from None
        at = f" --revision {revision}" if revision else ""
        raise HubError(
            f"{file} is cut off or damaged ({file.stat().st_size} bytes): fetch it again with "
            f"hf download {repo_id} {name}{at} --force-download"
        ) from None


def check_hash(file: Path, stated: str, name: str, repo_id: str) -> None:
    """Compare a file that has just come with the hash that the Hub stated; one that differs is removed.

    Raises:
        HubError: it differs.
    """
    if _has_hash(file, stated) is False:
        (file.parent / os.readlink(file)).unlink()
        file.unlink()
        raise HubError(
            f"{name} of {repo_id} arrived damaged: its hash is not the one that the Hub states; it was "
            "removed: run the same again"
        )


def _has_hash(file: Path, stated: str) -> bool | None:
    """Whether a file has a sha256 (large files) or git's sha1; None: neither was stated, as by some mirrors."""
    if re.fullmatch(r"[0-9a-f]{64}", stated):
        return files.sha256(file) == stated
    if re.fullmatch(r"[0-9a-f]{40}", stated):
        git = hashlib.sha1(b"blob %d\0" % file.stat().st_size, usedforsecurity=False)
        return files.hexdigest(file, git) == stated
    return None
