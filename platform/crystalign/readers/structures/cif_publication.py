"""What a CIF says of its publication, and what the Crystallography Open Database adds to it."""

from __future__ import annotations

import re
import unicodedata
from typing import Any, NamedTuple

from crystalign.readers.structures.cif import parse_cif

MAX_TITLE, MAX_NAME, MAX_AUTHORS = 2000, 200, 100
_ACCENTS = dict(zip("'`^,\"~;>=.<", "\u0301\u0300\u0302\u0327\u0308\u0303\u0328\u030b\u0304\u0307\u030c", strict=True))
_GREEK = dict(zip("abcdefghiklmnopqrstuwxyz", "αβχδεϕγηικλμνοπθρστυωξψζ", strict=True))
_GREEK |= {latin.upper(): greek.upper() for latin, greek in _GREEK.items()}
_OTHERS = {"%a": "å", "%A": "Å", "/o": "ø", "/O": "Ø", "&s": "ß", "?i": "ı", "/l": "ł", "/L": "Ł", "/d": "đ", "/D": "Đ"}
_CODE = re.compile(
    r"\\(?:(?P<accent>['`^,\"~;>=.<])(?P<letter>[A-Za-z])|(?P<other>[%/&?][a-zA-Z])|(?P<greek>[A-Za-z]))"
)
_LOWERED, _RAISED = re.compile(r"~([^~\s]{1,20})~"), re.compile(r"\^([^\^\s]{1,20})\^")
_TAG = re.compile(r"</?(?:i|b|sub|sup)>", re.IGNORECASE)


class Publication(NamedTuple):
    """The publication of a structure; fields that the file does not state are empty."""

    title: str = ""
    """Title of the article, in one line."""
    authors: tuple[str, ...] = ()
    """`Family name, initials` of each author."""
    journal: str = ""
    """Name of the journal."""
    year: str = ""
    """Year of publication."""
    volume: str = ""
    """Volume of the journal."""
    page: str = ""
    """First page."""
    doi: str = ""
    """DOI of the article, without `doi:`."""
    status: str = ""
    """Flag of the database: `warnings`, `errors` or `retracted`."""
    duplicate_of: str = ""
    """Number of the entry of the database that holds the same determination."""

    @property
    def reference(self) -> str:
        """The reference as one line of text."""
        authors = "; ".join(self.authors[:3]) + (" et al." if len(self.authors) > 3 else "")
        year = f"({self.year})" if self.year else ""
        numbers = f"{self.volume}, {self.page}" if self.volume and self.page else self.volume or self.page
        place = " ".join(filter(None, (self.journal, numbers, year)))
        return "; ".join(filter(None, (authors, place, f"doi:{self.doi}" if self.doi else "")))

    def completed(self, other: Publication) -> Publication:
        """This publication, with the fields of another one where its own are empty."""
        return self._replace(**{name: getattr(other, name) for name in self._fields if not getattr(self, name)})


def publications(text: str) -> dict[str, Publication]:
    """Block name → publication; what a block does not state is that of the first block that states it.

    Args:
        text: a CIF.

    Raises:
        FileFormatError: not a CIF.
    """
    found = {str(block.name): _publication(block) for block in parse_cif(text)}
    common = Publication()
    for publication in found.values():
        common = common.completed(publication._replace(status="", duplicate_of=""))
    return {name: publication.completed(common) for name, publication in found.items()}


def plain_text(text: str) -> str:
    r"""Text of a CIF in one line of Unicode: accents (`\"u`), Greek letters (`\a`), indices (`H~2~O`) resolved.

    The codes are those of International Tables for Crystallography, Vol. G, section 2.2.7.4.13.
    """
    text = _CODE.sub(_character, text)
    text = _TAG.sub("", _RAISED.sub(r"\1", _LOWERED.sub(r"\1", text)))
    return " ".join(unicodedata.normalize("NFC", text).split())


def _character(match: re.Match[str]) -> str:
    if match["accent"]:
        return match["letter"] + _ACCENTS[match["accent"]]
    if match["other"]:
        return _OTHERS.get(match["other"], match[0])
    return _GREEK.get(match["greek"], match[0])


def _publication(block: Any) -> Publication:
    from gemmi import cif

    def value(*tags: str) -> str:
        for tag in tags:
            column = list(block.find_values(tag))
            if column and (held := plain_text(cif.as_string(column[0]))):
                return held
        return ""

    authors = [plain_text(cif.as_string(name))[:MAX_NAME] for name in block.find_values("_publ_author_name")]
    return Publication(
        title=value("_publ_section_title")[:MAX_TITLE],
        authors=tuple(name for name in authors[:MAX_AUTHORS] if name),
        journal=value("_journal_name_full", "_citation_journal_full")[:MAX_NAME],
        year=value("_journal_year")[:10],
        volume=value("_journal_volume")[:20],
        page=value("_journal_page_first", "_journal_article_reference")[:20],
        doi=value("_journal_paper_doi")[:MAX_NAME],
        status=value("_cod_error_flag", "_[local]_cod_error_flag")[:20].lower(),
        duplicate_of=value("_cod_duplicate_entry", "_[local]_cod_duplicate_entry")[:20],
    )
