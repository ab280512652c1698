"""A configuration from any form that ``load`` takes: an object, a dict, a JSON or YAML file, or a name."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from ..config.parts import ConfigError
from ..config.published import published, shipped, short_names
from ..config.sam2 import SAM2Config
from ..formats import safetensors_file
from ..formats.names import CONFIG
from ..formats.safetensors_file import MAX_CONFIG_BYTES
from ..text import one_line, shown

MAX_YAML_BYTES = 1 << 16


def read_config(source: SAM2Config | dict[str, Any] | str | os.PathLike[str]) -> SAM2Config:
    """The configuration that an object, a dict, a file or a name stands for.

    Raises:
        ConfigError: there is no such file or name, or the configuration breaks a rule.
    """
    if isinstance(source, SAM2Config):
        return source
    if isinstance(source, dict):
        return SAM2Config.from_dict(source)
    text = os.fspath(source)
    path = Path(os.path.expanduser(text))
    if not os.path.isfile(path):
        if (folder := shipped(text)) is not None:
            return read_config(folder / CONFIG)
        model = published(text)
        if model is None:
            raise ConfigError(f"config={text!r} is neither a file nor a published model ({short_names()})")
        return model.config
    try:
        values = _read_yaml(path) if path.suffix in (".yaml", ".yml") else read_json_config(path)
        return SAM2Config.from_dict(values)
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from None
    except (safetensors_file.SafetensorsFileError, ConfigError) as error:
        raise ConfigError(f"{path}: {str(error).removeprefix(f'{path}: ')}") from None


def read_json_config(path: Path) -> dict[str, Any]:
    return safetensors_file.read_json(path, MAX_CONFIG_BYTES)


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        import yaml
    except ImportError:
        raise ConfigError("reading YAML needs PyYAML (pip install pyyaml)") from None
    with path.open("rb") as file:
        data = file.read(MAX_YAML_BYTES + 1)
    if len(data) > MAX_YAML_BYTES:  # PyYAML takes minutes for megabytes
        raise ConfigError(f"is longer than {MAX_YAML_BYTES} bytes, which such a file never is")
    try:
        return yaml.safe_load(data.decode())
    except (yaml.YAMLError, ValueError, LookupError, AttributeError, TypeError, OverflowError, RecursionError) as error:
        # all but YAMLError come from PyYAML's constructors, for malformed numbers, dates and tags
        raise ConfigError(f"is not valid YAML ({shown(one_line(error))})") from None
