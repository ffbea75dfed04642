"""Backbones of this package inside the models of transformers. Importing it registers them with its auto classes."""

from transformers import AutoBackbone, AutoConfig, AutoModel

from autobackbone.integrations.transformers.config import AutobackboneConfig, backbone_config
from autobackbone.integrations.transformers.heads import head_config
from autobackbone.integrations.transformers.images import image_processor
from autobackbone.integrations.transformers.model import AutobackboneModel

AutoConfig.register(AutobackboneConfig.model_type, AutobackboneConfig, exist_ok=True)
AutoModel.register(AutobackboneConfig, AutobackboneModel, exist_ok=True)
AutoBackbone.register(AutobackboneConfig, AutobackboneModel, exist_ok=True)

__all__ = ["AutobackboneConfig", "AutobackboneModel", "backbone_config", "head_config", "image_processor"]
