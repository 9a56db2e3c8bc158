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
    channels : int
        Of the image.

    References
    ----------
    Simonyan, Zisserman, "Very Deep Convolutional Networks for Large-Scale Image Recognition", ICLR 2015, table 1,
    configuration A without its last block. Weights begin as in He et al., "Delving Deep into Rectifiers", ICCV 2015,
    equation 10, without which so many layers are slow to begin.
    """

    def __init__(self, image: str = "image", classes: int = 10, channels: int = 1) -> None:
        super().__init__()
        self.image = image
        layers: list[nn.Module] = []
        for convolutions, width in ((1, 16), (1, 32), (2, 64), (2, 128)):
            for _ in range(convolutions):
                layer = nn.Conv2d(channels, width, 3, padding=1)
                nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
                layers, channels = [*layers, layer, nn.ReLU()], width
            layers.append(nn.MaxPool2d(2))
        head = (nn.LazyLinear(128), nn.ReLU(), nn.Linear(128, classes))
        self.layers = nn.Sequential(*layers, nn.Flatten(), *head)

    def forward(self, x: Inputs) -> Tensor:
        """Return logits (rows, classes)."""
        return self.layers(x[self.image])
