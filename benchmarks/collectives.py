"""What devices send each other in a compiled program, by kind: counts and bytes."""

import re
from collections.abc import Mapping
from typing import NamedTuple

_BYTES = {"pred": 1, "s8": 1, "u8": 1, "bf16": 2, "f16": 2, "s32": 4, "u32": 4, "f32": 4, "s64": 8, "u64": 8, "f64": 8}
_KINDS = "all-reduce|all-gather|reduce-scatter|all-to-all|collective-permute"


class Sent(NamedTuple):
    """``count`` collectives of one kind, and the bytes of the whole arrays that go through them."""

    count: int
    nbytes: int


def collectives(program: str, devices: int) -> dict[str, Sent]:
    """Those in the text of a compiled program, which stand once in it though a loop may run them often."""
    found: dict[str, Sent] = {}
    for shapes, kind in re.findall(rf"= (.*?) ({_KINDS})(?:-start)?\(", program):
        nbytes = 0
        for dtype, dims in re.findall(r"(\w+)\[([\d,]*)\]", shapes):
            size = _BYTES[dtype]
            for length in filter(None, dims.split(",")):
                size *= int(length)
            nbytes += size
        if kind == "reduce-scatter":
            nbytes *= devices  # its result is one part
        before = found.get(kind, Sent(0, 0))
        found[kind] = Sent(before.count + 1, before.nbytes + nbytes)
    return found


def on_the_wire(sent: Mapping[str, Sent], devices: int) -> float:
    """Bytes that each device sends, by rings: ``(n - 1) / n`` of a whole array, an all-reduce twice that."""
    turns = {"all-reduce": 2.0}
    return sum(turns.get(kind, 1.0) * found.nbytes for kind, found in sent.items()) * (devices - 1) / devices
