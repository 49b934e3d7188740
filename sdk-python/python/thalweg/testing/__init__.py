"""Real brokers for the tests of what uses Thalweg.

    from thalweg.testing import Broker

    def test_an_order_is_stored():
        with Broker() as broker, broker.connect_sync() as client:
            ...

A broker is the `thalweg` command in a process of its own, at free ports and in a temporary directory. It does not outlive the process that has
started it. `thalweg.testing.pytest` has fixtures. Nothing here is imported by `thalweg` itself.
"""

from ._binary import BinaryNotFoundError, BrokerError, find_binary
from ._broker import Broker, Cluster, unique

__all__ = ["BinaryNotFoundError", "Broker", "BrokerError", "Cluster", "find_binary", "unique"]
