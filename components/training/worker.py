"""One training process: `python -m components.training.worker JOB.json`, started by torchrun."""

import logging
import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from types import FrameType
from typing import Any

import torch
import torch.distributed as dist

from components.data.loader import CropLoader
from components.data.manifest import Manifest
from components.data.shards import ShardReader
from components.data.tables import read_table
from components.errors import UserError
from components.models.backbone import Preprocess
from components.objectives import Objective
from components.parameters import validate
from components.tracking import Run, attach_run
from components.tracking.locking import file_lock
from components.training import distill, pretrain
from components.training.checkpoint import CheckpointStore
from components.training.ema import MovingAverage
from components.training.engine import Engine, join_processes
from components.training.health import Health
from components.training.history import History
from components.training.job import PREEMPTED_EXIT_CODE, Answer, Job
from components.training.loop import Preempted, Standing, TrainingLoop
from components.training.parameter_groups import parameter_groups
from components.training.parents import die_with
from components.training.recipe import TrainingParams
from components.training.schedules import Schedules
from components.training.training_state import TrainingState

_log = logging.getLogger(__name__)
