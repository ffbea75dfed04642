"""The one table of families: an architecture for every timm module and every set of native strides in it.

Each is the smallest there is; the few large ones are cut in depth, which changes nothing that the contract is about.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import pytest


@dataclass(frozen=True)
class Family:
    """An architecture that stands for its family, the arguments that make it small, and the size to try it at."""

    name: str
    extra_kwargs: dict[str, Any] = field(default_factory=dict)
    size: tuple[int, int] = (97, 130)  # no multiple of anything that an architecture would like

    def __str__(self) -> str:
        return self.name


FAMILIES = [
    Family("beit_base_patch16_224", {"depth": 3}),  # beit: 16
    Family("halonet_h1"),  # byoanet: 2, 4, 8, 16, 32
    Family("test_byobnet"),  # byobnet: 2, 4, 8, 16, 32
    Family("cait_xxs24_224"),  # cait: 16
    Family("coat_tiny"),  # coat: 4, 8, 16, 32
    Family("convit_tiny"),  # convit: 16
    Family("convmixer_1024_20_ks9_p14"),  # convmixer: 14
    Family("convmixer_768_32"),  # convmixer: 7
    Family("test_convnext"),  # convnext: 4, 8, 16, 32
    Family("cpubone_nano"),  # cpubone: 4, 8, 16, 32
    Family("crossvit_tiny_240"),  # crossvit: 12, 17
    Family("csatv2"),  # csatv2: 8, 16, 32, 64
    Family("sedarknet21"),  # cspnet: 1, 2, 4, 8, 16
    Family("darknet17"),  # cspnet: 1, 2, 4, 8, 16, 32
    Family("cs3darknet_focus_s"),  # cspnet: 2, 4, 8, 16, 32
    Family("cspnext_tiny"),  # cspnext: 2, 4, 8, 16, 32
    Family("davit_tiny"),  # davit: 4, 8, 16, 32
    Family("deepseek_vit_412m", {"depth": 3}),  # deepseek_vit: 14
    Family("deit3_huge_patch14_224", {"depth": 3}),  # deit: 14
    Family("deit_tiny_patch16_224"),  # deit: 16
    Family("densenet121"),  # densenet: 2, 4, 8, 16, 32
    Family("dla46x_c"),  # dla: 2, 4, 8, 16, 32
    Family("dpn48b"),  # dpn: 2, 4, 8, 16, 32
    Family("edgenext_xx_small"),  # edgenext: 4, 8, 16, 32
    Family("efficientformer_l1", size=(224, 224)),  # efficientformer: 4, 8, 16, 32
    Family("efficientformerv2_s0"),  # efficientformer_v2: 4, 8, 16, 32
    Family("test_efficientnet"),  # efficientnet: 2, 4, 8, 16, 32
    Family("efficientvim_m1"),  # efficientvim: 16, 32, 64
    Family("efficientvit_b0"),  # efficientvit_mit: 4, 8, 16, 32
    Family("efficientvit_m0"),  # efficientvit_msra: 16, 32, 64
    Family("eva02_tiny_patch14_224"),  # eva: 14
    Family("vit_tiny_patch16_dinov3_qkvb"),  # eva: 16
    Family("fasternet_t0"),  # fasternet: 4, 8, 16, 32
    Family("fastvit_t8"),  # fastvit: 4, 8, 16, 32
    Family(
        "fastvit_mci3", {"layers": (1, 1, 1, 1, 1), "embed_dims": (16, 32, 64, 128, 256)}
    ),  # fastvit: 4, 8, 16, 32, 64
    Family("focalnet_tiny_srf"),  # focalnet: 4, 8, 16, 32
    Family("gcvit_xxtiny"),  # gcvit: 4, 8, 16, 32
    Family("gemma4_vit_167m", {"depth": 3}, (49, 66)),  # gemma4_vit: 16
    Family("ghostnet_050"),  # ghostnet: 2, 4, 8, 16, 32
    Family("hardcorenas_b"),  # hardcorenas: 2, 4, 8, 16, 32
    Family("hgnetv2_b0"),  # hgnet: 4, 8, 16, 32
    Family("hiera_tiny_224"),  # hiera: 4, 8, 16, 32
    Family("sam2_hiera_tiny"),  # hieradet_sam2: 4, 8, 16, 32
    Family("hrnet_w18_small"),  # hrnet: 2, 4, 8, 16, 32
    Family("iformer_t"),  # iformer: 4, 8, 16, 32
    Family("inception_next_atto"),  # inception_next: 4, 8, 16, 32
    Family("inception_resnet_v2"),  # inception_resnet_v2: 2, 4, 8, 16, 32
    Family("inception_v3"),  # inception_v3: 2, 4, 8, 16, 32
    Family("inception_v4"),  # inception_v4: 2, 4, 8, 16, 32
    Family("lcnetv2_small"),  # lcnetv2: 4, 8, 16, 32
    Family("levit_128s"),  # levit: 16, 32, 64
    Family("levit_384_s8"),  # levit: 8, 16, 32
    Family("lowformer_b0"),  # lowformer: 4, 8, 16, 32
    Family("test_mambaout"),  # mambaout: 4, 8, 16, 32
    Family("test_coatnet"),  # maxxvit: 2, 4, 8, 16, 32
    Family("poolformerv2_s12"),  # metaformer: 4, 8, 16, 32
    Family("gmlp_ti16_224"),  # mlp_mixer: 16
    Family("mixer_s32_224"),  # mlp_mixer: 32
    Family("resmlp_big_24_224", size=(49, 66)),  # mlp_mixer: 8
    Family("mobilenetv3_small_050"),  # mobilenetv3: 2, 4, 8, 16, 32
    Family("mobilenetv5_base"),  # mobilenetv5: 2, 4, 8, 16, 32
    Family("mobilevit_xxs"),  # mobilevit: 2, 4, 8, 16, 32
    Family("mvitv2_tiny"),  # mvitv2: 4, 8, 16, 32
    Family("naflexvit_base_patch16_parfac_gap"),  # naflexvit: 16
    Family("nasnetalarge"),  # nasnet: 2, 4, 8, 16, 32
    Family("nest_tiny"),  # nest: 4, 8, 16
    Family("nextvit_small"),  # nextvit: 4, 8, 16, 32
    Family("test_nfnet"),  # nfnet: 2, 4, 8, 16, 32
    Family("pit_b_224"),  # pit: 7, 14, 28
    Family("pit_ti_224"),  # pit: 8, 16, 32
    Family("pnasnet5large"),  # pnasnet: 2, 4, 8, 16, 32
    Family("pvt_v2_b0"),  # pvt_v2: 4, 8, 16, 32
    Family("qwen3_vit_88m", {"depth": 3}),  # qwen3_vit: 16
    Family("rdnet_tiny"),  # rdnet: 4, 8, 16, 32
    Family("regnetx_002"),  # regnet: 2, 4, 8, 16, 32
    Family("repghostnet_050"),  # repghost: 2, 4, 8, 16, 32
    Family("repvit_m1"),  # repvit: 4, 8, 16, 32
    Family("res2next50"),  # res2net: 2, 4, 8, 16, 32
    Family("resnest14d"),  # resnest: 2, 4, 8, 16, 32
    Family("test_resnet"),  # resnet: 2, 4, 8, 16, 32
    Family("resnetv2_18"),  # resnetv2: 2, 4, 8, 16, 32
    Family("rexnet_100"),  # rexnet: 2, 4, 8, 16, 32
    Family("selecsls42"),  # selecsls: 2, 4, 8, 16, 32
    Family("legacy_seresnet18"),  # senet: 2, 4, 8, 16, 32
    Family("sequencer2d_s"),  # sequencer: 7, 14
    Family("shvit_s1"),  # shvit: 16, 32, 64
    Family("skresnet18"),  # sknet: 2, 4, 8, 16, 32
    Family("starnet_s050"),  # starnet: 4, 8, 16, 32
    Family("swiftformer_xs"),  # swiftformer: 4, 8, 16, 32
    Family("swin_tiny_patch4_window7_224"),  # swin_transformer: 4, 8, 16, 32
    Family("swinv2_tiny_window16_256"),  # swin_transformer_v2: 4, 8, 16, 32
    Family("swinv2_cr_tiny_224"),  # swin_transformer_v2_cr: 4, 8, 16, 32
    Family("tiny_vit_5m_224"),  # tiny_vit: 4, 8, 16, 32
    Family("tnt_s_legacy_patch16_224"),  # tnt: 16
    Family("tresnet_m"),  # tresnet: 4, 8, 16, 32
    Family("twins_svt_small"),  # twins: 4, 8, 16, 32
    Family("vgg11"),  # vgg: 1, 2, 4, 8, 16, 32
    Family("visformer_tiny"),  # visformer: 8, 16, 32
    Family("vit_small_patch14_dinov2"),  # vision_transformer: 14
    Family("test_vit"),  # vision_transformer: 16
    Family("vit_small_patch32_224"),  # vision_transformer: 32
    Family("vit_small_patch8_224"),  # vision_transformer: 8
    Family("vit_small_resnet50d_s16_224"),  # vision_transformer_hybrid: 16
    Family("vit_tiny_r_s16_p8_224"),  # vision_transformer_hybrid: 32
    Family("test_vit_relpos"),  # vision_transformer_relpos: 16
    Family("vit_relpos_base_patch32_plus_rpn_256", {"depth": 3}),  # vision_transformer_relpos: 32
    Family("samvit_base_patch16_224", {"depth": 3}),  # vision_transformer_sam: 16
    Family("vitamin_small_224"),  # vitamin: 16
    Family("volo_d1_224"),  # volo: 16
    Family("ese_vovnet19b_slim_dw"),  # vovnet: 2, 4, 8, 16, 32
    Family("legacy_xception"),  # xception: 2, 4, 8, 16, 32
    Family("xception41p"),  # xception_aligned: 2, 4, 8, 16, 32
    Family("xcit_nano_12_p16_224"),  # xcit: 16
    Family("xcit_nano_12_p8_224"),  # xcit: 8
    Family("botnet26t_256"),  # byoanet: attention over a fixed grid
    Family("lambda_resnet26t"),  # byoanet: lambda layers
    Family("bat_resnext26ts"),  # byobnet: bilinear attention, blocks of 8 cells
    Family("resnetaa50"),  # resnet: pooling that needs even sizes
    Family("maxvit_pico_rw_256"),  # maxxvit: windows
    Family("vit_base_patch16_siglip_gap_224"),  # vision_transformer: no class token
]

# The other source.
DINOV3_FAMILIES = [
    Family("dinov3_vits16", {"num_hidden_layers": 4}),
    Family("dinov3_vits16plus", {"num_hidden_layers": 2}),
    Family("dinov3_convnext_tiny", {"depths": [1, 1, 2, 1]}),
]

# One of each way to behave: these run with the tests, the others in ``nox -s families``.
QUICK = {
    "test_resnet",  # convolutions
    "test_convnext",  # layers of one name in every stage
    "test_efficientnet",  # blocks in stages
    "test_vit",  # one stride, any size by an argument
    "swin_tiny_patch4_window7_224",  # maps with channels last
    "vit_small_patch14_dinov2",  # patches of 14
    "xcit_nano_12_p8_224",  # built for whole patches
    "coat_tiny",  # a fixed size, tied parameters
    "test_byobnet",  # a stem among the levels
    "crossvit_tiny_240",  # two grids, resampled
    "hrnet_w18_small",  # branches without a gradient
    "efficientvim_m1",  # strides from 16 on
    "levit_128s",  # a fixed size that is a square
    "inception_next_atto",
    "legacy_xception",  # valid padding
    "maxvit_pico_rw_256",  # multiples of windows
    "mobilenetv3_small_050",  # hidden layers in the head
    "dinov3_vits16",
    "dinov3_convnext_tiny",
}


def spread(families: Iterable[Family]) -> list[Any]:
    """Return families as parameters of a test: a few with the tests, the others marked for ``nox -s families``."""
    return [pytest.param(f, id=f.name, marks=() if f.name in QUICK else pytest.mark.families) for f in families]


# What the properties draw from: small, and different in every way that matters.
SMALL = [
    "test_byobnet",
    "test_convnext",
    "test_efficientnet",
    "test_mambaout",
    "test_nfnet",
    "test_resnet",
    "test_vit",
    "densenet121",
    "efficientvim_m1",
    "hrnet_w18_small",
    "swin_tiny_patch4_window7_224",
    "vit_small_patch14_dinov2",
    "xcit_nano_12_p8_224",
    "dinov3_convnext_tiny",
    "dinov3_vits16",
]
