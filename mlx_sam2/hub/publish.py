"""Send a finished model folder to the Hugging Face Hub, in one commit."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..formats import safetensors_file, torch_file
from ..formats.names import CONFIG, INDEX, TORCH_SUFFIXES, UNFINISHED, WEIGHTS
from ..formats.safetensors_file import MAX_CONFIG_BYTES
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

REPO_ID = r"[A-Za-z0-9][\w.-]*/[\w.-]*\w"

# Weights of an earlier upload, which would be loaded instead of the new ones or beside them. They are removed, unless
# the upload replaces them.
_REPLACED = [WEIGHTS, "model-[0-9]*-of-[0-9]*.safetensors", INDEX]
_NEVER_SENT = [".*", "*/.*", f"*{UNFINISHED}", "*.incomplete"]


def upload(
    folder: str | os.PathLike[str],
    repo_id: str,
    *,
    private: bool = False,
    revision: str | None = None,
    token: str | bool | None = None,
) -> str:
    """Upload a model folder, so that ``load(repo_id)`` finds it. Hidden files stay behind.

    All files arrive in one commit, or none: whoever loads the repository meanwhile gets what was there before.
    After an interruption the same call goes on; what the Hub has received already is not sent again. Weights of
    an earlier upload that this one does not replace are removed from the branch.

    Args:
        folder: a complete folder, as the converter writes it: ``config.json`` with ``model.safetensors`` or
            shards and their index; or a single ``.pt``.
        repo_id: "owner/name"; made if it does not exist.
        private: make it private. An existing public repository is refused then.
        revision: the branch to upload to, made if it does not exist; None: ``main``.
        token: a Hub token with write access; None or True: the stored one.

    Returns:
        The address of the repository, for people.

    Raises:
        HubError: the folder is not complete, or the Hub does not take it; one line that never holds a token.
    """
    folder = Path(os.path.expanduser(folder))
    check_folder(folder)
    if not re.fullmatch(REPO_ID, repo_id):
        raise HubError(f"{redacted(repo_id)!r} is no name of a Hub repository: use owner/name")
    start_client(token)
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HFValidationError

    try:
        with calm():
            api = HfApi(token=_token(token))
            patiently(lambda: _prepare(api, repo_id, private, revision))
            patiently(lambda: _send(api, folder, repo_id, revision))
    except HFValidationError as error:
        raise HubError(f"{repo_id!r} is no name of a Hub repository ({redacted(error)})") from None
    except (*client_errors(), RuntimeError, ValueError, ImportError) as error:  # the client's threads wrap errors
        if isinstance(error, HubError):
            raise
        raise HubError(_explain(error, repo_id, token)) from None
    page = f"{endpoint()}/{repo_id}"
    return page if revision is None else f"{page}/tree/{revision}"


def collect(
    title: str, owner: str, repo_ids: Sequence[str], *, private: bool = False, token: str | bool | None = None
) -> str:
    """Gather model repositories in a collection of ``owner``, made if there is none of this title; its address.

    Raises:
        HubError: as ``upload``.
    """
    start_client(token)
    from huggingface_hub import HfApi

    try:
        with calm():
            api = HfApi(token=_token(token))
            made = patiently(lambda: api.create_collection(title, namespace=owner, private=private, exists_ok=True))
            for repo_id in repo_ids:
                patiently(lambda name=repo_id: api.add_collection_item(made.slug, name, "model", exists_ok=True))
    except (*client_errors(), RuntimeError, ValueError, KeyError) as error:  # KeyError: an answer that makes no sense
        if isinstance(error, HubError):
            raise
        raise HubError(_explain(error, f"the collection {title!r} of {owner}", token)) from None
    return f"{endpoint()}/collections/{made.slug}"


def check_folder(folder: Path) -> None:
    """Refuse a folder that holds no complete model.

    Raises:
        HubError: a file is absent, cut off or damaged.
    """
    if not folder.is_dir():
        raise HubError(f"cannot upload {folder}: there is no such folder")
    try:
        weights = _weights_files(folder)
        if weights[0].suffix == ".safetensors" and not (folder / CONFIG).is_file():
            raise HubError(f"{folder} is not complete: it has no {CONFIG}; convert again before uploading")
        if (folder / CONFIG).is_file():
            safetensors_file.read_json(folder / CONFIG, MAX_CONFIG_BYTES)
        for file in weights:
            if file.suffix == ".safetensors":
                safetensors_file.check(file)
            else:
                torch_file.read(file)
    except (safetensors_file.SafetensorsFileError, torch_file.TorchFileError) as error:
        raise HubError(f"{folder} is not complete: {error}") from None
    except OSError as error:
        raise HubError(f"cannot read {error.filename or folder}: {error.strerror or error}") from None


def _weights_files(folder: Path) -> list[Path]:
    if (folder / WEIGHTS).is_file():
        return [folder / WEIGHTS]
    if (folder / INDEX).is_file():
        names = sorted(set(safetensors_file.read_index(folder / INDEX).values()))
        absent = [name for name in names if not (folder / name).is_file()]
        if absent:
            raise HubError(f"{folder} is not complete: {absent[0]} of its index is absent; convert again")
        return [folder / name for name in names]
    found = sorted(p for p in folder.iterdir() if p.suffix in TORCH_SUFFIXES and p.is_file())
    if len(found) != 1:
        raise HubError(f"{folder} is no model folder: it has no {WEIGHTS} and no index of several")
    return found


def _token(token: str | bool | None) -> str:
    from huggingface_hub import get_token

    given = get_token() if token is None or token is True else token
    if not given:
        raise HubError("uploading needs a Hub token with write access: run hf auth login, or set HF_TOKEN")
    return str(given)


def _prepare(api: Any, repo_id: str, private: bool, revision: str | None) -> None:
    """Make the repository and the branch, where they do not exist."""
    api.create_repo(repo_id, private=private or None, exist_ok=True)  # None: as the owner's settings say
    if private and not api.model_info(repo_id).private:
        raise HubError(f"{repo_id} exists and is public: make it private in its settings, or use another name")
    if revision not in (None, "main"):
        api.create_branch(repo_id, branch=revision, exist_ok=True)


def _send(api: Any, folder: Path, repo_id: str, revision: str | None) -> None:
    api.upload_folder(
        repo_id=repo_id,
        folder_path=folder,
        revision=revision,
        commit_message="Upload with mlx_sam2",
        ignore_patterns=list(_NEVER_SENT),
        delete_patterns=list(_REPLACED),
    )


def _explain(error: Exception, repo_id: str, token: str | bool | None) -> str:
    from huggingface_hub import errors, get_token

    secrets = (token, get_token())
    chain = list(causes(error))
    status = status_of(error)
    said = next((redacted(m, secrets) for e in chain if (m := getattr(e, "server_message", None))), "")
    if status == 400 and not isinstance(error, client_errors()):  # a model card that the Hub does not take
        said = redacted(error, secrets)
    said = f", {said}" if said else ""
    kept = "what arrived is kept, send it again"
    if status == 401:
        return f"the Hub does not accept the token (HTTP 401): run hf auth login, or pass another token= for {repo_id}"
    if status == 403:
        return f"the token may not write to {repo_id} (HTTP 403{said}): use one with write access, or another owner"
    if status == 404:
        return f"the Hub knows no place for {repo_id} (HTTP 404{said}): check owner and name"
    if common := explain_status(error):
        return f"cannot upload to {repo_id}: {common}; what arrived is kept"
    if status is not None:
        return f"the Hub refused the upload to {repo_id} (HTTP {status}{said})"
    if any(isinstance(e, errors.OfflineModeIsEnabled) for e in chain):
        return f"cannot upload to {repo_id}: HF_HUB_OFFLINE keeps the network off; unset it"
    if machine := explain_machine(error):
        return f"cannot upload to {repo_id}: {machine}"
    network = next((e for e in chain if isinstance(e, client_errors())), None)
    if network is not None:
        why = f"the upload to {repo_id} at {endpoint()} broke off ({type(network).__name__})"
        return f"{why}: {kept}{other_way(network)}"
    return f"the upload to {repo_id} failed ({redacted(chain[-1], secrets)}): {kept}{other_way(chain[-1])}"
