"""Images from elsewhere: kept on disk as far as there is room, fetched ahead, asked for again, and missed."""

import errno
import http.server
import json
import logging
import multiprocessing
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import cv2
import fsspec
import numpy as np
import pytest
from pictures import write_folders
from test_windows import cut, labelled

from lightning_automl_vision import api
from lightning_automl_vision.data import stream_cache, urls
from lightning_automl_vision.data.batching import box_targets, class_targets
from lightning_automl_vision.data.headers import ImageHeader, read_headers
from lightning_automl_vision.data.labelled import read_labelled
from lightning_automl_vision.data.module import make_loader
from lightning_automl_vision.data.prefetch import Prefetch
from lightning_automl_vision.data.resizing import CenterCrop, LongSide
from lightning_automl_vision.data.sampling import EpochSampler
from lightning_automl_vision.data.stream_cache import ImageCache, ImageSource, image_bytes, use
from lightning_automl_vision.data.urls import Described, described, read_bytes
from lightning_automl_vision.errors import DataError, LostImagesError, StorageError, UnreachableError
from lightning_automl_vision.samples import Labels, Sample
from lightning_automl_vision.settings import DataConfig
from lightning_automl_vision.training.continuing import reading

KILOBYTE = 1000


@pytest.fixture(autouse=True)
def as_before(monkeypatch):
    """No test leaves its cache to the next, none waits long, and servers are believed to be up."""
    monkeypatch.setattr(urls, "_PAUSES", (0.01, 0.01, 0.01))
    monkeypatch.setattr(urls, "_down", {})
    monkeypatch.setattr(logging.getLogger("lightning_automl_vision"), "propagate", True)
    before = stream_cache.source()
    yield
    use(before)


class Server:
    """A folder over http that counts what is asked for; ``answers`` are statuses to give first, by name."""

    def __init__(self, folder):
        self.folder = folder
        self.asked = Counter()
        self.looked = Counter()
        self.answers = {}
        self.silent = set()
        self.delay = 0.0

    def __enter__(self):
        server = self

        class Handler(http.server.SimpleHTTPRequestHandler):
            def __init__(self, *arguments):
                super().__init__(*arguments, directory=str(server.folder))

            def do_HEAD(self):
                server.looked[self.path.strip("/")] += 1
                super().do_HEAD()

            def do_GET(self):
                name = self.path.strip("/")
                server.asked[name] += 1
                time.sleep(server.delay)
                if name in server.silent:
                    server.silent.remove(name)
                    time.sleep(2)
                    return
                if server.answers.get(name):
                    self.send_error(server.answers[name].pop(0))
                    return
                super().do_GET()

            def log_message(self, *arguments):
                pass

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        self.address = f"http://127.0.0.1:{self._server.server_port}"
        return self

    def __exit__(self, *error):
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def server(tmp_path):
    (tmp_path / "remote").mkdir()
    with Server(tmp_path / "remote") as serving:
        yield serving


def pictures(folder, count=8):
    """Each of 1 to 3 kB, with noise that nothing compresses."""
    random = np.random.default_rng(0)
    for number in range(count):
        cv2.imwrite(str(folder / f"{number}.png"), random.integers(0, 255, (20, 30, 3), dtype=np.uint8))
    return [f"{number}.png" for number in range(count)]


def config(tmp_path, **keys):
    return DataConfig(training="x", cache=str(tmp_path / "cache"), **keys)


def cache_in(tmp_path, most=10**9, **keys):
    return ImageCache(folder=tmp_path / "cache", most_bytes=most, **keys).opened()


def files_in(folder):
    return [file for file in Path(folder).rglob("*") if file.is_file() and file.name != "bytes"]


def test_each_picture_is_fetched_once_and_found_again(server, tmp_path):
    names = pictures(server.folder)
    images = [f"{server.address}/{name}" for name in names]
    headers = read_headers(images, config(tmp_path, stream_image_files=True))
    assert headers == [ImageHeader(30, 20)] * 8
    for image, name in zip(images, names, strict=True):
        assert image_bytes(image) == (server.folder / name).read_bytes()
    assert set(server.asked.values()) == {1}
    assert not server.looked


def test_memory_is_streamed_too(tmp_path):
    (tmp_path / "set").mkdir()
    name = pictures(tmp_path / "set", 1)[0]
    content = (tmp_path / "set" / name).read_bytes()
    fsspec.filesystem("memory").pipe("/streaming/a.png", content)
    assert read_headers(["memory://streaming/a.png"], config(tmp_path)) == [ImageHeader(30, 20)]
    fsspec.filesystem("memory").rm("/streaming/a.png")
    assert image_bytes("memory://streaming/a.png") == content


def test_s3_is_streamed_too(tmp_path, monkeypatch):
    server = pytest.importorskip("moto.server", reason="moto is not installed")
    pytest.importorskip("s3fs", reason="s3fs is not installed")
    for name, value in {"ACCESS_KEY_ID": "a", "SECRET_ACCESS_KEY": "b", "DEFAULT_REGION": "us-east-1"}.items():
        monkeypatch.setenv(f"AWS_{name}", value)
    emulation = server.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    emulation.start()
    try:
        monkeypatch.setenv("AWS_ENDPOINT_URL", "http://{}:{}".format(*emulation.get_host_and_port()))
        (tmp_path / "set").mkdir()
        name = pictures(tmp_path / "set", 1)[0]
        store = fsspec.filesystem("s3")
        store.mkdir("photos")
        store.pipe("photos/a.png", (tmp_path / "set" / name).read_bytes())
        asked = config(tmp_path, stream_image_files=True)
        found = read_headers(["s3://photos/a.png", "s3://photos/gone.png"], asked)
        assert found == [ImageHeader(30, 20), "there is no such file"]
        assert described("s3://photos/a.png").size == len(image_bytes("s3://photos/a.png"))
        assert described("s3://photos/a.png").changed == pytest.approx(time.time(), abs=600)
        store.rm("photos/a.png")
        assert len(image_bytes("s3://photos/a.png")) > 1000
    finally:
        emulation.stop()


@pytest.mark.parametrize("share", [0.25, 0.5, 1.0])
def test_what_is_kept_stays_so_that_the_share_that_fits_is_found_every_time(share, server, tmp_path):
    names = [f"{number}.bin" for number in range(40)]
    for name in names:
        (server.folder / name).write_bytes(os.urandom(KILOBYTE))
    source = ImageSource(cache_in(tmp_path, most=int(share * 40 * KILOBYTE)))
    order = np.random.default_rng(0)
    for epoch in range(3):
        before = server.asked.total()
        for place in order.permutation(40).tolist():
            assert len(source.read(f"{server.address}/{names[place]}")) == KILOBYTE
        fetched = server.asked.total() - before
        assert fetched == (40 if epoch == 0 else 40 * (1 - share))
    assert sum(file.stat().st_size for file in files_in(tmp_path)) - 40 * KILOBYTE == share * 40 * KILOBYTE


def keep_many(folder, most, first, answers):
    cache = ImageCache(folder=folder, most_bytes=most)
    answers.put(sum(cache.keep(f"http://x/{number}", bytes(KILOBYTE)) for number in range(first, first + 60)))


def test_all_processes_share_one_number_of_bytes(tmp_path):
    cache = cache_in(tmp_path, most=100 * KILOBYTE)
    context = multiprocessing.get_context("fork")
    answers = context.Queue()
    processes = [
        context.Process(target=keep_many, args=(cache.folder, cache.most_bytes, first, answers))
        for first in (0, 30, 60, 90)  # the same pictures in part
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
        assert process.exitcode == 0
    kept = files_in(cache.folder)
    assert 100 - len(processes) < len(kept) <= 100  # where several held room for one picture, another had none
    assert not [file for file in kept if file.suffix == ".part"]
    assert int((cache.folder / "bytes").read_text()) == len(kept) * KILOBYTE
    more = [cache.keep(f"http://x/more/{number}", bytes(KILOBYTE)) for number in range(5)]
    assert sum(more) == 100 - len(kept)
    assert len(files_in(cache.folder)) == 100
    assert int((cache.folder / "bytes").read_text()) == 100 * KILOBYTE


KILLED = """
import os, sys
from pathlib import Path
from lightning_automl_vision.data.stream_cache import ImageCache
cache = ImageCache(folder=Path(sys.argv[1]), most_bytes=10**6)
write = Path.write_bytes
def slow(path, content):
    write(path, content[:10])
    print("begun", flush=True)
    import time; time.sleep(60)
Path.write_bytes = slow
cache.keep("http://x/torn", bytes(1000))
"""


def test_what_a_killed_process_left_is_cleared_away(tmp_path):
    cache = cache_in(tmp_path)
    cache.keep("http://x/whole", b"whole")
    process = subprocess.Popen([sys.executable, "-c", KILLED, str(cache.folder)], stdout=subprocess.PIPE)
    assert process.stdout.readline() == b"begun\n"
    cache.opened()
    assert len(files_in(cache.folder)) == 2, "a part that is being written is nobody's to delete"
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    assert cache.find("http://x/torn") is None
    cache.opened()
    assert [file.read_bytes() for file in files_in(cache.folder)] == [b"whole"]
    assert int((cache.folder / "bytes").read_text()) == len(b"whole")


def test_parts_of_other_machines_go_when_they_are_old(tmp_path):
    cache = cache_in(tmp_path)
    (cache.folder / "ab").mkdir()
    young, old = (cache.folder / "ab" / f"{name}.0123abcd.77.1.part" for name in ("young", "old"))
    for part in (young, old):
        part.write_bytes(b"12345")
    os.utime(old, (time.time() - 7200,) * 2)
    cache.opened()
    assert young.exists()
    assert not old.exists()
    assert int((cache.folder / "bytes").read_text()) == 5


@pytest.mark.parametrize("fails", ["posix_fallocate", "write"])
def test_a_full_disk_is_done_without(fails, server, tmp_path, monkeypatch):
    (server.folder / "a.bin").write_bytes(b"content")

    def full(*arguments):
        raise OSError(errno.ENOSPC, "No space left on device")

    cache = cache_in(tmp_path)
    if fails == "write":
        monkeypatch.setattr(Path, "write_bytes", full)
    else:
        monkeypatch.setattr(os, "posix_fallocate", full, raising=False)
    source = ImageSource(cache)
    assert source.read(f"{server.address}/a.bin") == b"content"
    assert source.read(f"{server.address}/a.bin") == b"content"
    assert files_in(cache.folder) == []
    assert int((cache.folder / "bytes").read_text()) == 0
    with pytest.raises(StorageError, match=r"cannot hold all pictures: No space left.*stream_image_files=true"):
        ImageCache(folder=cache.folder, most_bytes=10**6, all_must_fit=True).keep("http://x/a", b"content")


def test_all_is_downloaded_before_unless_it_cannot_fit(server, tmp_path):
    images = [f"{server.address}/{name}" for name in pictures(server.folder)]
    said = r"has room for 3\.0 kB, and the 8 pictures .* take \d+\.\d kB\..* or raise data\.cache_size_megabytes"
    with pytest.raises(StorageError, match=said):
        read_headers(images, config(tmp_path, cache_size_megabytes=0.003))
    assert not server.asked, "nothing was downloaded for nothing"
    read_headers(images, config(tmp_path))
    assert server.asked.total() == 8
    server.__exit__()
    assert [len(image_bytes(image)) > 1000 for image in images] == [True] * 8


def jsonl(tmp_path, images):
    lines = [{"image_url": image, "label": "ab"[number % 2]} for number, image in enumerate(images)]
    (tmp_path / "train.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return str(tmp_path / "train.jsonl")


def read_set(tmp_path, images, **keys):
    return read_labelled(jsonl(tmp_path, images), "image_classification", config(tmp_path, **keys))


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("fails", [False, True])
def test_a_server_that_does_not_answer_before_training_is_no_fault_of_the_labels(server, tmp_path, stream, fails):
    names = pictures(server.folder)
    images = [f"{server.address}/{name}?secret" for name in names]
    if fails:
        server.answers = {f"{name}?secret": [500] * 9 for name in names}
    else:
        server.__exit__()
    said = rf"^{images[0].partition('?')[0]}: cannot be read \(.*\)\. Repeat the command once its server answers\. data"
    with pytest.raises(UnreachableError, match=said) as raised:
        read_set(tmp_path, images, stream_image_files=stream)
    assert raised.value.exit_code == 6
    assert "secret" not in str(raised.value)
    with pytest.raises(UnreachableError, match="images without an answer, too many to go on without them"):
        read_set(tmp_path, images, stream_image_files=stream, ignore_data_errors=True)


def test_a_picture_that_its_server_does_not_have_is_a_fault_of_the_labels(server, tmp_path):
    images = [f"{server.address}/{name}?secret" for name in pictures(server.folder)]
    (server.folder / "2.png").unlink()
    with pytest.raises(DataError, match=r"train.jsonl:3: image \S*/2.png: there is no such file\. Replace") as raised:
        read_set(tmp_path, images)
    assert raised.value.exit_code == 3


def test_single_pictures_without_an_answer_are_ignored_and_a_silent_server_is_not(server, tmp_path):
    images = [f"{server.address}/{name}" for name in pictures(server.folder, 60)]
    server.answers = {f"{number}.png": [503] * 9 for number in range(0, 60, 2)}
    for _ in range(2):  # all others are kept by the second time
        found = read_set(tmp_path, images, ignore_data_errors=True)
        assert (len(found), found.dropped) == (30, {"unusable image": 30})
    server.answers = {}
    with Server(server.folder) as gone:
        elsewhere = [f"{gone.address}/{number}.png" for number in range(21)]
    found = read_set(tmp_path, [*images, *elsewhere[:20]], ignore_data_errors=True)
    assert (len(found), found.dropped) == (60, {"unusable image": 20})
    with pytest.raises(UnreachableError, match=f"^{elsewhere[20]}: .* That is 21 of 81 images without an answer"):
        read_set(tmp_path, [*images, *elsewhere], ignore_data_errors=True)


def test_what_is_kept_of_a_silent_server_does_not_speak_for_it(server, tmp_path):
    images = [f"{server.address}/{name}" for name in pictures(server.folder, 60)]
    asked = {"stream_image_files": True, "ignore_data_errors": True}
    read_set(tmp_path, images[:35], **asked)
    server.__exit__()
    with pytest.raises(UnreachableError, match="That is 21 of 60 images without an answer"):
        read_set(tmp_path, images, **asked)


@pytest.mark.parametrize("stream", [False, True])
def test_a_silent_server_is_not_asked_for_each_picture(server, tmp_path, stream, monkeypatch):
    names = pictures(server.folder, 200)
    server.answers = {name: [500] * 9 for name in names}
    monkeypatch.setitem(urls._down, server.address.removeprefix("http://"), time.monotonic())
    with pytest.raises(UnreachableError):
        read_set(tmp_path, [f"{server.address}/{name}" for name in names], stream_image_files=stream)
    assert len(server.asked) < 100
    assert not server.looked


def test_a_folder_that_cannot_be_made_is_told_of(tmp_path):
    (tmp_path / "file").touch()
    asked = DataConfig(training="x", cache=str(tmp_path / "file"))
    with pytest.raises(StorageError, match=r"cannot be made or written .* Name another folder: data\.cache="):
        stream_cache.cache_of(asked).opened()


def test_what_has_changed_at_its_place_is_fetched_anew(server, tmp_path):
    names = pictures(server.folder, 3)
    images = [f"{server.address}/{name}" for name in names]
    asked = config(tmp_path, stream_image_files=True)
    read_headers(images, asked)
    cv2.imwrite(str(server.folder / names[0]), np.zeros((7, 9, 3), np.uint8))  # another size
    cv2.imwrite(str(server.folder / names[1]), cv2.imread(str(server.folder / names[1])))  # the same bytes, but later
    os.utime(server.folder / names[1], (time.time() + 60,) * 2)
    assert read_headers(images, asked) == [ImageHeader(9, 7), ImageHeader(30, 20), ImageHeader(30, 20)]
    assert [server.asked[name] for name in names] == [2, 2, 1]
    sizes = sum(file.stat().st_size for file in files_in(tmp_path / "cache"))
    ledger = next((tmp_path / "cache").rglob("bytes"))
    assert int(ledger.read_text()) == sizes


def test_another_data_set_has_a_folder_of_its_own(tmp_path):
    one, other = (stream_cache.cache_of(DataConfig(training=name, cache=str(tmp_path))) for name in ("a", "b"))
    assert one.folder != other.folder


def test_copies_are_told_from_changed_files():
    assert not Described(5, 10.0).is_another_than(5, 10.0)
    assert Described(5, 10.5).is_another_than(5, 10.0)
    assert Described(6, None).is_another_than(5, 10.0)
    assert not Described().is_another_than(5, 10.0)


@pytest.mark.parametrize("statuses", [[503], [500, 502], [429, 503, 504]])
def test_a_busy_server_is_asked_again(statuses, server):
    (server.folder / "a.bin").write_bytes(b"content")
    server.answers["a.bin"] = [*statuses]
    assert read_bytes(f"{server.address}/a.bin") == b"content"
    assert server.asked["a.bin"] == len(statuses) + 1


def test_a_silent_server_is_asked_again(server, monkeypatch):
    monkeypatch.setattr(urls, "SILENCE", 0.5)
    (server.folder / "a.bin").write_bytes(b"content")
    server.silent.add("a.bin")
    assert read_bytes(f"{server.address}/a.bin") == b"content"
    assert server.asked["a.bin"] == 2


@pytest.mark.parametrize("status", [403, 404, 410])
def test_what_will_not_change_is_asked_for_once(status, server):
    server.answers["a.bin"] = [status] * 9
    with pytest.raises(DataError, match=r"/a\.bin: "):
        read_bytes(f"{server.address}/a.bin")
    assert server.asked["a.bin"] == 1


def test_a_server_that_is_down_is_not_waited_for_again_and_again(server):
    server.answers = {name: [503] * 99 for name in ("a.bin", "b.bin")}
    for name in ("a.bin", "b.bin"):
        with pytest.raises(DataError, match="503"):
            read_bytes(f"{server.address}/{name}")
    assert server.asked == {"a.bin": 4, "b.bin": 1}
    server.answers.clear()
    (server.folder / "a.bin").write_bytes(b"content")
    assert read_bytes(f"{server.address}/a.bin") == b"content"


def test_what_will_be_read_next_is_fetched_meanwhile():
    began, release = Counter(), threading.Event()

    def read(image):
        began[image] += 1
        assert release.wait(30)
        if image == "broken":
            raise DataError("broken: why")
        return image.encode()

    prefetch = Prefetch(read, threads=4)
    for image in ("a", "b", "broken", "a"):
        prefetch.ask(image)
    until(lambda: len(began) == 3)
    release.set()
    assert prefetch.take("b") == b"b"
    assert prefetch.take("a") == b"a"
    with pytest.raises(DataError, match="broken: why"):
        prefetch.take("broken")
    assert prefetch.take("a") == b"a"
    assert began == {"a": 2, "b": 1, "broken": 1}


def test_what_nobody_takes_is_forgotten():
    began = Counter()
    prefetch = Prefetch(lambda image: began.update([image]) or b"", threads=1, most_held=3)
    for number in range(50):
        prefetch.ask(str(number))
    assert len(prefetch._waiting) == 3
    assert prefetch.take("49") == b""


def until(condition):
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_draws_tell_of_later_ones():
    sampler = EpochSampler(7, shuffle=True, seed=1)
    order = [draw.image for draw in sampler]
    for ahead in (1, 3, 7, 9):
        sampler.ahead = ahead
        draws = list(sampler)
        assert [draw.image for draw in draws] == order
        assert [draw.later for draw in draws] == [*order[ahead:], *[None] * min(ahead, 7)]


def loader_of(images, **options):
    samples = [Sample(image=image, target=Labels(labels=np.array([0]))) for image in images]
    transform = CenterCrop(resize=16, size=16)
    keys = {"num_classes": 1, "truth": class_targets, "transform": transform, "batch_size": 4, "seed": 0}
    return make_loader(samples, **{**keys, **options})


@pytest.mark.parametrize(("workers", "method"), [(0, None), (2, "fork"), (2, "spawn")])
def test_loaders_read_through_the_cache_and_ahead(workers, method, server, tmp_path):
    images = [f"{server.address}/{name}" for name in pictures(server.folder, 16)]
    use(ImageSource(cache_in(tmp_path, most=20 * KILOBYTE)))
    server.delay = 0.05
    loader = loader_of(images, workers=workers, start_method=method, shuffle=True)
    for epoch in range(2):
        loader.sampler.set_epoch(epoch)
        assert sorted(key for batch in loader for key in batch.keys) == sorted(images)
    kept = len(files_in(tmp_path / "cache"))
    assert 0 < kept < 16
    assert server.asked.total() == 16 + 16 - kept


def test_batches_are_fetched_while_the_one_before_is_used(server, tmp_path):
    images = [f"{server.address}/{name}" for name in pictures(server.folder, 8)]
    use(ImageSource(cache_in(tmp_path)))
    batches = iter(loader_of(images, workers=0))
    next(batches)
    until(lambda: server.asked.total() == 8)


def tiled_loader(server, **options):
    """Twelve photos of a server, seen through seven windows each."""
    local = labelled(server.folder, 12)
    samples = [replace(each, image=f"{server.address}/{Path(each.image).name}") for each in local.samples]
    windows = cut(replace(local, samples=samples), memory=1 << 22)
    transform, keys = LongSide(64), {"num_classes": 2, "truth": box_targets, "batch_size": 8, "seed": 1}
    return make_loader(samples, transform=transform, cut=windows, **{**keys, **options})


def test_the_photo_of_the_next_windows_is_fetched_while_those_before_are_used(server, tmp_path):
    use(ImageSource(cache_in(tmp_path, most=0)))
    batches = iter(tiled_loader(server, workers=0))
    next(batches)
    until(lambda: server.asked.keys() == {"0.png", "1.png", "2.png"})
    assert sum(map(len, batches)) == 12 * 7 - 8
    assert server.asked == {f"{number}.png": 1 for number in range(12)}


@pytest.mark.parametrize("workers", [0, 2])
def test_a_photo_that_no_cache_keeps_is_fetched_once_an_epoch_for_all_its_windows(workers, server, tmp_path):
    use(ImageSource(cache_in(tmp_path, most=0)))
    loader = tiled_loader(server, workers=workers, shuffle=True)
    for epoch in range(2):
        loader.sampler.set_epoch(epoch)
        assert sum(map(len, loader)) == 12 * 7
    assert set(server.asked.values()) <= {1, 2}


def test_an_image_that_is_lost_while_training_is_replaced_and_told(server, tmp_path, caplog):
    names = pictures(server.folder, 12)
    images = [f"{server.address}/{name}" for name in names]
    use(ImageSource(cache_in(tmp_path, most=0)))
    lost = set()
    loader = loader_of(images, workers=0, shuffle=True, transform=plain, lost=lost)
    whole = [key for batch in loader for key in batch.keys]
    (server.folder / names[3]).unlink()
    (server.folder / names[5]).unlink()
    with caplog.at_level(logging.WARNING, "lightning_automl_vision"):
        replaced = [key for batch in loader for key in batch.keys]
        again = [key for batch in loader for key in batch.keys]
    assert replaced == again
    assert len(replaced) == 12
    assert not {images[3], images[5]} & set(replaced)
    assert [new for old, new in zip(whole, replaced, strict=True) if old not in (images[3], images[5])] == [
        old for old in whole if old not in (images[3], images[5])
    ]
    assert len(lost) == 2
    assert len(caplog.messages) == 2
    assert re.search(r"3\.png: there is no such file\. Training goes on without it", caplog.text)
    with pytest.raises(DataError, match=r"\.png: there is no such file\.$"):
        list(loader_of(images, workers=0, shuffle=True, transform=plain))


class Plain:
    """A training transform that does as little as can be."""

    short_side = None

    def __call__(self, pixels, target, seed):
        from lightning_automl_vision.data.prepared import Prepared

        return Prepared(pixels=pixels[:16, :16], target=target)


plain = Plain()


def test_an_evaluation_judges_every_image_though_one_is_lost(server, tmp_path):
    names = pictures(server.folder, 6)
    images = [f"{server.address}/{name}" for name in names]
    use(ImageSource(cache_in(tmp_path, most=0)))
    (server.folder / names[2]).unlink()
    lost = set()
    batches = list(loader_of(images, workers=0, lost=lost))
    assert [key for batch in batches for key in batch.keys] == images
    assert len(lost) == 1
    assert batches[0].images[2].unique().tolist() == [114]


def test_all_lost_is_an_error_all_the_same(server, tmp_path):
    names = pictures(server.folder, 4)
    for name in names:
        (server.folder / name).unlink()
    use(ImageSource(cache_in(tmp_path)))
    with pytest.raises(LostImagesError, match=r"21 images in a row could not be read; the last one: .* no such file"):
        list(loader_of([f"{server.address}/{name}" for name in names], transform=plain, lost=set(), workers=0))


@pytest.mark.parametrize("gone", [3, 4])
def test_an_evaluation_that_lost_more_than_half_of_its_images_is_an_error(server, tmp_path, caplog, gone):
    names = pictures(server.folder, 6)
    for name in names[:gone]:
        (server.folder / name).unlink()
    use(ImageSource(cache_in(tmp_path, most=0)))
    loader = loader_of([f"{server.address}/{name}" for name in names], workers=0, lost=set())
    if gone == 3:
        list(loader)
        assert "3 of the 6 images of this evaluation could not be read" in caplog.text
    else:
        with pytest.raises(LostImagesError, match="4 of the 6 images of an evaluation could not be read"):
            list(loader)


def test_images_that_cannot_be_read_any_more_come_with_the_ways_out(server, tmp_path):
    (server.folder / "a").touch()
    server.answers["a"] = [500] * 9
    said = r"/a: cannot be read \(500 Internal Server Error\)\. data.ignore_data_errors=true .* nothing is kept"
    with pytest.raises(UnreachableError, match=said) as raised, reading(tmp_path, ignores_faults=False):
        read_bytes(f"{server.address}/a")
    assert raised.value.exit_code == 6
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "last.ckpt").touch()
    said = "^Lost. Repeat the command once they can be read: it goes on from the last checkpoint.$"
    with pytest.raises(LostImagesError, match=said), reading(tmp_path, ignores_faults=True):
        raise LostImagesError("Lost.")


def test_a_run_streams_and_survives_the_loss_of_an_image(server, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_folders(server.folder, per_class=6)
    images = sorted(file.relative_to(server.folder) for file in server.folder.rglob("*.png"))
    lines = [{"image_url": f"{server.address}/{image}", "label": image.parent.name} for image in images]
    (tmp_path / "train.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    threads = ThreadPoolExecutor(1)

    def lose():
        until(lambda: (tmp_path / "run" / "metrics.jsonl").exists())
        for image in images[::3]:
            (server.folder / image).unlink()

    gone = threads.submit(lose)
    result = api.train(
        experiment="quickstart",
        data={
            "training": "train.jsonl",
            "cache": str(tmp_path / "cache"),
            "stream_image_files": True,
            "cache_size_megabytes": 0.012,
            "ignore_data_errors": True,
        },
        trainer={"max_steps": 16},
        training={
            "training_crop_size": 32,
            "validation_crop_size": 32,
            "validation_resize_size": 36,
            "training_batch_size": 4,
            "random_seed": 1,
            "early_stopping": False,
            "number_of_epochs": 100,
        },
        output_dir="run",
        quiet=True,
    )
    gone.result()
    assert result.status == "completed"
    assert 1 <= result.data["dropped"]["image lost while training"] <= 6
    assert "Training goes on without it" in (tmp_path / "run" / "run.log").read_text()


def test_the_machine_is_named_in_parts_without_dots(monkeypatch):
    monkeypatch.setattr(socket, "gethostname", lambda: "a.b.c")
    assert "." not in stream_cache._host()
