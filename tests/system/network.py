"""Two hosts' worth of network for tests: namespaces with a link between them that can be slow, lose, reorder, or be cut.

Each namespace has two interfaces: `mgmt` to the namespace of the tests (HTTP: never disturbed) and `kv` to the other one (the
hand-over). The link is a pair of veth, or, for what only netem could do to a veth, a wire of our own: two tun devices and a thread that
carries packets between them. The kernel's TCP sees either as a network; the wire needs no kernel module and repeats its draws by seed."""
import contextlib
import ctypes
import fcntl
import heapq
import os
import random
import select
import shutil
import struct
import subprocess
import threading
import time
import unittest

_CLONE_NEWNET = 0x40000000
_TUNSETIFF, _IFF_TUN, _IFF_NO_PI = 0x400454CA, 0x0001, 0x1000
_MTU = 1500
_QUEUE_PACKETS = 1000  # of one direction, as netem's default; more are lost
_libc = ctypes.CDLL(None, use_errno=True)


def why_not() -> str:
    """Why there can be no namespaces here; empty if there can."""
    if os.geteuid() != 0:
        return "network namespaces need root"
    if not shutil.which("ip"):
        return "network namespaces need ip (package iproute2)"
    name = f"baton-probe-{os.getpid()}"
    made = subprocess.run(["ip", "netns", "add", name], capture_output=True, text=True)
    if made.returncode != 0:
        return f"ip netns: {made.stderr.strip()}"
    subprocess.run(["ip", "netns", "delete", name], capture_output=True)
    return "" if os.path.exists("/dev/net/tun") else "there is no /dev/net/tun"


def needs_namespaces(case):
    reason = why_not()
    return unittest.skipIf(bool(reason), reason)(case)


def ip(*words: str) -> None:
    done = subprocess.run(["ip", *words], capture_output=True, text=True)
    if done.returncode != 0:
        raise AssertionError(f"ip {' '.join(words)}: {done.stderr.strip()}")


def open_tun(namespace: str, name: str) -> int:
    """A tun device that is created in a namespace; its packets come and go here."""
    with open("/proc/thread-self/ns/net") as home, open(f"/run/netns/{namespace}") as there:
        try:
            _enter(there.fileno())
            tun = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
            fcntl.ioctl(tun, _TUNSETIFF, struct.pack("16sH22x", name.encode(), _IFF_TUN | _IFF_NO_PI))
            return tun
        finally:
            _enter(home.fileno())


def _enter(namespace: int) -> None:
    if _libc.setns(namespace, _CLONE_NEWNET) != 0:
        raise OSError(ctypes.get_errno(), "setns")


class Wire(threading.Thread):
    """Carries packets between two tun devices. The rules may change at any time."""

    def __init__(self, ends: tuple[int, int], seed: int):
        super().__init__(daemon=True)
        self.ends, self.draw = ends, random.Random(seed)
        self.delay_s = self.jitter_s = self.loss = self.reorder = 0.0
        self.is_cut = False
        self.carried = self.lost = self.overtaken = 0
        self.waiting: tuple[list, list] = ([], [])  # by direction: (due, number, packet)
        self.number = 0
        self.stopping, self.wake = False, os.eventfd(0, os.EFD_NONBLOCK)
        self.start()

    def rules(self, delay_s: float = 0, jitter_s: float = 0, loss: float = 0, reorder: float = 0) -> None:
        """Of each direction. `jitter_s` keeps the order; `reorder` of the packets overtake those that wait for their delay."""
        self.delay_s, self.jitter_s, self.loss, self.reorder = delay_s, jitter_s, loss, reorder

    def cut(self) -> None:
        self.is_cut = True

    def mend(self) -> None:
        self.is_cut = False

    def stop(self) -> None:
        self.stopping = True
        os.eventfd_write(self.wake, 1)
        self.join()
        for fd in (*self.ends, self.wake):
            os.close(fd)

    def run(self):
        last_due = [0.0, 0.0]
        while not self.stopping:
            now = time.monotonic()
            next_due = min((queue[0][0] for queue in self.waiting if queue), default=now + 1)
            ready, _, _ = select.select([*self.ends, self.wake], [], [], max(0.0, next_due - now))
            now = time.monotonic()
            for direction, end in enumerate(self.ends):
                if end in ready:
                    self.take(direction, now, last_due)
                self.deliver(direction, now)

    def take(self, direction: int, now: float, last_due: list[float]) -> None:
        for _ in range(64):
            try:
                packet = os.read(self.ends[direction], 65536)
            except BlockingIOError:
                return
            queue = self.waiting[direction]
            if self.is_cut or self.draw.random() < self.loss or len(queue) >= _QUEUE_PACKETS:
                self.lost += 1
                continue
            due = max(last_due[direction], now + self.delay_s + self.draw.random() * self.jitter_s)
            if queue and self.draw.random() < self.reorder:
                due = now
                self.overtaken += 1
            else:
                last_due[direction] = due
            self.number += 1
            heapq.heappush(queue, (due, self.number, packet))

    def deliver(self, direction: int, now: float) -> None:
        queue = self.waiting[direction]
        while queue and queue[0][0] <= now:
            packet = heapq.heappop(queue)[2]
            if not self.is_cut:
                with contextlib.suppress(BlockingIOError, OSError):
                    os.write(self.ends[1 - direction], packet)
                    self.carried += 1


class Network(contextlib.AbstractContextManager):
    """Namespaces "p" and "d". `mgmt[name]` and `kv[name]` are their addresses, `home` is the tests' one, which both can reach."""

    def __init__(self, seed: int, wired: bool):
        self.tag = f"b{os.getpid() % 100000}"
        third = 10 + os.getpid() % 200
        self.names = {"p": f"{self.tag}-p", "d": f"{self.tag}-d"}
        self.mgmt = {"p": f"10.98.{third}.2", "d": f"10.99.{third}.2"}
        self.homes = {"p": f"10.98.{third}.1", "d": f"10.99.{third}.1"}
        self.kv = {"p": f"10.97.{third}.1", "d": f"10.97.{third}.2"}
        self.wire: Wire | None = None
        try:
            self.build(seed, wired)
        except BaseException:
            self.__exit__()
            raise

    def build(self, seed: int, wired: bool) -> None:
        for side, name in self.names.items():
            ip("netns", "add", name)
            ip("-n", name, "link", "set", "lo", "up")
            ip("link", "add", f"{self.tag}{side}h", "type", "veth", "peer", "name", "mgmt", "netns", name)
            ip("addr", "add", f"{self.homes[side]}/30", "dev", f"{self.tag}{side}h")
            ip("link", "set", f"{self.tag}{side}h", "up")
            ip("-n", name, "addr", "add", f"{self.mgmt[side]}/30", "dev", "mgmt")
            ip("-n", name, "link", "set", "mgmt", "up")
        if wired:
            self.wire = Wire((open_tun(self.names["p"], "kv"), open_tun(self.names["d"], "kv")), seed)
        else:
            ip("-n", self.names["p"], "link", "add", "kv", "type", "veth", "peer", "name", "kv", "netns", self.names["d"])
        for side, name in self.names.items():
            ip("-n", name, "addr", "add", f"{self.kv[side]}/30", "dev", "kv")
            ip("-n", name, "link", "set", "kv", "mtu", str(_MTU), "up")

    def inside(self, side: str) -> list[str]:
        """What a command begins with that is to run in a namespace."""
        return ["ip", "netns", "exec", self.names[side]]

    def cut(self) -> None:
        """The kv link drops everything; an interface that is taken down tells its own host, a wire nobody."""
        self.wire.cut() if self.wire else ip("-n", self.names["p"], "link", "set", "kv", "down")

    def mend(self) -> None:
        self.wire.mend() if self.wire else ip("-n", self.names["p"], "link", "set", "kv", "up")

    def __exit__(self, *_):
        for name in self.names.values():
            subprocess.run(["ip", "netns", "delete", name], capture_output=True)
        for side in self.names:
            subprocess.run(["ip", "link", "delete", f"{self.tag}{side}h"], capture_output=True)
        if self.wire:
            self.wire.stop()
