"""The one normaliser: two descriptions that a bookkeeper reads as the same text become the same text here.

Rules and transactions are compared by this form and by nothing else; no second normaliser may exist.
"""

from __future__ import annotations

import unicodedata


class _Table(dict[int, int | None]):
    """What `str.translate` asks for each character; answers are remembered, so the cost is one look-up a character."""

    def __missing__(self, point: int) -> int:
        # Letters, marks (accents written apart, vowel signs) and digits carry meaning; all else only separates.
        kept = point if unicodedata.category(chr(point))[0] in "LMN" else ord(" ")
        self[point] = kept
        return kept


_TABLE = _Table()


def normalise(text: str | None) -> str:
    """Return the form in which descriptions are compared.

    Casefolded; punctuation (the underscore too), symbols and control characters become spaces; runs of spaces become
    one; nothing at the ends. Accents are kept, and an accent written apart equals the same letter written as one
    character. `None` and blank texts give `""`. Applying it twice changes nothing.
    """
    if not text:
        return ""
    folded = text.lower() if text.isascii() else _fold(text)
    return " ".join(folded.translate(_TABLE).split())


def _fold(text: str) -> str:
    # Unicode's canonical caseless form: decompose, fold, compose.
    return unicodedata.normalize("NFC", unicodedata.normalize("NFD", text).casefold())
