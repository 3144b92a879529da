"""Reads images and labels from IDX files, the format of MNIST."""

import gzip
import struct
import zlib

import numpy as np

CLASSES = 10


class DataError(Exception):
    """A data folder that cannot be used; the message is one line."""


def read_idx(path, dimensions):
    """The unsigned bytes of an IDX file: two zero bytes, type 8, the number of dimensions, the sizes, the values."""
    try:
        content = path.read_bytes()
        content = gzip.decompress(content) if path.suffix == ".gz" else content
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path}: cannot be read ({error})") from None
    magic = bytes((0, 0, 8, dimensions))
    if content[:4] != magic:
        raise DataError(f"{path}: expected the magic number {magic.hex()}, got {content[:4].hex() or 'an empty file'}")
    start = 4 + 4 * dimensions
    shape = struct.unpack(f">{dimensions}I", content[4:start]) if len(content) >= start else ()
    if not shape or len(content) - start != np.prod(shape, dtype=np.int64):
        raise DataError(
            f"{path}: expected {shape or 'its sizes'} after the magic number, got {len(content)} bytes in all"
        )
    return np.frombuffer(content, np.uint8, offset=start).reshape(shape)


def idx_digits(folder):
    """Training and test images and labels of a folder with files named like MNIST's."""

    def find(name):
        paths = [folder / f"{name}{ending}" for ending in ("", ".gz")]
        for path in paths:
            if path.is_file():
                return path
        raise DataError(f"{paths[0]}: no such file, nor {paths[1].name}")

    def read(part):
        images, labels = (find(f"{part}-images-idx3-ubyte"), find(f"{part}-labels-idx1-ubyte"))
        data = {"image": np.float32(read_idx(images, 3)) / 255, "label": np.int32(read_idx(labels, 1))}
        count, side, width = data["image"].shape
        if len(data["label"]) != count or count == 0:
            raise DataError(f"{labels}: expected a label for each of {count} images, got {len(data['label'])}")
        if side != width or side < 8:
            raise DataError(f"{images}: expected square images of at least 8x8 pixels, got {side}x{width}")
        if data["label"].max() >= CLASSES:
            raise DataError(f"{labels}: expected labels from 0 to {CLASSES - 1}, got {data['label'].max()}")
        return data

    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder")
    train, test = read("train"), read("t10k")
    if train["image"].shape[1:] != test["image"].shape[1:]:
        raise DataError(f"{folder}: expected equal sizes of training and test images, got two")
    return train, test
