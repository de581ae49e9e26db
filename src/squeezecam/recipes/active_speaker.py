"""Train an active-speaker model on AVA-ActiveSpeaker or WASD, score it officially, and look at its streams.

    python -m squeezecam.recipes.active_speaker --data DIR --layout ava --out runs/ava

The settings are those published for Light-ASD (Liao et al., CVPR 2023): Adam at 1e-3, times .95 after every epoch, 30
epochs, batches of 2,000 frames, the loss of the audio-visual score and half that of a head on the face alone, logits
divided by a temperature that falls from 1.3 by .02 per epoch. The blocks are in the path and train with the model.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader

from squeezecam import processes
from squeezecam.attach import attach
from squeezecam.data.ava_folder import AvaFolder
from squeezecam.data.ava_map import AvaScore, evaluate_ava, write_predictions
from squeezecam.errors import InputError
from squeezecam.files import output_folder, write_bytes, write_json, write_text
from squeezecam.models.face_body_audio import FaceBodyAudioASD
from squeezecam.models.light_asd import FACE_SIZE, FEATURES, LightASD
from squeezecam.module import Squeeze
from squeezecam.recipes.speaker_clips import BATCH_FRAMES, Batch, Groups
from squeezecam.streams import StreamImportance, by_group, importance, join
from squeezecam.training import TrainingReport, predictions, train

if TYPE_CHECKING:
    from squeezecam.training.loop import Loss

Layout = Literal["ava", "wasd"]
STREAMS: dict[str, tuple[str, ...]] = {"ava": ("face", "audio"), "wasd": ("face", "body", "audio")}
"""Which streams a layout has, and with them which model is trained: Light-ASD, or face, body and audio."""
SITES: dict[str, dict[str, Any]] = {
    "ava": {"face": "visual.block3", "audio": "audio.block3"},
    "wasd": {"face": "face.block3", "body": "body.block3", "audio": "audio.block3"},
}
SPEAKING = 1


@dataclass(frozen=True)
class SpeakerSettings:
    """How to train.

    Attributes:
        epochs, rate, decay: of Adam; the rate is multiplied by ``decay`` after every epoch.
        frames: in a batch.
        visual: weight of the loss of the heads on face (and body) alone.
        temperature, cooling: logits are divided by ``temperature - cooling * epoch``, epochs from 0, never below 1e-3.
        vary: mirror, crop and turn faces, mix voices.
        block: with the blocks in the path; False: the plain model.
        size: side of the crops in pixels.
        tracks: at most so many test tracks whose streams are measured, drawn evenly.
        workers: processes that read tracks.
        seed: of weights, order, variation.

    """

    epochs: int = 30
    rate: float = 1e-3
    decay: float = 0.95
    frames: int = BATCH_FRAMES
    visual: float = 0.5
    temperature: float = 1.3
    cooling: float = 0.02
    vary: bool = True
    block: bool = True
    size: int = FACE_SIZE
    tracks: int = 100
    workers: int = 0
    seed: int = 0


@dataclass
class SpeakerReport:
    """What a training gave: the official score, the training, the importance of the streams, files."""

    score: AvaScore
    training: TrainingReport
    importance: list[dict[str, Any]] = field(default_factory=list)
    words: str = ""
    written: list[Path] = field(default_factory=list)

    def __str__(self) -> str:
        s = self.score
        line = f"mAP {s.average_precision:.4f} over {s.frames} frames, {s.positives} of them speaking"
        return "\n".join([line + (f"; {s.tied} share their score" if s.tied else ""), self.words]).strip()

    def as_dict(self) -> dict[str, Any]:
        """Everything as plain values."""
        return {"score": asdict(self.score), "importance": self.importance, "training": self.training.as_dict()}


class WithVisualHeads(nn.Module):
    """The model, and for training a linear head on each visual stream's own features.

    Returns ``(scores (B, T, 2), [(B, T, 2) of each head])``.
    """

    def __init__(self, speaker: nn.Module, encoders: Sequence[nn.Module]) -> None:
        super().__init__()
        self.speaker = speaker
        self.heads = nn.ModuleList(nn.Linear(FEATURES, 2) for _ in encoders)
        self._encoders = list(encoders)  # a list of the model's own modules: not registered twice

    def forward(self, *streams: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Run the model once; its encoders' outputs go to the heads as well."""
        seen: list[Tensor] = []
        hooks = [e.register_forward_hook(lambda module, given, output: seen.append(output)) for e in self._encoders]
        try:
            scores = self.speaker(*streams)
        finally:
            for hook in hooks:
                hook.remove()
        return scores, [head(features) for head, features in zip(self.heads, seen, strict=True)]


class SpeakerLoss:
    """Cross entropy of every frame for the scores, and ``visual`` times that of each visual head."""

    def __init__(self, settings: SpeakerSettings) -> None:
        self.settings, self.temperature = settings, settings.temperature

    def set_epoch(self, epoch: int) -> None:
        """Cool down: called with the number of the epoch, from 0."""
        self.temperature = max(1e-3, self.settings.temperature - self.settings.cooling * epoch)

    def __call__(self, output: tuple[Tensor, list[Tensor]], speaking: Tensor) -> Tensor:
        """``speaking`` (B, T), 0 or 1."""
        scores, visual = output
        loss = self._of(scores, speaking)
        for one in visual:
            loss = loss + self.settings.visual * self._of(one, speaking)
        return loss

    def _of(self, logits: Tensor, speaking: Tensor) -> Tensor:
        return F.cross_entropy((logits / self.temperature).flatten(0, 1), speaking.flatten())


def train_speaker(
    data: str | Path,
    layout: Layout,
    out: str | Path,
    settings: SpeakerSettings | None = None,
    *,
    splits: tuple[str, str] = ("train", "val"),
    device: str = "cpu",
    resume: bool = True,
    say: Callable[[str], None] = lambda line: None,
    progress: bool | None = None,
) -> tuple[nn.Module, SpeakerReport]:
    """Train on the first split, score the second officially after every epoch; the best epoch's weights are kept.

    Writes into ``out``: ``model.safetensors`` (for ``--weights``), ``model.squeeze.safetensors`` (for ``--adapter``),
    ``predictions.csv`` in the official form, ``report.txt``, ``report.json``, pictures in ``figures/``, and checkpoints
    from which an interrupted run goes on. Under ``torchrun`` or ``accelerate launch`` every process calls this.

    Args:
        data: root in the layout of `squeezecam.data.ava_folder`.
        layout: ``"ava"``: faces and sound, Light-ASD. ``"wasd"``: bodies too, face, body and audio concatenated.
        out: folder.
        settings: see `SpeakerSettings`.
        splits: to train on, and to score.
        device: where a single process trains.
        resume: go on from checkpoints in ``out``.
        say: told what is going on.
        progress: bars on standard error; None: where that is a terminal.

    Returns:
        The trained ``Squeeze`` (the plain model without the blocks), in evaluation mode, and the report.

    Raises:
        InputError: an unknown layout, or data that cannot be read.

    """
    if layout not in STREAMS:
        raise InputError(f"unknown layout '{layout}'; expected one of {', '.join(STREAMS)}")
    chosen = settings or SpeakerSettings()
    processes.join()
    folder = output_folder(out)
    fitting, testing = (AvaFolder(data, split, require=STREAMS[layout], size=chosen.size) for split in splits)
    loader = DataLoader(
        Groups(fitting, chosen.frames, vary=chosen.vary), batch_size=None, shuffle=True, num_workers=chosen.workers
    )
    tests: DataLoader[Batch] = DataLoader(Groups(testing, None), batch_size=None, num_workers=chosen.workers)
    torch.manual_seed(chosen.seed)
    model: nn.Module = (LightASD() if layout == "ava" else FaceBodyAudioASD()).to(device)
    encoders = [model.visual] if isinstance(model, LightASD) else [model.face, model.body]
    speaker: nn.Module = (
        attach(model, _example(layout, device, chosen.size), at=SITES[layout], apply="gate") if chosen.block else model
    )
    module = WithVisualHeads(speaker, encoders).to(device)  # type: ignore[arg-type]
    say(f"{len(fitting)} tracks to train on in {len(loader)} batches, {len(testing)} to score")
    optimiser = torch.optim.Adam(module.parameters(), lr=chosen.rate)
    scheduler = torch.optim.lr_scheduler.StepLR(optimiser, 1, chosen.decay)
    csv = folder / "predictions.csv"
    loss: Loss = SpeakerLoss(chosen)
    report = train(
        module, loader, loss=loss, epochs=chosen.epochs, optimiser=optimiser, scheduler=scheduler, schedule="epoch",
        validate=lambda trained: {"mAP": _score(trained, tests, testing, csv).average_precision}, best="mAP",
        checkpoints=folder / "checkpoints", resume=resume, seed=chosen.seed, progress=progress,
    )  # fmt: skip
    module.eval()
    found = SpeakerReport(_score(module, tests, testing, csv), report)
    if processes.rank() == 0:
        found.written += [csv, *_save(model, speaker, folder)]
        if isinstance(speaker, Squeeze):
            _look(speaker, testing, layout, folder, chosen, found)
        found.written += [
            write_text(folder / "report.txt", f"{found}\n"), write_json(folder / "report.json", found.as_dict()),
        ]  # fmt: skip
    processes.wait()
    return speaker.eval(), found


def _score(module: nn.Module, tests: DataLoader[Batch], testing: AvaFolder, csv: Path) -> AvaScore:
    """The official score of all test tracks; every process gets it, the first one writes the predictions."""
    found = predictions(
        module, tests, inputs=lambda batch: tuple(batch[:-1]), labels=lambda batch: batch[-1].flatten(),
        select=lambda output: output[0].flatten(0, 1),
    )[0]  # fmt: skip
    values = found.float().softmax(-1)[:, SPEAKING]
    scores = [part.numpy() for part in values.split([len(entity) for entity in testing.entities])]
    score = None
    with processes.first_only(InputError) as here:
        if here:
            write_predictions(csv, testing.entities, scores)
            score = evaluate_ava(testing.annotations, csv)
    result = processes.from_first(score)
    assert isinstance(result, AvaScore)
    return result


def _example(layout: str, device: str, size: int = FACE_SIZE) -> tuple[Tensor, ...]:
    crops, sound = torch.zeros(1, 8, size, size, dtype=torch.uint8), torch.zeros(1, 32, 13)
    generator = torch.Generator().manual_seed(0)
    crops, sound = crops.random_(256, generator=generator), sound.normal_(generator=generator)
    streams = [crops] * (len(STREAMS[layout]) - 1) + [sound]
    return tuple(stream.to(device) for stream in streams)


def _save(model: nn.Module, speaker: nn.Module, folder: Path) -> list[Path]:
    from safetensors.torch import save

    state = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in model.state_dict().items()}
    written = [write_bytes(folder / "model.safetensors", save(state))]
    if isinstance(speaker, Squeeze):
        speaker.save(folder / "model.squeeze.safetensors")
        written.append(folder / "model.squeeze.safetensors")
    return written


def _look(
    squeeze: Squeeze, testing: AvaFolder, layout: str, folder: Path, settings: SpeakerSettings, found: SpeakerReport
) -> None:
    """Importance of the streams over test tracks, and pictures of the one with the most speech among them."""
    from squeezecam.recipes.speaker_sheet import speaker_sheet

    count = min(settings.tracks, len(testing))
    if not count:
        return
    squeeze.eval()
    groups = Groups(testing, None)
    measured: list[StreamImportance] = []
    chosen = sorted({round(i * (len(testing) - 1) / max(1, count - 1)) for i in range(count)})
    device = next(squeeze.parameters()).device
    for i in chosen:
        inputs = tuple(stream.to(device) for stream in groups[i][:-1])
        measured.append(importance(squeeze, inputs, target=SPEAKING))
    whole = join(measured)
    found.importance = by_group(whole, seed=settings.seed)
    found.words = f"importance of the streams for 'speaking', mean over {len(whole)} tracks:\n{whole}"
    best = max(chosen, key=lambda i: int(testing.entities[i].speaking.sum()))
    found.written += speaker_sheet(squeeze, groups[best], STREAMS[layout], whole, folder / "figures")


def main(arguments: Sequence[str] | None = None) -> None:
    """Read the options, train, print the report."""
    import argparse
    import sys

    parser = argparse.ArgumentParser(prog="python -m squeezecam.recipes.active_speaker", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    default = SpeakerSettings()
    parser.add_argument("--data", type=Path, required=True, help="root of the data set")
    parser.add_argument("--layout", choices=tuple(STREAMS), default="ava")
    parser.add_argument("--out", type=Path, required=True, help="folder; an interrupted run goes on from it")
    parser.add_argument("--splits", nargs=2, default=("train", "val"), metavar=("TRAIN", "TEST"))
    parser.add_argument("--epochs", type=int, default=default.epochs)
    parser.add_argument("--rate", type=float, default=default.rate)
    parser.add_argument("--decay", type=float, default=default.decay, help="of the rate, after every epoch")
    parser.add_argument("--frames", type=int, default=default.frames, help="in a batch")
    parser.add_argument("--size", type=int, default=default.size, help="side of the crops in pixels")
    parser.add_argument("--no-variation", action="store_true", help="faces and voices as they are")
    parser.add_argument("--no-block", action="store_true", help="the plain model, for comparison")
    parser.add_argument("--tracks", type=int, default=default.tracks, help="test tracks whose streams are measured")
    parser.add_argument("--workers", type=int, default=default.workers, help="processes that read tracks")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--seed", type=int, default=default.seed)
    parser.add_argument("--from-scratch", action="store_true", help="do not go on from checkpoints")
    given = parser.parse_args(arguments)
    settings = SpeakerSettings(
        epochs=given.epochs, rate=given.rate, decay=given.decay, frames=given.frames, vary=not given.no_variation,
        block=not given.no_block, size=given.size, tracks=given.tracks, workers=given.workers, seed=given.seed,
    )  # fmt: skip
    try:
        _, report = train_speaker(
            given.data, given.layout, given.out, settings, splits=tuple(given.splits), device=given.device,
            resume=not given.from_scratch, say=lambda line: print(line, file=sys.stderr),
        )  # fmt: skip
        if processes.rank() == 0:
            print(report)
            print("wrote " + ", ".join(str(path) for path in report.written))
    finally:
        processes.leave()


if __name__ == "__main__":
    from squeezecam.errors import SqueezeError

    try:
        main()
    except SqueezeError as error:
        raise SystemExit(f"squeezecam: error: {error}") from None
