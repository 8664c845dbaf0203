"""Wrong grids: every problem is reported, each with its key, the value found and the valid choices."""

import textwrap

import pytest

from sweep.errors import UserError
from sweep.grid.spec import load_spec

GOOD = """
study: a_study
reference_patches: 196
baselines: [{strategy: none}]
cases:
  - {strategy: upper, start_layer: 6, r: 9}
profiles:
  laptop: {backbone: vim_nano, dataset: digits, image_size: 8, patch_size: 1, epochs: 12}
"""


@pytest.fixture
def problems(tmp_path):
    """Everything that is wrong with a grid, as {key: sentence}."""

    def load(text):
        path = tmp_path / "grid.yaml"
        path.write_text(textwrap.dedent(text))
        with pytest.raises(UserError) as error:
            load_spec(path)
        found = error.value.problems
        assert all(problem.where == str(path) for problem in found)
        assert len({problem.key for problem in found}) == len(found), "one sentence for each key"
        return {problem.key: problem.sentence for problem in found}

    return load


def with_cases(*cases, rest=""):
    listed = "".join(f"  - {case}\n" for case in cases)
    return f"study: x\ncases:\n{listed}profiles: {{laptop: {{dataset: digits}}}}\n{rest}"


def with_space(space, rest=""):
    return f"study: x\nreference_patches: 196\nspace: {space}\nprofiles: {{laptop: {{dataset: digits}}}}\n{rest}"


def test_every_problem_of_the_file_is_reported_at_once(problems):
    found = problems("""
        study: ../up
        paper_tabel: 2
        reference_patches: 196
        seeds: [0, -1]
        objectives: {top1_best: max, train_time_s: least}
        baselines: [{strategy: none, r: 3}]
        cases:
          - {strategy: uper, start_layer: 3, r: 3}
          - {strategy: upper, start_layer: 25, r: 3}
          - {strategy: upper, start_layer: 6, r: 10}
          - {strategy: upper, start_layer: "6", r: 1}
          - {strategy: all, r: 7}
          - {r: 7, strategy: all}
        profiles:
          paper: {epoch: 3, batch_size: 0, lr: fast, cpus_per_trial: 0}
          laptop: {backbone: vim_big, dataset: mnist}
    """)
    assert "'../up' is not a plain name" in found["study"]
    assert (
        "did you mean paper_table? choose from study, paper_table, reference_patches, baselines" in found["paper_tabel"]
    )
    assert found["seeds"] == "must be at least 0, not -1"
    assert "did you mean top1_best_pct?" in found["objectives.top1_best"]
    assert found["objectives.train_time_s"] == "must be max or min, not 'least'"
    assert found["baselines[0].r"] == "strategy 'none' does not take r (got 3)"
    assert (
        found["cases[0].strategy"]
        == "'uper' is not a strategy; did you mean upper? choose from none, all, interleaved, lower, upper"
    )
    assert found["cases[1].start_layer"] == "must be a layer from 1 to 24, not 25"
    assert "layer 24 would remove 10 of its 17 tokens" in found["cases[2].r"]
    assert "largest r is 9" in found["cases[2].r"]
    assert found["cases[3].start_layer"] == "must be a whole number, not '6'"
    assert found["cases[5]"] == "repeats cases[4]: all, r 7"
    assert "did you mean epochs? choose from backbone, image_size" in found["profiles.paper.epoch"]
    assert found["profiles.paper.lr"] == "must be a number, not 'fast'"
    assert found["profiles.paper.cpus_per_trial"] == "must be from 1 to 1024, not 0"
    assert "choose from vim_tiny" in found["profiles.laptop.backbone"]
    assert found["profiles.laptop.dataset"] == "must be digits, cifar100 or imagefolder, not 'mnist'"
    # batch_size is checked only once the other values have the right type
    assert len(found) == 16


@pytest.mark.parametrize("name", ["../up", "a/b", "-a", ".a", "a b", "''", "é", "a\\nb", '"a\\n"'])
def test_study_and_profile_names_must_be_plain(problems, name):
    assert "is not a plain name" in problems(GOOD.replace("a_study", name))["study"]


def test_names_have_at_most_100_characters(problems):
    said = problems(GOOD.replace("a_study", 101 * "a").replace("laptop", 300 * "b"))
    assert said["study"].startswith("'aaaaaaaaaaaa...aaaaaaaaaaaaa' is not a plain name: at most 100 letters, digits")
    assert set(said) == {"study", "profiles"}


def test_profile_names_must_be_plain_too(problems):
    assert "null is not a plain name" in problems(GOOD.replace("laptop:", "null:"))["profiles"]
    assert "'my laptop' is not a plain name" in problems(GOOD.replace("laptop:", "my laptop:"))["profiles"]


@pytest.mark.parametrize(
    ("entry", "sentence"),
    [
        ("epochs: '3'", "must be a whole number, not '3'"),
        ("epochs: 3.0", "must be a whole number, not 3.0"),
        ("epochs: true", "must be a whole number, not true"),
        ("epochs: ", "must be a whole number, but is empty"),
        ("epochs: 1:30", "must be a whole number, not '1:30'"),
        ("epochs: 010", "must be a whole number, not '010'"),
        ("epochs: =", "must be a whole number, not '='"),
        ("epochs: 99999999999999999999999", "must be a whole number that fits in 64 bits, not 99999999999999999999999"),
        ("epochs: [3]", "must be a whole number, not [3]"),
        ("lr: .nan", "must be a finite number, not nan"),
        ("lr: '1e-3'", "must be a number, not '1e-3'"),
        ("flip: 1", "must be true or false, not 1"),
        ("data_dir: 3", "must be text, not 3"),
        ("precision: fp16", "must be float32, tf32 or bf16, not 'fp16'"),
        ("batch_size: 0", "must be at least 1, not 0"),
        ("warmup_epochs: -1", "must be at least 0, not -1"),
        ("gpus_per_trial: -1", "must be from 0 to 1, not -1"),
        ("gpus_per_trial: 1e-320", "must be 0 or at least 0.01, not"),
        ("cpus_per_trial: 0", "must be from 1 to 1024, not 0"),
        ("cpus_per_trial: 99999", "must be from 1 to 1024, not 99999"),
        ("backbone: []", "must list at least one backbone, each once, not []"),
        ("backbone: [vim_tiny, vim_tiny]", "must list at least one backbone, each once, not ['vim_tiny', 'vim_tiny']"),
        ("image_size: 100", "100 pixels do not divide into patches of 16"),
        ("num_classes: 10", "'num_classes' is not known"),
        ("seed: 1", "'seed' is not known"),
    ],
)
def test_wrong_values_in_a_profile(problems, entry, sentence):
    found = problems(with_cases("{strategy: all, r: 1}").replace("dataset: digits", entry))
    assert len(found) == 1
    assert found[f"profiles.laptop.{entry.split(':')[0]}"].startswith(sentence)


@pytest.mark.parametrize(
    ("case", "key", "sentence"),
    [
        ("{start_layer: 6, r: 9}", "strategy", "is required"),
        ("{strategy: upper, r: 9}", "start_layer", "strategy 'upper' needs a layer from 1 to 24"),
        ("{strategy: all, start_layer: 6, r: 7}", "start_layer", "strategy 'all' does not take start_layer (got 6)"),
        ("{strategy: all}", "r", "strategy 'all' needs r: tokens to remove in each fusing layer"),
        ("{strategy: all, r: -1}", "r", "must be at least 0, not -1"),
        ("{strategy: none, order: raster}", "order", "strategy 'none' does not take order (got raster)"),
        ("{strategy: all, r: 1, weighting: sum}", "weighting", "must be mean or size, not 'sum'"),
        ("{strategy: all, r: 1, schedule: [1]}", "schedule", "'schedule' is not known; choose from strategy"),
    ],
)
def test_wrong_values_in_a_case(problems, case, key, sentence):
    ((where, said),) = problems(with_cases(case)).items()
    assert where == f"cases[0].{key}"
    assert said.startswith(sentence)


def test_a_case_repeated_as_a_baseline_is_repeated(problems):
    found = problems(with_cases("{strategy: all, r: 1, order: concat}", rest="baselines: [{strategy: all, r: 1}]"))
    assert found == {"cases[0]": "repeats baselines[0]: all, r 1"}


def test_a_case_that_only_a_small_profile_clamps(problems):
    found = problems("""
        study: x
        reference_patches: 196
        cases: [{strategy: interleaved, r: 15}]
        profiles: {paper: {}, tiny: {backbone: vim_nano, image_size: 16}}
    """)
    assert found["cases[0]"].startswith("in profile tiny (17 tokens), interleaved, r 15: layer 24 would")
    assert "largest r is 14" in found["cases[0]"]


@pytest.mark.parametrize(
    ("space", "key", "sentence"),
    [
        ("{}", "space", "is empty"),
        ("{strategy: []}", "space.strategy", "lists no value"),
        ("{r: 7}", "space.strategy", "is required"),
        ("{strategy: upper, start_layer: {from: 9, to: 2}, r: 1}", "space.start_layer", "is empty: from 9 to 2"),
        ("{strategy: upper, start_layer: {from: 9}, r: 1}", "space.start_layer.to", "is required"),
        ("{strategy: upper, start_layer: {from: 1, to: 9, step: 0}, r: 1}", "space.start_layer.step", "must be at"),
        ("{strategy: upper, start_layer: {from: 1, to: 10000000000}, r: 1}", "space.start_layer", "from 1 to"),
        ("{strategy: upper, start_layer: [24, 25], r: 1}", "space.start_layer", "must be a layer from 1 to 24, not 25"),
        ("{strategy: [all], r: [1, two]}", "space.r[1]", "must be a whole number, not 'two'"),
        ("{strategy: all, r: 1, stop_layer: 3}", "space.stop_layer", "is taken by none of its strategies: all"),
        ("{strategy: [all, all], r: 1}", "space.strategy", "lists all more than once"),
        ("{strategy: [alll], r: 1}", "space.strategy", "'alll' is not a strategy"),
    ],
)  # fmt: skip
def test_wrong_spaces(problems, space, key, sentence):
    ((where, said),) = problems(with_space(space)).items()
    assert where == key
    assert said.startswith(sentence)


def test_a_grid_has_cases_or_a_space(problems):
    both = problems(with_cases("{strategy: all, r: 1}", rest="space: {strategy: none}"))
    assert both == {"space": "cannot stand with cases; keep one of the two"}
    assert "at least one case" in problems("study: x\nprofiles: {a: {}}")["cases"]
    assert "at least one case" in problems("study: x\ncases: []\nprofiles: {a: {}}")["cases"]
    assert problems("study: x\ncases:\nprofiles: {a: {}}") == {"cases": "must be a list, but is empty"}
    assert problems("study: x\nspace: 3\nprofiles: {a: {}}") == {"space": "must be a mapping, not 3"}


@pytest.mark.parametrize(
    ("budget", "key", "sentence"),
    [
        ("{rule: exact}", "budget.reduced_tokens", "is required"),
        ("{reduced_tokens: 168, rule: closest}", "budget.rule", "must be nearest or exact, not 'closest'"),
        ("{reduced_tokens: 0}", "budget.reduced_tokens", "must be at least 1, not 0"),
        ("{reduced_tokens: 168, tolerance: 0.01}", "budget.reduced_tokens", "upper from layer 6: with one r"),
        ("{reduced_tokens: 190, rule: exact}", "budget.reduced_tokens", "upper from layer 6: layer 24 would remove"),
        ("{reduced_tokens: many}", "budget.reduced_tokens", "must be a whole number, not 'many'"),
        ("{train_cost_ratio: 0.2}", "budget.train_cost_ratio", "upper from layer 6: the cost nearest to 0.2"),
        ("{train_cost_ratio: 1.5}", "budget.train_cost_ratio", "must be above 0 and below 1, not 1.5"),
        ("{train_cost_ratio: 0.7, reduced_tokens: 9}", "budget.train_cost_ratio", "cannot stand with reduced_tokens"),
    ],
)  # fmt: skip
def test_wrong_budgets_are_reported_without_an_echo_from_every_case(problems, budget, key, sentence):
    ((where, said),) = problems(with_space("{strategy: upper, start_layer: 6}", rest=f"budget: {budget}")).items()
    assert where == key
    assert said.startswith(sentence)


def test_an_exact_budget_that_small_images_cannot_meet(problems):
    text = """
        study: x
        reference_patches: 196
        space: {{strategy: all}}
        budget: {{reduced_tokens: 8, rule: exact, tolerance: {}}}
        profiles: {{paper: {{}}, tiny: {{backbone: vim_nano, image_size: 24}}}}
    """
    found = problems(text.format(0.1))
    assert found == {
        # 8 x 36 / 196 = 1.47
        "budget.tolerance": "in profile tiny (37 tokens) the budget's share is 1.47 tokens, and 1 would go: "
        "31.9% off, and the tolerance is 10.0%"
    }
    assert "1.47 tokens" in problems(text.format(0.31))["budget.tolerance"]
    # with another problem, because a grid without any raises nothing
    assert set(problems(text.format(0.33).replace("study: x", "study: x y"))) == {"study"}


def test_a_budget_that_is_no_mapping(problems):
    found = problems(with_space("{strategy: upper, start_layer: 6}", rest="budget: 168"))
    assert found == {"budget": "must be a mapping, not 168"}


def test_a_broken_budget_does_not_hide_a_wrong_layer(problems):
    found = problems(with_space("{strategy: upper, start_layer: 25}", rest="budget: {rule: exact}"))
    assert set(found) == {"budget.reduced_tokens", "space.start_layer"}


def test_a_budget_and_an_r_exclude_each_other(problems):
    found = problems(with_space("{strategy: all, r: 7}", rest="budget: {reduced_tokens: 168}"))
    assert found == {"space.r": "the budget derives r, so a case cannot give it (got 7); drop one of the two"}


def test_seeds_are_distinct(problems):
    assert problems(GOOD + "seeds: [0, 1, 0]") == {"seeds": "0 is listed 2 times; each seed runs once"}
    assert "lists no seed" in problems(GOOD + "seeds: []")["seeds"]
    assert problems(GOOD + "seeds: [0, true]") == {"seeds[1]": "must be a whole number, not true"}


def test_more_trials_than_a_plan_can_hold(problems):
    r = ", ".join(f"{{strategy: lower, stop_layer: 1, r: {r}}}" for r in range(1, 10))
    text = f"study: x\ncases: [{r}]\nprofiles: {{laptop: {{dataset: digits}}}}\nseeds: {list(range(6000))}"
    said = "has 54000 trials with 6000 seeds, and 50000 are the most"
    assert problems(text) == {"profiles.laptop": said}


@pytest.mark.parametrize(("number", "found"), [("true", "true"), ("4", "4"), ("2.0", "2.0")])
def test_the_paper_has_three_tables(problems, number, found):
    ((key, sentence),) = problems(GOOD + f"paper_table: {number}").items()
    assert key == "paper_table"
    assert sentence.endswith(f", not {found}")


def test_repeated_keys_are_found_where_yaml_would_keep_the_last(problems):
    found = problems(with_cases("{strategy: all, r: 1, r: 2}") + "study: y\n")
    assert found == {
        "line 3": "'r' was given in line 3 already; keep one",
        "line 5": "'study' was given in line 1 already; keep one",
    }
