"""Stands in for a training where a test is about what happens around one: ``python -m fake_training key=value …``.

It leaves what a training leaves, and behaves as its ``how`` says.
"""

import json
import os
import signal
import sys
import time
from pathlib import Path


def main() -> None:
    values = dict(argument.split("=", 1) for argument in sys.argv[1:])
    values = {key: value.strip("'") for key, value in values.items()}
    folder = Path(values["output_dir"])
    rate, how = float(values.get("training.learning_rate", 0.01)), values.get("data.format", "good")
    used = {"training": {"learning_rate": rate if how != "deaf" else 0.5}, "data": {"format": how}}
    (folder / "config.yaml").write_text(json.dumps(used))
    if how == "crashes":
        os.kill(os.getpid(), signal.SIGSEGV)
    if how == "raises":
        print("Error: it cannot be done.", file=sys.stderr)
        sys.exit(6)
    if how == "other":
        print("Error: the images have changed.", file=sys.stderr)
        sys.exit(10)
    if how == "full" and not (folder.parent / "room").exists():
        print("Error: last.ckpt cannot be written: no space left on device.", file=sys.stderr)
        sys.exit(9)
    status, value = "completed", 0.0
    for epoch in range(1, 5):
        if how == "hangs" and epoch == 2:
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            time.sleep(600)
        value = min(rate * epoch, 1.0)
        with (folder / "metrics.jsonl").open("a") as lines:
            lines.write(json.dumps({"epoch": epoch, "accuracy": value}) + "\n")
        time.sleep(float(os.environ.get("FAKE_EPOCH", "0.05")))
        if (folder / "STOP").exists():
            status = "pruned"
            break
    primary = {"name": "accuracy", "value": value, "epoch": 4}
    reason = (folder / "STOP").read_text().strip() if status == "pruned" else None
    (folder / "result.json").write_text(json.dumps({"status": status, "primary_metric": primary, "reason": reason}))


if __name__ == "__main__":
    main()
