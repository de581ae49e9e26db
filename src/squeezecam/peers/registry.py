"""All methods by name, and how users name them."""

from __future__ import annotations

import difflib
import importlib.util
from collections.abc import Iterable
from functools import lru_cache

from squeezecam.errors import InputError
from squeezecam.peers import attribution, controls, gradcam
from squeezecam.peers.method import MapMethod

GROUPS = {
    "own": "all of squeezecam's own",
    "peers": "other libraries' methods, without the slow ones",
    "controls": "the four controls",
    "slow": "what takes tens to thousands of passes per picture",
    "all": "everything",
}
DEFAULT_PEERS = ("grad-cam", "layercam", "eigen-cam")


@lru_cache(maxsize=1)
def registry() -> dict[str, MapMethod]:
    """Every method by name: ours, peers, controls. Nothing is imported until a method runs."""
    ours = controls.methods()
    ordered = [
        *(m for m in ours if m.kind == "own"),
        *gradcam.methods(),
        *attribution.methods(),
        *(m for m in ours if m.kind == "control"),
    ]
    return {method.name: method for method in ordered}


def available(method: MapMethod) -> bool:
    """Whether the library that a method needs is installed."""
    return method.library is None or importlib.util.find_spec(method.library) is not None


def choose(names: str | Iterable[str | MapMethod], *, own: Iterable[str] | None = None) -> list[MapMethod]:
    """Methods from names, names of groups (see ``GROUPS``), a comma-separated list of both, or methods of one's own.

    Case, blanks and hyphens do not matter: ``GradCAM`` is ``grad-cam``. Order as given, each once.

    Groups hold those of squeezecam's own methods that ``own`` names: what a model allows, see
    :func:`squeezecam.methods.usable`. None: all.

    Raises:
        InputError: an unknown name.

    """
    listed = names.split(",") if isinstance(names, str) else list(names)
    chosen: dict[str, MapMethod] = {}
    for entry in listed:
        for method in [entry] if isinstance(entry, MapMethod) else _named(entry, own):
            chosen.setdefault(method.name, method)
    if not chosen:
        raise InputError(f"no methods given; there are {', '.join(registry())}")
    return list(chosen.values())


def _named(name: str, own: Iterable[str] | None) -> list[MapMethod]:
    known = registry()
    allowed = set(known) if own is None else set(own)
    plain = _plain(name)
    if plain == "own":
        return [m for m in known.values() if m.kind == "own" and m.name in allowed]
    if plain == "peers":
        return [m for m in known.values() if m.kind == "peer" and not m.slow]
    if plain == "controls":
        return [m for m in known.values() if m.kind == "control"]
    if plain == "slow":
        return [m for m in known.values() if m.slow]
    if plain == "all":
        return [m for m in known.values() if m.kind != "own" or m.name in allowed]
    for method in known.values():
        if plain in (_plain(method.name), _plain(method.label)):
            return [method]
    near = difflib.get_close_matches(name.strip().lower(), [*known, *GROUPS], n=3) or [*known, *GROUPS]
    raise InputError(f"there is no method '{name.strip()}'; try {', '.join(near)}")


def _plain(name: str) -> str:
    return name.strip().casefold().replace("-", "").replace("_", "").replace(" ", "")
