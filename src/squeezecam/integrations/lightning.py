"""``SqueezeCallback``: an SE block in a LightningModule, watched while it trains, saved when it is done."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from squeezecam.attach import attach
from squeezecam.errors import InputError, ModelError
from squeezecam.files import output_folder, write_picture
from squeezecam.integrations.observing import ADAPTER, Observer, save_adapter
from squeezecam.models.torchvision_guard import ensure_torchvision
from squeezecam.module import Apply, Squeeze

ensure_torchvision()  # these frameworks import it

try:
    from lightning.pytorch import Callback, LightningModule, Trainer
except ImportError:
    try:
        from pytorch_lightning import Callback, LightningModule, Trainer
    except ImportError:
        raise ModelError("this callback needs the package lightning: pip install 'squeezecam[lightning]'") from None


class SqueezeCallback(Callback):  # type: ignore[misc]
    """Attaches a block to the network inside a LightningModule, logs what the gates do, and saves the adapter.

    The block is there before ``configure_optimizers`` is called, so ``self.parameters()`` has it. After every
    ``every``-th epoch the gate statistics of ``examples`` are logged (``gates/map/mean`` and so on) and their maps are
    handed to the logger where it takes pictures, and written to ``folder``. At the end the adapter is written to
    ``folder``. With several processes rank 0 does this. The network's ``state_dict`` keys get ``model.`` in front, as
    it is inside a :class:`~squeezecam.Squeeze` now; Lightning's checkpoints go on as usual.

    Args:
        examples: a few inputs as the network takes them; they also serve to find the place.
        network: name of the network's attribute in the LightningModule.
        pictures: what the maps are drawn on; None: the maps alone, or the inputs where they look like pictures.
        at, apply, hidden: as of :func:`squeezecam.attach`; ``apply`` is ``"gate"``, because a block that is not in the
            path does not learn.
        method: of the maps; None: the default.
        every: epochs between two looks.
        folder: None: ``squeezecam`` in the trainer's log folder.

    Raises:
        InputError: the LightningModule has no such network.

    """

    def __init__(
        self,
        examples: Any,
        *,
        network: str = "model",
        pictures: Any = None,
        at: Any = None,
        apply: Apply = "gate",
        hidden: int | None = None,
        method: str | None = None,
        every: int = 1,
        folder: str | Path | None = None,
    ) -> None:
        super().__init__()
        if every < 1:
            raise InputError(f"every must be at least 1, got {every}")
        self.observer = Observer(examples, pictures, method)
        self.network, self.at, self.apply, self.hidden, self.every = network, at, apply, hidden, every
        self.folder = Path(folder) if folder is not None else None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Attach, once."""
        found = getattr(pl_module, self.network, None)
        if isinstance(found, Squeeze):
            return
        if found is None:
            names = ", ".join(name for name, _ in pl_module.named_children()) or "none"
            raise InputError(
                f"{type(pl_module).__name__} has no network '{self.network}'; it has {names}: say network='...'"
            )
        squeeze = attach(found, self.observer.examples, at=self.at, apply=self.apply, hidden=self.hidden)
        setattr(pl_module, self.network, squeeze)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log gate statistics and maps."""
        if (trainer.current_epoch + 1) % self.every:
            return
        squeeze = self.squeeze(pl_module)
        pl_module.log_dict(self.observer.figures(squeeze), rank_zero_only=True)
        if not trainer.is_global_zero or trainer.sanity_checking:
            return
        sheet = self.observer.sheet(squeeze)
        if sheet is None:
            return
        folder = output_folder(self._folder(trainer))
        write_picture(folder / f"maps-epoch-{trainer.current_epoch + 1:04d}.png", sheet)
        for logger in trainer.loggers:
            _hand_over(logger, sheet, trainer.global_step)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the adapter."""
        if trainer.is_global_zero:
            save_adapter(self.squeeze(pl_module), self._folder(trainer) / ADAPTER, "lightning")

    def squeeze(self, pl_module: LightningModule) -> Squeeze:
        """The Squeeze around the network."""
        found = getattr(pl_module, self.network)
        assert isinstance(found, Squeeze)
        return found

    def _folder(self, trainer: Trainer) -> Path:
        return self.folder or Path(trainer.log_dir or trainer.default_root_dir) / "squeezecam"


def _hand_over(logger: Any, sheet: Any, step: int) -> None:
    """Give a picture to a logger that takes pictures: those of Weights & Biases and the like, and TensorBoard."""
    import numpy as np

    if hasattr(logger, "log_image"):
        logger.log_image("squeezecam/maps", [sheet], step=step)
    elif hasattr(logger.experiment, "add_image"):
        logger.experiment.add_image("squeezecam/maps", np.asarray(sheet.convert("RGB")), step, dataformats="HWC")
