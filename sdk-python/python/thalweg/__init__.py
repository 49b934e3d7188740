"""Client of the Thalweg streaming platform.

    async with thalweg.connect("thalweg://localhost:9460") as client:
        async with client.producer("greetings") as producer:
            at = await producer.send("hello", key="me")
        async with client.consumer("greetings", start="earliest", until_end=True) as consumer:
            async for record in consumer:
                print(record.partition, record.offset, record.text())

`thalweg.sync` has the same names with `with` and `for`.
"""

import atexit as _atexit

from . import _leaving
from . import _native as _native_module
from ._client import Client, Group, GroupInfo, GroupMember, GroupOffset, Plugin, Topic, connect
from ._consumer import At, Consumer, Counts, Place, Rebalance, Start, Starts, TopicPartition
from ._errors import (
    AlreadyExistsError,
    BadRecordError,
    ClosedError,
    DamagedError,
    DeniedError,
    DisconnectedError,
    InternalError,
    InvalidError,
    NotFoundError,
    OffsetOutOfRangeError,
    PluginFailedError,
    RebalancedError,
    StorageFullError,
    ThalwegError,
    TimedOutError,
    UnsupportedError,
)
from ._native import Batch, Record, __version__
from ._producer import Data, Delivery, Headers, Message, OnDelivery, Producer, Timestamp, Value

# In this order backwards: first what was sent is waited for.
_atexit.register(_native_module.drain)
_atexit.register(_leaving.wait)

__all__ = [
    "AlreadyExistsError",
    "At",
    "BadRecordError",
    "Batch",
    "Client",
    "ClosedError",
    "Consumer",
    "Counts",
    "DamagedError",
    "Data",
    "Delivery",
    "DeniedError",
    "DisconnectedError",
    "Group",
    "GroupInfo",
    "GroupMember",
    "GroupOffset",
    "Headers",
    "InternalError",
    "InvalidError",
    "Message",
    "NotFoundError",
    "OffsetOutOfRangeError",
    "OnDelivery",
    "Place",
    "Plugin",
    "PluginFailedError",
    "Producer",
    "Rebalance",
    "RebalancedError",
    "Record",
    "Start",
    "Starts",
    "StorageFullError",
    "ThalwegError",
    "TimedOutError",
    "Timestamp",
    "Topic",
    "TopicPartition",
    "UnsupportedError",
    "Value",
    "__version__",
    "connect",
]
