"""Claims about the example that trains on digits."""

import gzip
import struct

import numpy as np
import pytest


def write_idx(path, array, magic=None):
    header = bytes((0, 0, 8, array.ndim)) if magic is None else magic
    content = header + struct.pack(f">{array.ndim}I", *array.shape) + array.astype(np.uint8).tobytes()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)


@pytest.fixture
def folder(tmp_path):
    """Two hundred images of two kinds: a bright left or a bright right half."""
    for part, count in (("train", 160), ("t10k", 40)):
        labels = np.arange(count) % 2
        images = np.zeros((count, 12, 12))
        images[labels == 0, :, :6] = 200
        images[labels == 1, :, 6:] = 200
        write_idx(tmp_path / f"{part}-images-idx3-ubyte.gz", images)
        write_idx(tmp_path / f"{part}-labels-idx1-ubyte", labels)
    return tmp_path


def test_a_short_run_learns_and_draws_four_panels(example, tmp_path, capsys):
    assert example.main(["--short", "--out", str(tmp_path / "new" / "folder")]) == 0
    last = capsys.readouterr().out.splitlines()[-1]
    assert last.startswith("test accuracy ")
    assert float(last.split()[-1]) > 0.9
    assert (tmp_path / "new" / "folder" / "digits.png").read_bytes().startswith(b"\x89PNG")


def test_the_same_seed_gives_the_same_run(example, folder, tmp_path, capsys):
    runs = []
    for _ in range(2):
        example.main(
            ["--data", str(folder), "--epochs", "2", "--batch-size", "32", "--seed", "3", "--out", str(tmp_path)]
        )
        runs.append([line for line in capsys.readouterr().out.splitlines() if line.startswith(("training", "held"))])
    assert runs[0] == runs[1]


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", ["sgd", "momentum", "adagrad", "rmsprop", "adam", "adamw", "amsgrad"])
def test_every_optimizer_learns_from_idx_files(example, folder, tmp_path, capsys, optimizer):
    arguments = ["--data", str(folder), "--epochs", "8", "--batch-size", "16", "--out", str(tmp_path)]
    assert example.main([*arguments, "--optimizer", optimizer]) == 0
    assert float(capsys.readouterr().out.splitlines()[-1].split()[-1]) > 0.9


def test_the_held_out_fifth_has_every_class_in_proportion_and_no_image_of_training(example):
    data, test = example.bundled_digits()
    assert (len(data["label"]), len(test["label"])) == (1437, 360)
    for label in range(10):
        share = np.mean(test["label"] == label) / np.mean(data["label"] == label)
        assert 0.95 < share < 1.05
    seen = {image.tobytes() for image in data["image"]}
    assert not any(image.tobytes() in seen for image in test["image"])


def test_distorted_images_stay_in_range_and_differ(example):
    data, _ = example.bundled_digits()
    batch = {"image": data["image"][:32], "label": data["label"][:32]}
    moved = example.distort(example.jax.random.key(0), batch)
    assert moved["image"].shape == batch["image"].shape
    assert float(moved["image"].min()) >= 0 and float(moved["image"].max()) <= 1
    assert all(np.abs(new - old).max() > 0 for new, old in zip(moved["image"], batch["image"], strict=True))


def spoil_missing(folder):
    (folder / "t10k-images-idx3-ubyte.gz").unlink()
    return "no such file"


def spoil_truncated(folder):
    path = folder / "train-labels-idx1-ubyte"
    path.write_bytes(path.read_bytes()[:-1])
    return "expected (160,) after the magic number"


def spoil_truncated_gzip(folder):
    path = folder / "train-images-idx3-ubyte.gz"
    path.write_bytes(path.read_bytes()[:40])
    return "cannot be read"


def spoil_no_gzip(folder):
    (folder / "train-images-idx3-ubyte.gz").write_bytes(b"<html>not found</html>")
    return "cannot be read"


def spoil_magic(folder):
    write_idx(folder / "train-labels-idx1-ubyte", np.zeros(160), magic=bytes((0, 0, 13, 1)))
    return "expected the magic number 00000801, got 00000d01"


def spoil_empty(folder):
    (folder / "train-labels-idx1-ubyte").write_bytes(b"")
    return "empty file"


def spoil_header(folder):
    (folder / "train-labels-idx1-ubyte").write_bytes(bytes((0, 0, 8, 1, 0)))
    return "its sizes"


def spoil_length(folder):
    write_idx(folder / "train-labels-idx1-ubyte", np.zeros(159))
    return "a label for each of 160 images, got 159"


def spoil_labels(folder):
    write_idx(folder / "t10k-labels-idx1-ubyte", np.full(40, 10))
    return "labels from 0 to 9, got 10"


def spoil_sizes(folder):
    write_idx(folder / "t10k-images-idx3-ubyte.gz", np.zeros((40, 10, 10)))
    return "equal sizes"


def spoil_shape(folder):
    write_idx(folder / "t10k-images-idx3-ubyte.gz", np.zeros((40, 12, 10)))
    return "square images"


def spoil_folder(folder):
    for path in folder.iterdir():
        path.unlink()
    folder.rmdir()
    return "no such folder"


@pytest.mark.parametrize("spoil", [value for name, value in list(globals().items()) if name.startswith("spoil_")])
def test_bad_data_is_one_line_on_stderr_and_status_2(example, folder, capsys, spoil):
    hint = spoil(folder)
    assert example.main(["--data", str(folder), "--short"]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1
    assert err.startswith(f"digits.py: {folder}") and hint in err


def test_a_bad_batch_size_is_one_line_on_stderr_and_status_2(example, capsys):
    assert example.main(["--batch-size", "100000"]) == 2
    assert "batch_size=1437" in capsys.readouterr().err.splitlines()[-1]


def test_help_names_every_option(example, capsys):
    with pytest.raises(SystemExit) as caught:
        example.main(["--help"])
    assert caught.value.code == 0
    text = capsys.readouterr().out
    for option in (
        "--optimizer",
        "--epochs",
        "--batch-size",
        "--seed",
        "--learning-rate",
        "--out",
        "--data",
        "--short",
    ):
        assert option in text
