"""Apache Kafka: one node in KRaft mode, broker and controller in one, with data in a directory."""

from __future__ import annotations

import subprocess
import uuid
from base64 import urlsafe_b64encode
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path

from aiokafka.protocol.admin import CreateAclsRequest

from sluiced.tools.embedded_broker import free_ports, spawn, stop_process, wait_until_ready

from .base import Broker
from .security import PASSWORD, USER, Certificates

_READY_SECONDS = 120.0
_STOP_SECONDS = 60.0  # an end that was cut off is mended at the next start, of what was damaged too
_STORAGE_TOOL = "kafka.tools.StorageTool"
_SERVER = "kafka.Kafka"
_TOPIC = 2  # a kind of resource that an ACL is about

# Small and quick to start rather than fast in the long run: a test run is over in minutes.
_JVM = ["-Xmx512m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Xshare:auto"]
_JVM += ["-Dorg.slf4j.simpleLogger.defaultLogLevel=warn"]

# Listeners for clients, with their security protocol. MTLS demands a client certificate. PROXIED
# tells its clients to come to another port, where a proxy may listen: see `Kafka.advertised`.
LISTENERS = {
    "PLAINTEXT": "PLAINTEXT",
    "SSL": "SSL",
    "MTLS": "SSL",
    "SASL_SSL": "SASL_SSL",
    "PROXIED": "PLAINTEXT",
}

_SETTINGS = """\
process.roles=broker,controller
node.id=1
controller.listener.names=CONTROLLER
inter.broker.listener.name=PLAINTEXT
auto.create.topics.enable=false

# One node holds one copy of everything.
offsets.topic.num.partitions=1
offsets.topic.replication.factor=1
transaction.state.log.num.partitions=1
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
share.coordinator.state.topic.num.partitions=1
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1

# Tests do not wait for members that may still come, nor for those that are long gone.
group.initial.rebalance.delay.ms=0
group.min.session.timeout.ms=500
controlled.shutdown.enable=false
# A killed broker may register again only once its former self is given up; 9000 by default.
broker.session.timeout.ms=3000
broker.heartbeat.interval.ms=500

# Everybody may do everything that `deny_writing` does not forbid; the node itself is never asked.
authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer
allow.everyone.if.no.acl.found=true
super.users=User:ANONYMOUS

# Compaction at once, where a topic asks for it, within a small heap.
log.cleaner.dedupe.buffer.size=4194304
log.cleaner.backoff.ms=100

# Old records stay where a test has put them: no look at the time while it runs.
log.retention.check.interval.ms=86400000
log.initial.task.delay.ms=86400000
"""

_SECURITY = """\
ssl.keystore.type=PEM
ssl.keystore.location={server}
ssl.truststore.type=PEM
ssl.truststore.location={ca}
listener.name.mtls.ssl.client.auth=required

sasl.enabled.mechanisms=PLAIN,SCRAM-SHA-256,SCRAM-SHA-512,OAUTHBEARER
listener.name.sasl_ssl.plain.sasl.jaas.config={modules}.plain.PlainLoginModule required \
user_{user}="{password}";
listener.name.sasl_ssl.scram-sha-256.sasl.jaas.config={modules}.scram.ScramLoginModule required;
listener.name.sasl_ssl.scram-sha-512.sasl.jaas.config={modules}.scram.ScramLoginModule required;
# Tokens without a signature, which Kafka takes for development: see security.oauth_token.
listener.name.sasl_ssl.oauthbearer.sasl.jaas.config=\
{modules}.oauthbearer.OAuthBearerLoginModule required unsecuredLoginStringClaim_sub="broker";
listener.name.sasl_ssl.oauthbearer.sasl.server.callback.handler.class=\
{modules}.oauthbearer.internals.unsecured.OAuthBearerUnsecuredValidatorCallbackHandler
"""


class Kafka(Broker):
    """A broker with all its listeners, ports and data, which survive `stop`, `kill` and `start`.

    `jars` is the directory of Kafka's jars; `directory` is empty and receives settings, data,
    certificates and the log. `properties` are settings of the broker's own, added to ours.
    """

    name = "kafka"
    transactions = True
    commit_metadata = True
    security = True
    durable = True
    creates_missing_topics = False

    def __init__(
        self, jars: Path, directory: Path, properties: Mapping[str, str] | None = None
    ) -> None:
        self._java = ["java", *_JVM, "-cp", f"{jars}/*"]
        self._settings = directory / "server.properties"
        self._log = directory / "server.log"
        self._running: ExitStack | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self.certificates = Certificates.create_in(directory)
        names = ["CONTROLLER", *LISTENERS]
        *ports, self._proxy_port = free_ports(len(names) + 1)
        self._ports = dict(zip(names, ports, strict=True))
        added = [f"{key}={value}" for key, value in (properties or {}).items()]
        self._settings.write_text("\n".join([self._properties(directory / "data"), *added]))
        self._format_storage()

    def listener(self, name: str) -> str:
        """The address of a listener, "127.0.0.1:PORT"; `LISTENERS` has the names."""
        return f"127.0.0.1:{self._ports[name]}"

    def advertised(self, name: str) -> str:
        """Where the broker sends the clients of a listener: to itself, except for PROXIED. All
        traffic of whoever bootstraps there passes a proxy at that address, or goes nowhere."""
        return f"127.0.0.1:{self._proxy_port}" if name == "PROXIED" else self.listener(name)

    @property
    def bootstrap(self) -> str:
        return self.listener("PLAINTEXT")

    @property
    def process(self) -> subprocess.Popen[bytes]:
        assert self._process is not None, "the broker has not been started"
        return self._process

    async def deny_writing(self, topic: str) -> None:
        """From now on, or a moment later, the user of the SASL listener may only read the topic."""
        every, write, allow, deny, literal = 2, 4, 3, 2, 3
        async with self.admin() as admin:
            # A topic with any ACL is closed to whoever has none, so that the user gets one.
            for operation, permission in ((every, allow), (write, deny)):
                request = CreateAclsRequest(
                    _TOPIC, topic, literal, f"User:{USER}", "*", operation, permission
                )
                answer = await admin._send_request(request)
                assert [code for code, _ in answer.creation_responses] == [0], answer

    def start(self) -> None:
        """Returns when the broker answers requests, after about 3 s."""
        assert self._running is None, "the broker runs already"
        with ExitStack() as running:
            log = running.enter_context(self._log.open("w+b"))
            self._process = spawn([*self._java, _SERVER, str(self._settings)], log)
            running.callback(stop_process, self._process, _STOP_SECONDS)
            wait_until_ready(self._process, self.bootstrap, log, _READY_SECONDS)
            self._running = running.pop_all()

    def _end(self) -> None:
        if self._running is not None:
            self._running.close()
            self._running = None

    def _properties(self, data: Path) -> str:
        addresses = {name: self.listener(name) for name in self._ports}
        listeners = ",".join(f"{name}://{address}" for name, address in addresses.items())
        told = ",".join(f"{name}://{self.advertised(name)}" for name in LISTENERS)
        protocols = {"CONTROLLER": "PLAINTEXT", **LISTENERS}
        node = [
            f"log.dirs={data}",
            f"controller.quorum.voters=1@{addresses['CONTROLLER']}",
            f"listeners={listeners}",
            f"advertised.listeners={told}",
            f"listener.security.protocol.map={','.join(f'{n}:{p}' for n, p in protocols.items())}",
        ]
        security = _SECURITY.format(
            server=self.certificates.server,
            ca=self.certificates.ca,
            user=USER,
            password=PASSWORD,
            modules="org.apache.kafka.common.security",
        )
        return "\n".join([_SETTINGS, *node, security])

    def _format_storage(self) -> None:
        cluster = urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")
        command = [*self._java, _STORAGE_TOOL, "format", "-c", str(self._settings)]
        command.append(f"--cluster-id={cluster}")  # in one word, since an id may start with "-"
        for mechanism in ("SCRAM-SHA-256", "SCRAM-SHA-512"):
            command += ["--add-scram", f"{mechanism}=[name={USER},password={PASSWORD}]"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{_STORAGE_TOOL} failed:\n{done.stdout}{done.stderr}"
