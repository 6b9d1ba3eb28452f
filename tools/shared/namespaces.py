"""Network namespaces as machines: each has an address and a link, which meet in a bridge."""

import contextlib
import os
import signal
import subprocess

BRIDGE = "qalof0"


def ip(*words):
    subprocess.run(["ip", *words], check=True)


def address(number):
    return f"10.77.0.{number + 1}"


@contextlib.contextmanager
def machines(count, mbit=None):
    """Names of namespaces, each with an address() of its own; they send at most mbit megabits a
    second. Needs root.
    """
    names = [f"qalof-rank{number}" for number in range(count)]
    ip("link", "add", BRIDGE, "type", "bridge")
    try:
        ip("link", "set", BRIDGE, "up")
        for number, name in enumerate(names):
            ip("netns", "add", name)
            link = f"qalof-v{number}"
            ip("link", "add", link, "type", "veth", "peer", "eth0", "netns", name)
            ip("link", "set", link, "master", BRIDGE, "up")
            inside = ["netns", "exec", name]
            ip(*inside, "ip", "addr", "add", f"{address(number)}/24", "dev", "eth0")
            ip(*inside, "ip", "link", "set", "eth0", "up")
            ip(*inside, "ip", "link", "set", "lo", "up")
            # Congestion control that probes for bandwidth would measure itself.
            for setting in ("congestion_control=reno", "slow_start_after_idle=0"):
                ip(*inside, "sysctl", "-qw", f"net.ipv4.tcp_{setting}")
            if mbit is not None:
                limit = ["rate", f"{mbit}mbit", "burst", f"{max(128, mbit // 8)}kb"]
                limit += ["limit", "100mb"]
                ip(*inside, "tc", "qdisc", "add", "dev", "eth0", "root", "tbf", *limit)
        yield names
    finally:
        for name in names:
            subprocess.run(["ip", "netns", "del", name], stderr=subprocess.DEVNULL)
        ip("link", "del", BRIDGE)


def kill(number):
    """Kills every process of a machine at once, as a power cut does."""
    listed = subprocess.run(["ip", "netns", "pids", f"qalof-rank{number}"], capture_output=True)
    for process in listed.stdout.split():
        os.kill(int(process), signal.SIGKILL)


def unplug(number):
    """Takes the link of a machine away: nothing it sends arrives, and nothing says so."""
    ip("link", "set", f"qalof-v{number}", "down")
