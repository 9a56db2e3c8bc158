"""Every network of the zoo, with a layout of features that it is made for."""

from functools import partial

from onstream import zoo
from onstream.contracts import Field, Label
from tests.learners.exporting import ids, made, numbers

CLASSES = (Label("kind", "class", 3),)
IMAGE = made(Field("image", "tensor", shape=(1, 28, 28)), labels=CLASSES)
HISTORY = made(*ids(2), Field("history", "list", table="t", dim=4, pooling="pad", length=3), *numbers(1))

NETWORKS = {
    "lr": (zoo.LR, made(*ids(3, dim=1), *numbers(2))),
    "lr without numbers": (zoo.LR, made(*ids(3, dim=1))),
    "fm": (zoo.FM, made(*ids(3), *numbers(2))),
    "ffm": (zoo.FFM, made(*ids(3, dim=6), *numbers(2))),
    "afm": (zoo.AFM, made(*ids(5), *numbers(2))),
    "nfm": (zoo.NFM, made(*ids(3), *numbers(2))),
    "wide_deep": (zoo.WideDeep, made(*ids(3), *numbers(2))),
    "deepfm": (zoo.DeepFM, made(*ids(3), *numbers(2))),
    "deepfm without numbers": (zoo.DeepFM, made(*ids(3))),
    "dcn": (zoo.DCN, made(*ids(3), *numbers(2))),
    "mlp": (zoo.MLP, made(*ids(3), *numbers(2))),
    "din": (partial(zoo.DIN, "t0", "history"), HISTORY),
    "mmoe": (
        partial(zoo.MMoE, "click", "buy"),
        made(*ids(3), labels=(Label("click", "binary"), Label("buy", "binary"))),
    ),
    "lenet": (partial(zoo.LeNet, classes=3), IMAGE),
    "vgg": (partial(zoo.VGG, classes=3), IMAGE),
}
