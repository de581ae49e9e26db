"""``squeezecam explain``: overlays, raw maps, a contact sheet and ``results.json`` for picture files."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from squeezecam import processes
from squeezecam.commands.drawing import Words, figures, scale_of, small
from squeezecam.commands.pictures import Failures, Prepared, batches, stacked
from squeezecam.commands.place import RESULTS, SHEET, keep_apart, stems, working_in
from squeezecam.commands.predictions import prediction
from squeezecam.commands.together import gather
from squeezecam.data.geometry import Geometry, Seen
from squeezecam.errors import InputError, SqueezeError, SqueezeWarning
from squeezecam.explanation import Explanation
from squeezecam.files import write_json, write_npz, write_picture
from squeezecam.links import probability_in_words
from squeezecam.methods import METHODS
from squeezecam.models.labels import other_count
from squeezecam.models.loaded import LoadedModel
from squeezecam.module import Squeeze
from squeezecam.render.explained import SHEET_LIMIT, arrays
from squeezecam.render.figure import contact_sheet
from squeezecam.render.scale import Scale
from squeezecam.status import NO_FIT_NEEDED, notice_of
from squeezecam.wording import number_of

if TYPE_CHECKING:
    from PIL import Image

    from squeezecam.data.images import ImageSource

Row = dict[str, Any]


@dataclass
class Options:
    """What the user chose for the maps and the pictures."""

    method: str | None = None
    target: int | None = None
    output: str | None = None
    keep: str | None = None
    scale: str = "per sample"
    batch_size: int = 16


@dataclass
class Outcome:
    """What was written, and what was not."""

    folder: Path
    results: list[Row] = field(default_factory=list)
    failures: list[tuple[str, str]] = field(default_factory=list)
    written: list[Path] = field(default_factory=list)
    interrupted: bool = False

    def doubts(self) -> dict[str, int]:
        """What is doubtful about the maps, and in how many pictures; the most frequent first."""
        found: dict[str, int] = {}
        for row in self.results:
            if notice := notice_of(row["status"]):
                found[notice] = found.get(notice, 0) + 1
        return dict(sorted(found.items(), key=lambda item: -item[1]))


@dataclass
class _Done:
    """A picture whose maps are written, and what is needed to draw it."""

    source: ImageSource
    seen: Seen
    words: Words
    row: Row


def explain_pictures(
    loaded: LoadedModel,
    squeeze: Squeeze,
    sources: Sequence[ImageSource],
    folder: Path,
    options: Options,
    *,
    about: dict[str, Any],
    failures: Failures,
    done: Callable[[int], None],
) -> Outcome:
    """Explain every picture; a bad one is reported and left out, an interrupt or a full disk keeps what is finished.

    Several processes divide the pictures; sheet and ``results.json`` are written once, by rank 0.

    Raises:
        InputError: the folder cannot be written to (also: the disk is full), or holds the pictures themselves.
        SqueezeError: options that no picture can be explained with; nothing is written then.

    """
    keep_apart(folder, sources)
    names = dict(zip((source.name for source in sources), stems(source.name for source in sources), strict=True))
    with working_in(folder) as target:
        run = _Run(loaded, squeeze, options, Outcome(target), failures, names, about, len(sources))
        mine = sources[processes.rank() :: processes.world()]
        try:
            for prepared in batches(loaded, mine, options.batch_size, failures, done):
                for one, explanation in run.explained(prepared):
                    run.take(one, explanation)
                    done(1)
                done(len(prepared) - run.last)
        except KeyboardInterrupt:
            run.outcome.interrupted = True
        except SqueezeError:
            if run.outcome.results and processes.world() == 1:
                with contextlib.suppress(SqueezeError):  # what stopped the work may stop this too
                    run.finish()
            raise
        run.finish()
    return run.outcome


@dataclass
class _Run:
    """One call of the command: what goes in, what has come out so far."""

    loaded: LoadedModel
    squeeze: Squeeze
    options: Options
    outcome: Outcome
    failures: Failures
    names: dict[str, str]
    about: dict[str, Any]
    asked: int
    tiles: dict[str, Image.Image] = field(default_factory=dict)
    waiting: list[_Done] = field(default_factory=list)
    last: int = 0
    """How many pictures of the last batch could be explained."""

    def __post_init__(self) -> None:
        self.geometry = Geometry(self.loaded.preprocess)
        self.output = self.squeeze.output_name(self.options.output)
        self._caution = "; ".join(self.loaded.cautions())

    def explained(self, prepared: list[Prepared]) -> Iterator[tuple[Prepared, Explanation]]:
        """Each picture with its explanation; where the model fails on a batch, its pictures are tried one by one."""
        self.last = 0
        try:
            together = self._explain(prepared)
        except _ModelFailedError as error:
            if len(prepared) == 1:
                self.failures.add(prepared[0].source.label, str(error))
                return
            for one in prepared:
                yield from self._alone(one)
            return
        self.last = len(prepared)
        yield from zip(prepared, together, strict=True)

    def _alone(self, one: Prepared) -> Iterator[tuple[Prepared, Explanation]]:
        try:
            explanation = self._explain([one])
        except _ModelFailedError as error:
            self.failures.add(one.source.label, str(error))
            return
        self.last += 1
        yield one, explanation

    def _explain(self, prepared: list[Prepared]) -> Explanation:
        options = self.options
        try:
            explanation = self.squeeze.explain(
                stacked(self.loaded, prepared),
                method=options.method,
                target=options.target,
                output=options.output,
                keep=options.keep,
            )
        except SqueezeError:
            raise
        except Exception as error:  # the model itself, on this input
            shape = tuple(prepared[0].tensor.shape)
            line = " ".join(str(error).split())[:300] or type(error).__name__
            count = f" in a batch of {len(prepared)}" if len(prepared) > 1 else ""
            raise _ModelFailedError(
                f"the model {self.loaded.name} failed on an input of shape {shape}{count}: {line}"
            ) from error
        if isinstance(explanation.heatmap, dict) or explanation.heatmap.ndim != 3:
            raise InputError(
                "this model's maps are not one picture per image; use it from Python, or 'squeezecam video' for clips"
            )
        return explanation

    def take(self, one: Prepared, explanation: Explanation) -> None:
        """Write the maps of one picture and, unless the scale has to wait for all of them, its figures."""
        self._check_labels(explanation)
        finished = self._describe(one, explanation)
        files = finished.row["files"]
        heat = explanation.heatmap[0].float().cpu().numpy()
        with self._whole(*files.values()):
            self._keep(write_npz(self.outcome.folder / files["maps"], arrays(explanation)))
            if self.options.scale == "shared":
                self.waiting.append(finished)
            else:
                self._draw(finished, one.picture, heat, scale_of(heat, self.options.scale))
        self.outcome.results.append(finished.row)

    def finish(self) -> None:
        """Draw what waited for the shared scale, and write the contact sheet and ``results.json``."""
        outcome, scale = self.outcome, self._draw_waiting()
        outcome.failures = self.failures.found
        self.tiles = gather(outcome, self.tiles, list(self.names.values()))
        self.failures.found = outcome.failures
        if processes.rank():
            return
        if self.tiles:
            left = len(outcome.results) - len(self.tiles)
            count = number_of(len(outcome.results), "picture")
            methods = ", ".join(sorted({row["method"] for row in outcome.results}))
            unfitted = any(NO_FIT_NEEDED in row["status"] for row in outcome.results)
            words = [f"{self.loaded.name} · method: {methods}", "no fitted block, none is needed" if unfitted else ""]
            words += [f"{left} more are not shown" if left > 0 else ""]
            footer = " · ".join(word for word in words if word)
            sheet = contact_sheet(
                list(self.tiles.values()), title=count, notice=self._caution, footer=footer, scale=scale
            )
            self._keep(write_picture(outcome.folder / SHEET, sheet))
        record = {
            **self.about,
            "output": self.output,
            "probability_is": probability_in_words(self.squeeze, self.output),
            "asked": self.asked,
            "explained": len(outcome.results),
            "failed": [{"file": file, "reason": reason} for file, reason in outcome.failures],
            "interrupted": outcome.interrupted,
            "results": outcome.results,
        }
        self._keep(write_json(outcome.folder / RESULTS, record))

    def _describe(self, one: Prepared, explanation: Explanation) -> _Done:
        found = prediction(self.squeeze, explanation, 0, self.loaded.labels, self.options.output)
        seen = self.geometry.seen(one.picture.size)
        doubts = [explanation.status[0], self._other_output(explanation.method)]
        if seen.box is None:
            doubts.append(
                f"the map is laid over the whole picture: where the preprocessing looks is not known ({seen.reason})"
            )
        status = "; ".join(doubt for doubt in doubts if doubt and doubt != "ok") or "ok"
        share = float(explanation.kept[0].float().mean())
        finite = explanation.heatmap[0][explanation.heatmap[0].isfinite()]
        name = self.names[one.source.name]
        row = {
            "file": one.source.label,
            "name": name,
            "target": found.target,
            "label": found.label,
            "probability": found.probability,
            "value": found.value,
            "method": explanation.method,
            "status": status,
            "share_kept": share,
            "hottest": float(finite.max()) if finite.numel() else None,
            "seen_box": seen.box,
            "seen_mirrored": list(seen.mirrored),
            "files": {"panel": f"{name}.png", "overlay": f"{name}.overlay.png", "maps": f"{name}.npz"},
        }
        footer = f"{name} · {self.loaded.name} · method: {explanation.method} · {share:.0%} of channels kept"
        if NO_FIT_NEEDED in status:
            footer += " · no fitted block, none is needed"
        if words := seen.mirrored_words():
            footer += f" · {words}, the map is turned back"
        return _Done(one.source, seen, Words(name, found.title(), notice_of(status), footer, self._caution), row)

    def _other_output(self, method: str) -> str:
        """A doubt where gates that were fitted for one output are shown as the explanation of another."""
        fitted_for = self.squeeze.fit_info.get("output")
        by_gates = METHODS[method.split(",")[0]].score != "class"
        if not self.squeeze.fitted or fitted_for in (None, self.output) or not by_gates:
            return ""
        return f"the block was fitted for output '{fitted_for}', not for '{self.output}': fit one for it"

    def _check_labels(self, explanation: Explanation) -> None:
        if self.outcome.results or explanation.scores is None or explanation.scores.ndim != 2:
            return
        if line := other_count(self.loaded.labels, self.output, explanation.scores.shape[1]):
            warnings.warn(line, SqueezeWarning, stacklevel=2)

    @contextlib.contextmanager
    def _whole(self, *names: str) -> Iterator[None]:
        """All files of a picture or none: an interrupt or a full disk leaves no half of a set behind."""
        before = len(self.outcome.written)
        try:
            yield
        except BaseException:
            del self.outcome.written[before:]
            for name in names:
                with contextlib.suppress(OSError):
                    (self.outcome.folder / name).unlink()
            raise

    def _keep(self, path: Path) -> None:
        self.outcome.written.append(path)

    def _draw(self, item: _Done, picture: Image.Image, heat: Any, scale: Scale) -> None:
        folder, files = self.outcome.folder, item.row["files"]
        heat, box = item.seen.upright(heat), item.seen.box
        whole, plain = figures(picture, heat, item.words, box, scale)
        self._keep(write_picture(folder / files["panel"], whole))
        self._keep(write_picture(folder / files["overlay"], plain))
        if len(self.tiles) < SHEET_LIMIT:
            alone = scale.how != "shared"
            tile = small(picture, heat, item.words, box, scale, show_scale=alone)
            self.tiles[item.row["name"]] = tile

    def _draw_waiting(self) -> Scale | None:
        """Draw on one scale; maps and pictures are read again, so that memory does not grow with their number."""
        import numpy as np

        tops = processes.everyone([row["hottest"] or 0.0 for row in self.outcome.results if self.waiting])
        top = max((value for found in tops for value in found), default=0.0)
        if not any(tops):
            return None
        scale = Scale(0.0, top, "shared", flat=top <= 0)
        for item in self.waiting:
            with np.load(self.outcome.folder / item.row["files"]["maps"]) as maps:
                heat = maps["heatmap"]
            try:
                picture = item.source.read()
            except InputError as error:  # it was there a moment ago
                self.failures.add(item.source.label, str(error))
                continue
            self._draw(item, picture, heat, scale)
        self.waiting = []
        return scale


class _ModelFailedError(Exception):
    """The model raised on a batch of inputs."""
