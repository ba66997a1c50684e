"""Settings as files that people can read and change: NAME.refdiff.toml.

    base = "default"            # the profile that the rest changes
    unset = []                  # settings that are None here and not in the base

    [settings]
    alpha = 0.3

    [settings.capture]
    timestep = 150

A file holds what differs from its base. It is named by its path, or by NAME where it lies in the
working folder or in the folder that REFDIFF_SETTINGS names.
"""

from __future__ import annotations

import difflib
import json
import math
import os
import types
from collections.abc import Iterable, Mapping
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from .families import Family
from .io.files import write_safely
from .settings import PROFILES, Settings

ENDING = ".refdiff.toml"
VARIABLE = "REFDIFF_SETTINGS"
_KNOWN = ("base", "unset", "settings", "tuned")


def settings_of(
    value: Settings | str | os.PathLike[str] | None, family: Family = "other"
) -> Settings:
    """Settings themselves, or those of a profile, a file or its NAME; None: the family's default.

    Raises as `settings_named` does.
    """
    if isinstance(value, Settings):
        return value
    return settings_named("default" if value is None else os.fspath(value), family)


def settings_named(name: str, family: Family = "other") -> Settings:
    """The settings of a built-in profile for a family, of a file, or of a file's NAME.

    Raises ValueError naming the profiles and files there are when it is none of them, or saying
    what is wrong in the file.
    """
    if name in PROFILES:
        return Settings.named(name, family)
    if name.endswith(".toml") or os.sep in name:
        return read_settings(name)
    files = files_in(folders())
    if name in files:
        return read_settings(files[name])
    known = ", ".join([*PROFILES, *files])
    raise ValueError(
        f"The profile is {name!r}, wanted one of {known}, or a file whose name ends in {ENDING}."
    )


def folders() -> list[Path]:
    """Where files are looked for by NAME: the working folder, then REFDIFF_SETTINGS."""
    return [Path(), *chosen_folder()]


def chosen_folder() -> list[Path]:
    """The folder that REFDIFF_SETTINGS names, if it does."""
    more = os.environ.get(VARIABLE)
    return [Path(more).expanduser()] if more else []


def files_in(folders: Iterable[Path]) -> dict[str, Path]:
    """The files in folders by their NAME; of two that have one the first counts."""
    found: dict[str, Path] = {}
    for folder in folders:
        for path in sorted(folder.glob(f"*{ENDING}")):
            if path.is_file():
                found.setdefault(path.name.removesuffix(ENDING), path)
    return found


def read_settings(path: str | os.PathLike[str]) -> Settings:
    """The settings in a file; their profile is the file's NAME.

    Raises ValueError, one sentence naming the file, for one that is not there, is not TOML, or
    holds a setting that there is not or a value of the wrong kind.
    """
    path = Path(path)
    found = _toml(path)
    if unknown := [key for key in found if key not in _KNOWN]:
        raise ValueError(
            f"'{path}' has {unknown[0]!r}, wanted {', '.join(_KNOWN)} alone; correct it."
        )
    base = found.get("base", "default")
    if base not in PROFILES:
        raise ValueError(f"\"base\" in '{path}' is {base!r}, wanted one of {', '.join(PROFILES)}.")
    changes = found.get("settings", {})
    for name in found.get("unset", []):
        changes = _with(changes, str(name).split("."), None)
    try:
        settings = _changed(Settings.named(base), changes)
        return replace(settings, profile=path.name.removesuffix(ENDING))
    except (TypeError, ValueError) as error:
        raise ValueError(f"In '{path}': {error}") from error


def write_settings(
    path: str | os.PathLike[str], settings: Settings, told: Mapping[str, Any] | None = None
) -> Path:
    """Write what `read_settings` reads. told: how they came about, kept as [tuned].

    Raises ValueError when the path does not end in .refdiff.toml, RefDiffError when it cannot be
    written.
    """
    path = Path(path)
    if not path.name.endswith(ENDING) or path.name == ENDING:
        raise ValueError(f"'{path}' should be a NAME{ENDING}; name it so.")
    base = settings.profile if settings.profile in PROFILES else "default"
    changes = _differences(Settings.named(base), settings)
    unset = sorted(key for key, value in _flat(changes) if value is None)
    lines = [f"base = {_value(base)}"]
    lines += [f"unset = {_value(unset)}"] if unset else []
    lines += _tables("settings", changes)
    lines += _tables("tuned", dict(told or {}))
    write_safely(path, ("\n".join(lines) + "\n").encode())
    return path


def _toml(path: Path) -> dict[str, Any]:
    try:
        import tomllib
    except ModuleNotFoundError:  # before Python 3.11
        import tomli as tomllib  # type: ignore[no-redef]
    try:
        if path.exists() and not path.is_file():
            raise ValueError("it is no file")
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except RecursionError as error:
        raise ValueError(f"'{path}' is nested too deep; correct it.") from error
    except OSError as error:
        raise ValueError(f"'{path}' cannot be read ({error.strerror}); check the path.") from error
    except ValueError as error:
        raise ValueError(f"'{path}' is not TOML ({error}); correct it.") from error


def _changed(base: Any, changes: Any, where: str = "") -> Any:
    """A dataclass with some fields changed, nested ones by tables of their own."""
    if not isinstance(changes, dict):
        raise ValueError(f"{where or 'settings'} is {changes!r}, wanted a table; correct it.")
    hints = get_type_hints(type(base))
    known = [item.name for item in fields(base) if where or item.name != "profile"]
    found = {}
    for name, value in changes.items():
        full = f"{where}.{name}" if where else name
        if name not in known:
            near = difflib.get_close_matches(name, known, 1)
            meant = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(known)}."
            raise ValueError(f"there is no setting {full!r}; {meant}")
        current = getattr(base, name)
        nested = is_dataclass(current) and isinstance(value, dict)
        found[name] = _changed(current, value, full) if nested else _fit(value, hints[name], full)
    return replace(base, **found)


def _fit(value: Any, hint: Any, name: str) -> Any:
    """The value as its field wants it: lists as tuples, whole numbers as floats where needed."""
    for one in _kinds(hint):
        fitted = _as_kind(value, one)
        if fitted is not _NO:
            return fitted
    wanted = str(hint).replace("typing.", "") if get_origin(hint) else hint.__name__
    raise ValueError(f"{name} is {value!r}, wanted {wanted}; correct it.")


def _kinds(hint: Any) -> tuple[Any, ...]:
    if get_origin(hint) in (Union, types.UnionType):
        return tuple(kind for one in get_args(hint) for kind in _kinds(one))
    return (hint,)


_NO = object()


def _as_kind(value: Any, kind: Any) -> Any:
    """The value as one kind of type, or _NO."""
    origin, inner = get_origin(kind), get_args(kind)
    if origin is Literal:
        return value if value in inner else _NO
    if origin is tuple and isinstance(value, list | tuple):
        kinds = inner[:1] * len(value) if inner[-1:] == (...,) else inner
        made = tuple(_of(one, each) for one, each in zip(value, kinds, strict=False))
        return made if len(made) == len(value) == len(kinds) and _NO not in made else _NO
    if isinstance(origin, type) and issubclass(origin, Mapping) and isinstance(value, dict):
        pairs = {_key(key, inner[0]): _of(one, inner[1]) for key, one in value.items()}
        return pairs if _NO not in pairs and _NO not in pairs.values() else _NO
    if kind is float and isinstance(value, int | float) and not isinstance(value, bool):
        return float(value) if math.isfinite(value) else _NO
    if kind in (int, str, bool, type(None)):
        return value if type(value) is kind else _NO
    return _NO


def _of(value: Any, hint: Any) -> Any:
    return next((one for kind in _kinds(hint) if (one := _as_kind(value, kind)) is not _NO), _NO)


def _key(key: str, kind: Any) -> Any:
    return int(key) if kind is int and key.lstrip("-").isdigit() else _as_kind(key, kind)


def _with(changes: Any, keys: list[str], value: Any) -> Any:
    """The same table with one value at a dotted place."""
    inner = changes.get(keys[0], {}) if isinstance(changes, dict) else {}
    return {**changes, keys[0]: _with(inner, keys[1:], value) if keys[1:] else value}


def _differences(base: Any, other: Any) -> dict[str, Any]:
    """The fields of a dataclass that differ from a base of the same type, nested ones as tables."""
    found = {}
    for item in fields(other):
        one, two = getattr(base, item.name), getattr(other, item.name)
        if one == two or item.name == "profile":
            continue
        alike = is_dataclass(two) and type(one) is type(two)
        found[item.name] = _differences(one, two) if alike else two
    return found


def _flat(table: Mapping[str, Any], where: str = "") -> list[tuple[str, Any]]:
    pairs = []
    for key, value in table.items():
        inner = (
            _flat(value, f"{where}{key}.") if isinstance(value, Mapping) else [(where + key, value)]
        )
        pairs += inner
    return pairs


def _tables(name: str, table: Mapping[Any, Any]) -> list[str]:
    """Lines of TOML: a table's plain values, then the tables in it. None is left out."""
    plain = {k: v for k, v in table.items() if v is not None and not isinstance(v, Mapping)}
    lines = ["", f"[{name}]", *(f"{_name(key)} = {_value(value)}" for key, value in plain.items())]
    for key, value in table.items():
        if isinstance(value, Mapping):
            lines += _tables(f"{name}.{_name(key)}", value)
    return lines if table else []


def _name(key: Any) -> str:
    text = str(key)
    bare = text.replace("-", "").replace("_", "").isalnum() and text.isascii()
    return text if bare else json.dumps(text)


def _value(value: Any) -> str:
    if isinstance(value, list | tuple):
        return f"[{', '.join(_value(one) for one in value)}]"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value)
    if isinstance(value, float):
        return repr(value)
    return json.dumps(str(value), ensure_ascii=False)
