"""Texts with `$placeholders`, taken apart once when the configuration is read."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from ..record import Record

# A name reaches as far as it can: `$value_string` is one placeholder, and not `$value` before
# "_string". The last alternative, nothing at all, is a dollar sign that introduces nothing.
_PLACEHOLDER = re.compile(r"\$(\$|header\.[A-Za-z0-9_.-]+|[A-Za-z_][A-Za-z0-9_]*|)")

HEADER = "header."


@dataclass(frozen=True, slots=True)
class Template:
    """A text as its literal parts and the names of the placeholders between them.

    There is one literal more than there are names; a literal may be empty.
    """

    literals: tuple[str, ...]
    names: tuple[str, ...]

    @classmethod
    def parse(cls, text: str, known: Collection[str]) -> Template:
        """Raises ValueError for a placeholder that is not in `known`; `$$` is a dollar sign.

        A name in `known` that ends with a dot, as `HEADER` does, stands for all that begin with it.
        """
        literals, names = [""], []
        end = 0
        for match in _PLACEHOLDER.finditer(text):
            literals[-1] += text[end : match.start()]
            end = match.end()
            name = match[1]
            if name == "$":
                literals[-1] += "$"
            elif name in known or (name.startswith(HEADER) and HEADER in known):
                names.append(name)
                literals.append("")
            else:
                raise ValueError(_unknown(name, known))
        literals[-1] += text[end:]
        return cls(tuple(literals), tuple(names))

    def around(self, name: str) -> tuple[Template, Template]:
        """What is before the only place of this name, and what is after it."""
        at = self.names.index(name)
        return (
            Template(self.literals[: at + 1], self.names[:at]),
            Template(self.literals[at + 1 :], self.names[at + 1 :]),
        )

    def fill(self, values: Mapping[str, str]) -> str:
        """The text with a value in the place of each name; KeyError if one is missing."""
        parts = [self.literals[0]]
        for name, literal in zip(self.names, self.literals[1:], strict=True):
            parts += (values[name], literal)
        return "".join(parts)


def header(record: Record, name: str) -> bytes | None:
    """The last one of that name, as Kafka's own `lastHeader`."""
    return next((value for key, value in reversed(record.headers) if key == name), None)


def _unknown(name: str, known: Collection[str]) -> str:
    names = ", ".join(f"${n}NAME" if n == HEADER else f"${n}" for n in known)
    what = f"there is no placeholder ${name} here" if name else "a dollar sign stands alone"
    return f'{what}; write one of {names}, or "$$" for a dollar sign'
