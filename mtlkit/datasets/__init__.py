"""The data sets that come with mtlkit, a module each; importing this package registers them."""

from mtlkit.datasets import multimnist as multimnist
from mtlkit.datasets import scenes as scenes
