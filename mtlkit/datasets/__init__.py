"""The data sets of mtlkit, one module per data set. Importing this package registers them."""

from mtlkit.data import prepared as prepared
from mtlkit.datasets import celeba as celeba
from mtlkit.datasets import chestxray14 as chestxray14
from mtlkit.datasets import cityscapes as cityscapes
from mtlkit.datasets import cl_rr as cl_rr
from mtlkit.datasets import folder as folder
from mtlkit.datasets import hf as hf
from mtlkit.datasets import multidigitmnist as multidigitmnist
from mtlkit.datasets import multimnist as multimnist
from mtlkit.datasets import nyuv2 as nyuv2
from mtlkit.datasets import scenes as scenes
from mtlkit.datasets import sunrgbd as sunrgbd
