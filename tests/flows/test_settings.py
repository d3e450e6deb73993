from __future__ import annotations

import inspect
import math
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from pydantic import ValidationError

import augment
from flows.errors import BadRequest
from flows.settings import (
    DEFAULT_FAMILIES,
    NOT_IDENTITY,
    SAMPLE_SHARD_SIZE,
    SHARD_SIZE,
    BuildSettings,
    fingerprint,
    identity,
    parse_settings,
    usable_cores,
)

INPUTS = {"annotations": {"val2017": "0" * 64}, "excluded": None}


def refusal(**values: Any) -> str:
    """Return the line that the settings are refused with."""
    with pytest.raises(BadRequest) as caught:
        parse_settings(values)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_defaults_are_those_of_the_format() -> None:
    """No setting at all is the embedded sample with everything else as documented."""
    settings = parse_settings({})
    assert (settings.source, settings.output, settings.run) == ("sample", Path("output"), None)
    assert (settings.samples, settings.variants, settings.min_person_share, settings.seed) == (None, 1, 0.06, 0)
    assert (settings.exclude_ids, settings.licenses, settings.max_side, settings.workers) == (None, None, None, None)
    assert (settings.runner, settings.device, settings.stages) == ("local", "auto", ("harmonization", "fusion"))
    assert (settings.easy_share, settings.fusion_side, settings.fusion_checkpoint) == (0.33, 384, None)
    assert (settings.gate, settings.gate_checkpoint, settings.gate_threshold) == ("on", None, None)


def test_stages_are_in_the_order_of_the_work_each_once() -> None:
    """However they are named, the same stages are the same settings."""
    assert parse_settings({"stages": "fusion,harmonization,fusion"}).stages == ("harmonization", "fusion")
    assert parse_settings({"stages": ["fusion"]}).stages == ("fusion",)


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"variants": 51}, "setting variants: at most 50 with the stage fusion"),
        ({"stages": "harmonization", "fusion_checkpoint": "m.pt"}, "setting fusion_checkpoint: it is for the stage"),
        ({"stages": "inpainting"}, "setting stages: "),
        ({"easy_share": 0}, "setting easy_share: "),
        ({"fusion_side": 64}, "setting fusion_side: "),
    ],
)
def test_what_fusion_cannot_do_is_refused(asked: dict[str, Any], message: str) -> None:
    """One line names the setting."""
    with pytest.raises(BadRequest, match=message):
        parse_settings(asked)


def test_without_fusion_its_settings_are_nobodys_identity() -> None:
    """A run of edits alone is the same run whatever the settings of the other stage."""
    plain, other = (parse_settings({"stages": "harmonization", "fusion_side": side}) for side in (384, 256))
    assert identity(plain, inputs={}) == identity(other, inputs={})
    both = [identity(parse_settings({"fusion_side": side}), inputs={}, fuser="ab") for side in (384, 256)]
    assert both[0] != both[1]


def test_families_are_those_of_the_code() -> None:
    """Names and default weights here and in the code that edits never part."""
    assert dict(DEFAULT_FAMILIES) == dict(augment.DEFAULT_FAMILIES)
    assert set(DEFAULT_FAMILIES) - {"perturb"} <= set(augment.TRANSFERS) <= set(DEFAULT_FAMILIES)
    assert math.isclose(sum(DEFAULT_FAMILIES.values()), 1)
    assert parse_settings({}).families == dict(DEFAULT_FAMILIES)


def test_every_setting_is_explained() -> None:
    """Each field has a sentence, which `--help` and the Prefect form print."""
    for name, field in BuildSettings.model_fields.items():
        assert field.description, name
        assert field.description.endswith("."), name


def test_the_flow_has_the_same_settings() -> None:
    """Parameters of the flow `build-hcoco`: the same names, in the same order, with equal defaults."""
    from flows.build_hcoco import build_hcoco

    parameters = inspect.signature(build_hcoco.fn).parameters
    assert list(parameters) == list(BuildSettings.model_fields)
    defaults = {name: parameter.default for name, parameter in parameters.items()}
    assert parse_settings(defaults) == parse_settings({})


def test_settings_are_frozen() -> None:
    """Nobody changes a run's settings on the way."""
    with pytest.raises(ValidationError, match="frozen"):
        parse_settings({}).seed = 7


DO_NOT_FIT: dict[str, tuple[object, ...]] = {
    "samples": (0, -1, 1.5, "1e3", "many", "", "9" * 5000),
    "variants": (0, 101, None, "two"),
    "min_person_share": (-0.01, 1.01, "nan", math.nan, math.inf, "6%", None),
    "max_side": (0, 63, -640, "large"),
    "seed": (-1, 2**63, 0.5, "x", None),
    "workers": (0, -1, 1025, "all"),
    "shard_size": (0, 100_001, -5),
    "runner": ("dask", "", None),
    "device": ("tpu", "cuda:0", None),
    "stages": ("fusions", "", [], None, 3),
    "gate": ("maybe", None),
    "gate_threshold": (-0.1, 1.1, "nan", math.inf, "high"),
    "gate_checkpoint": (7, "a\0b", "~nobody-of-this-name/x"),
    "source": ("", None, 7, "a\0b"),
    "images": (7, "a\0b", "~nobody-of-this-name/x"),
    "output": (None, 7, "a\0b", "~nobody-of-this-name"),
    "run": ("", ".", "..", "../x", "a/b", "/x", "x\n", "a b", "-x", "é", "n" * 101, 7),
    "licenses": ("4,x", "4;5", 1.5, [None], {"4": 1}),
    "families": (
        "",
        "mkl=0",
        {},
        None,
        7,
        ["mkl"],
        "mkl=x",
        "mkl=",
        "=1",
        "mkl:1",
        "mkl=-1",
        "mkl=nan",
        "mkl=inf",
        {"mkl": math.nan},
        {"mkl": None},
        "mkl=1e308,idt=1e308",
        "mkl=5e-324",
        "MKL=1",
        "mkl=1,dove=1",
    ),
}


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in DO_NOT_FIT.items() for value in values])
def test_what_does_not_fit_is_refused_by_name(name: str, value: object) -> None:
    """One line names the setting; nothing is bent until it fits."""
    assert f"setting {name}: " in refusal(**{name: value})


def test_the_message_says_what_came_and_what_was_wanted() -> None:
    """Both stand in the line."""
    assert refusal(samples=0) == "setting samples: Input should be greater than or equal to 1 (got 0)"
    assert "known are luminance_cct, histogram" in refusal(families="mlk=1")


def test_unknown_names_are_refused_with_the_known_ones() -> None:
    """A slip of the pen in a name is no silent default."""
    message = refusal(sample=5)
    assert "there is no setting 'sample'" in message
    assert "samples" in message
    assert "there is no setting 'a\\nb'" in refusal(**{"a\nb": 1})


@pytest.mark.parametrize(
    ("given_families", "expected"),
    [
        ("mkl=1,idt=2", {"mkl": 1.0, "idt": 2.0}),
        (" mkl = 1 , idt = 2.5 ,", {"mkl": 1.0, "idt": 2.5}),
        ("mkl", {"mkl": 1.0}),
        ("mkl,reinhard=.5", {"mkl": 1.0, "reinhard": 0.5}),
        ("mkl=0,idt=1", {"mkl": 0.0, "idt": 1.0}),
        ("mkl=1e-3", {"mkl": 1e-3}),
        ({"mkl": 1, "idt": 2}, {"mkl": 1.0, "idt": 2.0}),
    ],
)
def test_families_are_read_from_text_and_objects(given_families: object, expected: dict[str, float]) -> None:
    """The command line's text and Prefect's object say the same."""
    assert parse_settings({"families": given_families}).families == expected


@given(st.dictionaries(st.sampled_from(sorted(DEFAULT_FAMILIES)), st.floats(), min_size=1))
@hypothesis_settings(max_examples=100, deadline=None)
def test_weights_that_pass_can_be_drawn_from(families: dict[str, float]) -> None:
    """Whatever weights the settings let through, every sample gets a family of theirs."""
    import numpy as np

    try:
        settings = parse_settings({"families": families})
    except BadRequest:
        return
    for seed in range(20):
        recipe = augment.draw_recipe(np.random.default_rng(seed), families=settings.families)
        assert settings.families[recipe.family] > 0


@pytest.mark.parametrize(
    ("given_licenses", "expected"), [("4,5", (4, 5)), ("4", (4,)), (4, (4,)), ([4, "5"], (4, 5)), (None, None)]
)
def test_licences_are_read_from_text_and_lists(given_licenses: object, expected: object) -> None:
    """One id needs no list."""
    assert parse_settings({"licenses": given_licenses}).licenses == expected


def test_numbers_may_come_as_text() -> None:
    """The command line gives text for everything."""
    settings = parse_settings({"samples": "20", "seed": "3", "min_person_share": "0.1", "max_side": "512"})
    assert (settings.samples, settings.seed, settings.min_person_share, settings.max_side) == (20, 3, 0.1, 512)


def test_shards_of_the_sample_are_small() -> None:
    """The default of `shard_size` is the source's, and a given one is taken."""
    assert parse_settings({}).planned_per_shard == SAMPLE_SHARD_SIZE
    assert parse_settings({"source": "coco"}).planned_per_shard == SHARD_SIZE
    assert parse_settings({"shard_size": 7}).planned_per_shard == 7


def test_workers_are_the_usable_cores() -> None:
    """Without `workers` there are as many as this process may use, at least one."""
    assert parse_settings({}).processes == usable_cores() >= 1
    assert usable_cores() <= (os.cpu_count() or 1)
    assert parse_settings({"workers": 3}).processes == 3


def run_of(**values: Any) -> str:
    """Return the fingerprint of the settings."""
    return fingerprint(identity(parse_settings(values), inputs=INPUTS))


@pytest.mark.parametrize(
    "values",
    [
        {"samples": 5},
        {"variants": 3},
        {"workers": 2},
        {"runner": "local"},
        {"device": "cpu"},
        {"output": "elsewhere"},
        {"run": "name"},
        {"images": "a", "annotations": "b", "exclude_ids": "c"},
        {"coco_base": "http://mirror.example"},
        {"shard_size": SAMPLE_SHARD_SIZE},
        {"families": dict(sorted(DEFAULT_FAMILIES.items(), reverse=True))},
    ],
)
def test_what_decides_no_byte_is_not_the_runs_identity(values: dict[str, Any]) -> None:
    """The five, places, and other spellings of the same leave the run what it is."""
    assert run_of(**values) == run_of()


@pytest.mark.parametrize(
    "values",
    [
        {"seed": 1},
        {"families": "mkl"},
        {"families": {**DEFAULT_FAMILIES, "mkl": 0.16}},
        {"min_person_share": 0.07},
        {"licenses": "4"},
        {"max_side": 640},
        {"shard_size": 17},
    ],
)
def test_what_decides_bytes_is_the_runs_identity(values: dict[str, Any]) -> None:
    """Another value is another run."""
    assert run_of(**values) != run_of()


def test_every_setting_is_either_identity_or_not() -> None:
    """A setting that is added later cannot be forgotten: it is part of the identity unless it is said not to be."""
    known = set(identity(parse_settings({}), inputs=INPUTS)) - {"inputs"}
    by_content = {"source", "images", "annotations", "exclude_ids"}
    assert known | NOT_IDENTITY | by_content == set(BuildSettings.model_fields)
    assert not known & NOT_IDENTITY
    assert {"samples", "variants", "workers", "runner", "device"} <= NOT_IDENTITY


def test_licences_are_a_set() -> None:
    """Order and repetition do not make another run; no weight is as good as no name."""
    assert run_of(licenses="5,4,4") == run_of(licenses="4,5")
    assert run_of(families="mkl=1,idt=0") == run_of(families="mkl=1")


def test_the_content_of_the_inputs_is_identity() -> None:
    """Other annotations, or another list of excluded ids, are another run."""
    settings = parse_settings({})
    assert identity(settings, inputs=INPUTS) != identity(settings, inputs={**INPUTS, "excluded": "1"})


def test_a_fingerprint_is_8_hex_digits_of_the_content() -> None:
    """The order of keys does not matter."""
    assert fingerprint({"a": 1, "b": 2}) == fingerprint({"b": 2, "a": 1}) != fingerprint({"a": 1, "b": 3})
    assert len(fingerprint({})) == 8
    assert int(fingerprint({}), 16) >= 0


@pytest.mark.parametrize("asked", [{"gate_threshold": 0.4}, {"gate_checkpoint": "mine.pt"}])
def test_settings_of_a_gate_that_is_off_are_refused(asked: dict[str, object]) -> None:
    """Nobody believes a run gated that is not."""
    name = next(iter(asked))
    assert refusal(gate="off", **asked).startswith(f"setting {name}: there is no gate with gate=off; leave one")
    assert parse_settings(asked).gate == "on"


def test_the_gate_is_identity_by_content() -> None:
    """Of the checkpoint its digest counts, not its path; the threshold as it is in force, wherever it comes from."""
    plain, moved = parse_settings({}), parse_settings({"gate_checkpoint": "mine.pt", "gate_threshold": 0.4})
    told = {"inputs": INPUTS, "checkpoint": "0a1b", "threshold": 0.4}
    assert identity(plain, **told) == identity(moved, **told)
    assert identity(plain, **told) != identity(plain, **{**told, "checkpoint": "2c3d"})
    assert identity(plain, **told) != identity(plain, **{**told, "threshold": 0.5})
    ungated = identity(parse_settings({"gate": "off"}), inputs=INPUTS)
    assert (ungated["gate_checkpoint"], ungated["gate_threshold"]) == (None, None)
