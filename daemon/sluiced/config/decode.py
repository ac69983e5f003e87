"""From a TOML table to strict Structs, with every problem found told by its key path.

msgspec stops at the first problem and counts paths from the Struct it was given. This walks the
table beside the Structs, so that one reading names all of them as the user wrote them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin

import msgspec
from msgspec.structs import FieldInfo, fields

from ..errors import Problem
from ..units import Secret, decode

T = TypeVar("T", bound=msgspec.Struct)

NO_LITERAL = (
    'a secret never stands in this file; write { env = "NAME" }, { file = "path" } or '
    '{ credential = "name" }'
)

# What stands under such a key is not repeated in a message, even where it is no secret.
_PRIVATE = re.compile(
    r"passw|(?<!limits\.)token|secret|authori[sz]ation|api[-_]?key|dsn|cookie|credential|headers|url",
    re.I,
)
_SUBJECT = re.compile(r"`?(\w+)`? (?=(?:must|is|has|holds|names|needs|takes)\b)")
_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")
_LONGEST_VALUE = 60  # characters of a value that a message repeats

# How msgspec calls what TOML calls otherwise, the longest first.
_WORDS = {
    "`object`": "a table",
    "`array`": "a list",
    "`str`": "a string",
    "`int`": "a whole number",
    "`float`": "a number",
    "`bool`": "true or false",
    "`object | null`": "a table",
    "`array | null`": "a list",
    "`str | null`": "a string",
    "`str | object`": "a string or a secret reference",
    "of length >= 1": "that is not empty",
}


@dataclass
class Decoder:
    """Decodes tables. What is wrong is collected in `problems`."""

    problems: list[Problem] = field(default_factory=list)

    def decode(self, table: Mapping[str, Any], kind: type[T]) -> T | None:
        """The table as a Struct; None if there are problems."""
        return self._struct(table, kind, "")

    def _struct(self, table: Mapping[str, Any], kind: type[T], path: str) -> T | None:
        known = {f.encode_name: f for f in fields(kind)}
        tag = kind.__struct_config__.tag_field
        before = len(self.problems)
        for key, value in table.items():
            at = joined(path, key)
            if key in known:
                self._value(value, known[key].type, at)
            elif key != tag:
                self._problem(at, _unknown(key, [*known, *([tag] if tag else [])]))
        for name, info in known.items():
            if name not in table and info.required:
                self._absent(info, joined(path, name))
        if len(self.problems) > before:
            return None
        # Once more as a whole: now the Struct's own checks run, on parts that are sound.
        made: T | None = self._convert(table, kind, path)
        return made

    def _absent(self, info: FieldInfo, path: str) -> None:
        # A whole table that is missing is told as the keys that are needed of it.
        if _struct_of(info.type, {}):
            self._nested({}, info.type, path)
        else:
            self._problem(path, "is required")

    def _value(self, value: Any, kind: Any, path: str) -> None:
        if isinstance(value, Mapping):
            if _struct_of(kind, value):
                return self._nested(value, kind, path)
            if items := _dict_of(kind):
                for key, item in value.items():
                    self._value(item, items, joined(path, key))
                return None
        self._convert(value, kind, path)
        return None

    def _nested(self, table: Mapping[str, Any], kind: Any, path: str) -> None:
        struct = _struct_of(kind, table)
        if struct is None:
            return None
        tag, names = struct.__struct_config__.tag_field, _tags(kind)
        if tag is not None and table.get(tag) not in names:
            at, one_of = joined(path, tag), ", ".join(map(_quoted, names))
            one_of = f"one of {one_of}" if len(names) > 1 else one_of
            if tag not in table:
                return self._problem(at, f"is required; write {tag} = {one_of}")
            # The other keys belong to another type: nothing can be said about them.
            return self._problem(at, f"there is no such type; write {one_of}", table[tag])
        self._struct(table, struct, path)
        return None

    def _convert(self, value: Any, kind: Any, path: str) -> Any:
        try:
            return msgspec.convert(value, kind, strict=True, dec_hook=decode)
        except msgspec.ValidationError as error:
            own = error.__cause__
            text, inner = _taken_apart(str(error))
            secret = Secret in _kinds(kind)
            if isinstance(own, ValueError) and isinstance(value, Mapping):
                return self._refused(value, str(own), path)
            if isinstance(own, ValueError):
                text = str(own)
            elif secret and str not in _kinds(kind):
                text = NO_LITERAL
            elif (choices := _choices(kind)) and int in _kinds(kind):
                text = f"expected a whole number >= 1 or {', '.join(map(_quoted, choices))}"
            elif choices:
                text = f"expected one of {', '.join(map(_quoted, choices))}"
            else:
                text = _worded(text)
            hidden = secret or inner or isinstance(value, Mapping)
            self._problem(path + inner, text, None if hidden else value)
            return None

    def _refused(self, table: Mapping[str, Any], text: str, path: str) -> None:
        """A Struct's own check. Where its text begins with one key, the problem is that key's."""
        key, _, rest = text.partition(": ")
        if match := _SUBJECT.match(text):
            key, rest = match[1], text[match.end() :]
        if key in table:
            self._problem(joined(path, key), rest, table[key])
        else:
            self._problem(path, text)

    def _problem(self, path: str, text: str, value: object = None) -> None:
        value_shown = "" if value is None or isinstance(value, Mapping) else shown(path, value)
        self.problems.append(Problem(path, text, value=value_shown))


def joined(path: str, key: str) -> str:
    """The path of a key in the table at `path`; a key that TOML would quote is quoted."""
    name = key if _BARE_KEY.fullmatch(key) else _quoted(key)
    return f"{path}.{name}" if path else name


def shown(path: str, value: object) -> str:
    """A value for a message: cut short, and hidden where the path or it may hold a secret."""
    text = _quoted(value)
    if _PRIVATE.search(path) or "://" in text or "@" in text:
        return "(not shown)"
    return text if len(text) <= _LONGEST_VALUE else f"{text[:_LONGEST_VALUE]}…"


def secrets(settings: msgspec.Struct, path: str = "") -> Iterator[tuple[str, Secret]]:
    """All references to secrets in the settings, with their paths."""
    for info in fields(settings):
        yield from _secrets(getattr(settings, info.name), joined(path, info.encode_name))


def _secrets(value: object, path: str) -> Iterator[tuple[str, Secret]]:
    if isinstance(value, Secret):
        yield path, value
    elif isinstance(value, msgspec.Struct):
        yield from secrets(value, path)
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from _secrets(item, joined(path, str(key)))


def _unknown(key: str, known: list[str]) -> str:
    near = get_close_matches(key, known, n=1, cutoff=0.6)
    return f"unknown key; did you mean {near[0]}?" if near else "unknown key; remove it"


def _quoted(value: object) -> str:
    """As JSON, which is near enough to TOML, and cannot steer a terminal."""
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if text.isprintable() else json.dumps(value, default=str)


def _kinds(kind: Any) -> tuple[Any, ...]:
    """The members of a union without None; a type that is none is the only member."""
    if get_origin(kind) is Annotated:
        return _kinds(get_args(kind)[0])
    if get_origin(kind) in (Union, UnionType):
        return tuple(k for arm in get_args(kind) if arm is not NoneType for k in _kinds(arm))
    return (kind,)


def _structs(kind: Any) -> list[type[msgspec.Struct]]:
    return [k for k in _kinds(kind) if isinstance(k, type) and issubclass(k, msgspec.Struct)]


def _tags(kind: Any) -> list[Any]:
    return [struct.__struct_config__.tag for struct in _structs(kind)]


def _struct_of(kind: Any, table: Mapping[str, Any]) -> type[msgspec.Struct] | None:
    """The Struct that this table is to become: of a tagged union, the one that the tag names."""
    structs = _structs(kind)
    for struct in structs:
        config = struct.__struct_config__
        if config.tag_field is not None and table.get(config.tag_field) == config.tag:
            return struct
    return structs[0] if structs else None


def _dict_of(kind: Any) -> Any | None:
    """The type of a dictionary's values."""
    return next((get_args(k)[1] for k in _kinds(kind) if get_origin(k) is dict), None)


def _choices(kind: Any) -> tuple[Any, ...]:
    return next((get_args(k) for k in _kinds(kind) if get_origin(k) is Literal), ())


def _taken_apart(message: str) -> tuple[str, str]:
    """msgspec's message, and where inside the value: "[0]", or "" for the value itself."""
    text, _, inner = message.partition(" - at `$")
    return text, inner.removesuffix("`")


def _worded(text: str) -> str:
    text = text.partition(", got ")[0]
    for theirs, ours in _WORDS.items():
        text = text.replace(theirs, ours)
    return text[:1].lower() + text[1:]
