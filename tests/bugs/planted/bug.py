"""What a planted bug is."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Bug:
    """A mistake that somebody could make, and the tests that must notice it.

    Attributes
    ----------
    name : str
        Where and what, in a few words.
    why : str
        What is wrong with it.
    files : str
        A glob from the root of the repository, wide enough that code may move between the files
        of one concept.
    find, replace : str
        The text as it is, which stands in these files exactly once, and with the bug.
    tests : str
        What to run: arguments of pytest, or ``cpp`` and filters for the names of C++ test cases.
        The quickest that notice it.
    """

    name: str
    why: str
    files: str
    find: str
    replace: str
    tests: str

    def planted(self, root: Path) -> tuple[Path, str]:
        """The file that it is in, and that file's text with the bug.

        Raises
        ------
        ValueError
            If it does not apply any more.
        """
        texts = {file: file.read_text() for file in sorted(root.glob(self.files)) if file.is_file()}
        found = {file: text.count(self.find) for file, text in texts.items() if self.find in text}
        if list(found.values()) != [1]:
            raise ValueError(
                f"{self.name} does not apply any more: {self.files} holds {self.find!r} "
                f"{sum(found.values())} times; update it"
            )
        (file,) = found
        return file.relative_to(root), texts[file].replace(self.find, self.replace)
