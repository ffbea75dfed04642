"""QuantizationReport: what quantization changed."""

from dataclasses import dataclass


@dataclass(frozen=True)
class QuantizationReport:
    """What quantization changed of a backbone.

    Attributes
    ----------
    scheme
        How it was quantized.
    similarity
        By level: the cosine similarity of its maps to those from before, in [-1, 1], a mean over the images.
    images
        How many images were compared.
    bytes_before
        Size of the weights before, in bytes; for a file, its size without quantization.
    bytes_after
        Size of the weights now, in bytes; for a file, its size.
    """

    scheme: str
    similarity: dict[str, float]
    images: int
    bytes_before: int
    bytes_after: int

    @property
    def worst_level(self) -> str:
        """The level whose maps changed most."""
        return min(self.similarity, key=self.similarity.__getitem__)
