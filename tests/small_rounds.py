"""The bench's rounds with small networks and few clients. Used by the tests of the bench."""

import dataclasses

from fednas_jax.bench.workloads import WORKLOADS, Sizes
from fednas_jax.config.schema import NetConfig

NETS = {
    "nas-round": (NetConfig(name="cnn", widths=(2, 2, 4)), (8, 8, 1), 2),
    "mobilenet-round": (NetConfig(name="mobilenet_v1", shallow=True, stem_stride=1), (8, 8, 3), 1),
    "resnet-round": (NetConfig(name="resnet20", shallow=True, widths=(4, 4, 8, 8)), (8, 8, 3), 1),
}


def small(name, clients):
    """The workload with a small network and so many clients."""
    net, shape, candidates = NETS[name]
    sizes = Sizes(5, 70, 25, 0.9)
    return dataclasses.replace(
        WORKLOADS[name], net=net, shape=shape, candidates=candidates, clients=clients, sizes=sizes
    )
