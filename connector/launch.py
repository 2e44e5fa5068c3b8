"""Start a program so that it cannot outlive its supervisor; run as a script, it becomes it.

``python -I -S launch.py [options] -- program arguments`` puts itself into a session of its own, so
that the terminal's Ctrl-C reaches the supervisor only, and asks Linux for a signal when the
supervisor dies. With ``--uid`` it gives up root first, as Postgres demands; Linux forgets the
request when a process changes its user, so it is made last. ``--read-all`` keeps the one capability
to pass through folders of others, so that data and programs below a private home can be used
without changing anybody's permissions.

It imports nothing of the node: it must start fast.
"""

import argparse
import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1
PR_SET_SECUREBITS = 28
PR_CAP_AMBIENT = 47
PR_CAP_AMBIENT_RAISE = 2
# access(2) forgets capabilities unless this is set, and Postgres asks it about its own program.
SECBIT_NO_SETUID_FIXUP = 1 << 2
# The first may read everything; containers often have only the second, which may also write.
CAP_DAC_READ_SEARCH = 2
CAP_DAC_OVERRIDE = 1
CAPABILITY_VERSION_3 = 0x20080522


class _CapabilityHeader(ctypes.Structure):
    _fields_ = (("version", ctypes.c_uint32), ("pid", ctypes.c_int))


class _CapabilityData(ctypes.Structure):
    _fields_ = (
        ("effective", ctypes.c_uint32),
        ("permitted", ctypes.c_uint32),
        ("inheritable", ctypes.c_uint32),
    )


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--parent", type=int, required=True, help="process id of the supervisor")
    parser.add_argument("--death-signal", type=int, default=int(signal.SIGKILL))
    parser.add_argument("--uid", type=int)
    parser.add_argument("--gid", type=int)
    parser.add_argument("--read-all", action="store_true")
    parser.add_argument("command", nargs="+")
    options = parser.parse_args()
    os.setsid()
    os.umask(0o077)
    if options.uid is not None:
        give_up_root(options.uid, options.gid, read_all=options.read_all)
    if sys.platform == "linux":
        _prctl(PR_SET_PDEATHSIG, options.death_signal)
        if os.getppid() != options.parent:
            # The supervisor died before the request was made.
            raise SystemExit(1)
    try:
        os.execvp(options.command[0], options.command)
    except OSError as error:
        raise SystemExit(f"{options.command[0]}: {error.strerror}") from None


def give_up_root(uid: int, gid: int, *, read_all: bool) -> None:
    """Become an ordinary user for good, except for passing through folders where asked."""
    if read_all:
        _prctl(PR_SET_SECUREBITS, SECBIT_NO_SETUID_FIXUP)
    os.setgroups([])
    os.setresgid(gid, gid, gid)
    os.setresuid(uid, uid, uid)
    if read_all:
        capability = CAP_DAC_READ_SEARCH if _have(CAP_DAC_READ_SEARCH) else CAP_DAC_OVERRIDE
        _keep_only(capability)
        _prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, capability)


def _have(capability: int) -> bool:
    header = _CapabilityHeader(CAPABILITY_VERSION_3, 0)
    data = (_CapabilityData * 2)()
    _checked(_libc().capget(ctypes.byref(header), data))
    return bool(data[0].permitted & 1 << capability)


def _keep_only(capability: int) -> None:
    header = _CapabilityHeader(CAPABILITY_VERSION_3, 0)
    data = (_CapabilityData * 2)()
    bit = 1 << capability
    data[0] = _CapabilityData(effective=bit, permitted=bit, inheritable=bit)
    _checked(_libc().capset(ctypes.byref(header), data))


def _prctl(option: int, first: int, second: int = 0) -> None:
    arguments = [ctypes.c_ulong(value) for value in (first, second, 0, 0)]
    _checked(_libc().prctl(option, *arguments))


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def _checked(result: int) -> None:
    if result != 0:
        reason = os.strerror(ctypes.get_errno())
        raise SystemExit(f"no way to run it below private folders as another user ({reason})")


if __name__ == "__main__":
    main()
