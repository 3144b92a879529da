"""How state is kept, never what it means."""

from gradtx.storage.casting import cast
from gradtx.storage.keeping import Layout, StoredState, stored

__all__ = ["Layout", "StoredState", "cast", "stored"]
