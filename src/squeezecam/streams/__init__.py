"""Which stream and which moment a decision rests on: several named measures, and the ablation always beside them.

Gate values alone mislead: in the figures of the sibling work (arXiv 2412.05150) the mean gate ranks audio first while
taking the face away hurts most. So none of the measures here is called "the" importance.
"""

from __future__ import annotations

from squeezecam.streams.measuring import importance
from squeezecam.streams.record import ABLATIONS, MEASURES, WORDS, StreamImportance
from squeezecam.streams.tables import by_group, compared, join

__all__ = ["ABLATIONS", "MEASURES", "WORDS", "StreamImportance", "by_group", "compared", "importance", "join"]
