"""Claims about the example that carries a Flax network over to other images."""


def test_what_was_learned_before_is_worth_having(example, tmp_path, capsys):
    assert example.main(["--short", "--out", str(tmp_path / "new" / "folder")]) == 0
    assert (tmp_path / "new" / "folder" / "transfer_to_flax.png").read_bytes().startswith(b"\x89PNG")
    rows = [line.rsplit(maxsplit=2) for line in capsys.readouterr().out.splitlines()[-4:]]
    few = {way: float(first) for way, first, _ in rows}
    assert few.keys() == example.WAYS.keys()
    assert min(accuracy for way, accuracy in few.items() if way != "from scratch") > few["from scratch"]


def test_a_frozen_body_does_not_move(example):
    model = example.Network(example.nnx.Rngs(0))
    images, digits = example.shuffled_digits()
    before = example.nnx.clone(model)
    example.learn(model, example.WAYS["frozen body"][1](None), images[:20], digits[:20], steps=2, seed=0)
    assert (model.body[2].kernel[...] == before.body[2].kernel[...]).all()
    assert (model.head.kernel[...] != before.head.kernel[...]).any()
