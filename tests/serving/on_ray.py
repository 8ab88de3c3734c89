"""Two replicas under Ray Serve: `python on_ray.py RELEASE REDIS PORT`. Prints `ready`, and serves until stdin ends."""

from __future__ import annotations

import logging
import sys

import ray
from ray import serve

import patient_ray  # noqa: F401
from stealguard.serving.config import Config, ServedRelease
from stealguard.serving.ray import deployment

if __name__ == "__main__":
    release, ledger, port = sys.argv[1:]
    ray.init("local", num_cpus=4, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    serve.start(http_options={"host": "127.0.0.1", "port": int(port)})
    config = Config(releases=(ServedRelease(release, "plain"),), ledger=ledger)
    serve.run(deployment(config, net="samples:mlp"))
    print("ready", flush=True)
    sys.stdin.read()
    serve.shutdown()
    ray.shutdown()
