"""What a planted bug is."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Bug:
    """A mistake that somebody could make, and the tests that must notice it.

    Attributes
    ----------
    name : str
        Where and what, in a few words.
    why : str
        What is wrong with it.
    file : str
        What it changes, from the root of the repository.
    find, replace : str
        The text as it is, which the file holds exactly once, and with the bug.
    tests : str
        What to run: arguments of pytest, or ``cpp`` and a filter for the names of C++ test cases.
        The quickest that notice it.
    """

    name: str
    why: str
    file: str
    find: str
    replace: str
    tests: str

    def plant(self, text: str) -> str:
        """The file's text with the bug. Raises ValueError where it does not apply any more."""
        if text.count(self.find) != 1:
            raise ValueError(
                f"{self.name} does not apply any more: {self.file} holds {self.find!r} "
                f"{text.count(self.find)} times; update it"
            )
        return text.replace(self.find, self.replace)
