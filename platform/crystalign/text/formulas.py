"""Recognise chemical formulas and element symbols in running text.

A formula is a sequence of symbols with amounts and brackets, as authors write them: `Li1-xFePO4`, `(Bi,Sb)2Te3`,
`0.7Pb(Mg1/3Nb2/3)O3`, `CuSO4·5H2O`, `RNi2B2C`. `crystalign.formula` reads a single formula and refuses ambiguous
ones; here a formula must only be recognised, so variables and letters that stand for elements are allowed.
Ambiguous letters (`BCS`, `In`, `K`) are decided by the elements of the crystal and by the neighbouring words.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator

from crystalign.crystal import SYMBOLS

MARK = "\ue000"
"""Replaces characters that are already masked."""

_GENERIC = (
    *("BEDT-TTF", "TMTSF", "TMTTF", "BETS", "RE", "AE", "Ae", "Ln", "TM", "Me", "MA", "FA"),
    *("A", "M", "R", "X", "D", "Q", "T", "□"),
)
"""Letters that stand for an element or an ion in a formula."""
_WORDLIKE = frozenset(["In", "As", "At", "No", "He", "Be", "Am", "Os", "I"])
"""Symbols that are also English words."""
_UNCOMMON = frozenset(["Tc", "Pa", "Ac", "Pm", *SYMBOLS[96:]])
"""Symbols that usually mean something else, such as the critical temperature, the pascal or alternating current."""
_WORDS = frozenset(["Six", "Lax", "Tex", "Sex", "Cox", "Rex"])
"""Words that look like a symbol with a variable amount."""
_COMPOUNDS = frozenset(["BN", "WC", "UC", "UN", "VN", "KF", "KI"])
"""Formulas that consist of capitals only and are unambiguous."""
_ABBREVIATION = re.compile(
    r"[IVX]+|[A-Z]?DOS|[CS]DW|BCS|BEC|UHV|SNS|SIS|NIS|SOC|PBC|OBC|CNO|NV"
    r"|ON|OF|SO|IF|IS|IN|BY|US|DO|CON|NON|SON|HOW|WHO|NOW"
)
_STOICHIOMETRIES = re.compile(
    r"A2?BB?'?[OX][346]|A2B2[OX]7|AB2[OX][46]|A3B[OX]|A3B5O12|MX[23]?|M2X3|MA2Z4|ABC2|AB2C4|ABX3|AM2X2|RT2X2|R2T2X|X2YZ"
)
_CHEMICAL = (
    r"[- ]?(?:(?:co-?)?dop(?:ed|ing|ants?)|rich|poor|deficien\w+|terminated|substitut\w+|vacanc\w+|implant\w*|"
    r"intercalat\w+|alloy\w*|bearing|(?:cat|an)?ions?|atoms?|nucle(?:us|i)|adatoms?|interstitials?|impurit\w+|content|"
    r"concentration|isotopes?|sublattices?|NMR|NQR|antisites?|overlayers?|is (?:mostly |not )?bonded)\b"
    r"|\s?[1-7][spdf]\b"
)
_BOND = re.compile(r"(?:bonded to|coordinated (?:by|to)|surrounded by|neighbou?rs?:?)(?:[^.;]|\.\d)*$")
_QUANTITY = re.compile(
    r"\s?(?:=|\|\||∥|//|<|>|≤|≥|≈|~|\((?:\d|[A-Zxyktωqr]|-)|'|/t\b)"
    r"|[- ]?(?:space|waves?|shaped|axis|type|body|points?|valleys?|edges?|line|matrix|band|term|boson|junctions?)\b"
    r"|-[A-Z]\b(?![-a-z])"
)
_PREFIX = re.compile(
    r"-?(?:layer|axial|stable|quadratic|polar|direction|exist|operat|workers|ordinat|entrant|examin|visit|determin|"
    r"assign|consider|evaluat|construct|emerg|fram|order)",
    re.IGNORECASE,
)
"""Text after `Bi`, `Co` and `Re` that shows that they are prefixes of a word."""
_PREPOSITION = re.compile(
    r"-(?:grown|deposited|prepared|cast|received|synthesi\w+|quenched|cleaved|spun|made|built|situ|planes?|house|vitro|vivo|"
    r"depth|lines?|gap|between|plane\w*)\b",
    re.IGNORECASE,
)
"""Text after `In` and `As` that shows that they are words."""
_ARGUMENT = re.compile(r"_|\((?:\d{1,2}|[A-Zn])\)")
"""Text after a letter that shows that it stands for a quantity or a group: `H_c2`, `U(1)`, `O(N)`."""
_ROMAN = re.compile(r"(?<![A-Za-z])(?:I{1,3}|I?V|VI{1,3})[-/ ]$")
_CLASSIFIED = re.compile(r"\b(?:type|phase|class|part|group|stage|region|paper|comment)s?[- ]$", re.IGNORECASE)
_ISOTOPES = frozenset(
    "6Li 7Li 10B 11B 13C 14N 15N 16O 17O 18O 19F 31P 33S 35Cl 39K 51V 89Y 127I 183W 235U 238U".split()  # noqa: SIM905
)


def _symbol() -> str:
    return "|".join(sorted(SYMBOLS[1:], key=len, reverse=True))


@functools.cache
def _formula() -> re.Pattern[str]:
    """Pattern of a possible formula: an optional coefficient, then symbols and brackets with amounts."""
    number = r"(?:\d+(?:\.\d+)?(?:\s?/\s?\d+)?|\.\d+)"
    variable = r"(?:delta|δ|[xyznmεd](?![a-z]))"
    term = rf"(?:{number}{variable}?|{variable})"
    later = rf"(?:{number}?(?:delta|δ|[a-z](?![a-z]))|{number})"
    bracketed = rf"\((?:{number}/{number}|{number}?[+-]?{variable}(?:[+-]{term})*|{term}[+-]{term})\)"
    amount = rf"(?:{term}(?:[+±-]{{1,2}}{later})*|{bracketed})"
    charge = r"(?:\^\(?\d*[+-]\)?|\^(?:I{1,3}|I?V|VI{1,2})|\((?:I{1,3}|I?V|VI{1,2}|\d[+-])\))"
    unit = rf"(?:(?:{_symbol()}|{'|'.join(_GENERIC)})'?{charge}?{amount}?{charge}?)"
    bracket = unit
    for _ in range(2):
        inside = rf"{number}?{bracket}(?:\s?[,/:;+-]?\s?(?:{bracket}))*"
        bracket = rf"(?:{unit}|[(\[]{inside}[)\]]{amount}?{charge}?)"
    follows = r"(?=[A-Z(\[])"
    lead = rf"(?:\(?\d*(?:\.\d+)?[+-]?[xyn]\)?{follows}|\d+(?:\.\d+)?{follows}|\(\d?\.?\d*-[xyn]\)|[np]-?(?=[A-Z]))?"
    hydrate = rf"(?:(?:\s?·\s?|\.(?=\d?[A-Z(]))(?:\d+(?:\.\d+)?|[xn])?\s?{bracket}+)*"
    polytype = r"(?:(?:\d?[1-9][HRTC]'?|T_?d|[α-ωabn]'*|alpha|beta|gamma|delta|kappa)-+)?"
    end = r"(?![A-Za-z])|(?<=\d)(?=[a-z]{3})"
    return re.compile(rf"(?<![A-Za-z\d.^]){polytype}{lead}(?P<body>{bracket}+{hydrate})(?:\^?\d*\+)?(?:{end})")


@functools.cache
def _single() -> re.Pattern[str]:
    """Pattern of one symbol with its mass number, amount and charge."""
    return re.compile(
        rf"(?<![A-Za-z])(?P<mass>\^?\d{{1,3}}(?=[A-Z]))?(?P<symbol>{_symbol()})"
        r"(?P<amount>\d+(?:\.\d+)?(?:-?[xyδ](?![a-z]))?|[xδ](?![A-Za-z]))?"
        r"(?P<charge>\^\(?\d*[+-]\)?|\d?\+(?![\w+])|\((?:I{1,3}|I?V|VI{1,2}|\d?[+-])\))?(?![A-Za-z])"
    )


def find_formulas(text: str, elements: frozenset[str]) -> Iterator[tuple[int, int]]:
    """Find formulas of at least two elements, of this crystal or any other.

    Args:
        text: plain characters; see `crystalign.text.typography`.
        elements: symbols of the elements of the crystal; they decide whether capitals are a formula or an abbreviation.

    Yields:
        (start, end) of each formula.
    """
    for match in _formula().finditer(text):
        body = match["body"]
        if body.isupper() and body.isalpha() and _ARGUMENT.match(text, match.end()):
            continue
        if _STOICHIOMETRIES.fullmatch(body) or _is_formula(body, elements):
            yield match.span()


def _is_formula(body: str, elements: frozenset[str]) -> bool:
    bare = re.sub(r"\((?:I{1,3}|I?V|VI{1,2}|\d?[+-])\)", "", body)
    letters = re.findall(rf"{_symbol()}|{'|'.join(_GENERIC)}", bare)
    real = ["H" if letter == "D" else letter for letter in letters if letter in SYMBOLS[1:] or letter == "D"]
    if len(letters) < 2 or not real or (re.fullmatch("[A-Z]{3,}s", body) and not set(real) <= elements):
        return False
    own, long = set(real) <= elements, sum(len(symbol) == 2 for symbol in real)
    counted = re.search(r"[\d□]|[xyzδ](?![a-z])", bare) is not None
    generic = len(letters) - len(real)
    if generic:
        if not counted:
            return (long > 1 and len(letters) > 2) or re.fullmatch("[A-Z][a-z][XM]", body) is not None
        return long > 0 or own or len(real) > 1
    if long or counted:
        return len(letters) > 1
    return body in _COMPOUNDS or (own and len(set(real)) > 1 and not _ABBREVIATION.fullmatch(body))


def find_symbols(text: str, elements: frozenset[str]) -> Iterator[tuple[int, int]]:
    """Find symbols of single elements.

    Unambiguous symbols of all elements are found; ambiguous ones only for elements of the crystal, where they are not
    words.

    Args:
        text: plain characters; see `crystalign.text.typography`.
        elements: symbols of the elements of the crystal.

    Yields:
        (start, end) of each symbol.
    """
    titled = _title_case(text)
    for match in _single().finditer(text):
        if _is_element(text, match, elements, titled=titled):
            yield match.span()


def _is_element(text: str, match: re.Match[str], elements: frozenset[str], *, titled: bool) -> bool:
    symbol, own = match["symbol"], match["symbol"] in elements
    before, after = text[: match.start()], text[match.end() :]
    if match[0] in _WORDS or _is_other(symbol, after):
        return False
    if match["charge"] or _is_isotope(match) or (match["mass"] and before.endswith(MARK + "-")):
        return own or symbol not in _UNCOMMON
    if len(symbol) == 2 and symbol not in _WORDLIKE | _UNCOMMON:
        return not (symbol in {"Bi", "Co", "Re"} and _PREFIX.match(after))
    if own and (_BOND.search(before) or _is_subject(symbol, before, after)):
        return True
    return not _is_number(match, before, own=own) and _fits(symbol, before, after, own=own, titled=titled)


def _is_subject(symbol: str, before: str, after: str) -> bool:
    """Whether the symbol is the subject of a caption (`Tc is a form of technetium`) or in a bond (`O-O`)."""
    subject = re.match(rf"\s(?:is (?:an?|the)|crystalli[sz]es)\b|-{symbol}\b", after)
    return subject is not None or before.endswith(f" {symbol}-")


def _is_number(match: re.Match[str], before: str, *, own: bool) -> bool:
    """Whether it is a number with a unit or label: `2D`, `300 K`, or `H2` in a crystal without hydrogen."""
    if match["amount"]:
        return not own
    return bool(match["mass"]) or _is_unit(match["symbol"], before)


def _fits(symbol: str, before: str, after: str, *, own: bool, titled: bool) -> bool:
    """Whether the neighbouring words are chemical, or the symbol belongs to the crystal and is no word or quantity."""
    if _chemical(before, after, tied=symbol in _WORDLIKE and (titled or not own)):
        return own or symbol not in _UNCOMMON | {"I"}
    return own and symbol not in _UNCOMMON and _is_free(symbol, before, after, titled=titled)


def _is_other(symbol: str, after: str) -> bool:
    """Whether the text that follows shows that a letter is a quantity, or that `In` or `As` is a word."""
    return bool((len(symbol) == 1 and _ARGUMENT.match(after)) or (symbol in {"In", "As"} and _PREPOSITION.match(after)))


def _is_free(symbol: str, before: str, after: str, *, titled: bool) -> bool:
    """Whether a symbol of the crystal without chemical neighbours is the element, not a word, quantity or numeral."""
    if _CLASSIFIED.search(before):
        return False
    if symbol in _WORDLIKE:
        return not titled and _inside_sentence(before)
    return not (_QUANTITY.match(after) or before.endswith(("+", "/")))


def _is_isotope(match: re.Match[str]) -> bool:
    mass = match["mass"]
    if not mass:
        return False
    number = int(mass.strip("^ "))
    if mass.startswith("^"):
        return number > 1
    return f"{number}{match['symbol']}" in _ISOTOPES or (len(match["symbol"]) == 2 and number > 20)


def _chemical(before: str, after: str, *, tied: bool) -> bool:
    """Whether a neighbouring word is chemical, such as `doped`, another element or `coordinated by`.

    With `tied`, because the symbol may be a word, a following noun must be joined by a hyphen: `In-doped` is an
    element, `In NMR spectra` is not.
    """
    return bool(
        (re.match(_CHEMICAL, after) and not (tied and after.startswith(" ")))
        or re.match(rf"(?:\s?[-/,=:&]\s?|\s(?:and|or|to|in)\s){MARK}", after)
        or re.search(rf"{MARK}(?:\s?[-/,=:&(]\s?|,?\s(?:and|or)\s)$", before)
        or (re.search(r"(?:doped with|substituted by|=|\()\s?$", before) and re.match(r",\s?[A-Z]", after))
    )


def _is_unit(symbol: str, before: str) -> bool:
    """Whether the symbol is a unit (`300 K`, `5V`, `25 °C`) or a Roman numeral (`III-V`)."""
    unit = re.search(r"(?:\d\s?|°\s?|\bdeg\.?\s|\b[mkMGμun])$", before)
    return len(symbol) == 1 and bool(unit or _ROMAN.search(before))


def _inside_sentence(before: str) -> bool:
    return re.search(r"[\w,)\]]\s+$", before) is not None


def _title_case(text: str) -> bool:
    """Whether most words of at least four letters begin with a capital."""
    words = re.findall(r"(?<![A-Za-z])[A-Za-z][a-z]{3,}(?![A-Za-z])", text)
    capitals: int = sum(word[0].isupper() for word in words)
    return 2 * capitals > len(words)
