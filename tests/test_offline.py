"""Nothing phones home: with the network cut, a run neither fails nor even tries."""

import os
import subprocess
import sys

from pictures import write_folders

CUT = """
import socket

def record(*arguments, **_):
    with open({log!r}, "a") as file:
        file.write(f"{{arguments}}\\n")
    raise OSError("the network is cut")

def connect(self, address):
    if self.family != socket.AF_UNIX:
        record(address)
    return original(self, address)

original = socket.socket.connect
socket.socket.connect = connect
socket.socket.connect_ex = connect
socket.getaddrinfo = record
socket.create_connection = record
"""


def with_network_cut(arguments, folder):
    """Run the command with every way out replaced by one that takes notes; give the process and the notes."""
    log = folder / "attempts.txt"
    (folder / "site").mkdir()
    (folder / "site" / "sitecustomize.py").write_text(CUT.format(log=str(log)))
    environment = {**os.environ, "PYTHONPATH": str(folder / "site")}
    command = [sys.executable, "-m", "lightning_automl_vision", *arguments]
    process = subprocess.run(command, capture_output=True, text=True, cwd=folder, env=environment, check=False)
    return process, log.read_text() if log.exists() else ""


def test_the_cut_notices_who_tries(tmp_path):
    (tmp_path / "site").mkdir()
    log = tmp_path / "attempts.txt"
    (tmp_path / "site" / "sitecustomize.py").write_text(CUT.format(log=str(log)))
    code = "import urllib.request; urllib.request.urlopen('http://example.org')"
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "site")}
    subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, check=False)
    assert "example.org" in log.read_text()


def test_a_run_without_pretrained_weights_never_asks_for_the_network(tmp_path):
    photos = write_folders(tmp_path / "photos", per_class=6)
    arguments = [
        "+experiment=quickstart",
        f"data.training={photos}",
        "trainer.max_steps=2",
        "logger=tensorboard",
        "output_dir=run",
    ]
    process, attempts = with_network_cut(arguments, tmp_path)
    assert process.returncode == 0, process.stderr
    assert attempts == ""
