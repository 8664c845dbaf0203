"""The strategies and sizes of the benchmark, compared with the paper's tables and the models."""

import pytest

from famba_core import ModelConfig
from famba_core.backbones import BACKBONES
from famba_core.bench.settings import backbone_of_depth, fusion_cases, model_config, token_ratio
from famba_core.fusion.schedule import token_schedule
from sweep.report.published import paper_table


@pytest.mark.parametrize("backbone", ["vim_tiny", "vim_small"])
def test_cases_have_the_strategies_and_ratios_of_the_paper(backbone):
    table = paper_table(1).query(f"backbone == '{backbone}'").reset_index(drop=True)
    cases = fusion_cases(model_config(backbone))
    assert [case.fusion.strategy for case in cases] == list(table["strategy"])
    assert [case.fusion.r or 0 for case in cases] == list(table["r"])
    assert [case.paper_time_ratio for case in cases] == pytest.approx(list(table["train_time_ratio"]))
    assert [case.paper_memory_ratio for case in cases] == pytest.approx(list(table["peak_memory_ratio"]))
    removed = [sum(token_schedule(case.fusion, 24, 197)) for case in cases]
    assert removed == [0, 168, 168, 171, 171]


def test_upper_fusion_has_the_token_ratio_of_the_paper():
    model = model_config("vim_tiny")
    upper = fusion_cases(model)[-1]
    assert token_ratio(model, upper.fusion) == pytest.approx(0.638, abs=5e-4)
    assert token_ratio(model, fusion_cases(model)[0].fusion) == 1


def test_smaller_images_scale_r_and_have_no_published_ratio():
    model = model_config("vim_nano")
    cases = fusion_cases(model)
    assert model.num_tokens == 65
    assert [case.fusion.r for case in cases] == [None, 2, 5, 3, 3]
    assert [case.name for case in cases] == ["none", "all r2", "interleaved r5", "lower 1-19 r3", "upper 6-24 r3"]
    assert all(case.paper_time_ratio is None for case in cases)


def test_other_backbones_have_no_published_ratio():
    cases = fusion_cases(ModelConfig(backbone="vim_base"))
    assert [case.fusion.r for case in cases] == [None, 7, 14, 9, 9]
    assert all(case.paper_memory_ratio is None for case in cases)


def test_backbone_of_other_depth_exists_in_the_context_only():
    with backbone_of_depth("vim_nano", 3) as name:
        assert BACKBONES[name].depth == 3
        assert ModelConfig(backbone=name, image_size=32).sizes.width == BACKBONES["vim_nano"].width
    assert name not in BACKBONES
    with backbone_of_depth("vim_nano", 24) as name:
        assert name == "vim_nano"
    assert "vim_nano" in BACKBONES
