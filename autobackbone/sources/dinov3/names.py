"""DINOv3 under the names of three libraries: transformers, timm, and the original repository.

The tensors are the same. transformers keeps queries, keys and values apart; the others join them. timm leaves out their
biases, which are zero in the published weights, unless the architecture's name ends in ``_qkvb``.
"""

import re
from collections.abc import Iterator

import torch
from torch import Tensor

from autobackbone.errors import WeightsMismatchError
from autobackbone.weights.rules import StateDict

_BIASES = {"q": "query_bias", "k": "key_bias", "v": "value_bias"}

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
    # What there is besides in a block, which transformers' has no place for
    (r"blocks\.(\d+)\.(.+)", r"model.layer.\1.\2"),
    (r"stages\.(\d)\.(.+)", r"model.stages.\1.\2"),
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
    (r"layer\.(\d+)\.(.+)", r"blocks.\1.\2"),  # what there is besides in a block
]


def to_transformers(state: StateDict, target: StateDict) -> StateDict | None:
    """Rename a DINOv3 state dict of any of the libraries to the names of a transformers model.

    Parameters
    ----------
    state
        Tensors by name.
    target
        The model's own state dict; empty if it is not known.

    Returns
    -------
    dict of str to Tensor or None
        ``None`` if the names are of none of them.

    Raises
    ------
    WeightsMismatchError
        If attention biases are not zero, and the model has no place for them.
    """
    if _is_transformers(state):  # published files leave out the name of the encoder
        renamed = {re.sub(r"^(?=layer\.|stages\.)", "model.", k.removeprefix("model.")): v for k, v in state.items()}
    elif _is_timm(state) or _is_original(state):
        renamed = {new: tensor for name, value in state.items() for new, tensor in _split(name, value, state)}
        has_biases = any(re.search(r"[qv]_proj\.bias$", name) for name in renamed)
        left_out = r"mask_token$" if has_biases else r"[qv]_proj\.bias$|mask_token$"
        for name, value in target.items():  # what timm leaves out of every block, because it is zero or not used
            if name not in renamed and re.search(left_out, name):
                renamed[name] = torch.zeros_like(value, device="cpu")
    else:
        return None
    return {name: value for name, value in renamed.items() if name in target or not _is_needless(name, value, target)}


def to_timm(state: StateDict, target: StateDict) -> StateDict | None:
    """Rename a DINOv3 state dict of transformers, or a ViT's of the original repository, to the names of a timm model.

    Parameters
    ----------
    state
        Tensors by name.
    target
        The model's own state dict.

    Returns
    -------
    dict of str to Tensor or None
        ``None`` if the names are of neither.

    Raises
    ------
    WeightsMismatchError
        If attention biases are not zero, and the model has no place for them.
    """
    if "storage_tokens" in state:  # timm knows the original names, and drops the biases whatever they are
        state = to_transformers(state, {}) or state
    if not _is_transformers(state):
        return None
    state = {name.removeprefix("model."): value for name, value in state.items()}
    up = "mlp.fc1_x." if any(".gate_proj." in name for name in state) else "mlp.fc1."
    renamed: dict[str, Tensor] = {}
    for name, value in state.items():
        match = re.fullmatch(r"layer\.(\d+)\.attention\.([qkv])_proj\.(weight|bias)", name)
        if match is None:
            renamed[_rename(name, _TO_TIMM).replace("mlp.fc1.", up)] = value
        elif match[3] == "weight":
            parts = [state.get(f"layer.{match[1]}.attention.{part}_proj.weight") for part in "qkv"]
            qkv = [part for part in parts if part is not None]
            alike = len({part.shape[1:] for part in qkv}) == 1 and all(part.ndim == 2 for part in qkv)
            if match[2] == "q" and len(qkv) == 3 and alike:
                renamed[f"blocks.{match[1]}.attn.qkv.weight"] = torch.cat(qkv)
        else:
            new = f"blocks.{match[1]}.attn.{match[2]}_bias"
            if new in target or not _is_needless(name, value, target):
                renamed[new] = value
    renamed.pop("mask_token", None)
    return renamed


def _split(name: str, value: Tensor, state: StateDict) -> Iterator[tuple[str, Tensor]]:
    """Yield the tensors in transformers of one tensor of timm or the original repository."""
    if re.search(r"bias_mask$|^rope_embed\.|^norms\.|^local_cls_norm\.", name):
        return  # constants, and what only pretraining uses
    match = re.fullmatch(r"blocks\.(\d+)\.attn\.(qkv\.weight|qkv\.bias|[qkv]_bias)", name)
    if match is None:
        final_norm = "layer_norm" if "stages.0.0.dwconv.weight" in state else "norm"
        yield _rename(re.sub(r"^norm(?=\.)", final_norm, name), _TO_TRANSFORMERS), value
        return
    kind = "weight" if match[2].endswith("weight") else "bias"
    parts = value.chunk(3) if match[2].startswith("qkv") and value.ndim else (value,)
    for part, tensor in zip("qkv" if len(parts) == 3 else match[2][0], parts, strict=False):
        if not (part == "k" and name.endswith("qkv.bias") and _masks_keys(state.get(f"{name}_mask"))):
            yield f"model.layer.{match[1]}.attention.{part}_proj.{kind}", tensor


def _masks_keys(mask: Tensor | None) -> bool:
    """Whether a mask of the original repository removes the biases of the keys, as in the published weights."""
    return mask is not None and mask.ndim == 1 and len(mask) % 3 == 0 and not bool((mask.chunk(3)[1] == 1).any())


def _is_transformers(state: StateDict) -> bool:
    return any(
        re.search(r"^(model\.)?(layer\.0\.layer_scale1|stages\.0\.layers\.0\.depthwise_conv)\.", k) for k in state
    )


def _is_timm(state: StateDict) -> bool:
    return ("reg_token" in state and "blocks.0.gamma_1" in state) or "stages.0.blocks.0.conv_dw.weight" in state


def _is_original(state: StateDict) -> bool:
    return "storage_tokens" in state or "stages.0.0.dwconv.weight" in state


def _is_needless(name: str, value: Tensor, target: StateDict) -> bool:
    """Whether this is an attention bias of zeros that the model has no place for. Another bias is an error."""
    match = re.search(r"layer\.(\d+)\.attention\.([qkv])_proj\.bias$", name)
    if match is None or not any(f"{kind}.{match[1]}." in key for key in target for kind in ("blocks", "layer")):
        return False
    if value.any():
        msg = (
            f"The weights have a bias for the {match[2]} of attention that is not zero ({name!r}), and the model has "
            "none; use one that has: timm's architectures whose names end in '_qkvb' (queries and values), or "
            f"extra_kwargs={{'{_BIASES[match[2]]}': True}} with transformers."
        )
        raise WeightsMismatchError(msg)
    return True


def _rename(name: str, table: list[tuple[str, str]]) -> str:
    for pattern, new in table:
        match = re.fullmatch(pattern, name)
        if match is not None:
            return match.expand(new)
    return name
