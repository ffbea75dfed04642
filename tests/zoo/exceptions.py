"""Architectures that are not in contract at all three sizes, each with its reason; a reason must still hold."""

_ONE_SIZE = "its table of attention biases has 7x7 entries, whatever img_size says: it takes 224x224 images only"

EXCEPTIONS = {
    "efficientformer_l1": _ONE_SIZE,
    "efficientformer_l3": _ONE_SIZE,
    "efficientformer_l7": _ONE_SIZE,
}

# Architectures that take images of three channels only.
THREE_CHANNELS = {
    "csatv2": "its stem turns RGB into YCbCr, with the constants of these three channels",
    "csatv2_21m": "its stem turns RGB into YCbCr, with the constants of these three channels",
}

# Encoders of language models: their output is tokens, not pooled features, and create_backbone says so.
ENCODERS = {
    "deepseek_vit_412m_enc",
    "gemma4_vit_167m_enc",
    "gemma4_vit_570m_enc",
    "mobilenetv5_300m_enc",
    "qwen3_vit_306m_enc",
    "qwen3_vit_416m_enc",
    "qwen3_vit_88m_enc",
}
