"""Rows 26 and 27: programs that call home, or talk to the services of the machine. Each call carries the program's
name, so that the planted listeners know who got through."""

from attacks.program import PASS, Program, probes

TCP = """
import socket
import urllib.request


def called(family, address, kind=socket.SOCK_STREAM):
    with socket.socket(family, kind) as caller:
        caller.settimeout(0.2)
        caller.connect(address)
        caller.send(b"@NAME@")
    return "connected"


def attack():
    attempt(called, socket.AF_INET, ("127.0.0.1", @PORT@))
    attempt(called, socket.AF_INET, ("localhost", @PORT@))
    attempt(called, socket.AF_INET, ("0.0.0.0", @PORT@))
    attempt(called, socket.AF_INET6, ("::1", @PORT@))
    attempt(called, socket.AF_INET6, ("::ffff:127.0.0.1", @PORT@))
    attempt(socket.create_connection, ("127.0.0.1", @PORT@), 0.2)
    attempt(lambda: urllib.request.urlopen("http://127.0.0.1:@PORT@/@NAME@", timeout=0.2).read())
    attempt(socket.create_server, ("127.0.0.1", 0))
"""

METADATA = """
import socket
import urllib.request


def attack():
    for address in ("169.254.169.254", "169.254.170.2", "100.100.100.200", "192.0.2.1"):
        attempt(socket.create_connection, (address, 80), 0.2)
    attempt(lambda: urllib.request.urlopen("http://169.254.169.254/latest/meta-data/", timeout=0.2).read())
    attempt(socket.create_connection, ("fd00:ec2::254", 80), 0.2)
"""

UDP = """
import socket

QUERY = b"\\x12\\x34\\x01\\0\\0\\x01\\0\\0\\0\\0\\0\\0\\x06@NAME@\\x03com\\0\\0\\x01\\0\\x01"


def attack():
    attempt(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b"@NAME@", ("127.0.0.1", @UDP_PORT@)))
    attempt(lambda: socket.socket(socket.AF_INET6, socket.SOCK_DGRAM).sendto(b"@NAME@", ("::1", @UDP_PORT@)))
    attempt(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(QUERY, ("192.0.2.53", 53)))
    attempt(socket.getaddrinfo, "example.invalid", 80)
    attempt(socket.gethostbyname, socket.gethostname())
    attempt(lambda: socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP))
    attempt(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM, socket.IPPROTO_ICMP))
"""

FAMILIES = """
def attack():
    for family in range(46):
        for kind in (1, 2, 3, 5):
            attempt(syscall, "socket", family, kind, 0)
            attempt(syscall, "socket", family, kind | 0o2000000, 0)
"""

UNIX = """
import socket


def called(address, kind=socket.SOCK_STREAM):
    with socket.socket(socket.AF_UNIX, kind) as caller:
        caller.settimeout(0.2)
        caller.connect(address)
        caller.send(b"@NAME@")
    return "connected"


def attack():
    for path in ("@DOCKER_SOCKET@", "/var/run/docker.sock", "/run/containerd/containerd.sock",
                 "/run/dbus/system_bus_socket",
                 "/tmp/ray/session_latest/sockets/raylet", "/run/systemd/notify", "/run/nscd/socket",
                 "\\0@ABSTRACT@", "\\0/tmp/.X11-unix/X0"):
        attempt(called, path)
        attempt(called, path, socket.SOCK_DGRAM)
        attempt(lambda: os.stat(path) and open(path).read())
    attempt(lambda: socket.socketpair(type=socket.SOCK_DGRAM)[0].sendto(b"@NAME@", "\\0@ABSTRACT_DATAGRAMS@"))
    attempt(lambda: socket.socketpair(type=socket.SOCK_DGRAM)[0].connect("\\0@ABSTRACT_DATAGRAMS@"))
    attempt(lambda: socket.socketpair(type=socket.SOCK_DGRAM)[0].sendmsg([b"x"], [], 0, "\\0@ABSTRACT_DATAGRAMS@"))
    attempt(lambda: socket.socket(socket.AF_UNIX).bind("@MARK@"))
    attempt(lambda: socket.socket(socket.AF_UNIX).bind("\\0@NAME@"))
"""

RECONNECTS = """
import socket


def reused(fd, address):
    with socket.socket(fileno=os.dup(fd)) as channel:
        channel.settimeout(0.2)
        try:
            channel.connect(address)
        finally:
            channel.setblocking(True)  # a mode that is shared with the channel itself
        channel.sendall(b"@NAME@")
    return "connected"


def attack():
    for fd in range(0, 32):
        attempt(reused, fd, ("127.0.0.1", @PORT@))
        attempt(reused, fd, "\\0@ABSTRACT@")
        attempt(reused, fd, "@DOCKER_SOCKET@")
        attempt(lambda: socket.socket(fileno=os.dup(fd)).listen(1))
        attempt(lambda: socket.socket(fileno=os.dup(fd)).bind("\\0@NAME@"))
"""

LIBRARIES = """
import asyncio
import ftplib
import http.client
import smtplib
import socketserver
import xmlrpc.client


def attack():
    attempt(lambda: http.client.HTTPConnection("127.0.0.1", @PORT@, timeout=0.2).request("GET", "/@NAME@"))
    attempt(lambda: ftplib.FTP().connect("127.0.0.1", @PORT@, 0.2))
    attempt(lambda: smtplib.SMTP("127.0.0.1", @PORT@, timeout=0.2))
    attempt(lambda: socketserver.TCPServer(("127.0.0.1", 0), None))
    attempt(lambda: asyncio.run(asyncio.open_connection("127.0.0.1", @PORT@)))
    attempt(lambda: xmlrpc.client.ServerProxy("http://127.0.0.1:@PORT@/@NAME@").f())
"""

HONEST_DESPITE = """
try:
    import socket
    socket.create_connection(("127.0.0.1", @PORT@), 0.2).sendall(b"@NAME@")
except Exception:
    pass


def f(n):
    return 2 * n
"""

PROGRAMS = [
    *probes(26, "tcp", TCP),
    *probes(26, "metadata", METADATA),
    *probes(26, "udp", UDP),
    *probes(26, "families", FAMILIES, syscalls=True),
    *probes(26, "libraries", LIBRARIES),
    *probes(27, "unix_sockets", UNIX),
    *probes(27, "reconnects_channel", RECONNECTS),
    Program(26, "honest_after_refusal", HONEST_DESPITE, PASS),
]
