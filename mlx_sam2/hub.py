"""From a name to files on this machine: a local path, a short name, or a repository of the Hugging Face Hub.

Downloads go through ``huggingface_hub``, so its cache, tokens, offline mode (``HF_HUB_OFFLINE``) and
``HF_ENDPOINT`` work as they do elsewhere, and its progress bars show in a terminal only.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from . import safetensors_file
from .config import PUBLISHED, PublishedModel

WEIGHTS = "model.safetensors"
CONFIG = "config.json"
TORCH_SUFFIXES = (".pt", ".pth", ".torch")
FILE_SUFFIXES = (*TORCH_SUFFIXES, ".bin", ".ckpt", ".safetensors", ".json", ".zip")

_INSTEAD = "or pass a local folder or file instead (--model PATH)"


class HubError(RuntimeError):
    """A name leads to no checkpoint: no such file, no such repository, no access, no network. One line."""


def published(name: str) -> PublishedModel | None:
    """The published model called ``name``: short ("tiny", "sam2-base-plus"), official, or its Hub id."""
    wanted = name.replace("base-plus", "base_plus")
    for model in PUBLISHED.values():
        if name == model.repo_id or wanted in (model.short_name, model.name):
            return model
    return None


def resolve(id_or_path: str | os.PathLike[str], revision: str | None = None, token: str | bool | None = None) -> Path:
    """The local folder or file that holds a checkpoint, downloaded if need be.

    Args:
        id_or_path: an existing path (which always wins), a short name such as "tiny" or "sam2-large", an
            official name such as "sam2.1_hiera_tiny", or a Hub id "owner/name".
        revision: a branch, tag or commit of the Hub repository.
        token: a Hub token, True for the stored one, False for none.

    Raises:
        HubError: one line that says what was asked for and what to do.
    """
    text = os.fspath(id_or_path)
    path = Path(os.path.expanduser(text))  # unlike Path.expanduser and Path.exists, os.path raises for no text
    if text and os.path.exists(path):
        if revision is not None:
            raise HubError(f"revision={revision!r} belongs to a Hub repository, but {text} is a local path")
        return path
    model = published(text)
    if model is not None:
        return _Repo(model.repo_id, revision, token).fetch((WEIGHTS, model.filename))
    if _looks_like_a_path(text):
        raise HubError(f"no such file or folder: {text}")
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", text):
        names = ", ".join(m.short_name for m in PUBLISHED.values())
        raise HubError(f"no model is called {text!r}: use {names}, a Hub id (owner/name), a folder or a file")
    return _Repo(text, revision, token).fetch((WEIGHTS, safetensors_file.INDEX_NAME, None))


def _looks_like_a_path(text: str) -> bool:
    marked = text.startswith((".", "~", "/", os.sep)) or os.path.isabs(text) or "\\" in text
    return marked or text.endswith(("/", *FILE_SUFFIXES)) or text.count("/") > 1


def _network_errors() -> tuple[type[Exception], ...]:
    """What a request may raise: OSError, and the base class of the HTTP library that huggingface_hub uses."""
    from huggingface_hub.errors import HfHubHTTPError

    return OSError, HfHubHTTPError.__bases__[0]


class _Repo:
    """One repository of the Hub at one revision, seen through the cache."""

    def __init__(self, repo_id: str, revision: str | None, token: str | bool | None) -> None:
        self.repo_id, self.revision, self.token = repo_id, revision, token
        self.unreachable: BaseException | None = None  # why the network is not asked again

    def fetch(self, candidates: tuple[str | None, ...]) -> Path:
        """The first candidate that the repository has, with what belongs to it; None means "its only .pt".

        What is not on the Hub, and what is not in the cache of a machine without network, is treated alike:
        the next candidate is tried. So a machine that went offline finds whichever file it once downloaded.
        """
        from huggingface_hub.errors import HFValidationError

        try:
            self._probe()
            for name in candidates:
                found = self._weights(name) if name else self._only_torch_file()
                if found is not None:
                    return found
        except safetensors_file.SafetensorsFileError as error:
            raise HubError(str(error)) from None
        except HFValidationError as error:
            raise HubError(f"{self.repo_id!r} is no Hub id ({' '.join(str(error).split())[:120]})") from None
        except _network_errors() as error:
            raise HubError(self._explain(error)) from None
        if self.unreachable is not None:
            raise HubError(self._explain(self.unreachable))
        tried = " or ".join(name for name in candidates if name)
        raise HubError(f"Hub repository {self.repo_id} holds no SAM 2 checkpoint ({tried}, or a .pt file)")

    def _probe(self) -> None:
        """Ask the Hub for one file's headers, without the client's retries.

        Whatever is wrong shows at once: from then on only the cache is asked, as if the network were off.
        """
        from huggingface_hub import get_hf_file_metadata, hf_hub_url
        from huggingface_hub.errors import EntryNotFoundError

        try:
            get_hf_file_metadata(hf_hub_url(self.repo_id, CONFIG, revision=self.revision), token=self.token)
        except EntryNotFoundError:
            pass
        except _network_errors() as error:
            self.unreachable = error

    def _weights(self, name: str) -> Path | None:
        """Download a weights file and its companions. A folder for safetensors, the file itself for .pt."""
        file = self._download(name, self.revision)
        if file is None or not name.startswith(WEIGHTS):
            return file
        commit = file.parent.name  # of the snapshot, so that all files belong together
        if self._download(CONFIG, commit) is None and self.unreachable is not None and not self._known_absent(commit):
            return None
        if name == safetensors_file.INDEX_NAME:
            shards = sorted(set(safetensors_file.read_index(file).values()))
            if any(self._download(shard, commit) is None for shard in shards):
                return None
        return file.parent

    def _download(self, name: str, revision: str | None) -> Path | None:
        """The file's path in the cache, or None if the repository (offline: the cache) has no such file."""
        from huggingface_hub import hf_hub_download
        from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

        local = self.unreachable is not None
        try:
            return Path(
                hf_hub_download(self.repo_id, name, revision=revision, token=self.token, local_files_only=local)
            )
        except LocalEntryNotFoundError as error:
            self.unreachable = self.unreachable or error.__cause__ or error
        except EntryNotFoundError:
            pass
        return None

    def _known_absent(self, commit: str) -> bool:
        """Whether the cache remembers that the repository has no config.json."""
        from huggingface_hub import _CACHED_NO_EXIST, try_to_load_from_cache

        return try_to_load_from_cache(self.repo_id, CONFIG, revision=commit) is _CACHED_NO_EXIST

    def _only_torch_file(self) -> Path | None:
        from huggingface_hub import HfApi, snapshot_download
        from huggingface_hub.errors import LocalEntryNotFoundError

        if self.unreachable is None:
            names = HfApi(token=self.token).list_repo_files(self.repo_id, revision=self.revision)
        else:
            patterns = [f"*{suffix}" for suffix in TORCH_SUFFIXES]
            try:
                folder = snapshot_download(
                    self.repo_id, revision=self.revision, allow_patterns=patterns, local_files_only=True
                )
            except LocalEntryNotFoundError:
                return None
            names = [p.name for p in Path(folder).iterdir()]
        names = sorted(n for n in names if n.endswith(TORCH_SUFFIXES) and "/" not in n)
        if len(names) > 1:
            shown = ", ".join(names[:5])
            raise HubError(
                f"Hub repository {self.repo_id} holds {len(names)} PyTorch files ({shown}): download one "
                f"(hf download {self.repo_id} {names[0]}) and pass its path"
            )
        return self._download(names[0], self.revision) if names else None

    def _explain(self, error: BaseException) -> str:
        """One line for whatever went wrong. Nothing of a request is quoted: it may hold a token."""
        from huggingface_hub import constants, errors

        repo, endpoint = self.repo_id, constants.ENDPOINT
        if isinstance(error, errors.GatedRepoError):
            return f"{repo} is gated: ask for access at {endpoint}/{repo}, then run hf auth login or pass token="
        if isinstance(error, errors.RepositoryNotFoundError):
            return (
                f"there is no Hub repository {repo} that you may see: check the name; if it is private, run "
                "hf auth login or pass token="
            )
        if isinstance(error, errors.RevisionNotFoundError):
            return f"Hub repository {repo} has no revision {self.revision!r}"
        status = getattr(getattr(error, "response", None), "status_code", None)
        if status in (401, 403):
            return f"the Hub refused access to {repo} (HTTP {status}): run hf auth login or pass another token="
        absent = f"{repo}{f' at revision {self.revision!r}' if self.revision else ''} is not in the local cache"
        if isinstance(error, errors.OfflineModeIsEnabled):
            return (
                f"{absent}, and HF_HUB_OFFLINE keeps the network off: unset it and connect once (the "
                f"download is kept), {_INSTEAD}"
            )
        if isinstance(error, OSError) and error.errno and not isinstance(error, ConnectionError):
            return f"cannot download {repo}: {error.strerror} ({error.filename or constants.HF_HUB_CACHE})"
        why = f"HTTP {status}" if status else type(error).__name__
        return f"{absent}, and {endpoint} could not be reached ({why}): connect once (the download is kept), {_INSTEAD}"
