"""multiprocessing's fork server as a fork of pytest's process: one started anew would import all again, ten seconds of work."""

import logging
import os
from multiprocessing import forkserver, resource_tracker, util

import torch


def start_fork_server() -> None:
    """Start it; to be called before any test has run, while there are no threads and no locks that are held."""
    resource_tracker.ensure_running()  # is started in the same way
    spawn = util.spawnv_passfds
    util.spawnv_passfds = _fork
    try:
        forkserver.set_forkserver_preload([])
        forkserver.ensure_running()
    finally:
        util.spawnv_passfds = spawn


def _fork(_path: bytes, arguments: list[str], passed: list[int]) -> int:
    """Run in a fork the command that a new interpreter would get; its process id."""
    if pid := os.fork():
        return pid
    try:
        logging.getLogger().handlers.clear()  # pytest's
        torch.set_num_threads(1)  # a fork has none of OpenMP's other threads and would wait for them
        nothing = os.open(os.devnull, os.O_RDWR)
        for name in os.listdir("/dev/fd"):  # whoever waits for the end of a pipe of pytest's shall not wait for this process
            if int(name) > 2 and int(name) not in passed:
                os.dup2(nothing, int(name))
        exec(arguments[-1])  # noqa: S102  # multiprocessing's own line; it differs between versions of Python
    finally:
        os._exit(1)
