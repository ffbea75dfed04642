"""The DINOv3 source: Meta's ViTs and ConvNeXts, as transformers has them."""
