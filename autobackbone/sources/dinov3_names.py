"""DINOv3 under the names of three libraries: transformers, timm, and the original repository.

The tensors are the same. transformers has queries, keys and values apart, the others have them in one; timm leaves out
their biases, which are zero in the published weights, unless the architecture's name ends in ``_qkvb``.
"""

import re
from collections.abc import Mapping

import torch
from torch import Tensor

from autobackbone.errors import WeightsMismatchError

StateDict = Mapping[str, Tensor]

# Names of timm and of the original repository -> names of transformers. A Linear's weight and bias go together.
_TO_TRANSFORMERS = [
    (r"(cls_token|mask_token)", r"embeddings.\1"),
    (r"(?:reg_token|storage_tokens)", r"embeddings.register_tokens"),
    (r"patch_embed\.proj\.(\w+)", r"embeddings.patch_embeddings.\1"),
    (r"blocks\.(\d+)\.(norm[12]\.\w+)", r"model.layer.\1.\2"),
    (r"blocks\.(\d+)\.attn\.proj\.(\w+)", r"model.layer.\1.attention.o_proj.\2"),
    (r"blocks\.(\d+)\.(?:gamma_|ls)([12])(?:\.gamma)?", r"model.layer.\1.layer_scale\2.lambda1"),
    (r"blocks\.(\d+)\.mlp\.(?:fc1_g|w1)\.(\w+)", r"model.layer.\1.mlp.gate_proj.\2"),
    (r"blocks\.(\d+)\.mlp\.(?:fc1|fc1_x|w2)\.(\w+)", r"model.layer.\1.mlp.up_proj.\2"),
    (r"blocks\.(\d+)\.mlp\.(?:fc2|w3)\.(\w+)", r"model.layer.\1.mlp.down_proj.\2"),
    # ConvNeXt
    (r"(?:stem|downsample_layers\.0)\.(\d)\.(\w+)", r"model.stages.0.downsample_layers.\1.\2"),
    (r"stages\.(\d)\.downsample\.(\d)\.(\w+)", r"model.stages.\1.downsample_layers.\2.\3"),
    (r"downsample_layers\.(\d)\.(\d)\.(\w+)", r"model.stages.\1.downsample_layers.\2.\3"),
    (r"stages\.(\d)\.(?:blocks\.)?(\d+)\.gamma", r"model.stages.\1.layers.\2.gamma"),
    (r"stages\.(\d)\.(?:blocks\.)?(\d+)\.(?:conv_dw|dwconv)\.(\w+)", r"model.stages.\1.layers.\2.depthwise_conv.\3"),
    (r"stages\.(\d)\.(?:blocks\.)?(\d+)\.norm\.(\w+)", r"model.stages.\1.layers.\2.layer_norm.\3"),
    (
        r"stages\.(\d)\.(?:blocks\.)?(\d+)\.(?:mlp\.fc|pwconv)([12])\.(\w+)",
        r"model.stages.\1.layers.\2.pointwise_conv\3.\4",
    ),
    (r"head\.norm\.(\w+)", r"layer_norm.\1"),
]
# Names of transformers -> names of timm.
_TO_TIMM = [
    (r"embeddings\.(cls_token|mask_token)", r"\1"),
    (r"embeddings\.register_tokens", r"reg_token"),
    (r"embeddings\.patch_embeddings\.(\w+)", r"patch_embed.proj.\1"),
    (r"layer\.(\d+)\.(norm[12]\.\w+)", r"blocks.\1.\2"),
    (r"layer\.(\d+)\.attention\.o_proj\.(\w+)", r"blocks.\1.attn.proj.\2"),
    (r"layer\.(\d+)\.layer_scale([12])\.lambda1", r"blocks.\1.gamma_\2"),
    (r"layer\.(\d+)\.mlp\.gate_proj\.(\w+)", r"blocks.\1.mlp.fc1_g.\2"),
    (r"layer\.(\d+)\.mlp\.up_proj\.(\w+)", r"blocks.\1.mlp.fc1.\2"),
    (r"layer\.(\d+)\.mlp\.down_proj\.(\w+)", r"blocks.\1.mlp.fc2.\2"),
    (r"stages\.0\.downsample_layers\.(\d)\.(\w+)", r"stem.\1.\2"),
    (r"stages\.(\d)\.downsample_layers\.(\d)\.(\w+)", r"stages.\1.downsample.\2.\3"),
    (r"stages\.(\d)\.layers\.(\d+)\.gamma", r"stages.\1.blocks.\2.gamma"),
    (r"stages\.(\d)\.layers\.(\d+)\.depthwise_conv\.(\w+)", r"stages.\1.blocks.\2.conv_dw.\3"),
    (r"stages\.(\d)\.layers\.(\d+)\.layer_norm\.(\w+)", r"stages.\1.blocks.\2.norm.\3"),
    (r"stages\.(\d)\.layers\.(\d+)\.pointwise_conv([12])\.(\w+)", r"stages.\1.blocks.\2.mlp.fc\3.\4"),
    (r"layer_norm\.(\w+)", r"head.norm.\1"),
]


def to_transformers(state: StateDict, own: StateDict) -> StateDict | None:
    """Rename a DINOv3 state dict of any of the libraries to the names of a transformers model.

    Parameters
    ----------
    state
        Tensors by name.
    own
        The state dict of the model.

    Returns
    -------
    dict of str to Tensor or None
        ``None`` if the names are of none of them.
    """
    renamed: dict[str, Tensor] = {}
    if _is_transformers(state):  # published files leave out the name of the encoder
        renamed = {re.sub(r"^(?=layer\.|stages\.)", "model.", k.removeprefix("model.")): v for k, v in state.items()}
    elif _is_timm(state) or _is_original(state):
        final_norm = "layer_norm" if any(name.startswith("stages.") for name in state) else "norm"
        for name, value in state.items():
            match = re.fullmatch(r"blocks\.(\d+)\.attn\.(qkv\.weight|qkv\.bias|[qkv]_bias)", name)
            if match is None:
                new = re.sub(r"^norm(?=\.)", final_norm, name)
                renamed[_rename(new, _TO_TRANSFORMERS)] = value
                continue
            kind = match[2].rpartition("." if "." in match[2] else "_")[2]
            parts = zip("qkv", value.chunk(3), strict=True) if "qkv" in match[2] else [(match[2][0], value)]
            for part, tensor in parts:
                if (part, kind) != ("k", "bias"):  # none in transformers: it would not change the attention
                    renamed[f"model.layer.{match[1]}.attention.{part}_proj.{kind}"] = tensor
        for name, value in own.items():  # what timm leaves out, because it is zero or not used
            if name not in renamed and re.search(r"[qv]_proj\.bias$|mask_token$", name):
                renamed[name] = torch.zeros_like(value, device="cpu")
        renamed = {k: v for k, v in renamed.items() if k in own or not _is_zero_bias(k, v)}
    return renamed or None


def to_timm(state: StateDict, own: StateDict) -> StateDict | None:
    """Rename a DINOv3 state dict of transformers, or a ViT's of the original repository, to the names of a timm model.

    Parameters
    ----------
    state
        Tensors by name.
    own
        The state dict of the model.

    Returns
    -------
    dict of str to Tensor or None
        ``None`` if the names are of neither.

    Raises
    ------
    WeightsMismatchError
        If there are biases of queries or values that are not zero, and the model has no place for them.
    """
    if "storage_tokens" in state:  # timm knows the original names, and drops the biases whatever they are
        state = to_transformers(state, {}) or state
    if not _is_transformers(state):
        return None
    state = {name.removeprefix("model."): value for name, value in state.items()}
    gated = any(".gate_proj." in name for name in state)
    renamed: dict[str, Tensor] = {}
    for name, value in state.items():
        match = re.fullmatch(r"layer\.(\d+)\.attention\.([qkv])_proj\.(weight|bias)", name)
        if match is None:
            new = _rename(name, _TO_TIMM)
            renamed[new.replace(".mlp.fc1.", ".mlp.fc1_x.") if gated else new] = value
        elif match[3] == "weight":
            if match[2] == "q":
                parts = [state[name.replace("q_proj", f"{part}_proj")] for part in "qkv"]
                renamed[f"blocks.{match[1]}.attn.qkv.weight"] = torch.cat(parts)
        elif match[2] != "k":
            new = f"blocks.{match[1]}.attn.{match[2]}_bias"
            if new in own or match[1] not in _blocks(own):
                renamed[new] = value
            elif not _is_zero_bias(name, value):
                msg = (
                    f"The weights have a bias for the {match[2]} of attention that is not zero ({name!r}), and the "
                    "architecture has none; use the architecture whose name ends in '_qkvb'."
                )
                raise WeightsMismatchError(msg)
    renamed.pop("mask_token", None)
    return renamed


def _is_transformers(state: StateDict) -> bool:
    return any(
        re.search(r"^(model\.)?(layer\.0\.layer_scale1|stages\.0\.layers\.0\.depthwise_conv)\.", k) for k in state
    )


def _is_timm(state: StateDict) -> bool:
    return ("reg_token" in state and "blocks.0.gamma_1" in state) or "stages.0.blocks.0.conv_dw.weight" in state


def _is_original(state: StateDict) -> bool:
    return "storage_tokens" in state or "stages.0.0.dwconv.weight" in state


def _is_zero_bias(name: str, value: Tensor) -> bool:
    return name.endswith("bias") and not value.any()


def _blocks(state: StateDict) -> set[str]:
    return {name.split(".")[1] for name in state if name.startswith("blocks.")}


def _rename(name: str, table: list[tuple[str, str]]) -> str:
    for pattern, new in table:
        match = re.fullmatch(pattern, name)
        if match is not None:
            return match.expand(new)
    return name
