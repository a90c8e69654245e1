"""The training loop on a real, small bank: it learns, resumes bit for bit, and says what is wrong."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
import tyro
from safetensors.torch import load_file, save_file

from backend.train import train as command
from pixworld.cameras import Cameras
from pixworld.checkpoint import load_checkpoint, save_checkpoint
from pixworld.data import bank as bank_module
from pixworld.data.sampling import quarter_turn, stack, training_batch
from pixworld.methods import PRESETS
from pixworld.methods.base import Draws, Method
from pixworld.training import checkpoints, dry_run, loop, memory, optimisers, settings, setup, tracking
from pixworld.training.config import RUNS, TrainConfig
from pixworld.training.distributed import Ranks
from pixworld.training.prefetch import ahead
from pixworld.views import InputError, Views

# A model that trains in seconds, as --set makes it of a preset.
TINY = ["width=32", "depth=2", "heads=1", "size=16", "recipe.perceptual_weight=0"]
TINY += ["batch=2", "warmup=2", "checkpoint_every=5", "sheet_every=1000"]
ALONE = Ranks(0, 1, torch.device("cpu"))
TIMING = {"samples_per_s", "tflops", "mfu"}


@pytest.fixture(scope="session")
def bank_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bank") / "bank"
    bank_module.build_bank(folder, scenes=setup.VALIDATION_SCENES + 8, seed=5, height=16, width=24, views=8, workers=1)
    return folder


@pytest.fixture
def tiny():
    """Settings, model and optimisers of the tiny model."""
    made = settings.resolve("pixworld-tiny", "-", TINY)
    torch.manual_seed(0)
    model = made.method.build()
    return made, model, optimisers.make_optimisers(model, made.train)


def log_of(run):
    records = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    return [{k: v for k, v in r.items() if k not in TIMING} for r in records]


def state_of(run):
    """Every tensor of a run's latest checkpoint, and its step."""
    made = settings.load_settings(run)
    model = made.method.build()
    ema = {k: torch.zeros_like(v) for k, v in model.state_dict().items()}
    state = checkpoints.training_state(model, ema, optimisers.make_optimisers(model, made.train))
    step = checkpoints.load(checkpoints.latest(run), state)
    return step, tensors(state)


def tensors(state, prefix=""):
    if torch.is_tensor(state):
        return {prefix: state}
    return {k: v for name, part in state.items() for k, v in tensors(part, f"{prefix}/{name}").items()}


def test_a_run_stopped_by_sigterm_goes_on_bit_for_bit(bank_folder, tmp_path, monkeypatch):
    """20 steps straight equal 10, a signal to a process of its own, and the rest."""
    monkeypatch.setattr(loop, "validation_scenes", lambda source: [source.views(39)])
    straight, broken = tmp_path / "straight", tmp_path / "broken"
    args = ["--preset", "pixworld-tiny", "--data", bank_folder, "--out", broken, "--steps", 20, "--set", *TINY]
    code = "import sys, tyro; from backend.train import train; tyro.cli(train, args=sys.argv[1:])"
    env = os.environ | {"OMP_NUM_THREADS": str(torch.get_num_threads())}
    process = subprocess.Popen([sys.executable, "-c", code, *map(str, args)], env=env, cwd=Path(__file__).parents[1])
    log = broken / "log.jsonl"
    while process.poll() is None and not (log.exists() and len(log.read_text().splitlines()) >= 10):
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    assert process.wait(30) == 128 + signal.SIGTERM
    stopped, _ = state_of(broken)
    assert 10 <= stopped < 20 and stopped == log_of(broken)[-1]["step"]

    # what a killed process may leave: a checkpoint that is not whole, records past the checkpoint, half a record
    (broken / "checkpoints" / ".step-0000015").mkdir()
    log.write_text(log.read_text() + '{"step": 19, "recon": 1}\n{"step": 2')
    tyro.cli(command, args=[*map(str, args), "--resume"])
    loop.train("pixworld-tiny", str(bank_folder), straight, steps=20, overrides=TINY)

    (a_step, a), (b_step, b) = state_of(straight), state_of(broken)
    assert a_step == b_step == 20
    assert a.keys() == b.keys() and len({name.split("/")[1] for name in a}) == 3
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert log_of(straight) == log_of(broken) and [r["step"] for r in log_of(straight)] == list(range(1, 21))

    assert {"psnr_4", "gain_4", "psnr_2", "gain_2"} <= log_of(straight)[-1].keys()
    assert (straight / "sheets" / "000020.png").stat().st_size > 1000
    assert list((straight / "tensorboard").glob("events.*"))
    assert sorted(f.name for f in (straight / "checkpoints").iterdir()) == ["latest", "step-0000015", "step-0000020"]
    ema = load_checkpoint(straight / "weights")[0].state_dict()
    assert all(torch.equal(a[f"/ema/{name}"], x) for name, x in ema.items())

    with pytest.raises(InputError, match=r"steps = 20.*change it to 30"):
        loop.train("pixworld-tiny", str(bank_folder), broken, steps=30, resume=True)
    with pytest.raises(InputError, match=r"recipe.hints = 0.8"):
        loop.train("pixworld-tiny", str(bank_folder), broken, resume=True, overrides=["recipe.hints=0.1"])
    with pytest.raises(InputError, match="already holds a run"):
        loop.train("pixworld-tiny", str(bank_folder), broken)


def test_training_lowers_the_loss_of_a_batch(tiny, bank_folder):
    made, model, moments = tiny
    run = replace(made.train, steps=1000, batch=4, warmup=0)
    views = training_batch(bank_module.Bank(bank_folder), 4, 0, 3, 8)
    # the same step again and again is the same split and noise
    history = [loop.train_step(model, moments, views, run, 3) for _ in range(25)]
    losses = [sum(v for k, v in record.items() if k != "grad_norm") for record in history]
    assert losses[-1] < 0.8 * losses[0]


def test_recomputed_blocks_have_the_same_gradients_for_less_memory(tiny, bank_folder):
    _, model, _ = tiny
    views = training_batch(bank_module.Bank(bank_folder), 2, 0, 3, 8)
    costs, grads = [], []
    generator = partial(loop.step_draws, TrainConfig())
    for recompute in ("off", "blocks"):
        run = TrainConfig(gradient_checkpointing=recompute)
        costs.append(memory.measure(model, run, lambda step, n: views, lambda step: generator(0), ALONE))
        assert all(p.grad is None for p in model.parameters())
        sum(model.losses(views, "model", generator(0)).values()).backward()
        grads.append({n: p.grad for n, p in model.named_parameters() if p.grad is not None})
        model.zero_grad()
        memory.recompute_blocks(model)
    assert grads[0].keys() == grads[1].keys()
    assert all(torch.equal(grads[0][n], grads[1][n]) for n in grads[0])
    assert costs[1].fixed_bytes + costs[1].scene_bytes < 0.8 * (costs[0].fixed_bytes + costs[0].scene_bytes)
    assert costs[1].flops == costs[0].flops > 0


def test_cost_is_what_arithmetic_says(tiny):
    """One linear layer: 2 n³ forward, twice that backward; inputs are saved, and nothing for the weights."""

    class Line(Method):
        def __init__(self):
            super().__init__()
            self.linear = torch.nn.Linear(64, 32, bias=False)

        def losses(self, views, group, draws):
            x = torch.ones(len(views.images), 64, requires_grad=True)
            return {"mean": self.linear(x).sum()}

    def batch(step, n):
        return Views(torch.zeros(n, 1, 3, 8, 8), Cameras(torch.zeros(n, 1, 4, 4), torch.zeros(n, 1, 3, 3), 8, 8))

    cost = memory.measure(Line(), TrainConfig(), batch, lambda step: Draws.seeded(0), ALONE)
    assert cost == memory.Cost(3.0 * 2 * 64 * 32, 4 * 64, 0)


def test_running_out_of_memory_is_explained():
    run = TrainConfig(batch=8)
    for error in (torch.OutOfMemoryError("CUDA ran out"), RuntimeError("DefaultCPUAllocator: can't allocate memory")):
        explained = memory.running_out_explained(run, ALONE)
        with pytest.raises(InputError, match=r"batch=4.*gradient_checkpointing=blocks"), explained:
            raise error
    with pytest.raises(RuntimeError, match="shape"), memory.running_out_explained(run, ALONE):
        raise RuntimeError("shape")
    assert "batch=4" in memory.memory_line({"weights": 10**15}, run, ALONE)


def test_settings_reach_every_field_as_its_type():
    made = settings.resolve(
        "pixworld-tiny", "-", ["batch=8", "recipe.generative=0.2", 'recipe.contexts={"3": 1}', "ema=1", "compile=on",
                                "recipe.hint_counts=[2,9]"], steps=7,
    )  # fmt: skip
    assert (made.train.steps, made.train.batch, made.train.ema, made.train.compile) == (7, 8, 1.0, "on")
    assert (made.method.recipe.generative, made.method.recipe.contexts) == (0.2, {3: 1.0})
    assert made.method.recipe.hint_counts == (2, 9)
    assert PRESETS["pixworld-tiny"]().recipe.generative != 0.2  # the preset itself is as before
    for wrong, said in {
        "batch": "field=value",
        "batch=0": ">= 1",
        "batch=many": "int",
        "recipe.generativ=0.1": "recipe.generative",
        "generative=0.1": "recipe.generative",
        "recipe.hint_counts=[1": "--set",
        "optimiser=sgd": "muon",
    }.items():
        with pytest.raises(InputError, match=said):
            settings.resolve("pixworld-tiny", "-", [wrong])


def test_settings_survive_their_file(tmp_path):
    for preset in PRESETS:
        made = settings.resolve(preset, "data", ["batch=3"])
        settings.save_settings(tmp_path, made)
        assert settings.load_settings(tmp_path) == made
        fields = settings.flat(made.train).keys() & settings.flat(made.method).keys()
        assert not fields, f"--set could mean two things: {fields}"
    assert set(RUNS) <= set(PRESETS)


def test_weights_of_another_shape_are_named(tiny, tmp_path):
    made, model, _ = tiny
    model = replace(made.method, depth=3).build()
    given = replace(made.method, text_width=64).build()
    save_checkpoint(tmp_path / "given", made.method, given.state_dict(), bits=8)
    said = checkpoints.start_from(model, tmp_path / "given")
    assert "fresh: blocks.2" in said and "another shape: text.weight, words.empty" in said and "not used" not in said
    weight = "blocks.1.text_kv.weight"
    own, theirs = model.state_dict()[weight], given.state_dict()[weight]
    assert torch.allclose(own, theirs, atol=theirs.abs().max().item() / 100) and not torch.equal(own, theirs)
    with pytest.raises(InputError, match=r"model\.safetensors"):
        checkpoints.start_from(model, tmp_path)
    save_file({"x": torch.ones(1)}, tmp_path / "model.safetensors")
    with pytest.raises(InputError, match="no tensor"):
        checkpoints.start_from(model, tmp_path)
    assert load_file(tmp_path / "model.safetensors").keys() == {"x"}


def test_a_dry_run_tells_and_writes_nothing(bank_folder, tmp_path, capsys):
    args = ["--preset", "pixworld-tiny", "--data", str(bank_folder), "--out", str(tmp_path / "run"), "--dry-run"]
    tyro.cli(command, args=[*args, "--set", *TINY])
    said = capsys.readouterr().out
    assert "recipe.generative" in said and "memory: about" in said and "samples/s" in said and "MFU" in said
    assert not (tmp_path / "run").exists()


def test_what_does_not_fit_is_refused(bank_folder, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(memory, "available", lambda device: 1000)
    dry_run.dry_run("pixworld-tiny", str(bank_folder), overrides=TINY)
    said = capsys.readouterr().out
    assert "more devices" in said and "not timed" in said
    with pytest.raises(InputError, match="more devices"):
        loop.train("pixworld-tiny", str(bank_folder), tmp_path / "run", overrides=TINY)


def test_wrong_calls_are_named(bank_folder, tmp_path):
    with pytest.raises(InputError, match="no preset"):
        loop.train("nonsense", str(bank_folder), tmp_path / "run")
    with pytest.raises(InputError, match="no checkpoint to resume"):
        loop.train("pixworld-tiny", str(bank_folder), tmp_path / "run", resume=True)
    with pytest.raises(InputError):
        loop.train("pixworld-tiny", str(tmp_path / "absent"), tmp_path / "run", overrides=TINY)


def test_a_checkpoint_of_another_model_is_refused(tiny, tmp_path):
    made, model, moments = tiny
    state = checkpoints.training_state(model, model.state_dict(), moments)
    checkpoints.save(tmp_path, 3, state, 2, ALONE)
    other = replace(made.method, width=64).build()
    state = checkpoints.training_state(other, other.state_dict(), optimisers.make_optimisers(other, made.train))
    with pytest.raises(InputError, match="cannot be resumed from"):
        checkpoints.load(checkpoints.latest(tmp_path), state)


def test_the_newest_checkpoints_are_kept(tiny, tmp_path):
    _, model, moments = tiny
    state = checkpoints.training_state(model, model.state_dict(), moments)
    for step in (1, 2, 9, 3):  # 9 never became latest: the process was killed, and went on from 2
        checkpoints.save(tmp_path, step, state, 2, ALONE)
    assert sorted(f.name for f in (tmp_path / "checkpoints").iterdir()) == ["latest", "step-0000002", "step-0000003"]


def test_the_rate_rises_stays_and_falls():
    run = TrainConfig(steps=100, warmup=10, decay=0.5, final_lr=0.1)
    rates = [optimisers.schedule(step, run) for step in (0, 4, 9, 50, 75, 100)]
    assert rates == pytest.approx([0.1, 0.5, 1, 1, 0.55, 0.1])


def test_a_gradient_that_is_not_finite_changes_nothing(tiny, bank_folder):
    made, model, moments = tiny
    views = training_batch(bank_module.Bank(bank_folder), 2, 0, 3, 8)
    before = tensors(checkpoints.training_state(model, {}, moments))
    before = {name: x.clone() for name, x in before.items()}
    bad = replace(views, images=views.images * torch.nan)
    loop.train_step(model, moments, bad, made.train, 0)
    after = tensors(checkpoints.training_state(model, {}, moments))
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_speed_counts_scenes_and_arithmetic(monkeypatch):
    monkeypatch.setattr(tracking, "peak_flops", lambda device: 200.0)
    monkeypatch.setattr(tracking.time, "perf_counter", iter([0.0, 2.0, 4.0]).__next__)
    speed = tracking.Speed(50.0, ALONE)
    speed.count(4)
    assert speed.count(4) == {"samples_per_s": 2.0, "tflops": 1e-10, "mfu": 0.5}


def test_batches_come_in_order_and_errors_with_them():
    def batch(step):
        if step == 7:
            raise InputError("broken")
        time.sleep(0.02 if step % 2 else 0)  # the later one may be read first
        return Views(torch.full((1, 3, 1, 1), float(step)), Cameras(torch.zeros(1, 4, 4), torch.zeros(1, 3, 3), 1, 1))

    coming = ahead(batch, range(3, 9), 2)
    assert [next(coming).images[0, 0, 0, 0].item() for _ in range(4)] == [3, 4, 5, 6]
    with pytest.raises(InputError, match="broken"):
        next(coming)


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


def test_a_run_of_another_version_is_not_resumed_with_other_settings(tmp_path):
    made = settings.resolve("pixworld-tiny", "procedural", ["steps=2"])
    settings.save_settings(tmp_path, made)
    assert settings.load_settings(tmp_path) == made
    written = json.loads((tmp_path / "run.json").read_text())
    written["method"]["recipe"]["dense_hints"] = written["method"]["recipe"].pop("stereo")
    (tmp_path / "run.json").write_text(json.dumps(written))
    with pytest.raises(InputError, match=r"another version: it differs in method.recipe.dense_hints, method.recipe.st"):
        settings.load_settings(tmp_path)
