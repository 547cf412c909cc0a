"""SQL as it may be shown: without the values in it, because those can be secrets."""

from __future__ import annotations

import re
from typing import Final

_LONGEST: Final = 120
_PARTS = re.compile(
    r"""(?P<comment>--[^\n]*|/\*.*?(?:\*/|$))
      | (?P<name>"(?:[^"]|"")*(?:"|$))
      | (?P<dollar>\$\$.*?(?:\$\$|$)|\$(?P<tag>[A-Za-z_]\w*)\$.*?(?:\$(?P=tag)\$|$))
      | (?P<text>'(?:[^']|'')*(?:'|$))
      | (?P<parameter>\$\d+)
      | (?P<word>[A-Za-z_]\w*)
      | (?P<number>\d[\w.]*)""",
    re.VERBOSE | re.DOTALL,
)


def without_values(sql: str) -> str:
    """One short line of a statement with every literal replaced by `?` and comments left out.

    Where it cannot be told where a literal or a comment ends (a backslash in it, a comment in a comment), nothing of
    the rest is shown.
    """
    shown = []
    at = 0
    for part in _PARTS.finditer(sql):
        shown.append(sql[at : part.start()])
        at = part.end()
        text = part.group()
        if (part["text"] and "\\" in text) or (part["comment"] and "/*" in text[2:]):
            shown.append("? ...")
            at = len(sql)
            break
        if part["text"] or part["dollar"] or part["number"]:
            shown.append("?")
        elif not part["comment"]:
            shown.append(text)
    shown.append(sql[at:])
    line = " ".join("".join(shown).split())
    return line if len(line) <= _LONGEST else f"{line[:_LONGEST]}..."
