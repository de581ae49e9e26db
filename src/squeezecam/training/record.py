"""What a training changed, noted in the Squeeze, so that its adapter brings it along."""

from __future__ import annotations

from squeezecam.module import Squeeze
from squeezecam.origin import FIT


def note_training(squeeze: Squeeze, by: str, **more: object) -> None:
    """Note which tensors of the model were trained with the block; ``squeeze.save`` then writes them too.

    These are all parameters that want a gradient, and the floating-point buffers (running statistics) beside them. Of
    a model that was frozen none is: its adapter stays as small as the block.
    """
    model = squeeze.model
    wanted = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    owners = {name.rpartition(".")[0] for name in wanted}
    floating = {name for name, tensor in model.state_dict().items() if tensor.is_floating_point()}
    trained = sorted(name for name in floating if name in wanted or name.rpartition(".")[0] in owners)
    squeeze.fit_info = {
        "objective": "task", "train": "all" if trained else "block", "output": squeeze.default_output, "by": by,
        "trained": trained, **more,
    }  # fmt: skip
    squeeze.origins.mark(squeeze, FIT)
