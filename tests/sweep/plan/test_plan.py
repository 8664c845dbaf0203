"""Plans: which trials a grid makes, what identifies them, and plan.json."""

import dataclasses
import json
import re
from pathlib import Path

import pytest

from famba_core.config import DataConfig, FusionSchedule
from famba_core.fusion.schedule import spread
from sweep.errors import UserError
from sweep.grid.objectives import Constraint
from sweep.grid.resources import Pool
from sweep.grid.search import EarlyStop, Search
from sweep.grid.spec import load_spec
from sweep.plan.build import make_plan
from sweep.plan.plan_file import plan_from_json, plan_to_json

GRID = """
study: a_study
reference_patches: 196
baselines: [{strategy: none}]
cases:
  - {strategy: upper, start_layer: 6, r: 9}
  - {strategy: all, r: 7, order: raster}
seeds: [0, 1]
profiles:
  laptop:
    {backbone: [vim_nano, vim_nano_small], dataset: digits, image_size: 8, patch_size: 1, epochs: 12, warmup_epochs: 1}
  photos: {dataset: cifar100}
"""


@pytest.fixture
def plan(tmp_path):
    """Plans a grid given as text, in its profile `laptop` unless told otherwise."""

    def load_and_plan(text=GRID, profile="laptop", **options):
        path = tmp_path / "grid.yaml"
        path.write_text(text)
        return make_plan(load_spec(path), profile, **options)

    return load_and_plan


def ids(plan):
    """Return the trials' ids in the order of the grid's cases."""
    return list(dict.fromkeys(case.trial_id for case in plan.cases))


def test_cases_of_one_seed_and_backbone_stand_together_with_the_baseline_first(plan):
    made = plan()
    assert [(case.seed, case.backbone, case.strategy) for case in made.cases] == [
        (seed, backbone, strategy)
        for seed in (0, 1) for backbone in ("vim_nano", "vim_nano_small") for strategy in ("none", "upper", "all")
    ]  # fmt: skip
    assert [case.baseline for case in made.cases] == [True, False, False] * 4


def test_of_each_seed_the_baselines_run_first_then_the_longest_trials(plan):
    made = plan(
        GRID.replace("[{strategy: none}]", "[{strategy: all, r: 6}]").replace(
            "cases:", "cases:\n  - {strategy: upper, start_layer: 14, r: 9}\n  - {strategy: none}"
        )
    )
    order = [(trial.train.seed, trial.model.backbone, made.first_cases[trial.trial_id].label) for trial in made.trials]
    small, nano = "vim_nano_small", "vim_nano"  # the wider one takes longer
    labels = ("none", "upper from layer 14, r 9", "upper from layer 6, r 9", "all, r 7, raster")
    assert order[:2] == [(0, small, "all, r 6"), (0, nano, "all, r 6")]
    assert [label for _, backbone, label in order[2:10] if backbone == small] == list(labels)
    assert [label for _, backbone, label in order[2:10] if backbone == nano] == list(labels)
    assert order[2] == (0, small, "none")
    assert order[10:] == [(1, *rest) for _, *rest in order[:10]]
    assert sorted(ids(made)) == sorted(trial.trial_id for trial in made.trials)


def test_a_trial_holds_all_that_a_worker_needs(plan):
    made = plan()
    (trial,) = (trial for trial in made.trials if trial.trial_id == ids(made)[1])
    assert (trial.study, trial.profile, trial.cpus_per_trial, trial.gpus_per_trial) == ("a_study", "laptop", 1, 0.0)
    assert trial.model.num_classes == 10
    assert trial.model.num_tokens == 65
    labels = plan().first_cases[trial.trial_id].labels
    assert (labels.strategy, labels.start_layer, labels.r) == ("upper", 6, 9)  # the paper's
    assert trial.fusion.schedule == (0,) * 5 + (2,) + (3,) * 18  # 171 * 64 / 196 -> 56 over 19 layers


def test_ids_are_plain_file_names_and_distinct(plan):
    made = ids(plan())
    assert len(set(made)) == 12
    assert all(re.fullmatch(r"[a-z0-9_-]{10,80}", trial_id) for trial_id in made)
    assert re.fullmatch(r"vim_nano-none-seed0-[0-9a-f]{10}", made[0])
    assert re.fullmatch(r"vim_nano-6to24-56tokens-seed0-[0-9a-f]{10}", made[1])


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("study: a_study", "study: another"),
        ("laptop:", "laptop: {}\n  renamed:"),
        ("patch_size: 1", "patch_size: 1, cls_position: head"),  # a default, spelled out
        ("strategy: upper, start_layer: 6, r: 9", "strategy: upper, start_layer: 6, r: 9, weighting: mean"),
    ],
)
def test_names_are_no_part_of_an_id(plan, old, new):
    profile = "renamed" if "renamed" in new else "laptop"
    assert ids(plan(GRID.replace(old, new), profile)) == ids(plan())


@pytest.mark.parametrize(
    "change",
    ["epochs: 13", "epochs: 12, lr: 1e-4", "epochs: 12, mixup: 0", "epochs: 12, train_images: 500",
     "epochs: 12, cls_position: middle", "epochs: 12, precision: bf16", "epochs: 12, cpus_per_trial: 2",
     "epochs: 12, gpus_per_trial: 1"],
)  # fmt: skip
def test_what_changes_the_result_changes_every_id(plan, change):
    assert not set(ids(plan(GRID.replace("epochs: 12", change)))) & set(ids(plan()))


def test_order_and_weighting_are_part_of_an_id_only_where_something_fuses(plan):
    concat = ids(plan(GRID))
    raster = ids(plan(GRID.replace("start_layer: 6, r: 9", "start_layer: 6, r: 9, order: raster")))
    assert [a == b for a, b in zip(concat, raster, strict=True)] == [True, False, True] * 4
    shared = plan(GRID.replace("epochs: 12", "epochs: 12, gpus_per_trial: 0.5"))
    alone = plan(GRID.replace("epochs: 12", "epochs: 12, gpus_per_trial: 1"))
    assert ids(shared) == ids(alone), "a share of the same kind of device gives the same numbers"
    nothing = plan(GRID.replace("r: 9", "r: 0, order: raster"))
    assert nothing.cases[0].trial_id == nothing.cases[1].trial_id


def test_the_folder_of_the_data_is_no_part_of_an_id(plan, tmp_path):
    moved = plan(data_dir=str(tmp_path))
    assert ids(moved) == ids(plan())
    assert {trial.data.data_dir for trial in moved.trials} == {str(tmp_path)}


def test_workers_find_the_data_wherever_they_run(plan, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    in_profile = GRID.replace("epochs: 12", "epochs: 12, data_dir: images")
    for made in (plan(data_dir="images"), plan(in_profile)):
        assert made.trials[0].data.data_dir == str(tmp_path / "images")


def test_an_id_does_not_depend_on_the_other_cases(plan):
    # Both remove 3 tokens in every layer, so they share a trial, and either may be the first to ask for it.
    one, other = "{strategy: upper, start_layer: 1, r: 3}", "{strategy: all, r: 3}"
    text = "study: x\ncases: [{}]\nprofiles: {{laptop: {{dataset: digits}}}}\n"
    shared = plan(text.format(f"{one}, {other}"))
    assert len(shared.trials) == 1
    assert [case.label for case in shared.cases] == ["upper from layer 1, r 3", "all, r 3"]
    assert shared.first_cases[shared.trials[0].trial_id].strategy == "upper"
    assert ids(plan(text.format(other))) == ids(shared)


def test_ids_stay_what_they_are(plan):
    """Stored results are found by these. Whoever changes one on purpose makes every study train again."""
    assert ids(plan())[:3] == [
        "vim_nano-none-seed0-0469ab93f7",
        "vim_nano-6to24-56tokens-seed0-5299496394",
        "vim_nano-1to24-55tokens-seed0-c8db56fbb6",
    ]


SEARCH = """
study: a_study
reference_patches: 196
search: {kind: optuna, trials: 9, early_stop: asha}
constraints: [peak_memory_mib <= 100]
baselines: [{strategy: none}, {strategy: all, r: 7}]
space:
  {strategy: [all, interleaved, upper], start_layer: {from: 1, to: 24}, r: {from: 1, to: 15}, order: [concat, raster]}
pool: {max_concurrent: 2, gpus_per_trial: 0.5, accelerator_type: H100}
profiles:
  laptop: {backbone: vim_nano, dataset: digits, image_size: 12, patch_size: 2}
  tiny: {backbone: vim_nano, dataset: digits, image_size: 16}
  gpu: {dataset: digits, gpus_per_trial: 1}
"""


def test_a_searched_plan_holds_every_candidate_that_the_profiles_images_allow(plan):
    places = {("all", None): range(1, 25), ("interleaved", None): range(2, 25, 2)}
    places |= {("upper", start): range(start, 25) for start in range(1, 25)}
    counts = []
    for profile, tokens in (("gpu", 197), ("laptop", 37), ("tiny", 17)):
        made = plan(SEARCH, profile)
        assert [case.strategy for case in made.cases if case.baseline] == ["none", "all"]
        expected = {("none", None, None, "concat")}
        for (strategy, start), layers in places.items():
            for r in range(1, 16):
                at_196 = spread(len(layers) * r, layers, 24)
                here = spread((2 * len(layers) * r * (tokens - 1) + 196) // 392, layers, 24)
                if first_overdrawn(at_196, 197) is None and first_overdrawn(here, tokens) is None:
                    expected |= {(strategy, start, r, order) for order in ("concat", "raster")}
        labels = [(case.strategy, case.start_layer, case.r, case.order) for case in made.cases]
        assert set(labels) == expected
        assert len(labels) == len(expected)
        counts.append(len(labels))
    assert counts[2] < counts[1] <= counts[0]


def first_overdrawn(schedule, num_tokens):
    """The first layer asked for more than half of the tokens that may fuse."""
    for layer, r in enumerate(schedule, start=1):
        if 2 * r > num_tokens - 1:
            return layer
        num_tokens -= r
    return None


def test_baselines_never_stop_early(plan):
    made = plan(SEARCH)
    fixed = {case.trial_id for case in made.cases if case.baseline}
    assert {trial.trial_id for trial in made.trials if trial.early_stop is None} == fixed
    assert {trial.early_stop for trial in made.trials if trial.trial_id not in fixed} == {EarlyStop()}
    # upper from layer 1 with r 7 is the baseline by another name
    (twin,) = (case for case in made.cases if (case.start_layer, case.r, case.order) == (1, 7, "concat"))
    assert twin.trial_id == made.trials[1].trial_id


def test_the_search_and_the_pool_are_part_of_the_plan(plan):
    made = plan(SEARCH)
    assert made.search == Search(trials=9)
    assert made.constraints == (Constraint(column="peak_memory_mib", relation="<=", bound=100.0),)
    assert made.pool == Pool(max_concurrent=2)
    assert {(trial.gpus_per_trial, trial.accelerator_type) for trial in made.trials} == {(0.0, None)}
    on_gpus = plan(SEARCH, "gpu", flags={"accelerator_type": "A100", "cpus_per_trial": 4})
    assert on_gpus.pool == Pool(max_concurrent=2, gpus_per_trial=0.5, accelerator_type="A100", cpus_per_trial=4)
    assert {(t.gpus_per_trial, t.accelerator_type, t.cpus_per_trial) for t in on_gpus.trials} == {(0.5, "A100", 4)}
    packed = plan(SEARCH, "gpu", flags={"gpus_per_trial": "pack", "grace_s": 3.0})
    for each in (made, on_gpus, packed):
        assert plan_from_json(plan_to_json(each), Path("study")) == each


def test_where_and_how_long_a_trial_runs_is_no_part_of_its_id(plan):
    found = ids(plan(SEARCH, "gpu"))
    elsewhere = SEARCH.replace(", early_stop: asha", "").replace("H100", "A100").replace("0.5", "pack")
    assert ids(plan(elsewhere, "gpu")) == found
    assert not set(ids(plan(SEARCH, "gpu", flags={"gpus_per_trial": 0.0}))) & set(found)  # the CPU sums otherwise


def test_an_unknown_profile_lists_those_there_are(plan):
    with pytest.raises(UserError, match=r"'labtop' is not known; did you mean laptop\? choose from laptop, photos"):
        plan(profile="labtop")


def test_a_missing_data_set_is_a_problem_of_the_chosen_profile_alone(plan, tmp_path):
    with pytest.raises(UserError) as error:
        plan(profile="photos", data_dir=str(tmp_path / "nowhere"))
    (problem,) = error.value.problems
    assert problem.where.endswith("grid.yaml")
    assert problem.key == "profiles.photos.data_dir"
    assert "cifar100 was not found" in problem.sentence
    assert str(tmp_path / "nowhere") in problem.sentence
    assert plan(data_dir=str(tmp_path / "nowhere")).trials  # digits come with scikit-learn


def test_the_whole_data_set_is_one_trial_whichever_way_it_is_said(plan):
    whole, named, part = (
        plan(GRID.replace("epochs: 12", f"epochs: 12{images}")).trials[0]
        for images in ("", ", train_images: 1437", ", train_images: 1436")
    )
    assert whole.trial_id == named.trial_id != part.trial_id
    assert named.data.train_images is None


def test_more_training_images_than_there_are(plan):
    with pytest.raises(UserError, match=r"profiles.laptop.train_images: must be at most 1437, .* not 5000"):
        plan(GRID.replace("epochs: 12", "epochs: 12, train_images: 5000"))


def test_plan_json_gives_the_plan_back(plan):
    made = plan()
    assert plan_from_json(plan_to_json(made), Path("study")) == made
    unusual = dataclasses.replace(
        made.trials[0],
        fusion=FusionSchedule(schedule=(0,) * 24, order="raster", weighting="size"),
        data=DataConfig(dataset="imagefolder", data_dir="/Bilder/größer", train_images=7),
        gpus_per_trial=0.25,
    )
    made = dataclasses.replace(made, trials=(unusual, *made.trials[1:]), paper_table=2, objectives={"top5_pct": "max"})
    assert plan_from_json(plan_to_json(made), Path("study")) == made


def damaged(change):
    """A change to the decoded plan.json, as a change to its text, by somebody who drops the checksum."""

    def apply(text):
        document = json.loads(text)
        del document["checksum"]
        change(document)
        return json.dumps(document)

    return apply


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda text: text[: len(text) // 2], "Invalid JSON"),
        (lambda text: "", "Invalid JSON"),
        (lambda text: "[]", "object"),
        (lambda text: text.replace('"seed": 0', '"seed": 1', 1), "not as it was written"),
        (damaged(lambda plan: plan.pop("cases")), "cases"),
        (damaged(lambda plan: plan["trials"][0]["train"].update(epochs="12")), "trials.0.train.epochs"),
        (damaged(lambda plan: plan["trials"][0]["train"].update(epochs=0)), "must be at least 1, not 0"),
        (damaged(lambda plan: plan["trials"][0]["fusion"].update(schedule=[1.5])), "trials.0.fusion.schedule"),
        (damaged(lambda plan: plan["trials"].pop()), "cases without a trial"),
    ],
)
def test_a_damaged_plan_json_is_refused(plan, damage, said):
    text = plan_to_json(plan())
    with pytest.raises(UserError, match=r"study: plan\.json is damaged") as error:
        plan_from_json(damage(text), Path("study"))
    assert said in str(error.value)
