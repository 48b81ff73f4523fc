"""Image names become paths or URLs, and either is read."""

import http.server
import socket
import threading

import fsspec
import pytest

from lightning_automl_vision.data.urls import local_path, read_bytes, resolve_image
from lightning_automl_vision.errors import ConfigError, DataError
from lightning_automl_vision.settings import DataConfig


def resolved(name, base="/data/set", **keys):
    return resolve_image(name, base, DataConfig(**keys))


@pytest.mark.parametrize(
    ("name", "base", "expected"),
    [
        ("a.jpg", "/data/set", "/data/set/a.jpg"),
        ("b/../a.jpg", "/data/set", "/data/set/b/../a.jpg"),
        ("..a.jpg", "/data/set", "/data/set/..a.jpg"),
        ("/elsewhere/a.jpg", "/data/set", "/elsewhere/a.jpg"),
        ("file:///elsewhere/a.jpg", "/data/set", "file:///elsewhere/a.jpg"),
        ("s3://bucket/a.jpg", "/data/set", "s3://bucket/a.jpg"),
        ("https://host/a.jpg?sig=1", "/data/set", "https://host/a.jpg?sig=1"),
        ("c/a.jpg", "s3://bucket/set", "s3://bucket/set/c/a.jpg"),
        ("c/a.jpg", "memory://set/", "memory://set/c/a.jpg"),
        ("c/a.jpg", "zip://inner::s3://bucket/set.zip", "zip://inner/c/a.jpg::s3://bucket/set.zip"),
    ],
)
def test_a_name_is_relative_to_its_base_unless_it_is_whole(name, base, expected):
    assert resolved(name, base) == expected


@pytest.mark.parametrize("name", ["../a.jpg", "b/../../a.jpg", "..", "b/../../../etc/passwd"])
def test_a_relative_name_that_leaves_its_folder_is_refused(name):
    with pytest.raises(DataError, match=r"leads out of /data/set.*data\.confine_images=false"):
        resolved(name)
    assert resolved(name, confine_images=False) == f"/data/set/{name}"


def test_an_escaped_name_does_not_leave_a_url_either():
    with pytest.raises(DataError, match="leads out of https://host/set,"):
        resolved("%2e%2e/secret.jpg", "https://host/set")


def test_the_longest_matching_prefix_wins():
    prefixes = ["azureml://datastores/a/=/mnt/a", "azureml://datastores/a/paths/deep/=s3://bucket/deep/"]
    assert resolved("azureml://datastores/a/x.jpg", url_prefixes=prefixes) == "/mnt/a/x.jpg"
    assert resolved("azureml://datastores/a/paths/deep/x.jpg", url_prefixes=prefixes) == "s3://bucket/deep/x.jpg"


def test_a_mapped_name_must_stay_below_what_its_prefix_stands_for():
    with pytest.raises(DataError, match="leads out of AmlDatastore://store/,"):
        resolved("AmlDatastore://store/../../etc/passwd", url_prefixes=["AmlDatastore://store/=/mnt/store"])


def test_a_prefix_that_stands_for_nothing_is_refused():
    with pytest.raises(ConfigError, match="'azureml://x/' is not of the form BEGINNING=PLACE"):
        resolved("azureml://x/a.jpg", url_prefixes=["azureml://x/"])


@pytest.mark.parametrize(
    ("name", "prefix"),
    [
        ("azureml://subscriptions/1/datastores/d/paths/im/a.jpg", "azureml://subscriptions/1/datastores/d/paths/"),
        ("AmlDatastore://store/im/a.jpg", "AmlDatastore://store/"),
    ],
)
def test_an_azure_name_without_a_prefix_shows_the_key_that_maps_it(name, prefix):
    with pytest.raises(DataError) as caught:
        resolved(name)
    assert f"data.url_prefixes=['{prefix}=" in str(caught.value)
    assert resolved(name, url_prefixes=[f"{prefix}=/mnt"]).startswith("/mnt/")


def test_local_files_are_read_by_path_and_by_file_url(tmp_path):
    file = tmp_path / "a b%20.bin"
    file.write_bytes(b"content")
    assert read_bytes(str(file)) == read_bytes(f"file://{file}") == read_bytes(file.as_uri()) == b"content"
    assert local_path("s3://bucket/a") is None


def test_what_cannot_be_read_is_one_line_with_name_and_reason(tmp_path):
    with pytest.raises(DataError, match=r"gone\.jpg: there is no such file\.$"):
        read_bytes(str(tmp_path / "gone.jpg"))
    with pytest.raises(DataError, match=r"is a folder, not a file\.$"):
        read_bytes(str(tmp_path))
    with pytest.raises(DataError, match="embedded null byte"):
        read_bytes(str(tmp_path / "a\0b"))
    with pytest.raises(DataError, match=r"nowhere://x/a.jpg: nowhere:// is not known\. .*data\.url_prefixes"):
        read_bytes("nowhere://x/a.jpg")
    with pytest.raises(DataError, match=r"memory://gone/a\.jpg: there is no such file\.$"):
        read_bytes("memory://gone/a.jpg")


def test_a_missing_package_is_named_with_the_command_that_installs_it(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "s3fs", None)
    with pytest.raises(DataError, match=r"s3://b/a\.jpg: s3:// needs .* pip install 'lightning-automl-vision\[s3\]'"):
        read_bytes("s3://b/a.jpg")


def test_memory_and_http_are_read(tmp_path):
    fsspec.filesystem("memory").pipe("/test_urls/a.bin", b"in memory")
    assert read_bytes("memory://test_urls/a.bin") == b"in memory"
    (tmp_path / "a.bin").write_bytes(b"over http")
    with serving(tmp_path) as address:
        assert read_bytes(f"{address}/a.bin?token=secret") == b"over http"
        with pytest.raises(DataError) as caught:
            read_bytes(f"{address}/gone.bin?token=secret")
    assert "gone.bin" in str(caught.value)
    assert "secret" not in str(caught.value)


def test_a_server_that_does_not_answer_is_no_missing_file():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # and nobody listens
        with pytest.raises(DataError, match=r"/a\.jpg: cannot be read \("):
            read_bytes(f"http://127.0.0.1:{taken.getsockname()[1]}/a.jpg")


class serving:
    """A folder over http on this machine."""

    def __init__(self, folder):
        self._folder = str(folder)

    def __enter__(self):
        folder = self._folder

        class Handler(http.server.SimpleHTTPRequestHandler):
            def __init__(self, *arguments):
                super().__init__(*arguments, directory=folder)

            def log_message(self, *arguments):
                pass

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return f"http://127.0.0.1:{self._server.server_port}"

    def __exit__(self, *error):
        self._server.shutdown()
        self._server.server_close()
