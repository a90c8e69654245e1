"""The presets' sizes, on the meta device."""

import pytest
import torch

from pixworld.methods import PRESETS
from pixworld.methods.pixworld import SIZES

# Table 6 of the paper, millions of parameters.
PAPER = {"tokenization and conditioning": 8.25, "trunk": 1007.6, "heads": 27.28, "total": 1044.0}


def parameters(preset: str) -> dict[str, float]:
    with torch.device("meta"):
        model = PRESETS[preset]().build()
    out = dict.fromkeys(PAPER, 0.0)
    for name, p in model.named_parameters():
        part = {"blocks": "trunk", "heads": "heads"}.get(name.split(".")[0], "tokenization and conditioning")
        out[part] += p.numel() / 1e6
    return out | {"total": sum(out.values())}


@pytest.mark.parametrize("part", PAPER)
def test_the_paper_preset_has_the_papers_parameters(part):
    assert parameters("pixworld-paper")[part] == pytest.approx(PAPER[part], rel=0.005)


def test_the_paper_preset_has_35_and_1_channels_a_pixel():
    with torch.device("meta"):
        model = PRESETS["pixworld-paper"]().build()
    assert len(model.blocks) == 24
    for head in model.heads.values():
        assert (head.gaussian.out_features, head.depth.out_features) == (35 * 16**2, 16**2)


@pytest.mark.parametrize(
    ("preset", "millions"), [("pixworld-tiny", 3.75), ("pixworld-small", 22.5), ("pixworld-base", 276.9)]
)
def test_the_other_presets_are_as_large_as_said(preset, millions):
    assert parameters(preset)["total"] == pytest.approx(millions, rel=0.01)
    assert preset.removeprefix("pixworld-") in SIZES
