"""Configurations: a tree of frozen dataclasses, read from a preset, changed on the command line.

A key nobody reads does not exist: an unknown key or a value of the wrong type is an error that names the
file, the key and the nearest valid one. A preset is a TOML file in ``launch/presets/<command>/`` that gives
only what differs from the defaults; the resolved tree is saved as JSON beside every checkpoint and can be
read back.

A field may be bool, int, float, str, Path, Literal, another dataclass, ``X | None``, ``tuple[X, ...]``,
``tuple[X, Y]`` or ``dict[str, X]``.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
import tomllib
import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Generic, Literal, TypeVar, get_args, get_origin

import tyro

from .durable import StorageError, read_json, write_json

PRESETS = resources.files("regrip.launch") / "presets"

C = TypeVar("C")
O = TypeVar("O")  # noqa: E741


class ConfigError(ValueError):
    """A setting that does not exist or a value it cannot take."""


def to_dict(config: Any) -> dict[str, Any]:
    """The tree as plain JSON values; `from_dict` reads it back equal."""
    plain = _plain(config)
    assert isinstance(plain, dict), f"{config!r} is not a dataclass"
    return plain


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: _plain(getattr(value, f.name)) for f in dataclasses.fields(value) if f.init}
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (tuple, list)):
        return [_plain(item) for item in value]
    if isinstance(value, Path):
        return str(value)
    return value


def from_dict(cls: type[C], data: Mapping[str, Any], source: str = "configuration") -> C:
    """Build a configuration; keys that are absent keep their defaults.

    Args:
        cls: the dataclass at the root of the tree.
        data: nested plain values, as TOML or JSON give them.
        source: where `data` came from, for the messages (a file name).

    Raises:
        ConfigError: on an unknown key, a missing one, or a bad value, naming file, key and nearest valid one.
    """
    return _Reader(source, cls).table(cls, data, "")


@dataclass(frozen=True)
class _Reader:
    source: str
    root: type

    def fail(self, path: str, message: str) -> ConfigError:
        return ConfigError(f"{self.source}: {path}: {message}" if path else f"{self.source}: {message}")

    def table(self, cls: type[C], data: Any, path: str) -> C:
        if not isinstance(data, Mapping):
            raise self.fail(path, f"{data!r} is a {type(data).__name__}, expected a table of settings")
        hints = typing.get_type_hints(cls)
        fields = {field.name: field for field in dataclasses.fields(cls) if field.init}  # type: ignore[arg-type]
        for key in data:
            if key not in fields:
                raise self.unknown(key, path, list(fields))
        values = {key: self.value(hints[key], value, _join(path, key)) for key, value in data.items()}
        for name, field in fields.items():
            required = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
            if required and name not in values:
                raise self.fail(_join(path, name), "missing, and it has no default")
        try:
            return cls(**values)
        except ConfigError:
            raise
        except ValueError as error:  # a check in the dataclass's own __post_init__
            raise self.fail(path, str(error)) from error

    def unknown(self, key: str, path: str, siblings: Sequence[str]) -> ConfigError:
        every = _paths(self.root, "")
        wanted = _join(path, key)
        by_leaf = [known for known in every if known.rsplit(".", 1)[-1] == key]
        # Nearest here first; then the same name elsewhere in the tree; then anything that looks like it.
        near = [_join(path, name) for name in difflib.get_close_matches(key, siblings, n=1)]
        near = near or by_leaf[:2] or difflib.get_close_matches(wanted, every, n=1, cutoff=0.5)
        hint = f"did you mean {' or '.join(near)}? " if near else ""
        return self.fail(wanted, f"there is no such setting; {hint}Settings here: {', '.join(siblings)}")

    def value(self, hint: Any, value: Any, path: str) -> Any:
        origin = get_origin(hint)
        if origin is Annotated:
            return self.value(get_args(hint)[0], value, path)
        if origin in (typing.Union, types.UnionType):
            return self.union(get_args(hint), value, path)
        if origin is Literal:
            return self.choice(get_args(hint), value, path)
        if dataclasses.is_dataclass(hint) and isinstance(hint, type):
            return self.table(hint, value, path)
        if origin is tuple:
            return self.sequence(get_args(hint), value, path)
        if origin in (dict, Mapping):
            if not isinstance(value, Mapping):
                raise self.fail(path, f"{value!r} is a {type(value).__name__}, expected a table")
            return {
                str(key): self.value(get_args(hint)[1], item, f"{path}.{key}") for key, item in value.items()
            }
        return self.scalar(hint, value, path)

    def scalar(self, hint: Any, value: Any, path: str) -> Any:
        if hint is Any:
            return value
        if hint is Path and isinstance(value, str):
            return Path(value)
        if hint is float and type(value) is int:
            return float(value)
        if hint in (bool, int, float, str):
            if hint is float and isinstance(value, float) and not math.isfinite(value):
                raise self.fail(path, f"{value!r} is not a finite number")
            if type(value) is hint:
                return value
            raise self.fail(path, f"{value!r} is a {type(value).__name__}, expected {_words(hint)}")
        raise TypeError(f"{self.root.__name__}.{path} has type {hint}, which a configuration cannot hold")

    def union(self, options: tuple[Any, ...], value: Any, path: str) -> Any:
        if value is None and type(None) in options:
            return None
        rest = [option for option in options if option is not type(None)]
        if len(rest) != 1:
            raise TypeError(f"{self.root.__name__}.{path}: only `X | None` unions can be configured")
        return self.value(rest[0], value, path)

    def choice(self, options: tuple[Any, ...], value: Any, path: str) -> Any:
        for option in options:
            if type(option) is type(value) and option == value:
                return option
        raise self.fail(
            path, f"{value!r} is not possible{_did_you_mean(value, options)} Expected {_list(options)}"
        )

    def sequence(self, items: tuple[Any, ...], value: Any, path: str) -> tuple[Any, ...]:
        if not isinstance(value, (list, tuple)):
            raise self.fail(path, f"{value!r} is a {type(value).__name__}, expected a list")
        if len(items) == 2 and items[1] is Ellipsis:
            items = (items[0],) * len(value)
        if len(items) != len(value):
            raise self.fail(path, f"{list(value)!r} has {len(value)} entries, expected {len(items)}")
        return tuple(
            self.value(item, entry, f"{path}[{index}]")
            for index, (item, entry) in enumerate(zip(items, value, strict=True))
        )


def _join(path: str, key: str) -> str:
    return f"{path}.{key}" if path else key


def _paths(cls: type, path: str) -> list[str]:
    """Every dotted key of a tree."""
    found: list[str] = []
    for name, hint in typing.get_type_hints(cls).items():
        found.append(_join(path, name))
        for part in (hint, *get_args(hint)):
            if isinstance(part, type) and dataclasses.is_dataclass(part):
                found += _paths(part, _join(path, name))
    return found


def _words(hint: type) -> str:
    return {bool: "true or false", int: "a whole number", float: "a number", str: "a text in quotes"}[hint]


def _list(options: Sequence[Any]) -> str:
    return " or ".join(repr(option) for option in options)


def _did_you_mean(value: Any, options: Sequence[Any]) -> str:
    near = difflib.get_close_matches(str(value), [str(option) for option in options], n=1)
    return f"; did you mean {near[0]!r}?" if near else "."


def preset_names(command: str) -> dict[str, str]:
    """Name to one-line description (the file's first comment) of each preset of a command."""
    folder = PRESETS / command
    if not folder.is_dir():
        return {}
    found: dict[str, str] = {}
    for entry in sorted(folder.iterdir(), key=lambda entry: entry.name):
        if entry.name.endswith(".toml"):
            first = entry.read_text().split("\n", 1)[0]
            found[entry.name.removesuffix(".toml")] = (
                first.removeprefix("#").strip() if first[:1] == "#" else ""
            )
    return found


def load_preset(cls: type[C], name_or_path: str, command: str = "train") -> C:
    """Read a preset.

    Args:
        cls: the dataclass at the root.
        name_or_path: a name in ``launch/presets/<command>/``, or a path to a TOML file.
        command: which folder of presets the name is looked up in.

    Raises:
        ConfigError: if there is no such preset (naming the nearest), or the file does not fit `cls`.
    """
    if name_or_path.endswith(".toml"):
        path = Path(name_or_path)
        try:
            text = path.read_text()
        except OSError as error:
            raise ConfigError(f"cannot read the preset {path}: {error.strerror}. Check the path.") from error
    else:
        names = preset_names(command)
        if name_or_path not in names:
            raise ConfigError(
                f"there is no preset {name_or_path!r}{_did_you_mean(name_or_path, list(names))} "
                f"Presets of `regrip {command}`: {', '.join(names) or 'none'}. Or give a .toml file."
            )
        file = PRESETS / command / f"{name_or_path}.toml"
        path, text = Path(f"presets/{command}/{name_or_path}.toml"), file.read_text()
    try:
        data = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path} is not valid TOML: {error}") from error
    return from_dict(cls, data, str(path))


@dataclass(frozen=True)
class Parsed(Generic[O, C]):
    """A command line, understood: the command's own options and the resolved configuration."""

    options: O
    config: C


def parse_options(cls: type[O], args: Sequence[str], *, prog: str, description: str) -> O:
    """Parse a command line that has no preset. Exits with status 2 and a message if it does not fit."""
    return tyro.cli(cls, args=list(args), prog=prog, description=description)


def parse_with_preset(
    options_cls: type[O],
    config_cls: type[C],
    args: Sequence[str],
    *,
    command: str,
    description: str,
    default_preset: str,
) -> Parsed[O, C]:
    """Parse ``regrip COMMAND [PRESET] [--option ...] [--key.of.config value ...]``.

    The preset comes first if it is given; what follows overrides it. `options_cls` holds what is not part of
    the experiment (where to write, what to resume); every field of it has a default, and its fields and those
    of `config_cls` differ in name.

    Raises:
        ConfigError: if the preset does not exist or does not fit.
        SystemExit: with status 2 after a message, if the rest of the line does not fit.
    """
    line = list(args)
    preset = line.pop(0) if line and not line[0].startswith("-") else default_preset
    default = load_preset(config_cls, preset, command)
    whole = dataclasses.make_dataclass(
        "Line",
        [
            ("options", Annotated[options_cls, tyro.conf.arg(name="")]),
            ("config", Annotated[config_cls, tyro.conf.arg(name="")]),
        ],
        frozen=True,
    )
    listing = "".join(f"\n  {name}: {words}" for name, words in preset_names(command).items())
    parsed: Any = tyro.cli(
        whole,
        args=line,
        default=whole(options_cls(), default),
        prog=f"regrip {command} [PRESET]",
        description=(
            f"{description}\n\nPRESET is one of these (default {default_preset}) or the path of a .toml file:"
            f"{listing}"
        ),
    )
    return Parsed(parsed.options, from_dict(config_cls, to_dict(parsed.config), "command line"))


def save_config(path: Path, config: Any, facts: Mapping[str, Any] | None = None) -> None:
    """Write the resolved configuration as JSON, beside `facts` about the run (command, seed, code version).

    Raises:
        StorageError: if it cannot be written.
    """
    write_json(path, {**(facts or {}), "config": to_dict(config)})


def load_config(cls: type[C], path: Path) -> C:
    """Read what `save_config` wrote.

    Raises:
        StorageError: if the file is missing or not JSON.
        ConfigError: if it does not fit `cls` (written by another version, or edited).
    """
    data = read_json(path, "a saved configuration")
    if not isinstance(data, dict) or not isinstance(data.get("config"), dict):
        raise StorageError(f"{path} has no 'config' table: it is not a saved configuration of regrip.")
    return from_dict(cls, data["config"], str(path))
