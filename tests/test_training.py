"""The training loop on a real, small bank: it learns, resumes bit for bit, and says what is wrong."""

import json

import pytest
import torch

from pixworld.data import bank as bank_module
from pixworld.data.sampling import quarter_turn, stack, training_batch
from pixworld.methods import PRESETS
from pixworld.methods.pixworld import PixWorldConfig
from pixworld.training import loop
from pixworld.training.config import RUNS, TrainConfig
from pixworld.views import InputError


@pytest.fixture(scope="session")
def bank_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bank") / "bank"
    bank_module.build_bank(folder, scenes=loop.VALIDATION_SCENES + 8, seed=5, height=16, width=24, views=8, workers=1)
    return folder


@pytest.fixture
def tiny(monkeypatch):
    """A preset that trains in seconds."""
    monkeypatch.setitem(PRESETS, "tiny", lambda: PixWorldConfig(width=32, depth=2, heads=1, size=16))
    run = TrainConfig(steps=6, batch=2, warmup=2, checkpoint_every=3, sheet_every=6)
    monkeypatch.setitem(RUNS, "tiny", run)


def log_of(run):
    return [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]


def test_a_resumed_run_equals_an_uninterrupted_one(tiny, bank_folder, tmp_path, monkeypatch):
    loop.train("tiny", str(bank_folder), tmp_path / "straight")

    def stop_at_three(*args):
        saved(*args)
        raise KeyboardInterrupt

    saved = loop._save
    with monkeypatch.context() as m:
        m.setattr(loop, "_save", stop_at_three)
        with pytest.raises(KeyboardInterrupt):
            loop.train("tiny", str(bank_folder), tmp_path / "broken")
    loop.train("tiny", str(bank_folder), tmp_path / "broken", resume=True)

    a, b = (
        torch.load(tmp_path / name / "checkpoints" / "step-0000006.pt", weights_only=True)
        for name in ("straight", "broken")
    )
    for part in ("model", "ema"):
        assert all(torch.equal(a[part][k], b[part][k]) for k in a[part])
    timing = {"samples_per_s"}
    for x, y in zip(log_of(tmp_path / "straight"), log_of(tmp_path / "broken"), strict=True):
        assert {k: v for k, v in x.items() if k not in timing} == {k: v for k, v in y.items() if k not in timing}
    assert {"psnr_4", "gain_4", "psnr_2", "gain_2"} <= log_of(tmp_path / "straight")[-1].keys()
    assert (tmp_path / "straight" / "sheets" / "000006.png").stat().st_size > 1000
    assert (tmp_path / "straight" / "weights" / "model.safetensors").exists()


def test_training_lowers_the_loss_of_a_batch(tiny, bank_folder):
    bank = bank_module.Bank(bank_folder)
    run = TrainConfig(steps=1000, batch=4, warmup=0)
    torch.manual_seed(0)
    model = PRESETS["tiny"]().build()
    optimisers = loop.make_optimisers(model, run)
    # the same step again and again is the same batch, split and noise
    history = [sum(loop.train_step(model, optimisers, bank, run, 3)[0].values()) for _ in range(25)]
    assert history[-1] < 0.7 * history[0]


def test_wrong_calls_are_named(tiny, bank_folder, tmp_path):
    with pytest.raises(InputError, match="no preset"):
        loop.train("nonsense", str(bank_folder), tmp_path / "run")
    with pytest.raises(InputError, match="no checkpoint to resume"):
        loop.train("tiny", str(bank_folder), tmp_path / "run", resume=True)
    with pytest.raises(InputError):
        loop.train("tiny", str(tmp_path / "absent"), tmp_path / "run")


def test_a_quarter_turn_is_exact(bank_folder):
    """A world point lands on the same content before and after the turn."""
    views = stack([bank_module.Bank(bank_folder).views(0)])
    turned = quarter_turn(views)
    origins, directions = views.cameras.rays()
    points = (origins + 2.0 * directions)[0, 3].reshape(-1, 3)
    pixels, depth = turned.cameras[0].project(points)
    assert torch.allclose(depth[3], torch.full_like(depth[3], 2.0), atol=1e-3)
    column, row = pixels[3].floor().long().unbind(-1)
    assert torch.equal(turned.images[0, 3][:, row, column], views.images[0, 3].flatten(1))


def test_batches_depend_on_seed_and_step_alone(bank_folder):
    bank = bank_module.Bank(bank_folder)
    a, b, c = (training_batch(bank, 3, 0, step, 8) for step in (5, 5, 6))
    assert torch.equal(a.images, b.images) and a.text == b.text
    assert a.images.shape != c.images.shape or not torch.equal(a.images, c.images)
