"""ROS 2 topics without ROS: Cyclone DDS carries them, rosbags knows the types and writes the bytes.

A `Participant` is to rmw_cyclonedds and rmw_fastrtps a peer like any other: names and types are mangled as
they do it, payloads are plain little-endian CDR, readers and writers tell the hash of their type. Only topics
cross: rmw_fastrtps' services need what Cyclone's Python binding cannot set.

The messages never go through that binding's own serialiser, which takes 100 ms for a VGA picture; a class
that hands rosbags' bytes through takes its place.
"""

from __future__ import annotations

import fcntl
import importlib
import os
import socket
import struct
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

from .messages import TransportError
from .ros2_types import Types
from .topics import Qos

# Of ros_discovery_info's Gid. With a wrong length, other nodes' queries of the graph raise.
GID_BYTES = dict.fromkeys(("foxy", "galactic", "humble"), 24) | dict.fromkeys(
    ("iron", "jazzy", "kilted", "lyrical"), 16
)
_GRAPH = "rmw_dds_common/ParticipantEntitiesInfo"
_environment = threading.Lock()
_FLAGS_OF_INTERFACE, _MULTICASTS = 0x8913, 0x1000  # SIOCGIFFLAGS, IFF_MULTICAST
_LONGEST_WAIT_S = 0.01  # in `publish`, for readers that do not keep up

# Pictures go in 64 kB datagrams and wait in a large buffer: with Cyclone's own settings, 720p loses frames.
_PROFILE = """<CycloneDDS><Domain Id="any"><General>{general}<MaxMessageSize>65500B</MaxMessageSize>
<FragmentSize>64000B</FragmentSize></General>{discovery}
<Internal><SocketReceiveBufferSize min="default" max="8MB"/>
<Watermarks><WhcHigh>8MB</WhcHigh></Watermarks></Internal></Domain></CycloneDDS>"""
# lo multicasts only if told to (`ip link set lo multicast on`). Otherwise processes are looked for at their
# usual ports, which finds Cyclone; Fast DDS was not found so.
_LOOPBACK = """<Interfaces><NetworkInterface name="lo" multicast="{multicast}"/></Interfaces>
<AllowMulticast>{multicast}</AllowMulticast>"""
_PEERS = """<Discovery><ParticipantIndex>auto</ParticipantIndex>
<MaxAutoParticipantIndex>32</MaxAutoParticipantIndex>
<Peers><Peer address="127.0.0.1"/></Peers></Discovery>"""


@dataclass(frozen=True)
class DdsConfig:
    """How to be found.

    Attributes:
        domain: ROS_DOMAIN_ID.
        distro: of the ROS 2 on the other side, for instance ``humble``. Without it the node is not named in
            ROS 2's graph (its topics are), for the form of that name changed between distros.
        loopback_only: speak to this machine alone. ROS 2 over Fast DDS is found so only where lo multicasts.

    Raises:
        ValueError: a domain that DDS has no ports for, or a distro that is not known.
    """

    domain: int = 0
    distro: str = ""
    loopback_only: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.domain <= 232:
            raise ValueError(f"dds: domain is {self.domain}, expected 0 to 232")
        if self.distro and self.distro not in GID_BYTES:
            raise ValueError(
                f"dds: distro is {self.distro!r}, expected none or one of {', '.join(GID_BYTES)}"
            )

    @classmethod
    def from_environment(cls) -> DdsConfig:
        """As ROS_DOMAIN_ID, ROS_DISTRO and ROS_LOCALHOST_ONLY say.

        Raises:
            ValueError: ROS_DOMAIN_ID is no number, or one that DDS has no ports for.
        """
        domain = os.environ.get("ROS_DOMAIN_ID") or "0"
        if not domain.isdecimal():
            raise ValueError(f"ROS_DOMAIN_ID is {domain!r}, expected a number from 0 to 232")
        distro = os.environ.get("ROS_DISTRO", "")
        alone = os.environ.get("ROS_LOCALHOST_ONLY") == "1"
        alone |= os.environ.get("ROS_AUTOMATIC_DISCOVERY_RANGE", "").upper() == "LOCALHOST"
        return cls(int(domain), distro if distro in GID_BYTES else "", alone)  # distro may be ROS 1's

    def profile(self) -> str:
        """Cyclone's configuration (what CYCLONEDDS_URI says already overrides it)."""
        general = _LOOPBACK.format(multicast=_lo_multicasts()) if self.loopback_only else ""
        ours = _PROFILE.format(general=general, discovery=_PEERS if self.loopback_only else "")
        return ",".join(part for part in (ours, os.environ.get("CYCLONEDDS_URI", "")) if part)


def _lo_multicasts() -> str:
    asked = struct.pack("16sh14x", b"lo", 0)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        (flags,) = struct.unpack_from("H", fcntl.ioctl(any_socket, _FLAGS_OF_INTERFACE, asked), 16)
    return "true" if flags & _MULTICASTS else "false"


def topic_name(ros: str) -> str:
    """``/a/b`` is ``rt/a/b`` on the wire."""
    return "rt/" + ros.removeprefix("/")


def type_name(kind: str) -> str:
    """``package/Name`` is ``package::msg::dds_::Name_`` on the wire."""
    package, name = kind.split("/")
    return f"{package}::msg::dds_::{name}_"


def _import_cyclone() -> SimpleNamespace:
    """Cyclone's names, untyped.

    Raises:
        TransportError: it, or rosbags, is not installed.
    """
    found = SimpleNamespace()
    try:
        for module in ("core", "domain", "pub", "sub", "topic", "qos", "idl", "builtin", "util"):
            setattr(found, module, importlib.import_module(f"cyclonedds.{module}"))
        found.idl_types = importlib.import_module("cyclonedds.idl.types")
        found.annotations = importlib.import_module("cyclonedds.idl.annotations")
    except ImportError as error:
        raise TransportError(
            f"ROS 2 over DDS needs cyclonedds ({error}): pip install 'regrip[ros]'"
        ) from error
    return found


def _wire_type(cyclone: SimpleNamespace, types: Types, kind: str, made: dict[str, Any]) -> Any:
    """A class for Cyclone: described field by field, for discovery, and carrying bytes."""
    if kind in made:
        return made[kind]
    numbers = cyclone.idl_types

    def field(about: Any) -> Any:
        form, inner = about[0].name, about[1]
        if form == "BASE":
            name = {"byte": "uint8", "char": "uint8", "octet": "uint8"}.get(inner[0], inner[0])
            return {"string": str, "bool": bool}.get(name) or getattr(numbers, name)
        if form == "NAME":
            package, _, name = inner.split("/")
            return _wire_type(cyclone, types, f"{package}/{name}", made).described
        element = field(inner[0])
        return numbers.array[element, inner[1]] if form == "ARRAY" else numbers.sequence[element]

    described = cyclone.idl.make_idl_struct(
        kind.replace("/", "_"), type_name(kind), {name: field(about) for name, about in types.fields(kind)}
    )
    # Field types are found again by name.
    described.__module__ = __name__
    setattr(sys.modules[__name__], described.__name__, described)
    cyclone.annotations.final(described)

    class Wire:
        __idl__ = described.__idl__
        __idl_typename__ = described.__idl_typename__

        def __init__(self, data: bytes) -> None:
            self.data = data

        def serialize(self, *_: Any, **__: Any) -> bytes:
            return self.data

        @classmethod
        def deserialize(cls, data: bytes, *_: Any, **__: Any) -> Any:
            return cls(data)

        deserialize_key = deserialize

    Wire.described = described  # type: ignore[attr-defined]
    made[kind] = Wire
    return Wire


_POLICIES = {
    2: "durability",
    4: "deadline",
    6: "ownership",
    8: "liveliness",
    11: "reliability",
    23: "representation",
}


def _ros_type(wire: str) -> str:
    """What a person calls a type of the wire; as it is, if it is not ROS 2's."""
    package, _, name = wire.partition("::msg::dds_::")
    return f"{package}/{name.removesuffix('_')}" if name else wire


class Reader:
    """A subscription, and what its messages are handed to."""

    def __init__(self, topic: str, kind: str, entity: Any, take: Callable[[Any], None]) -> None:
        self.topic, self.kind, self.entity, self.take = topic, kind, entity, take

    @property
    def matched(self) -> int:
        """Writers that it hears."""
        return len(self.entity.get_matched_publications())


class Writer:
    """A publisher."""

    def __init__(
        self, topic: str, kind: str, entity: Any, types: Types, wire: Any, refusal: type[Exception]
    ) -> None:
        self.topic, self.kind, self.entity = topic, kind, entity
        self._types, self._wire, self._refusal = types, wire, refusal

    def publish(self, message: Any) -> None:
        """Send a message.

        Raises:
            TransportError: it was not taken within 10 ms: a reliable reader does not keep up.
        """
        self.publish_bytes(self._types.write(self.kind, message))

    def publish_bytes(self, data: bytes) -> None:
        """Send CDR as it is."""
        try:
            self.entity.write(self._wire(data))
        except self._refusal as error:
            raise TransportError(f"{self.topic} was not sent: {error}") from error

    @property
    def matched(self) -> int:
        """Readers that hear it."""
        return len(self.entity.get_matched_subscriptions())


def _mismatch(ours: Reader | Writer, theirs: dict[str, set[str]], status: Any, done: str) -> list[str]:
    found = theirs.get(topic_name(ours.topic), set())
    if not found or ours.matched:
        return []
    others = found - {type_name(ours.kind)}
    if others:
        named = ", ".join(sorted(_ros_type(other) for other in others))
        return [f"{ours.topic} is {done} as {named}, and the node has it as {ours.kind}"]
    if not status.total_count:
        return []  # found just now
    policy = _POLICIES.get(status.last_policy_id, f"policy {status.last_policy_id}")
    return [f"{ours.topic} is {done} with another {policy} than the node's"]


class Participant:
    """One node on the network. Messages are handed over in one thread of its own, one at a time.

    Args:
        node: its name in ROS 2's graph.
        config: domain, distro, reach.
        fault: told of a message that cannot be read: topic, and why in words.

    Raises:
        TransportError: cyclonedds or rosbags is not installed, or DDS cannot begin.
    """

    def __init__(
        self, node: str, config: DdsConfig, fault: Callable[[str, str], None] = lambda topic, why: None
    ) -> None:
        self.node, self.config, self._fault = node, config, fault
        self.types = Types(config.distro)
        self.make = self.types.make
        self._cyclone = cyclone = _import_cyclone()
        self._wires: dict[str, Any] = {}
        self._topics: dict[str, Any] = {}
        self._readers: list[Reader] = []
        self._writers: list[Writer] = []
        self._lock = threading.Lock()
        self._over = False
        self._thread: threading.Thread | None = None
        self._participant = _participant(cyclone, config)
        self._publisher = cyclone.pub.Publisher(self._participant)
        self._subscriber = cyclone.sub.Subscriber(self._participant)
        builtin = cyclone.builtin
        self._discovered = [
            builtin.BuiltinDataReader(self._participant, topic)
            for topic in (builtin.BuiltinTopicDcpsPublication, builtin.BuiltinTopicDcpsSubscription)
        ]
        self._waitset = cyclone.core.WaitSet(self._participant)
        self._awake = cyclone.core.GuardCondition(self._participant)
        self._waitset.attach(self._awake)
        self._graph: Writer | None = None
        if config.distro:
            once = Qos(reliable=True, depth=1)
            self._graph = self._writer("ros_discovery_info", "", _GRAPH, once, latched=True)
            self._announce()

    def listen(
        self, topic: str, kind: str, qos: Qos, take: Callable[[Any], None], latched: bool = False
    ) -> Reader:
        """Subscribe: `take` gets every message of `kind`, in the participant's thread, once it is started."""
        cyclone = self._cyclone
        entity = cyclone.sub.DataReader(
            self._subscriber, self._topic(topic_name(topic), kind), qos=self._qos(kind, qos, latched)
        )
        reader = Reader(topic, kind, entity, take)
        core = cyclone.core
        fresh = core.ViewState.Any | core.InstanceState.Any | core.SampleState.NotRead
        self._waitset.attach(core.ReadCondition(entity, fresh))
        with self._lock:
            self._readers.append(reader)
        self._announce()
        return reader

    def advertise(self, topic: str, kind: str, qos: Qos, latched: bool = False) -> Writer:
        """Publish on a topic; `latched`: late subscribers that ask for it get the last message."""
        writer = self._writer(topic_name(topic), topic, kind, qos, latched)
        with self._lock:
            self._writers.append(writer)
        self._announce()
        return writer

    def start(self) -> None:
        """Begin to hand messages over."""
        self._thread = threading.Thread(target=self._run, name="dds", daemon=True)
        self._thread.start()

    def _topic(self, name: str, kind: str) -> Any:
        if name not in self._topics:
            wire = _wire_type(self._cyclone, self.types, kind, self._wires)
            self._topics[name] = self._cyclone.topic.Topic(self._participant, name, wire)
        return self._topics[name]

    def _writer(self, name: str, ros: str, kind: str, qos: Qos, latched: bool) -> Writer:
        topic = self._topic(name, kind)
        entity = self._cyclone.pub.DataWriter(self._publisher, topic, qos=self._qos(kind, qos, latched))
        refusal = self._cyclone.core.DDSException
        return Writer(ros, kind, entity, self.types, self._wires[kind], refusal)

    def _qos(self, kind: str, qos: Qos, latched: bool) -> Any:
        policy, duration = self._cyclone.qos.Policy, self._cyclone.util.duration
        wanted = [
            policy.Reliability.Reliable(duration(seconds=_LONGEST_WAIT_S))
            if qos.reliable
            else policy.Reliability.BestEffort,
            policy.History.KeepLast(qos.depth),
            policy.Durability.TransientLocal if latched else policy.Durability.Volatile,
            policy.WriterDataLifecycle(autodispose=False),
            policy.DataRepresentation(use_cdrv0_representation=True, use_xcdrv2_representation=False),
            policy.Userdata(f"typehash={self.types.hash(kind)};".encode()),
        ]
        if latched:
            wanted.append(policy.DurabilityService(0, policy.History.KeepLast(qos.depth), -1, -1, -1))
        return self._cyclone.qos.Qos(*wanted)

    def _run(self) -> None:
        second = self._cyclone.util.duration(seconds=1)
        while not self._over:
            self._waitset.wait(second)
            with self._lock:
                readers = list(self._readers)
            for reader in readers:
                for sample in reader.entity.take(N=32):
                    if self._over:
                        return
                    if sample.sample_info.valid_data:
                        self._hand_over(reader, sample.data)

    def _hand_over(self, reader: Reader, data: bytes) -> None:
        try:
            message = self.types.read(reader.kind, data)
        except ValueError as error:
            self._fault(reader.topic, str(error))
            return
        reader.take(message)

    def _announce(self) -> None:
        """Tell ROS 2's graph what this node has."""
        if self._graph is None:
            return
        with self._lock:
            readers, writers = (
                [self._gid(one.entity) for one in kind] for kind in (self._readers, self._writers)
            )
        node = self.make(
            "rmw_dds_common/NodeEntitiesInfo",
            node_namespace="/",
            node_name=self.node,
            reader_gid_seq=readers,
            writer_gid_seq=writers,
        )
        gid = self._gid(self._participant)
        self._graph.publish(self.make(_GRAPH, gid=gid, node_entities_info_seq=[node]))

    def _gid(self, entity: Any) -> Any:
        guid: bytes = entity.get_guid().bytes
        return self.make("rmw_dds_common/Gid", data=guid.ljust(GID_BYTES[self.config.distro], b"\0"))

    def mismatches(self) -> list[str]:
        """Topics that are there and yet not heard, in words: of another type, or quality of service."""
        with self._lock:
            readers, writers = list(self._readers), list(self._writers)
        publishers, subscribers = (self._discovered_types(reader) for reader in self._discovered)
        found = []
        for reader in readers:
            status = reader.entity.get_requested_incompatible_qos_status()
            found += _mismatch(reader, publishers, status, "published")
        for writer in writers:
            status = writer.entity.get_offered_incompatible_qos_status()
            found += _mismatch(writer, subscribers, status, "subscribed to")
        return found

    def _discovered_types(self, reader: Any) -> dict[str, set[str]]:
        """Name of each topic to its types, as the living writers (or readers) on the network have them."""
        found: dict[str, set[str]] = {}
        for endpoint in reader.read(N=4096):
            if endpoint.sample_info.instance_state == self._cyclone.core.InstanceState.Alive:
                found.setdefault(endpoint.topic_name, set()).add(endpoint.type_name)
        return found

    def close(self) -> None:
        """End; no message is handed over afterwards."""
        self._over = True
        self._awake.set(True)
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join(timeout=2.0)
        # Cyclone lets go of each when Python does, children first.
        self._waitset = self._awake = self._graph = None
        self._readers, self._writers, self._discovered = [], [], []
        self._topics.clear()
        self._publisher = self._subscriber = None
        # Whoever still holds a reader or writer would keep it all alive.
        participant, self._participant = self._participant, None
        if participant is not None:
            participant._delete(participant._ref)


def _participant(cyclone: SimpleNamespace, config: DdsConfig) -> Any:
    """Cyclone reads its configuration from the environment when the first participant of a domain begins."""
    qos = cyclone.qos.Qos(cyclone.qos.Policy.Userdata(b"enclave=/;"))
    with _environment:
        before = os.environ.get("CYCLONEDDS_URI")
        os.environ["CYCLONEDDS_URI"] = config.profile()
        try:
            return cyclone.domain.DomainParticipant(config.domain, qos=qos)
        except cyclone.core.DDSException as error:
            raise TransportError(f"DDS cannot begin in domain {config.domain}: {error}") from error
        finally:
            if before is None:
                del os.environ["CYCLONEDDS_URI"]
            else:
                os.environ["CYCLONEDDS_URI"] = before
