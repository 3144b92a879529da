"""How state is kept, never what it means."""

from gradtx.storage.casting import cast
from gradtx.storage.keeping import Layout, StoredState, stored
from gradtx.storage.offloading import OffloadedState, offloaded
from gradtx.storage.packing import Packed, PackedState, pack, packed, unpack
from gradtx.storage.quantizing import CodePairs, Codes, quantized
from gradtx.storage.remainders import RemainderState, master_params, master_weights
from gradtx.storage.sizes import state_bytes

__all__ = [
    "CodePairs",
    "Codes",
    "Layout",
    "OffloadedState",
    "Packed",
    "PackedState",
    "RemainderState",
    "StoredState",
    "cast",
    "master_params",
    "master_weights",
    "offloaded",
    "pack",
    "packed",
    "quantized",
    "state_bytes",
    "stored",
    "unpack",
]
