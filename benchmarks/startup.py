"""CPU seconds until help or a mistake is answered, beside a minimal Hydra application in the same run.

python benchmarks/startup.py
"""

from __future__ import annotations

import resource
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

CONFIG = {
    "config.yaml": "defaults:\n  - model: small\n  - _self_\nrate: 0.1\n",
    "model/small.yaml": "name: small\n",
}
MINIMAL = """
import hydra
@hydra.main(version_base="1.3", config_path="conf", config_name="config")
def main(config): print(config.model.name)
main()
"""
LAV = ["-m", "lightning_automl_vision"]
CASES = {
    "--help": [*LAV, "--help"],
    "a misspelt key": [*LAV, "training.learnin_rate=1"],
    "a bad value": [*LAV, "training.learning_rate=2"],
    "lav models": [*LAV, "models"],
}
ROUNDS = 9


def cpu_seconds(arguments: Sequence[str], folder: Path) -> float:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, *arguments], cwd=folder, capture_output=True, check=False)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "minimal.py").write_text(MINIMAL)
        (folder / "conf" / "model").mkdir(parents=True)
        for file, text in CONFIG.items():
            (folder / "conf" / file).write_text(text)
        cases = {"minimal": ["minimal.py", "hydra.run.dir=.", "hydra.output_subdir=null"], **CASES}
        found: dict[str, list[float]] = {case: [] for case in cases}
        for _ in range(ROUNDS):
            for case, arguments in cases.items():
                found[case].append(cpu_seconds(arguments, folder))
    plain = statistics.median(found["minimal"])
    for case, seconds in found.items():
        middle = statistics.median(seconds)
        print(f"{case:16} {middle:.2f} s  {middle / plain:.2f} x")


if __name__ == "__main__":
    main()
