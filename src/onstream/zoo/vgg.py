"""A small VGG."""

from torch import Tensor, nn

from onstream.learners import Inputs

__all__ = ["VGG"]


class VGG(nn.Module):
    """VGG (Simonyan, Zisserman 2015): blocks of 3 x 3 convolutions, each half the size of the one before.

    More exact than `LeNet`, and slower. The widths are a quarter of the paper's, for images of about 28 x 28.

    Parameters
    ----------
    image : str
        Name of the `Tensor` feature, of shape (channels, height, width), such as (1, 28, 28).
    classes : int
        Of the label.
    blocks : tuple of (int, int)
        Convolutions of each block, and their width.
    hidden : int
        Width of the layer below the last.

    References
    ----------
    Simonyan, Zisserman, "Very Deep Convolutional Networks for Large-Scale Image Recognition", ICLR 2015, table 1,
    configuration A without its last block.
    """

    def __init__(
        self,
        image: str = "image",
        classes: int = 10,
        blocks: tuple[tuple[int, int], ...] = ((1, 16), (1, 32), (2, 64), (2, 128)),
        hidden: int = 128,
    ) -> None:
        super().__init__()
        self.image = image
        layers: list[nn.Module] = []
        for convolutions, width in blocks:
            for _ in range(convolutions):
                layers += [nn.LazyConv2d(width, 3, padding=1), nn.ReLU()]
            layers.append(nn.MaxPool2d(2))
        self.layers = nn.Sequential(
            *layers, nn.Flatten(), nn.LazyLinear(hidden), nn.ReLU(), nn.Linear(hidden, classes)
        )

    def forward(self, x: Inputs) -> Tensor:
        """Return logits (rows, classes)."""
        return self.layers(x[self.image])
