"""Reports as text."""

from collections.abc import Sequence


def aligned(cells: Sequence[Sequence[str]]) -> str:
    """Lines of cells in columns: the first to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = [
        f"{first:{widths[0]}}  " + "  ".join(f"{cell:>{width}}" for cell, width in zip(rest, widths[1:], strict=True))
        for first, *rest in cells
    ]
    return "\n".join(line.rstrip() for line in lines)
