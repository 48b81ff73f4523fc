"""A server in this process, around models whose network is a few lines of numpy: what is bright is an object."""

import base64
import json
import socket
import threading
import time
from contextlib import contextmanager
from typing import NamedTuple

import cv2
import numpy as np
import uvicorn
from fastapi import FastAPI
from starlette.testclient import TestClient

from lightning_automl_vision.data.resizing import ShortSide
from lightning_automl_vision.jobs.serve import ServeConfig
from lightning_automl_vision.model_folder import ModelCard
from lightning_automl_vision.predictor import Predictor
from lightning_automl_vision.samples import ScoredBoxes, ScoredLabels, ScoredMasks
from lightning_automl_vision.serving.access import Access
from lightning_automl_vision.serving.application import application
from lightning_automl_vision.serving.service import Service

CLASSIFICATION, MULTILABEL = "image_classification", "image_classification_multilabel"
DETECTION, SEGMENTATION = "image_object_detection", "image_instance_segmentation"
SQUARE = (20, 30, 60, 80)
DEPLOYMENT = "azureml-model-deployment"


def picture(box=SQUARE, size=(120, 160), suffix=".png"):
    """A bright rectangle on black, encoded."""
    pixels = np.zeros((*size, 3), np.uint8)
    left, top, right, bottom = box
    pixels[top:bottom, left:right] = 255
    return cv2.imencode(suffix, pixels)[1].tobytes()


def document(*items, **more):
    """The documented request of base64, or of whatever else the items are."""
    data = [base64.b64encode(item).decode() if isinstance(item, bytes) else item for item in items]
    return {"input_data": {"columns": ["image"], "data": data, **more}}


def item(content=None, **more):
    """The same picture as a JSON string."""
    return json.dumps({"image_base64": base64.encodebytes(content or picture()).decode(), **more})


def bright(pixels):
    rows, columns = (np.flatnonzero((pixels[..., 0] > 127).any(axis=axis)) for axis in (1, 0))
    corners = [[columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]] if rows.size else []
    return {
        "labels": np.ones(len(corners), np.int64),
        "boxes": np.array(corners, np.float64).reshape(-1, 4),
        "scores": np.full(len(corners), 0.75, np.float32),
        "width": pixels.shape[1],
        "height": pixels.shape[0],
    }


def boxes_of(pictures):
    return [ScoredBoxes(**bright(pixels)) for pixels in pictures]


def masks_of(pictures):
    found = [bright(pixels) for pixels in pictures]
    return [ScoredMasks(**one, shapes=np.ones((len(one["boxes"]), 28, 28), np.float32)) for one in found]


def scores_of(pictures):
    """How much of the picture is dark, and how much is bright."""
    shares = [float((pixels > 127).mean()) for pixels in pictures]
    return [ScoredLabels(scores=np.array([1 - share, share], np.float32)) for share in shares]


NETWORKS = {CLASSIFICATION: scores_of, MULTILABEL: scores_of, DETECTION: boxes_of, SEGMENTATION: masks_of}


def predictor(task=CLASSIFICATION, network=None, labels=("dark", "bright")):
    card = ModelCard(task=task, name="bright", parameters={}, image_size=None, labels=[*labels], settings={})
    return Predictor(card=card, resizing=ShortSide(120, 400), network=network or NETWORKS[task])


def service_of(model, traffic, keys, failed, config):
    """For one model, or for several by name."""
    models = model if isinstance(model, dict) else {"default": model or predictor()}
    loaders = {name: one if callable(one) else (lambda one=one: one) for name, one in models.items()}
    service = Service(loaders, traffic or dict.fromkeys(models, 100), ServeConfig(**config))
    return service, application(service, Access(keys), failed)


@contextmanager
def served(model=None, *, traffic=None, keys=(), ready=True, **config):
    """A client of a server without a port; ``client.service`` is what is behind it."""
    failures = []
    service, app = service_of(model, traffic, keys, failures.append, config)
    with TestClient(app, raise_server_exceptions=False) as client:
        client.service, client.failures = service, failures
        if ready:
            until_true(lambda: client.get("/health/ready").status_code == 200)
        yield client


class Listening(NamedTuple):
    """A server at a port of this machine."""

    service: Service
    app: FastAPI
    port: int

    @property
    def url(self):
        return f"http://127.0.0.1:{self.port}/"

    def raw(self, content, wait=30):
        """What comes back for these bytes until the other side closes."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=wait) as connection:
            connection.sendall(content)
            answer = b""
            while chunk := connection.recv(65536):
                answer += chunk
            return answer


@contextmanager
def listening(model=None, *, traffic=None, keys=(), **config):
    """The same with connections, in a thread."""
    service, app = service_of(model, traffic, keys, lambda error: None, config)
    server = uvicorn.Server(uvicorn.Config(app, port=0, http="h11", ws="none", log_config=None, lifespan="on"))
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        until_true(lambda: server.started and service.is_loaded)
        yield Listening(service, app, server.servers[0].sockets[0].getsockname()[1])
    finally:
        server.should_exit = True
        thread.join(60)


def until_true(condition, seconds=60):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not come true"
        time.sleep(0.01)


def error_of(response, status):
    """The one line that a refusal says."""
    assert response.status_code == status, response.text
    assert list(response.json()) == ["error"]
    reason = response.json()["error"]
    assert "\n" not in reason
    return reason
