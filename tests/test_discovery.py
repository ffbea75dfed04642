"""Discovery: the list and its filters, the cards, and what wrong names are told."""

import copy
import functools
import subprocess
import sys

import numpy as np
import pytest
import timm
import torch
from families import DINOV3_FAMILIES, FAMILIES, spread
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from autobackbone import (
    ConfigError,
    UnknownBackboneError,
    UnsupportedError,
    create_backbone,
    create_feature_backbone,
    describe_backbone,
    list_backbones,
)
from autobackbone.catalog import store as catalog
from autobackbone.catalog.describe import preview, summarize
from autobackbone.catalog.query import nearest_names
from autobackbone.catalog.store import natural_key
from autobackbone.names import DINOV3

if catalog.read(catalog.FILE).timm != timm.__version__:
    pytest.skip("the catalog is of another timm, and all would be measured", allow_module_level=True)


@functools.cache
def cards():
    return [describe_backbone(name) for name in list_backbones()]


# ---- the list


@pytest.mark.parametrize("pattern", ["", "*resnet*", "resnet5?", "vit_*_224", "nothing*", "*dinov3*", "*.a1_in1k", "*"])
@pytest.mark.parametrize("pretrained", [False, True])
def test_globs_are_timms_and_dinov3s(pattern, pretrained):
    found = list_backbones(pattern, pretrained_only=pretrained)
    ours = [name for name in found if name in DINOV3]
    assert [name for name in found if name not in ours] == timm.list_models(pattern, pretrained=pretrained)
    assert len(ours) == (10 if pattern in ("", "*", "*dinov3*") else 0)


@given(st.lists(st.sampled_from(["*", "?", "res", "net", "vit", "_", "5", "0", "[0-9]", "in1k", "."]), min_size=1))
def test_any_glob_is_timms(parts):
    glob = f"*{''.join(parts)}"
    for pretrained in (False, True):
        found = [name for name in list_backbones(glob, pretrained_only=pretrained) if name not in DINOV3]
        assert found == timm.list_models(glob, pretrained=pretrained)


def test_a_part_of_a_name():
    found = list_backbones("ResNet5")
    assert found == [name for name in list_backbones() if "resnet5" in name]
    assert "resnet50" in found
    assert "wide_resnet50_2" in found
    assert all(name.endswith("a1_in1k") for name in list_backbones(".a1_in1k", pretrained_only=True))


def test_the_order_is_natural():
    assert list_backbones("resnetv2_*") == timm.list_models("resnetv2_*")
    names = list_backbones()
    assert names.index("dinov3_vits16") > names.index("dinov3_convnext_tiny") > names.index("densenet121")
    assert names.index("test_vit4") - names.index("test_vit") == 3


FILTERS = [
    ({"source": "dinov3"}, lambda card: card.source == "dinov3"),
    ({"source": "timm"}, lambda card: card.source == "timm"),
    ({"family": "resnet"}, lambda card: card.family == "resnet"),
    ({"family": ["convnext", "dinov3_convnext"]}, lambda card: card.family in ("convnext", "dinov3_convnext")),
    ({"strides": 4}, lambda card: 4 in card.strides),
    ({"strides": (4, 64)}, lambda card: {4, 64} <= set(card.strides)),
    ({"min_params": 1e9}, lambda card: card.params >= 1e9),
    ({"max_params": 23_508_032}, lambda card: card.params <= 23_508_032),
    ({"min_params": 23_508_032, "max_params": 23_508_032}, lambda card: card.params == 23_508_032),
    ({"any_size": True}, lambda card: card.any_size),
    ({"any_size": False}, lambda card: card.fixed_size),
    ({"license": "mit"}, lambda card: card.license == "mit"),
    ({"license": ("mit", "bsd-3-clause")}, lambda card: card.license in ("mit", "bsd-3-clause")),
    (
        {"strides": [4], "any_size": True, "max_params": 30e6, "license": ["apache-2.0", "mit"]},
        lambda card: (
            4 in card.strides and card.any_size and card.params <= 30e6 and card.license in ("apache-2.0", "mit")
        ),
    ),
]


@pytest.mark.parametrize(("filters", "keeps"), FILTERS, ids=[str(filters) for filters, _ in FILTERS])
def test_filters_say_what_the_cards_say(filters, keeps):
    found = list_backbones(**filters)
    assert found == [card.name for card in cards() if keeps(card)]
    assert found


def test_the_license_is_that_of_the_weights_that_the_name_stands_for():
    tagged = list_backbones("resnet50*", pretrained_only=True, license="cc-by-nc-4.0")
    assert "resnet50.fb_swsl_ig1b_ft_in1k" in tagged
    assert all(timm.get_pretrained_cfg(name).license == "cc-by-nc-4.0" for name in tagged)
    assert "resnet50" not in list_backbones(license="cc-by-nc-4.0")


WRONG = [
    ({"pattern": 3}, "pattern=3 is no text"),
    ({"source": "tim"}, "source='tim': no backbone has that; did you mean 'timm'?"),
    ({"family": "resnt"}, "did you mean 'resnet'"),
    ({"license": "gpl"}, "license='gpl': no backbone has that; there are apache-2.0, "),
    ({"license": 3}, "license=3: no backbone has that"),
    ({"strides": 2048}, "strides=2048: 2048 is no stride; give positive integers up to 1024"),
    ({"strides": 0}, "strides=0: 0 is no stride; give positive integers"),
    ({"strides": "4,8"}, "strides='4,8': '4' is no stride"),
    ({"strides": (4, True)}, "True is no stride"),
    ({"min_params": -1}, "min_params=-1 is no number of parameters"),
    ({"max_params": "30M"}, "max_params='30M' is no number of parameters"),
    ({"max_params": float("nan")}, "max_params=nan is no number of parameters"),
    ({"min_params": 2, "max_params": 1}, "min_params=2 is more than max_params=1; exchange them."),
    ({"license": []}, "license=[] names nothing; leave it out, or name at least one."),
    ({"any_size": "yes"}, "any_size='yes' is neither True, False nor None."),
]


def test_numbers_of_numpy_are_numbers():
    assert list_backbones(strides=np.array([4, 64]), max_params=np.float32(30e6)) == list_backbones(
        strides=(4, 64), max_params=30e6
    )
    assert list_backbones(min_params=np.int64(10**9)) == list_backbones(min_params=1e9)


@pytest.mark.parametrize(("filters", "message"), WRONG)
def test_wrong_filters(filters, message):
    with pytest.raises(ConfigError) as err:
        list_backbones(**filters)
    assert message in str(err.value)


@pytest.fixture
def register():
    """Register architectures under a name, in a module of the user's."""
    names = vars(timm.models._registry)
    held = [names[n] for n in names if not n.startswith("__") and isinstance(names[n], dict | set)]
    before = [copy.deepcopy(value) for value in held]

    def register(name, like, module="my_models", default_cfgs=None, **fixed):
        def build(pretrained=False, **kwargs):  # noqa: ARG001 - timm's signature
            return timm.create_model(like, **(fixed | kwargs))

        build.__name__, build.__module__ = name, module
        place = sys.modules.setdefault(module, type(sys)(module))
        place.__all__, place.default_cfgs = [], default_cfgs or {}
        timm.models.register_model(build)

    yield register
    for value, old in zip(held, before, strict=True):
        value.clear()
        value.update(old)


@pytest.mark.filterwarnings("ignore:Overwriting")
def test_architectures_of_the_users_own(register):
    list_backbones()
    register("my_very_own", "test_resnet")
    assert list_backbones("my_very*", max_params=1e6, family="my_models") == ["my_very_own"]
    register("my_very_other", "test_vit", module="somewhere.resnet")  # named as timm's
    assert list_backbones("my_very*") == ["my_very_other", "my_very_own"]
    assert list_backbones("") == sorted([*timm.list_models(), *DINOV3], key=natural_key)
    card = describe_backbone("timm/my_very_own")
    assert (card.family, card.strides, card.license) == ("my_models", (2, 4, 8, 16, 32), None)
    assert create_feature_backbone("My-Very-Own", pretrained=False).channels == card.channels[2:]
    with pytest.raises(UnknownBackboneError, match="did you mean 'my_very_own'"):
        describe_backbone("my_very_owm")

    register("my_very_own", "test_vit")  # again, as another one
    register("test_resnet", "resnet18")  # in the place of timm's
    for name in ("my_very_own", "test_resnet"):
        model = create_backbone(name, pretrained=False)
        assert describe_backbone(name).params == sum(p.numel() for p in model.parameters())


CONFIGS = st.fixed_dictionaries(
    {},
    optional={
        "url": st.sampled_from(["", "https://example.org/weights.pth", None]),
        "hf_hub_id": st.sampled_from(["timm/", "me/mine", None]),
        "input_size": st.sampled_from([(3, 32, 32), [3, 32, 32], None, (224, 224), "224", (3, 0, 5)]),
        "mean": st.sampled_from([(0.5,) * 3, [0.5] * 3, None, 0.5, "grey"]),
        "std": st.sampled_from([(0.5,) * 3, None, 0, (0.0,) * 3]),
        "crop_pct": st.sampled_from([1, 0.9, None, "all"]),
        "interpolation": st.sampled_from(["bicubic", None, "", "sinc"]),
        "num_classes": st.sampled_from([0, 10, None, -1]),
        "license": st.sampled_from(["mit", None, 7]),
        "classifier": st.sampled_from(["fc", None, 3]),
    },
)


@given(CONFIGS, st.sampled_from([None, "", "mine", "mine*"]))
@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@pytest.mark.filterwarnings("ignore:Overwriting")
def test_an_architecture_with_any_config_harms_no_other(register, cfg, tag):
    cfgs = {"drawn": dict(cfg)}  # as in the first versions of timm
    if tag is not None:
        cfgs = timm.models.generate_default_cfgs({f"drawn.{tag}".rstrip("."): cfg})
    register("drawn", "test_resnet", default_cfgs=cfgs)
    assert "test_resnet" in list_backbones("test_*")
    assert describe_backbone("test_vit").license == "apache-2.0"
    try:
        backbone = create_feature_backbone("drawn", pretrained=False)
    except ConfigError as err:
        assert "timm's config of 'drawn'" in str(err)
        assert "drawn" not in list_backbones("drawn")
        with pytest.raises(ConfigError, match="timm's config of 'drawn'"):
            describe_backbone("drawn")
        return
    assert list_backbones("drawn") == ["drawn"]
    card = describe_backbone("drawn")
    assert card.channels[2:] == backbone.channels
    assert card.input_size == backbone.input_spec.size == tuple((cfg.get("input_size") or (3, 224, 224))[1:])
    assert card.pretrained_tags == tuple(timm.list_pretrained("drawn"))


class Cannot(torch.nn.Module):
    """Networks that timm takes, and of which no levels can be told."""

    def __init__(self, how):
        super().__init__()
        self.pretrained_cfg = {"input_size": (3, 32, 32)}
        if how == "reads a value":
            self.rates = [x.item() for x in torch.linspace(0, 0.1, 3)]
        if how == "raises":
            raise ValueError(how)
        if how == "declares, and cannot":
            self.feature_info = [{"num_chs": 8, "reduction": 4, "module": "stem"}]


@pytest.mark.parametrize("how", ["reads a value", "raises", "declares, and cannot", "declares nothing"])
def test_an_architecture_of_another_kind_says_so(register, how):
    register("Foreign_B", "test_resnet")
    timm.models._registry._model_entrypoints["Foreign_B"] = build = lambda **_: Cannot(how)
    build.__module__ = "foreign"
    assert list_backbones("foreign*") == list_backbones("Foreign") == ["Foreign_B"]
    for ask in (describe_backbone, functools.partial(create_feature_backbone, pretrained=False)):
        with pytest.raises(UnsupportedError, match=r"'Foreign_B', which foreign registered with timm, cannot be meas"):
            ask("Foreign_B")


# ---- the cards


def test_a_card():
    card = describe_backbone("ResNet-50")
    assert (card.name, card.source, card.family) == ("resnet50", "timm", "resnet")
    assert card.params == 23_508_032
    assert (card.channels, card.strides) == ((64, 256, 512, 1024, 2048), (2, 4, 8, 16, 32))
    assert (card.input_size, card.min_size, card.size_divisor) == ((224, 224), 1, 1)
    assert card.any_size
    assert card.exact
    assert card.exportable
    assert not card.fixed_size
    assert card.license == "apache-2.0"
    assert card.pretrained_tags[0] == f"resnet50.{timm.get_pretrained_cfg('resnet50').tag}"
    assert set(card.pretrained_tags) == set(timm.list_pretrained("resnet50"))
    assert card.to_dict()["strides"] == card.strides


def test_a_card_of_weights():
    card = describe_backbone("resnet50.tv2_in1k")
    cfg = timm.get_pretrained_cfg("resnet50.tv2_in1k")
    assert (card.license, card.hub_id) == (cfg.license, cfg.hf_hub_id)
    assert card.input_size == cfg.input_size[1:] == (176, 176)
    satellite = describe_backbone("facebook/dinov3-vitl16-pretrain-sat493m")
    assert satellite.hub_id == "facebook/dinov3-vitl16-pretrain-sat493m"
    assert satellite.input_spec.mean != describe_backbone("dinov3_vitl16").input_spec.mean
    assert describe_backbone("dinov3_vitl16").pretrained_tags[1] == satellite.name


def test_a_card_of_a_folder(tmp_path):
    timm.models.save_for_hf(timm.create_model("test_resnet"), tmp_path)
    card = describe_backbone(f"local-dir:{tmp_path}")
    own = describe_backbone("test_resnet")
    assert (card.params, card.macs, card.levels) == (own.params, own.macs, own.levels)
    assert card.pretrained_tags == ()
    assert card.input_spec == create_feature_backbone(f"local-dir:{tmp_path}", pretrained=False).input_spec


def test_a_card_of_a_folder_has_the_input_that_is_built(tmp_path):
    timm.models.save_for_hf(timm.create_model("test_resnet", in_chans=1), tmp_path)
    card = describe_backbone(f"local-dir:{tmp_path}")
    assert card.input_spec == create_feature_backbone(f"local-dir:{tmp_path}", pretrained=False).input_spec


@pytest.mark.parametrize("family", spread(FAMILIES + DINOV3_FAMILIES))
def test_a_card_says_what_is_built(family):
    name = family.name
    card, levels, spec = preview(name)
    with torch.device("meta"):
        usual = create_feature_backbone(name, pretrained=False)
        whole = create_feature_backbone(name, pretrained=False, out_indices=range(len(card.levels)))
    assert whole.levels == card.levels
    assert whole.input_spec == card.input_spec
    assert (usual.levels, usual.input_spec) == (levels, spec)


def test_every_name_has_a_card():
    for name in list_backbones(pretrained_only=True):
        card = describe_backbone(name)
        line = summarize(name)
        assert (line["license"], line["hub_id"]) == (card.license, card.hub_id)
        assert tuple(line["size"]) == card.input_size
        assert card.source == "dinov3" or card.name in card.pretrained_tags


def test_the_number_of_parameters_is_that_of_the_model():
    assert (
        sum(p.numel() for p in create_backbone("test_vit", pretrained=False).parameters())
        == describe_backbone("test_vit").params
    )


def test_torch_is_not_imported():
    code = """
import sys
from autobackbone import describe_backbone, list_backbones
from autobackbone.cli import app
list_backbones("*resnet*", True, strides=4, any_size=True, license="mit"), describe_backbone("resnet50.a1_in1k")
for arguments in (["list", "resnet"], ["info", "resnet50"], ["compare", "resnet50", "dinov3_vits16"]):
    app.main(arguments, standalone_mode=False)
try:
    describe_backbone("resnet5o")
except ValueError:
    pass
print([m for m in ("torch", "timm", "transformers", "numpy", "huggingface_hub", "yaml") if m in sys.modules])
"""
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout.splitlines()[-1] == "[]"
    assert answer.stderr == ""


# ---- wrong names

MEANT = [
    ("resnet5o", "resnet50"),
    ("efficentnet_b0", "efficientnet_b0"),
    ("swin_tiny", "swin_tiny_patch4_window7_224"),
    ("vit-b-16", "vit_base_patch16_224"),
    ("convnext-tiny", "convnext_tiny"),
    ("dinov3_small", "dinov3_vits16"),
    ("regnet-y-040", "regnety_040"),
    ("mobilenet_v3_large", "mobilenetv3_large_100"),
    ("resnet50.a1", "resnet50.a1_in1k"),
    ("swin-t", "swin_tiny_patch4_window7_224"),
    ("vit_b_16", "vit_base_patch16_224"),
    ("dinov3-base", "dinov3_vitb16"),
    ("dinov2_vits14", "vit_small_patch14_dinov2"),
    ("resnext50", "resnext50_32x4d"),
    ("wide_resnet_50", "wide_resnet50_2"),
    ("clip_vit_b32", "vit_base_patch32_clip_224"),
    ("convnext_v2_tiny", "convnextv2_tiny"),
    ("deit-small", "deit_small_patch16_224"),
    ("densenet", "densenet121"),
    ("resnet5o.a1_in1k", "resnet50.a1_in1k"),
    ("timm/resnet50.a1_in2k", "resnet50.a1_in1k"),
]


@pytest.mark.parametrize(("text", "meant"), MEANT)
def test_the_model_meant_is_among_the_first_three(text, meant):
    close = nearest_names(text)
    assert len(close) <= 3
    assert meant in close
    try:
        assert describe_backbone(text).name == meant
    except UnknownBackboneError as err:
        assert repr(meant) in str(err)


def test_what_is_no_text_is_no_name():
    with pytest.raises(UnknownBackboneError, match="50 is no model name; give text"):
        describe_backbone(50)


@pytest.mark.parametrize("text", ["mask_rcnn", "", "...", "-", "qqqqqqq"])
def test_what_means_nothing_is_told_where_the_names_are(text):
    assert nearest_names(text) == []
    with pytest.raises(UnknownBackboneError, match=r"list_backbones\(\) lists the names there are"):
        describe_backbone(text)
