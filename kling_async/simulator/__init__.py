"""A full stand-in for Kling: in memory, or on a port. Independent of the rest of the package."""

from kling_async.simulator.callbacks import Delivery
from kling_async.simulator.core import Simulator
from kling_async.simulator.faults import FAULTS, Fault, Faults, Kind
from kling_async.simulator.ledger import Ledger, Made
from kling_async.simulator.media import VideoJob, render_video
from kling_async.simulator.messages import Reply, Wire
from kling_async.simulator.packs import Pack
from kling_async.simulator.server import make_app, serve

__all__ = [
    "FAULTS",
    "Delivery",
    "Fault",
    "Faults",
    "Kind",
    "Ledger",
    "Made",
    "Pack",
    "Reply",
    "Simulator",
    "VideoJob",
    "Wire",
    "make_app",
    "render_video",
    "serve",
]
