"""Find the files of a model by its name: a local path, a short name, or a repository of the Hugging Face Hub.

``demo`` is the small model that lies in the package itself.

Downloads go through ``huggingface_hub``, so its cache, tokens, offline mode (``HF_HUB_OFFLINE``) and
``HF_ENDPOINT`` work as they do elsewhere, and its progress bars show in a terminal only.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

from ..cli import UsageError
from ..config.published import DEMO, PublishedModel, published, shipped, short_names
from ..formats import safetensors_file
from ..formats.names import CONFIG, FILE_SUFFIXES, INDEX, TORCH_SUFFIXES, WEIGHTS
from . import progress
from .client import (
    HubError,
    calm,
    causes,
    client_errors,
    endpoint,
    explain_machine,
    explain_status,
    other_way,
    patiently,
    redacted,
    start_client,
    status_of,
)
from .guards import check_hash, check_place, check_whole, guarded_client

_INSTEAD = "or pass a local folder or file instead"
_TRY_DEMO = f"; a small model for trying out comes with the package: --model {DEMO}"


@dataclass(frozen=True)
class Fetched:
    """A checkpoint on this machine, and where it came from."""

    path: Path  # a folder, or the file itself
    repo_id: str | None = None  # "owner/name"; None: it is a local path
    commit: str | None = None  # of the repository, that the revision stands for


def resolve(id_or_path: str | os.PathLike[str], revision: str | None = None, token: str | bool | None = None) -> Path:
    """``fetch``, for its path alone."""
    return fetch(id_or_path, revision, token).path


def fetch(id_or_path: str | os.PathLike[str], revision: str | None = None, token: str | bool | None = None) -> Fetched:
    """Find a checkpoint, and download it if need be: weights with their ``config.json``, or a single ``.pt``.

    Args:
        id_or_path: an existing path (which always wins), "demo" (the model in the package, without any network),
            a short name such as "tiny" or "sam2-large", an official name such as "sam2.1_hiera_tiny", or a Hub id
            "owner/name".
        revision: a branch, tag or commit of the Hub repository.
        token: a Hub token, True for the stored one, False for none.

    Raises:
        HubError: one line that says what was asked for and what to do.
    """
    found = _find(os.fspath(id_or_path), revision)
    if isinstance(found, Fetched):
        return found
    if isinstance(found, str):
        return _Repo(found, revision, token).fetch((WEIGHTS, INDEX, None))
    try:
        candidates = (found.file,) if found.file else (WEIGHTS, found.filename)
        return _Repo(found.repo_id, revision, token).fetch(candidates)
    except HubError as error:
        raise HubError(f"{error}{'' if revision else _TRY_DEMO}") from None


def check_model(name: str, revision: str | None) -> None:
    """Refuse a model that ``fetch`` cannot bring, without asking the network; for commands.

    Raises:
        UsageError: as the HubError of ``fetch``.
    """
    try:
        _find(name, revision)
    except HubError as error:
        raise UsageError(str(error)) from None


def _find(text: str, revision: str | None) -> Fetched | PublishedModel | str:
    """What a name stands for: a local checkpoint, a published model, or the id of a Hub repository.

    Raises:
        HubError: nothing.
    """
    path = Path(os.path.expanduser(text))  # unlike Path.expanduser and Path.exists, os.path raises for no text
    if text and os.path.exists(path):
        if revision is not None:
            raise HubError(f"revision={revision!r} belongs to a Hub repository, but {text} is a local path")
        return Fetched(path)
    if (folder := shipped(text)) is not None:
        return Fetched(_in_the_package(folder, revision))
    if (model := published(text)) is not None:
        return model
    if _looks_like_a_path(text):
        known = published(Path(text).stem)
        hint = f"; the published model of that name is called {known.short_name}" if known else ""
        raise HubError(f"no such file or folder: {text}{hint}")
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", text):
        raise HubError(f"no model is called {text!r}: use {short_names()}, a Hub id (owner/name), a folder or a file")
    return text


def _in_the_package(folder: Path, revision: str | None) -> Path:
    """The folder, if it is there."""
    if revision is not None:
        raise HubError(f"revision={revision!r} belongs to a Hub repository, but {folder.name} comes with the package")
    if not (folder / WEIGHTS).is_file():
        raise HubError(f"the model {folder.name} is missing from {folder.parent}: install mlx-sam2 again")
    return folder


def _looks_like_a_path(text: str) -> bool:
    marked = text.startswith((".", "~", "/", os.sep)) or os.path.isabs(text) or "\\" in text
    return marked or text.endswith(("/", *FILE_SUFFIXES)) or text.count("/") > 1


class _Repo:
    """One repository of the Hub at one revision, seen through the cache."""

    def __init__(self, repo_id: str, revision: str | None, token: str | bool | None) -> None:
        self.repo_id, self.revision, self.token = repo_id, revision, token
        self.unreachable: BaseException | None = None  # why the network is not asked again

    def fetch(self, candidates: tuple[str | None, ...]) -> Fetched:
        """The first candidate that the repository has, with what belongs to it; None means "its only weights".

        What is not on the Hub, and what is not in the cache of a machine without network, is treated alike:
        the next candidate is tried. So a machine that went offline finds whichever file it once downloaded.
        """
        start_client(self.token)
        from huggingface_hub.errors import HFValidationError

        try:
            with calm():
                return patiently(lambda: self._attempt(candidates))
        except safetensors_file.SafetensorsFileError as error:
            raise HubError(str(error)) from None
        except HFValidationError as error:
            raise HubError(f"{self.repo_id!r} is no Hub id ({redacted(error)})") from None
        except ImportError as error:  # a proxy that needs another package
            raise HubError(f"cannot reach the Hub: {redacted(error)}") from None
        except (*client_errors(), RuntimeError, ValueError) as error:  # the latter: hf_xet; answers that make no sense
            if isinstance(error, HubError):
                raise
            raise HubError(self._explain(error)) from None

    def _attempt(self, candidates: tuple[str | None, ...]) -> Fetched:
        self.unreachable = None
        self._probe()
        for name in candidates:
            found = self._weights(name or self._only_weights() or "")
            if found is not None:
                path, commit = found
                return Fetched(path, self.repo_id, commit)
        if self.unreachable is not None:
            raise self.unreachable
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
        except client_errors() as error:
            self.unreachable = error

    def _weights(self, name: str) -> tuple[Path, str] | None:
        """Download a weights file and its companions: a folder for safetensors, the file itself for .pt; the commit."""
        file = self._download(name, self.revision) if name else None
        if file is None:
            return None
        commit = file.parent.name  # of the snapshot, so that all files belong together
        if name.endswith(TORCH_SUFFIXES):
            return file, commit
        if self._download(CONFIG, commit) is None and self.unreachable is not None and not self._known_absent(commit):
            return None
        if name == INDEX:
            shards = sorted(set(safetensors_file.read_index(file).values()))
            if any(self._download(shard, commit) is None for shard in shards):
                return None
        return file.parent, commit

    def _download(self, name: str, revision: str | None) -> Path | None:
        """The path of a file in the cache; None: the repository (offline: the cache) has no such file."""
        from huggingface_hub import hf_hub_download
        from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

        local = self.unreachable is not None
        kept = self._blobs()
        try:
            with guarded_client():
                asked = {"revision": revision, "token": self.token, "local_files_only": local}
                file = Path(hf_hub_download(self.repo_id, name, **asked, **progress.options()))
        except LocalEntryNotFoundError as error:
            self.unreachable = self.unreachable or error.__cause__ or error
            return None
        except EntryNotFoundError:
            return None
        check_place(file, name, self.repo_id)
        blob = Path(os.readlink(file)) if file.is_symlink() else file  # its name is the hash that the Hub stated
        if blob.name in kept or blob == file:
            check_whole(file, blob.name, name, self.repo_id, self.revision)
        else:
            check_hash(file, blob.name, name, self.repo_id)
        return file

    def _blobs(self) -> set[str]:
        """Hashes of this repository's files in the cache."""
        from huggingface_hub import constants

        folder = Path(constants.HF_HUB_CACHE, f"models--{self.repo_id.replace('/', '--')}", "blobs")
        return set(os.listdir(folder)) if folder.is_dir() else set()

    def _known_absent(self, commit: str) -> bool:
        """Whether the cache remembers that the repository has no config.json."""
        from huggingface_hub import _CACHED_NO_EXIST, try_to_load_from_cache

        return try_to_load_from_cache(self.repo_id, CONFIG, revision=commit) is _CACHED_NO_EXIST

    def _only_weights(self) -> str | None:
        """The name of a repository's only safetensors file, or of its only .pt file."""
        from huggingface_hub import HfApi, snapshot_download
        from huggingface_hub.errors import LocalEntryNotFoundError

        if self.unreachable is None:
            names = HfApi(token=self.token).list_repo_files(self.repo_id, revision=self.revision)
        else:
            patterns = [f"*{suffix}" for suffix in (".safetensors", *TORCH_SUFFIXES)]
            try:
                folder = snapshot_download(
                    self.repo_id, revision=self.revision, allow_patterns=patterns, local_files_only=True
                )
            except LocalEntryNotFoundError:
                return None
            names = [p.name for p in Path(folder).iterdir()]
        for suffixes in ((".safetensors",), TORCH_SUFFIXES):
            found = sorted(n for n in names if n.endswith(suffixes) and re.fullmatch(r"\w[\w. +-]*", n))
            if len(found) > 1:
                shown = ", ".join(found[:5])
                raise HubError(
                    f"Hub repository {self.repo_id} holds {len(found)} weights files ({shown}): download one "
                    f"(hf download {self.repo_id} {found[0]}) and pass its path"
                )
            if found:
                return found[0]
        return None

    def _explain(self, error: BaseException) -> str:
        """An error as one line. Nothing of a request is quoted: it may hold a token."""
        from huggingface_hub import errors

        repo, address = self.repo_id, endpoint()
        if isinstance(error, errors.GatedRepoError):
            return f"{repo} is gated: ask for access at {address}/{repo}, then run hf auth login or pass token="
        if isinstance(error, errors.RepositoryNotFoundError):
            return (
                f"there is no Hub repository {repo} that you may see: check the name; if it is private, run "
                "hf auth login or pass token="
            )
        if isinstance(error, errors.RevisionNotFoundError):
            return f"Hub repository {repo} has no revision {self.revision!r}"
        if isinstance(error, errors.LocalTokenNotFoundError):
            return f"token=True asks for the stored token, and there is none: run hf auth login ({repo})"
        status = status_of(error)
        if status in (401, 403):
            return f"the Hub refused access to {repo} (HTTP {status}): run hf auth login or pass another token="
        absent = f"{repo}{f' at revision {self.revision!r}' if self.revision else ''} is not in the local cache"
        if any(isinstance(e, errors.OfflineModeIsEnabled) for e in causes(error)):
            return (
                f"{absent}, and HF_HUB_OFFLINE keeps the network off: unset it and connect once (the "
                f"download is kept), {_INSTEAD}"
            )
        if any(type(e).__name__ == "FileMetadataError" for e in causes(error)):
            return f"{address} does not answer as the Hub does: check HF_ENDPOINT and proxies, {_INSTEAD}"
        if machine := explain_machine(error):
            return f"cannot download {repo}: {machine}"
        if said := explain_status(error):
            return f"{absent}, and {said}"
        if isinstance(error, client_errors()):
            why = f"HTTP {status}" if status else type(error).__name__
        else:
            why = redacted(error, (self.token,))
        if self.unreachable is None:
            broke = f"the download of {repo} from {address} broke off ({why})"
            return f"{broke}: run the same again, {_INSTEAD}{other_way(error)}"
        return f"{absent}, and {address} could not be reached ({why}): connect once (the download is kept), {_INSTEAD}"
