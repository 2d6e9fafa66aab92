"""Texts from elsewhere, made such that they can be shown: in a terminal, in HTML, in XML."""

from __future__ import annotations


def visible(text: str, kept: str = "") -> str:
    """Return a text in which escapes of Python stand for what does not print, but for the characters in ``kept``.

    Names of files, messages of errors, and what other programs say of themselves can hold anything: codes that a
    terminal obeys, marks that turn the direction of writing, halves of characters that no file can hold.
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c in kept else c.encode("unicode_escape").decode("ascii") for c in text)
