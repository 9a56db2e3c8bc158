"""Well-known networks to start from: each is one short file to read, to use, or to copy into your job."""

from onstream.zoo.afm import AFM
from onstream.zoo.dcn import DCN
from onstream.zoo.deepfm import DeepFM
from onstream.zoo.din import DIN
from onstream.zoo.ffm import FFM
from onstream.zoo.fm import FM
from onstream.zoo.lenet import LeNet
from onstream.zoo.lr import LR
from onstream.zoo.mlp import MLP
from onstream.zoo.mmoe import MMoE
from onstream.zoo.nfm import NFM
from onstream.zoo.vgg import VGG
from onstream.zoo.wide_deep import WideDeep

__all__ = ["AFM", "DCN", "DIN", "FFM", "FM", "LR", "MLP", "NFM", "VGG", "DeepFM", "LeNet", "MMoE", "WideDeep"]
