"""``SqueezeTrainerCallback``: gates and maps of a Squeeze that transformers' ``Trainer`` trains."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

from squeezecam.attach import get
from squeezecam.errors import InputError, ModelError
from squeezecam.files import output_folder, write_picture
from squeezecam.integrations.observing import ADAPTER, Observer, save_adapter
from squeezecam.models.torchvision_guard import ensure_torchvision
from squeezecam.module import Squeeze

ensure_torchvision()  # these frameworks import it

try:
    from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
except ImportError:
    raise ModelError("this callback needs the package transformers: pip install 'squeezecam[hf]'") from None


def for_trainer(squeeze: Squeeze) -> Squeeze:
    """Say to the ``Trainer`` what it would read off the model inside: whether its ``forward`` takes further keywords
    (``num_items_in_batch``), and its ``config``.

    Raises:
        InputError: the block is not in the path, and would not learn.

    """
    if squeeze.apply_mode == "observe":
        raise InputError("in 'observe' the block is not in the path and would not learn: attach(..., apply='gate')")
    kinds = [parameter.kind for parameter in inspect.signature(squeeze.model.forward).parameters.values()]
    own = getattr(squeeze.model, "accepts_loss_kwargs", inspect.Parameter.VAR_KEYWORD in kinds)
    vars(squeeze)["accepts_loss_kwargs"] = bool(own)
    if hasattr(squeeze.model, "config"):
        vars(squeeze)["config"] = squeeze.model.config
    return squeeze


class SqueezeTrainerCallback(TrainerCallback):  # type: ignore[misc]
    """Logs gate statistics after every epoch, draws the examples' maps, and saves the adapter with every checkpoint.

    Give the ``Trainer`` ``for_trainer(squeeze)``, and ``TrainingArguments(remove_unused_columns=False,
    label_names=["labels"], ...)``, because the Trainer reads the columns that a model takes off its signature, and that
    of a Squeeze is open. Statistics go into the Trainer's log
    history as ``gates/map/mean`` and so on, with the epoch; maps as ``maps-epoch-0001.png`` and the adapter
    into ``squeezecam`` in the output folder, and an adapter into every checkpoint's folder.

    Args:
        examples: a few inputs as the model takes them, usually ``{"pixel_values": tensor}``.
        pictures: what the maps are drawn on; None: the maps alone, or the inputs where they look like pictures.
        method: of the maps; None: the default.

    """

    def __init__(self, examples: Any, *, pictures: Any = None, method: str | None = None) -> None:
        self.observer = Observer(examples, pictures, method)

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **more: Any
    ) -> None:
        """Refuse a model without a Squeeze before anything is trained."""
        get(more["model"])

    def on_epoch_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **more: Any) -> None:
        """Note gate statistics, draw maps."""
        if not state.is_world_process_zero:
            return
        squeeze = get(more["model"])
        figures = self.observer.figures(squeeze)
        state.log_history.append({**figures, "epoch": state.epoch, "step": state.global_step})
        sheet = self.observer.sheet(squeeze)
        if sheet is not None:
            folder = output_folder(Path(args.output_dir) / "squeezecam")
            write_picture(folder / f"maps-epoch-{round(state.epoch or 0):04d}.png", sheet)

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **more: Any) -> None:
        """Write an adapter beside the Trainer's own checkpoint."""
        if state.is_world_process_zero:
            folder = Path(args.output_dir) / f"checkpoint-{state.global_step}"
            save_adapter(get(more["model"]), folder / ADAPTER, "transformers")

    def on_train_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **more: Any) -> None:
        """Write the adapter of the trained model."""
        if state.is_world_process_zero:
            save_adapter(get(more["model"]), Path(args.output_dir) / "squeezecam" / ADAPTER, "transformers")
