"""Creating backbones: the values users rely on, and what is refused."""

import pytest
import torch

from autobackbone import (
    BackboneConfig,
    ConfigError,
    FeatureBackboneConfig,
    InputSizeError,
    UnknownBackboneError,
    UnsupportedError,
    count_parameters,
    create_backbone,
    create_feature_backbone,
    get_feature_channels,
    get_feature_strides,
    get_input_spec,
)


def test_resnet50_pooled():
    backbone = create_backbone("resnet50", pretrained=False).eval()
    assert backbone.num_features == 2048
    assert count_parameters(backbone) == 23_508_032
    assert backbone(torch.rand(2, 3, 97, 130)).shape == (2, 2048)


def test_resnet50_features():
    backbone = create_feature_backbone(FeatureBackboneConfig(pretrained=False))
    assert get_feature_channels(backbone) == [512, 1024, 2048]
    assert get_feature_strides(backbone) == [8, 16, 32]


@pytest.mark.parametrize("name", ["test_resnet", "test_vit", "mobilenetv3_small_050", "vgg11", "hgnetv2_b0"])
def test_pooled_widths(name):
    x = torch.empty(2, 3, 224, 224, device="meta")
    with torch.device("meta"):
        backbone = create_backbone(name, pretrained=False)
        assert backbone(x).shape == (2, backbone.head_hidden_size)
        backbone.reset_classifier(3)
        assert backbone(x).shape == (2, 3)
        assert create_backbone(name, pretrained=False, num_classes=7)(x).shape == (2, 7)


def test_pooled_transformers_take_any_size_of_whole_patches():
    backbone = create_backbone("test_vit", pretrained=False).eval()
    assert backbone(torch.rand(1, 3, 96, 144)).shape == (1, backbone.num_features)
    assert not get_input_spec(backbone).fixed_size


def test_a_pooled_transformer_whose_size_is_not_whole_patches():
    with torch.device("meta"):
        backbone = create_backbone("vit_so400m_patch14_siglip_384", pretrained=False)
        assert get_input_spec(backbone).fixed_size
        assert backbone(torch.empty(1, 3, 384, 384)).shape == (1, backbone.num_features)


def test_overrides_take_precedence():
    config = FeatureBackboneConfig("test_resnet", pretrained=False, out_indices=(0,))
    assert create_feature_backbone(config, out_indices=(3, 1)).strides == (16, 4)
    with pytest.raises(ConfigError, match="no field 'out_index'; did you mean 'out_indices'"):
        create_feature_backbone(config, out_index=(3, 1))
    with pytest.raises(ConfigError, match="A FeatureBackboneConfig or a model name is needed, got BackboneConfig"):
        create_feature_backbone(BackboneConfig())


@pytest.mark.parametrize(("stride", "strides"), [(8, (4, 8, 8, 8)), (16, (4, 8, 16, 16))])
@pytest.mark.parametrize("name", ["resnet18", "test_convnext"])
def test_output_stride(name, stride, strides):
    indices = (-4, -3, -2, -1)
    backbone = create_feature_backbone(name, pretrained=False, output_stride=stride, out_indices=indices).eval()
    assert backbone.strides == strides
    assert [tuple(y.shape[2:]) for y in backbone(torch.rand(1, 3, 97, 130))] == [
        (-(-97 // s), -(-130 // s)) for s in strides
    ]


@pytest.mark.parametrize("name", ["test_vit", "dla34", "swin_tiny_patch4_window7_224", "ghostnet_050", "starnet_s050"])
def test_output_stride_where_there_is_none(name):
    with pytest.raises(UnsupportedError, match=f"output_stride=8: '{name}' cannot be dilated"):
        create_feature_backbone(name, pretrained=False, output_stride=8)


def test_drop_rates():
    backbone = create_feature_backbone("test_vit", pretrained=False, drop_path_rate=0.3, drop_rate=0.1)
    assert max(getattr(m, "drop_prob", 0) or 0 for m in backbone.modules()) == pytest.approx(0.3)
    with pytest.raises(ConfigError, match=r"drop_path_rate=0.1: 'densenet121' takes no such argument; leave it out"):
        create_feature_backbone("densenet121", pretrained=False, drop_path_rate=0.1)
    assert create_feature_backbone("densenet121", pretrained=False, drop_path_rate=0.0)


def test_extra_kwargs():
    backbone = create_feature_backbone("test_vit", pretrained=False, extra_kwargs={"depth": 3}, out_indices=(0, 2))
    assert len(backbone.native_levels) == 3
    config = BackboneConfig("test_resnet", pretrained=False, extra_kwargs={"global_pool": "max", "in_chans": 3})
    assert create_backbone(config).global_pool.pool_type == "max"
    with pytest.raises(ConfigError, match=r"extra_kwargs\['depht'\]=3: 'test_vit' takes no such argument"):
        create_feature_backbone("test_vit", pretrained=False, extra_kwargs={"depht": 3})
    with pytest.raises(
        ConfigError, match=r"extra_kwargs\['in_chans'\]=1 contradicts in_chans=3; set the field in_chans"
    ):
        create_backbone("test_resnet", pretrained=False, extra_kwargs={"in_chans": 1})
    with pytest.raises(ConfigError, match=r"extra_kwargs\['features_only'\]: levels are chosen by out_indices"):
        create_backbone("test_resnet", pretrained=False, extra_kwargs={"features_only": True})
    with pytest.raises(ConfigError, match=r"timm cannot build 'test_vit' with \{'depth': 'deep'\}"):
        create_feature_backbone("test_vit", pretrained=False, extra_kwargs={"depth": "deep"})


def test_the_final_norm():
    plain = create_feature_backbone("test_vit", pretrained=False, out_indices=(-1,), norm=False)
    normed = create_feature_backbone("test_vit", pretrained=False, out_indices=(-1,), norm=True).eval()
    assert count_parameters(normed) == count_parameters(plain) + 2 * plain.out_channels
    y = normed(torch.rand(1, 3, 64, 64))[0]
    torch.testing.assert_close(y.mean(1), torch.zeros_like(y.mean(1)), atol=1e-5, rtol=0)
    with pytest.raises(UnsupportedError, match="norm=True: 'test_resnet' has no final norm"):
        create_feature_backbone("test_resnet", pretrained=False, norm=True)


def test_a_norm_that_changes_the_channels():
    backbone = create_feature_backbone(
        "samvit_base_patch16", pretrained=False, out_indices=(-1,), norm=True, extra_kwargs={"depth": 1}
    )
    assert backbone(torch.rand(1, 3, 64, 64))[0].shape[1] == backbone.out_channels == 256


def test_sizes_that_cannot_be_built():
    with pytest.raises(
        InputSizeError, match=r"img_size=\(256, 256\): 'efficientformer_l1' takes \(224, 224\) images only"
    ):
        create_feature_backbone("efficientformer_l1", pretrained=False, img_size=256)
    shallow = create_feature_backbone("efficientformer_l1", pretrained=False, out_indices=(0, 1, 2)).eval()
    assert [tuple(y.shape[2:]) for y in shallow(torch.rand(1, 3, 97, 130))] == [(25, 33), (13, 17), (7, 9)]
    with pytest.raises(
        InputSizeError, match=r"built for multiples of 16 and its pooled form does not pad; use img_size=\(112, 144\)"
    ):
        create_backbone("cait_xxs24_224", pretrained=False, img_size=(97, 130))


def test_what_is_no_backbone():
    with pytest.raises(UnknownBackboneError, match="no backbone 'resnet5o'"):
        create_backbone("resnet5o")
    with pytest.raises(UnsupportedError, match="is an encoder without pooled output; use create_feature_backbone"):
        create_backbone("qwen3_vit_88m_enc", pretrained=False)
    with pytest.raises(ConfigError, match="Linear has no input spec: it was not made by"):
        get_input_spec(torch.nn.Linear(1, 1))
    with pytest.raises(ConfigError, match="A FeatureBackbone is needed, got Linear"):
        get_feature_channels(torch.nn.Linear(1, 1))


@pytest.mark.parametrize("name", ["xcit_nano_12_p8_224", "test_vit", "swin_tiny_patch4_window7_224"])
def test_what_takes_any_size_can_be_built_for_any(name):
    backbone = create_feature_backbone(name, pretrained=False, img_size=(97, 130)).eval()
    with torch.no_grad():
        maps = backbone(torch.rand(1, 3, 97, 130))
    assert not backbone.input_spec.fixed_size
    assert [tuple(y.shape[2:]) for y in maps] == [(-(-97 // s), -(-130 // s)) for s in backbone.strides]


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode])
def test_creation_does_not_mind_the_callers_grad_mode(context):
    with context():
        backbone = create_feature_backbone("hrnet_w18_small", pretrained=False, out_indices=(1,))
    unused = [n for n, _ in backbone.named_buffers() if n.endswith((".weight", ".bias"))]  # no parameters any more
    assert unused
    assert all("fuse_layers" in name or "stage4" in name for name in unused)


def test_a_size_that_an_architecture_of_any_size_cannot_be_built_for():
    with torch.device("meta"), pytest.raises(InputSizeError, match=r"img_size=\(256, 169\): .*'mvitv2_tiny'.*a square"):
        create_feature_backbone("mvitv2_tiny", pretrained=False, img_size=(256, 169))


def test_arguments_that_make_timm_stop():
    wrong = {"dims": (16, 32, 48), "depths": (1, 1, 1, 1)}
    with torch.device("meta"), pytest.raises(ConfigError, match="timm cannot build 'csatv2'"):
        create_feature_backbone("csatv2", pretrained=False, extra_kwargs=wrong)


def test_another_default_type_is_named_where_it_may_be_the_cause():
    torch.set_default_dtype(torch.float16)
    try:
        with pytest.raises(ConfigError, match=r"the default dtype is torch\.float16"):
            create_feature_backbone("csatv2", pretrained=False)
    finally:
        torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize("strides", [(2,), (4, 8), (16, 32)])
def test_windows_bind_the_levels_that_have_them_and_no_others(strides):
    """MaxViT's windows of five cells divide the maps of 160 pixels, and not those of most other sizes."""
    backbone = create_feature_backbone("test_maxvit", pretrained=False, out_strides=strides).eval()
    assert backbone.input_spec.fixed_size == (strides != (2,))
    built = create_feature_backbone("test_maxvit", pretrained=False, out_strides=strides, img_size=(72, 104)).eval()
    for each, size in ((backbone, (72, 104)), (backbone, (160, 160)), (built, (72, 104))):
        if each.input_spec.fixed_size and each.input_spec.size != size:
            with pytest.raises(InputSizeError, match="takes 160x160 images only, got 72x104"):
                each(torch.rand(1, 3, *size))
            continue
        for y, stride in zip(each(torch.rand(1, 3, *size)), strides, strict=True):
            assert y.shape[2:] == (-(-size[0] // stride), -(-size[1] // stride))
