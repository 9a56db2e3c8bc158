"""LeNet-5."""

from torch import Tensor, nn

from onstream.learners import Inputs

__all__ = ["LeNet"]


class LeNet(nn.Module):
    """LeNet-5 (LeCun et al. 1998): two convolutions and three layers, for small images such as digits.

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
    LeCun et al., "Gradient-Based Learning Applied to Document Recognition", Proceedings of the IEEE 1998, section
    II.B, with ReLU and maxima instead of sigmoids and averages, as is usual today.
    """

    def __init__(self, image: str = "image", classes: int = 10, channels: int = 1) -> None:
        super().__init__()
        self.image = image
        self.layers = nn.Sequential(
            *(nn.Conv2d(channels, 6, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2)),
            *(nn.Conv2d(6, 16, 5), nn.ReLU(), nn.MaxPool2d(2)),
            *(nn.Flatten(), nn.LazyLinear(120), nn.ReLU(), nn.Linear(120, 84), nn.ReLU()),
            nn.Linear(84, classes),
        )

    def forward(self, x: Inputs) -> Tensor:
        """Return logits (rows, classes)."""
        return self.layers(x[self.image])
