"""Exact scorers of replies; each is a function of the reply and the reference alone."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Sequence
from decimal import Decimal

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_NUMBER = re.compile(r"(?:(?<![\w)])[-\u2212])?(?:\d{1,3}(?:,\d{3})+(?![\d,])|\d+)(?:\.\d+)?")


def normalized(text: str) -> str:
    """Case, punctuation, English articles and white space removed, as in SQuAD's scorer; Unicode in its NFKC form.

    Args:
        text: A reply or a reference.

    Returns:
        Words with single spaces between.

    >>> normalized(" The  Answer: Caf\u0065\u0301! ")
    'answer café'
    """
    folded = unicodedata.normalize("NFKC", text).casefold()
    plain = "".join(mark for mark in folded if not unicodedata.category(mark).startswith("P"))
    return " ".join(_ARTICLES.sub(" ", plain).split())


def exact_match(reply: str, reference: str) -> float:
    """Whether a reply is the reference.

    Args:
        reply: What the model wrote.
        reference: What is right.

    Returns:
        1 where both are the same text after `normalized`, else 0.

    >>> exact_match("text/html.", "Text/HTML"), exact_match("It is text/html.", "text/html")
    (1.0, 0.0)
    """
    return float(normalized(reply) == normalized(reference))


def token_f1(reply: str, reference: str) -> float:
    """Harmonic mean of precision and recall of the words after `normalized`, each counted as often as it occurs.

    Args:
        reply: What the model wrote.
        reference: What is right.

    Returns:
        From 0 to 1; of two empty texts 1.

    >>> token_f1("it is not found", "Not Found")
    0.6666666666666666
    """
    words, wanted = normalized(reply).split(), normalized(reference).split()
    if not (words and wanted):
        return float(words == wanted)
    shared = (Counter(words) & Counter(wanted)).total()
    return 2 * shared / (len(words) + len(wanted))


def last_number(text: str) -> Decimal | None:
    """The last number of a text, None where there is none; commas between thousands do not count.

    Args:
        text: A reply or a reference.

    Returns:
        The number. A minus belongs to it unless it stands right after a word or a number.

    >>> last_number("4 + 3 = 7, so she has 1,007.50 dollars"), last_number("7-3"), last_number("none")
    (Decimal('1007.50'), Decimal('3'), None)
    """
    found = _NUMBER.findall(text)
    return Decimal(found[-1].replace(",", "").replace("\u2212", "-")) if found else None


def exact_label(reply: str, labels: Sequence[str]) -> int | None:
    """Which label a reply is.

    Args:
        reply: What the model wrote.
        labels: All there are.

    Returns:
        The number of the label that the reply is letter for letter, but for white space around it; None where it is
        anything else.

    >>> [exact_label(reply, ["negative", "positive"]) for reply in (" positive ", "Positive", "positive.")]
    [1, None, None]
    """
    text = reply.strip()
    return labels.index(text) if text in labels else None
