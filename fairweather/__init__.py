"""fairweather clears pictures taken in bad conditions: haze, rain, rain at night, and noise.

>>> import fairweather as fw
>>> restored = fw.load("dehaze").restore("photo.jpg")   # doctest: +SKIP
>>> restored.save("photo.dehazed.jpg")                  # doctest: +SKIP
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from fairweather.errors import FairweatherError as FairweatherError
    from fairweather.loading import export as export
    from fairweather.loading import load as load
    from fairweather.models import MODELS as MODELS
    from fairweather.models import create_model as create_model
    from fairweather.models import from_published as from_published
    from fairweather.models import list_models as list_models
    from fairweather.pipeline import Restorer as Restorer
    from fairweather.pipeline import Result as Result

# Public names and where they live. They are fetched at first use: importing torch takes seconds, and
# `fairweather --help` must not wait for it.
_PUBLIC = {
    "FairweatherError": "errors",
    "MODELS": "models",
    "create_model": "models",
    "export": "loading",
    "from_published": "models",
    "list_models": "models",
    "Restorer": "pipeline",
    "Result": "pipeline",
    "load": "loading",
}
__all__ = ["__version__", *_PUBLIC]


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'fairweather' has no attribute {name!r}")
    return getattr(import_module(f"fairweather.{_PUBLIC[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
