"""What can go wrong, as one small tree.

FairweatherError            exit code 1
├── PictureError            1   a picture cannot be read, or its result cannot be written
├── DataError               1   a data set is not what it should be
├── UsageError              2   a wrong name, option or combination
│   └── MissingExtraError   2   an optional part is not installed
├── BackendError            1   a back end failed at what it was given
├── WeightsError            3   weights are missing, damaged, or of another network
└── OutOfMemoryError        4   not enough memory, even at the smallest tile

Every message is one line: what came, what was expected, what to do.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def one_line(text: object) -> str:
    """Text safe for one line: control characters (newlines in file names) are written out.

    >>> one_line("two\\nlines")
    'two\\\\nlines'
    """
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in str(text))


class FairweatherError(Exception):
    """Base of all our errors; `exit_code` is what the command line returns for it."""

    exit_code = 1


class PictureError(FairweatherError):
    """A picture that cannot be read, or a result that cannot be written."""


class DataError(FairweatherError):
    """A data set that is not what it should be."""


class UsageError(FairweatherError, ValueError):
    """A wrong name, option or combination of options."""

    exit_code = 2


class MissingExtraError(UsageError):
    """An optional part of the product that is not installed."""

    def __init__(self, feature: str, extra: str) -> None:
        super().__init__(
            f"{feature} needs an optional part: pip install 'fairweather[{extra}]' (in a checkout: '.[{extra}]')"
        )


class BackendError(FairweatherError, RuntimeError):
    """A back end that failed; as torch's own failures, a RuntimeError whose text tells where memory was short."""


class WeightsError(FairweatherError):
    """Weights that are missing, damaged, or belong to another network."""

    exit_code = 3


class OutOfMemoryError(FairweatherError):
    """Not enough memory, even at the smallest tile."""

    exit_code = 4


def unknown_name(kind: str, name: str, known: Iterable[str]) -> UsageError:
    """The error for a name that is not in a table; it names the nearest right one.

    >>> str(unknown_name("model", "nafnett", ["nafnet", "maxim"]))
    "unknown model 'nafnett'; did you mean 'nafnet'? Known: maxim, nafnet"
    """
    names = sorted(known)
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    hint = f"; did you mean {near[0]!r}?" if near else "."
    return UsageError(f"unknown {kind} {name!r}{hint} Known: {', '.join(names)}")
