"""Other people's methods through their own libraries, our own beside them, and the controls: one registry of maps."""

from squeezecam.peers.method import MapMethod
from squeezecam.peers.registry import GROUPS, available, choose, registry

__all__ = ["GROUPS", "MapMethod", "available", "choose", "registry"]
