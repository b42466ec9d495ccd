"""What a study is put together from, by name: policies, tasks, threats, defenses and judges, shipped or a plug-in's.

A shipped class is registered by its own file, which is found by its place: adding one adds a file. No file of a shipped
class imports torch before a method is called, so that listing them is cheap.
"""

from __future__ import annotations

import dataclasses
import importlib
import pkgutil
import sys
import types
import typing
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Generic, TypeVar, get_args

from subspace_lab._text import named_settings, nearest, plain_value, unknown

T = TypeVar("T")
_PACKAGE = "subspace_lab.studies.safety"


class Registry(Mapping[str, type[T]], Generic[T]):
    """Classes of a kind by name, in alphabetical order; frozen dataclasses whose fields are the options.

    Args:
        kind: In messages: ``"defense"``.
        packages: Names of the packages, within this one, whose modules register the shipped classes.
    """

    def __init__(self, kind: str, *packages: str) -> None:
        self.kind = kind
        self._packages = packages
        self._classes: dict[str, type[T]] = {}
        self._names: dict[type[T], str] = {}
        self._is_loaded = False

    def register(self, name: str) -> Callable[[type[T]], type[T]]:
        """A class decorator.

        Args:
            name: Lower case; as it is written in configurations.

        Returns:
            The decorator.

        Raises:
            ValueError: If the name is taken, or has one of the characters ``: + , =`` or white space.
        """
        if not name or any(mark in ":+,=" or mark.isspace() for mark in name):
            raise ValueError(f"the name of a {self.kind} has none of : + , = and no space, got {name!r}")

        def add(cls: type[T]) -> type[T]:
            before = self._classes.get(name)
            if before is not None and _origin(before) != _origin(cls):
                raise ValueError(f"there is a {self.kind} {name!r} already ({_origin(before)}); {_advice(before, cls)}")
            self._classes[name], self._names[cls] = cls, name
            return cls

        return add

    def parse(self, text: str) -> T:
        """An instance, from a name with settings.

        Args:
            text: ``safegrad:rho=0``; names of settings may be written with a hyphen.

        Returns:
            The instance.

        Raises:
            ValueError: If the name or a setting is not known (names the nearest), a value is not of its type, or a
                setting without a default is missing.
        """
        name, settings = named_settings(text)
        if name not in self:
            raise ValueError(unknown(self.kind, name, self))
        cls: Any = self[name]
        settings = dict(zip(settings, _words(text), strict=True))
        types_of, known = typing.get_type_hints(cls), {one.name for one in dataclasses.fields(cls)}
        for key, value in settings.items():
            if key not in known:
                options = f"it has {', '.join(known)}" if known else "it has no settings"
                near = f"; nearest: {nearest(key, known)}" if known else ""
                raise ValueError(f"the {self.kind} {name!r} has no setting {key!r}{near} ({options})")
            settings[key] = _typed(f"{self.kind} {name!r}: {key}", value, types_of[key])
        if open_ := [one.name for one in dataclasses.fields(cls) if one.name not in settings and _is_needed(one)]:
            raise ValueError(f"the {self.kind} {name!r} needs {', '.join(open_)}; write {name}:{open_[0]}=...")
        made: T = cls(**settings)
        return made

    def text(self, instance: T) -> str:
        """The canonical text of an instance: its name, and the settings that are not the defaults, by field order."""
        found = [self.name_of(type(instance))]
        for one in dataclasses.fields(instance):  # type: ignore[arg-type]
            if (value := getattr(instance, one.name)) != one.default:
                found.append(f"{one.name}={word_of(value)}")
        return ":".join(found)

    def name_of(self, cls: type[T]) -> str:
        """The name of a registered class."""
        self._load()
        return self._names[cls]

    def __getitem__(self, name: str) -> type[T]:
        self._load()
        return self._classes[name]

    def __iter__(self) -> Iterator[str]:
        self._load()
        return iter(sorted(self._classes))

    def __len__(self) -> int:
        self._load()
        return len(self._classes)

    def _load(self) -> None:
        if self._is_loaded:
            return
        self._is_loaded = True
        for package in self._packages:
            folder = importlib.import_module(f"{_PACKAGE}.{package}")
            for module in pkgutil.iter_modules(folder.__path__):
                importlib.import_module(f"{folder.__name__}.{module.name}")


def _origin(cls: type) -> str:
    return f"{cls.__module__}.{cls.__qualname__}"


def _advice(before: type, cls: type) -> str:
    """What to do where two classes take one name; the same plug-in may have come by two ways."""
    files = [getattr(sys.modules.get(one.__module__), "__file__", None) for one in (before, cls)]
    if before.__qualname__ == cls.__qualname__ and files[0] == files[1] is not None:
        return f"{files[0]} was imported as {before.__module__} and as {cls.__module__}: name it in one way"
    return "choose another name"


def _is_needed(one: dataclasses.Field[Any]) -> bool:
    return one.default is dataclasses.MISSING and one.default_factory is dataclasses.MISSING


def word_of(value: Any) -> str:
    """How the value of a setting is written: without what does not change it.

    Args:
        value: A number, a text, true, false or none.

    Returns:
        Text.

    >>> [word_of(value) for value in (True, None, 1.0, 0.001, 8)]
    ['true', 'none', '1', '0.001', '8']
    """
    if isinstance(value, bool) or value is None:
        return str(value).lower()
    return repr(float(value)).removesuffix(".0") if isinstance(value, float) else str(value)


def _words(text: str) -> list[str]:
    """The values of the settings of a text, as they were typed."""
    return [pair.partition("=")[2] for pair in text.strip().split(":")[1:]]


def _typed(where: str, word: str, wanted: Any) -> Any:
    """The value of a setting as its annotation wants it; ValueError where it is not of that type."""
    value = plain_value(word)
    choices = get_args(wanted) if typing.get_origin(wanted) is typing.Literal else ()
    if choices:
        if value in choices:
            return value
        raise ValueError(f"{where} is one of {', '.join(map(str, choices))}, got {value!r}")
    kinds = get_args(wanted) if isinstance(wanted, types.UnionType) else (wanted,)
    for kind in kinds:
        if kind is float and isinstance(value, int | float) and not isinstance(value, bool):
            return float(value)
        if kind is types.NoneType and value is None:
            return None
        if kind in {int, bool} and type(value) is kind:
            return value
    for kind in kinds:
        if kind in {str, Path}:  # whatever the word would mean elsewhere
            return kind(word)
    names = " or ".join("none" if kind is types.NoneType else kind.__name__ for kind in kinds)
    raise ValueError(f"{where} is {names}, got {value!r}")
