"""``compare``: methods side by side on the same pictures, with the time that each takes."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from squeezecam import tree
from squeezecam.arguments import sample
from squeezecam.canvas import input_under, one_stream
from squeezecam.change import AGGREGATE as CHANGE
from squeezecam.errors import MODEL_FAILED, InputError
from squeezecam.evaluation.doubting import counted, doubts_of, in_words, joined_doubts
from squeezecam.evaluation.subject import check_rows, check_squeeze
from squeezecam.links import probabilities, score_kind
from squeezecam.methods import default_method, usable
from squeezecam.metrics.predict import Outputs
from squeezecam.module import Squeeze
from squeezecam.peers import MapMethod, available, choose
from squeezecam.tap import evaluating
from squeezecam.targets import class_targets, score_rows
from squeezecam.wording import number_of

SHOWN_PEERS = ("grad-cam", "grad-cam++", "layercam", "eigen-cam")
REPEATS = 3
SOUND_SHAPE = 1.5
"""Width over height that a sound is drawn with, about."""


@dataclass(eq=False, repr=False)
class Comparison:
    """Maps of several methods for the same pictures.

    Attributes:
        methods: in the order of the columns.
        maps: ``{method: (N, H, W)}``, raw; of clips ``(N, T, H, W)``.
        seconds: ``{method: (N,)}``, of one map, each picture alone; the fastest of three runs after a first one, since
            other work on the machine only ever adds (slow methods: one run).
        forward: ``(N,)`` seconds of a plain forward pass, measured in turn with the methods.
        target: class per picture, ``(N,)``.
        confidence: probability of that class (the value itself where there are no classes), ``(N,)``.
        pictures: the network's own inputs ``(N, C, *S)``, stretched to 0..1 when drawn; of clips a few frames are.
        doubts: of squeezecam's own methods what is doubtful about each map, ``{method: N lines}``, empty lines where
            nothing is; methods without any doubt are left out.
        stream: name of the map, where there are several.
        of_sound: whether the axes are frequency and time: the first row is then drawn at the bottom.

    """

    methods: list[MapMethod]
    maps: dict[str, Tensor]
    seconds: dict[str, Tensor]
    forward: Tensor
    target: Tensor
    confidence: Tensor
    pictures: Tensor
    doubts: dict[str, list[str]] = field(default_factory=dict)
    stream: str | None = None
    of_sound: bool = False

    def __len__(self) -> int:
        return len(self.forward)

    def captions(self) -> list[list[str]]:
        """Per picture and method ``12.3 ms, 1.04 forwards``."""

        def words(name: str, i: int) -> str:
            seconds = float(self.seconds[name][i])
            return f"{_time(seconds)}, {_multiple(seconds / float(self.forward[i]))}"

        return [[words(m.name, i) for m in self.methods] for i in range(len(self))]

    def times(self) -> list[dict[str, Any]]:
        """Per method the medians over the pictures: seconds per image, and multiples of a plain forward pass."""
        rows = []
        for method in self.methods:
            seconds = self.seconds[method.name]
            rows.append(
                {
                    "method": method.name,
                    "label": method.label,
                    "kind": method.kind,
                    "seconds": float(seconds.median()),
                    "forwards": float((seconds / self.forward).median()),
                }
            )
        return rows

    def doubtful(self) -> list[str]:
        """What is doubtful about the maps, one line each, methods with the same doubt together."""
        labels = {method.name: method.label for method in self.methods}
        return in_words(counted([self.doubts]), labels, len(self), "picture")

    def __repr__(self) -> str:
        names = ", ".join(method.name for method in self.methods)
        return f"Comparison of {number_of(len(self.methods), 'method')} on {number_of(len(self), 'picture')}: {names}"

    def plot(
        self,
        pictures: Sequence[Any] | None = None,
        *,
        row_labels: Sequence[str] | None = None,
        boxes: Sequence[Any] | None = None,
        scale: Any = "per map",
        size: int = 168,
        title: str = "",
        notice: str = "",
    ) -> Any:
        """One row per picture, one column per method, as a PIL image.

        Args:
            pictures: the originals as PIL images; None: the network's own inputs. Clips are always drawn from these:
                up to four of their frames, evenly spaced, row by row.
            row_labels: names of the rows; None: class and confidence.
            boxes: per picture the part of the original that the network saw.
            scale: ``per map``: methods differ in unit, so each map has its own, with the numbers below it; see
                :func:`squeezecam.render.compare.comparison_grid`.
            size: side of a picture in pixels.
            title: above the grid.
            notice: what must not be overlooked beside the doubts about the maps, which stand below the title.

        """
        from squeezecam.render.compare import comparison_grid
        from squeezecam.render.mosaic import frame_words, mosaic

        axes = next(iter(self.maps.values())).ndim - 1
        if axes not in (2, 3):
            raise InputError(f"a comparison is drawn of maps with height and width; these have {axes} axis over time")
        clips = axes == 3
        if clips and pictures is not None:
            raise InputError("clips are drawn from what the model takes: leave pictures out")
        shown = [_picture(tensor) for tensor in self._drawn()] if pictures is None else list(pictures)
        labels = row_labels or [
            f"class {t} · {c:.1%}" for t, c in zip(self.target.tolist(), self.confidence.tolist(), strict=True)
        ]
        if clips:
            words = frame_words(next(iter(self.maps.values())).shape[1])
            labels = [f"{label} · {words}" for label in labels]
        forward = _time(float(self.forward.median()))
        columns = [self._upright(self.maps[method.name]) for method in self.methods]
        return comparison_grid(
            shown,
            [
                [(mosaic(one[i]) if clips else one[i]).float().cpu().numpy() for one in columns]
                for i in range(len(self))
            ],
            column_labels=[f"control: {m.label}" if m.kind == "control" else m.label for m in self.methods],
            row_labels=labels,
            captions=self.captions(),
            boxes=boxes,
            scale=scale,
            size=size,
            title=title or (f"stream '{self.stream}'" if self.stream else ""),
            notice="\n".join([notice, *self.doubtful()] if notice else self.doubtful()),
            footer=f"Below each map: its time for this picture alone, and that in plain forward passes ({forward}), "
            "measured in the same run.",
        )

    def _drawn(self) -> Tensor:
        """Pictures ``(N, C, H, W)``, of clips their mosaics."""
        from squeezecam.render.mosaic import mosaic
        from squeezecam.video.figures import gray_rows

        if self.of_sound:
            rows = [gray_rows(sound.mean(0).float().cpu().numpy()) for sound in self.pictures]
            return self._upright(torch.stack([torch.from_numpy(one) for one in rows])[:, None])
        return self.pictures if self.pictures.ndim == 4 else mosaic(self.pictures, between=float(self.pictures.max()))

    def _upright(self, rows: Tensor) -> Tensor:
        """``(..., H, W)`` as it is drawn: a sound with its lowest row at the bottom, and high enough to be seen."""
        if not self.of_sound:
            return rows
        height, width = rows.shape[-2:]
        return rows.flip(-2).repeat_interleave(max(1, round(width / height / SOUND_SHAPE)), -2)

    def save(self, path: str | Path, **options: Any) -> Path:
        """Write :meth:`plot` to ``path`` (``.png``, ``.jpg`` or ``.webp``)."""
        from squeezecam.files import write_picture

        return write_picture(path, self.plot(**options))


def compare(
    squeeze: Squeeze,
    inputs: Any,
    methods: str | Iterable[str | MapMethod] | None = None,
    *,
    target: Any = None,
    output: str | None = None,
    stream: str | None = None,
    repeats: int = REPEATS,
    seed: int = 0,
    done: Callable[[int], None] = lambda count: None,
) -> Comparison:
    """Maps of several methods for the same pictures, each picture on its own, with times.

    Args:
        squeeze: from :func:`squeezecam.attach`.
        inputs: what the model takes, a batch of pictures or clips.
        methods: as for :func:`squeezecam.evaluate`; None: squeezecam's own, Grad-CAM, Grad-CAM++, LayerCAM, Eigen-CAM
            and the mean of all channels as control.
        target: class for all pictures, or one per picture; None: the predicted one.
        output: name of one of several outputs; of scores for every frame their mean counts.
        stream: name of one of several maps.
        repeats: runs per method, of which the fastest counts; slow methods run once.
        seed: of what is random.
        done: told of every map.

    What is doubtful about a map of squeezecam's own (a block that is not fitted, a map that is blank) stands in
    ``doubts`` and on the picture.

    Raises:
        InputError: unknown names, or several maps of which none is named.
        ModelError: the library of a method that was asked for by name is not installed.

    """
    check_squeeze(squeeze, "compare")
    name = squeeze.output_name(output)
    place = one_stream(squeeze, stream)
    which = place if len(squeeze.places) > 1 else None
    chosen = choose(methods, own=usable(squeeze, name)) if methods is not None else _default(squeeze, name, place)
    if not tree.leaves(tree.as_call(inputs)):
        raise InputError("there is not a single picture to compare on")
    _, given, canvas = input_under(squeeze, inputs, place)
    count = len(given)
    if count < 1:
        raise InputError("there is not a single picture to compare on")
    size = tuple(canvas.pictures(given).shape[2:])
    singles = [sample(squeeze, inputs, i, count) for i in range(count)]
    wanted = _per_picture(target, count)
    maps: dict[str, list[Tensor]] = {m.name: [] for m in chosen}
    seconds: dict[str, list[float]] = {m.name: [] for m in chosen}
    forwards, targets, confidence = [], [], []
    doubts: list[dict[str, list[str]]] = []
    for i, one in enumerate(singles):
        values = _forward(squeeze, one, name)
        goals, _ = class_targets(None if wanted is None else wanted[i : i + 1], values, values)
        if goals is None:
            raise InputError(f"output '{name}' has shape {tuple(values.shape)}, expected one row of classes a picture")
        goal = goals[:, 0]
        kind: Outputs = score_kind(squeeze, name) if values.shape[1] > 1 else "scores"
        targets.append(int(goal))
        confidence.append(float(probabilities(values[0].float(), kind)[targets[-1]]))
        times: dict[str, list[float]] = {m.name: [] for m in chosen}
        plain = []
        for turn in range(repeats + 1):
            # Threads and memory that one method leaves behind slow down what comes after it: each turn has another
            # order, and a plain pass is timed before every method.
            for method in chosen if turn % 2 else reversed(chosen):
                if method.slow and turn:
                    continue
                plain.append(_timed(lambda one=one: _forward(squeeze, one, name), values)[1])  # type: ignore[misc]
                made, spent = _timed(
                    lambda method=method, one=one, goal=goal, i=i: method(  # type: ignore[misc]
                        squeeze, one, goal, output=name, seeds=[seed + i], stream=which
                    ),
                    values,
                )
                times[method.name].append(spent)
                if not turn:
                    _check_map(method, made, size)
                    maps[method.name].append(made)
                    done(1)
        doubts.append(doubts_of(squeeze, one, chosen, goal, name))
        forwards.append(min(plain))
        for key, spent_all in times.items():
            seconds[key].append(min(spent_all[1:] or spent_all))
    return Comparison(
        chosen,
        {key: torch.cat(parts) for key, parts in maps.items()},
        {key: torch.tensor(values, dtype=torch.float64) for key, values in seconds.items()},
        torch.tensor(forwards, dtype=torch.float64),
        torch.tensor(targets),
        torch.tensor(confidence),
        canvas.pictures(given).detach(),
        joined_doubts(doubts),
        which,
        squeeze.places[place].layout.positions == ("f", "t"),
    )


def _default(squeeze: Squeeze, output: str, place: str) -> list[MapMethod]:
    own = usable(squeeze, output)
    first = CHANGE if CHANGE in own else default_method(squeeze, output)
    own.sort(key=lambda name: name != first)
    peers = SHOWN_PEERS if len(squeeze.places[place].grid) in (2, 3) else ()
    return [m for m in choose([*own, *peers, "all-channel-mean"]) if available(m)]


def _per_picture(target: Any, count: int) -> Tensor | None:
    if target is None:
        return None
    try:
        given = torch.as_tensor(target).reshape(-1)
    except (TypeError, ValueError, RuntimeError):
        raise InputError(f"targets must be class indices, for all pictures or for each; got {target!r}") from None
    if len(given) not in (1, count):
        raise InputError(f"{len(given)} targets for {count} pictures: give one for all, or one for each")
    return given.expand(count)


def _forward(squeeze: Squeeze, inputs: Any, output: str) -> Tensor:
    args, kwargs = tree.as_call(inputs)
    with torch.inference_mode(), evaluating(squeeze):
        try:
            values = squeeze.select(squeeze(*args, **kwargs), output)
        except MODEL_FAILED as error:  # the model itself, on this input
            line = " ".join(str(error).split())[:300]
            shapes = ", ".join(str(tuple(tensor.shape)) for _, tensor in tree.leaves((args, kwargs)))
            raise InputError(f"the model failed on one picture by itself, inputs of shape {shapes}: {line}") from error
    rows = score_rows(values)
    if rows.ndim == 2:
        check_rows(rows, 1, output)
    return rows


def _check_map(method: MapMethod, made: Tensor, size: tuple[int, ...]) -> None:
    if tuple(made.shape) != (1, *size):
        raise InputError(
            f"a map of {method.label} for one picture has shape {tuple(made.shape)}, expected {(1, *size)}, that of "
            "the picture without its channels"
        )


def _timed(work: Callable[[], Tensor], like: Tensor) -> tuple[Tensor, float]:
    def wait() -> None:
        if like.device.type == "cuda":
            torch.cuda.synchronize(like.device)

    wait()
    started = time.perf_counter()
    result = work()
    wait()
    return result, time.perf_counter() - started


def _time(seconds: float) -> str:
    if seconds < 0.9995:
        return f"{seconds * 1e3:.3g} ms" if seconds < 0.1 else f"{seconds * 1e3:.0f} ms"
    return f"{seconds:.1f} s"


def _multiple(ratio: float) -> str:
    return f"{ratio:.2f} forwards" if ratio < 10 else f"{ratio:.0f} forwards"


def _picture(tensor: Tensor) -> Any:
    from PIL import Image

    values = tensor.float().cpu()
    low, high = float(values.min()), float(values.max())
    scaled = ((values - low) / (high - low if high > low else 1.0) * 255).round().byte()
    array = scaled.permute(1, 2, 0).numpy()
    return Image.fromarray(array.repeat(3, 2) if array.shape[2] == 1 else array[:, :, :3])
