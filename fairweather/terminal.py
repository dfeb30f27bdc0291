"""What a person sees while files are restored: a moving bar on a terminal, plain lines elsewhere; always on stderr."""

from __future__ import annotations

import json
import logging
import sys
from types import TracebackType

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from fairweather.errors import one_line

console = Console(stderr=True, highlight=False, soft_wrap=True, emoji=False)


def say(text: str, style: str = "") -> None:
    """One line on stderr."""
    console.print(escape(one_line(text)), style=style)


def print_json(record: object) -> None:
    """One line of JSON on stdout, at once."""
    sys.stdout.write(json.dumps(record) + "\n")
    sys.stdout.flush()


def tell_log() -> None:
    """Show what the package logs, a line each."""
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(message)s"))
    logger = logging.getLogger("fairweather")
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)


class Bar:
    """Count, current file and time left. On anything but a terminal it draws nothing."""

    def __init__(self, total: int | None, *, what: str, quiet: bool = False) -> None:
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            console=console,
            transient=True,
            disable=quiet or not console.is_terminal,
        )
        self._bar = self._progress.add_task(what, total=total)

    def __enter__(self) -> Bar:
        self._progress.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._progress.stop()

    def show(self, done: float, what: str | None = None, *, total: int | None = None) -> None:
        """Move to `done` of the total; fractions are tiles of the current picture."""
        description = escape(one_line(what)) if what is not None else None
        self._progress.update(self._bar, completed=done, description=description, total=total)
