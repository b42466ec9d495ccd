"""A training process for the tests: ``python -m tests.training.worker RUN_DIR '{"settings": ...}' [--resume]``."""

import json
import sys

from subspace_lab.training import TrainConfig, TrainingInterrupted, train
from tests.training import tiny


def main(run_dir, settings, *flags):
    tiny.register()
    try:
        train(run_dir, TrainConfig.from_dict(json.loads(settings)), resume="--resume" in flags)
    except TrainingInterrupted as error:
        print(error, flush=True)
        sys.exit(130)


if __name__ == "__main__":
    main(*sys.argv[1:])
