# SPDX-License-Identifier: Apache-2.0
"""Run a program and say what it took: exit code, output, seconds, most resident KiB.

The system starts a program's count of resident memory with what its parent held when it was started, so a program
started by a large process (pytest after some tests) would seem as large. Here the parent is this file run as a program,
which imports next to nothing: what is said is the program's own, or the 8 MiB of that parent where it took less.
"""
import os
import sys
import time


def run(command):
    """(exit code, stdout, stderr, seconds, KiB) of COMMAND, without input; a signal is a negative code."""
    import subprocess
    told, tell = os.pipe()
    try:
        done = subprocess.run([sys.executable, "-S", "-I", __file__, str(tell), *map(str, command)], text=True,
                              errors="replace", stdin=subprocess.DEVNULL, capture_output=True, pass_fds=[tell])
        os.close(tell)
        tell = None
        words = os.read(told, 4096).split()
    finally:
        os.close(told)
        if tell is not None:
            os.close(tell)
    if done.returncode != 0 or len(words) != 3:
        raise RuntimeError(f"{command[0]} could not be run and measured: {done.stderr}")
    return int(words[0]), done.stdout, done.stderr, float(words[1]), int(words[2])


def main():
    tell, command = int(sys.argv[1]), sys.argv[2:]
    os.set_inheritable(tell, False)
    began = time.monotonic()
    _, status, usage = os.wait4(os.posix_spawnp(command[0], command, os.environ), 0)
    os.write(tell, f"{os.waitstatus_to_exitcode(status)} {time.monotonic() - began:.6f} {usage.ru_maxrss}".encode())


if __name__ == "__main__":
    main()
