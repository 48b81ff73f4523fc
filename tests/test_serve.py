"""The server's requests and answers: every documented form of a picture, and what is refused."""

import base64
import io
import json
import struct
import zlib

import numpy as np
import pytest
from PIL import Image
from served import (
    CLASSIFICATION,
    DEPLOYMENT,
    DETECTION,
    MULTILABEL,
    SEGMENTATION,
    SQUARE,
    document,
    error_of,
    item,
    picture,
    predictor,
    served,
)

from lightning_automl_vision.masks import draw_polygons

JSON = {"Content-Type": "application/json"}
SHARE = 40 * 50 / (120 * 160)


@pytest.fixture(scope="module")
def classifier():
    with served() as client:
        yield client


@pytest.fixture(scope="module")
def detector():
    with served(predictor(DETECTION)) as client:
        yield client


def in_base64(content, newlines):
    return (base64.encodebytes if newlines else base64.b64encode)(content).decode()


@pytest.mark.parametrize("newlines", [False, True])
def test_pictures_come_in_base64_flat_or_wrapped(classifier, newlines):
    assert ("\n" in in_base64(picture(), newlines)) == newlines
    response = classifier.post("/score", json=document(*[in_base64(picture(), newlines)] * 2, index=[0, 1]))
    assert response.status_code == 200
    assert response.headers[DEPLOYMENT] == "default"
    assert response.json() == [{"probs": pytest.approx([1 - SHARE, SHARE]), "labels": ["dark", "bright"]}] * 2


PARAMETERS = {
    "xai_algorithm": "integrated_gradients",
    "visualizations": True,
    "attributions": False,
    "confidence_score_threshold_multilabel": 0.5,
    "n_steps": 50,
    "xrai_fast": True,
    "approximation_method": "gausslegendre",
}


@pytest.mark.parametrize(
    "sent",
    [
        item(),
        item(model_explainability=False),
        item(model_explainability=False, xai_parameters=PARAMETERS),
        json.loads(item(model_explainability=False)),
        [in_base64(picture(), True)],
    ],
    ids=["text", "no explanation", "parameters", "object", "row"],
)
def test_pictures_come_in_json_with_explanation_parameters(classifier, sent):
    (answer,) = classifier.post("/score", json=document(sent)).json()
    assert answer["probs"] == pytest.approx([1 - SHARE, SHARE])


def test_pictures_come_as_files_of_a_form(classifier):
    dark = picture((0, 0, 1, 1))
    files = [("image", ("a.png", picture(), "image/png")), ("other", ("b.png", dark, "image/png"))]
    answers = classifier.post("/score", files=files).json()
    assert [round(answer["probs"][1], 4) for answer in answers] == [round(SHARE, 4), round(1 / 19200, 4)]


@pytest.mark.parametrize(
    "kind", ["image/png", "image/x-whatever", "application/octet-stream", "application/x-www-form-urlencoded", None]
)
def test_a_picture_comes_as_its_bytes(classifier, kind):
    (answer,) = classifier.post("/score", content=picture(), headers={"Content-Type": kind} if kind else {}).json()
    assert answer["probs"] == pytest.approx([1 - SHARE, SHARE])


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", "application/vnd.x+json", None])
def test_json_is_known_whatever_a_client_calls_it(classifier, kind):
    content = "\ufeff \n" * (kind != "application/vnd.x+json") + json.dumps(document(picture()))
    response = classifier.post("/score", content=content, headers={"Content-Type": kind} if kind else {})
    assert response.status_code == 200, response.text


def test_several_labels_have_a_score_each_and_no_threshold():
    with served(predictor(MULTILABEL)) as client:
        (answer,) = client.post("/score", content=picture()).json()
    assert answer == {"probs": pytest.approx([1 - SHARE, SHARE]), "labels": ["dark", "bright"]}


def test_objects_have_a_box_in_shares_of_the_picture(detector):
    found, nothing = detector.post("/score", json=document(picture(), picture((0, 0, 0, 0)))).json()
    assert nothing == {"boxes": []}
    left, top, right, bottom = SQUARE
    assert found == {
        "boxes": [
            {
                "box": {"topX": left / 160, "topY": top / 120, "bottomX": right / 160, "bottomY": bottom / 120},
                "label": "bright",
                "score": 0.75,
            }
        ]
    }


def test_masks_are_polygons_in_shares_of_the_picture():
    with served(predictor(SEGMENTATION)) as client:
        (answer,) = client.post("/score", content=picture()).json()
    (found,) = answer["boxes"]
    assert set(found) == {"box", "label", "score", "polygon"}
    parts = [np.array(part).reshape(-1, 2) * (160, 120) for part in found["polygon"]]
    assert draw_polygons(parts, 160, 120).pixels.sum() == 50 * 40


def test_a_picture_is_turned_as_exif_says(detector):
    file = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.open(io.BytesIO(picture())).save(file, "JPEG", quality=100, exif=exif)
    (answer,) = detector.post("/score", content=file.getvalue()).json()
    box = answer["boxes"][0]["box"]
    assert [round(box[side], 2) for side in ("topX", "topY")] == [round(1 - 80 / 120, 2), round(20 / 160, 2)]


def truncated():
    return picture()[:-200]


def bomb(width=30_000, height=30_000):
    """A PNG of a few bytes that says it is large."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(b"\0")), (b"IEND", b"")]
    parts = [struct.pack(">I", len(c)) + k + c + struct.pack(">I", zlib.crc32(k + c)) for k, c in chunks]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


FAULTS = {
    "no picture": (b"nothing", "The picture is not an image in a known format"),
    "truncated": (truncated(), "The picture is truncated."),
    "bomb": (bomb(), "The picture has 30000 x 30000 pixels, and 50000000 in all are the most."),
    "a damaged one": (bomb(4, 4), "The picture is damaged"),
    "empty": (b"", "The picture is empty."),
    "no base64": ("?" * 9, "The picture is not base64."),
    "padding is missing": ("AAA", "The picture is not base64."),
    "beyond ASCII": ("ÄÖÜ", "The picture is not base64."),
    "in an item": (json.dumps({"image_base64": "?"}), "The picture is not base64."),
}


@pytest.mark.parametrize(("sent", "reason"), FAULTS.values(), ids=FAULTS)
def test_a_bad_picture_among_good_ones_is_answered_in_its_place(detector, sent, reason):
    response = detector.post("/score", json=document(picture(), sent, picture()))
    assert response.status_code == 200
    first, fault, last = response.json()
    assert first == last
    assert len(first["boxes"]) == 1
    assert list(fault) == ["error"]
    assert fault["error"].startswith(reason)


@pytest.mark.parametrize(("sent", "reason"), FAULTS.values(), ids=FAULTS)
def test_without_any_good_picture_the_request_is_refused(detector, sent, reason):
    assert error_of(detector.post("/score", json=document(sent)), 400).startswith(reason)
    several = error_of(detector.post("/score", json=document(sent, sent)), 400)
    assert several.startswith(f"None of the 2 pictures can be used. The first: {reason}")


MALFORMED = {
    "": "The body is empty",
    "{": "The body is not JSON",
    '{"a": 1e999999999999, ': "The body is not JSON",
    "[" * 100_000: "The body is JSON that is nested too deeply",
    "9" * 5000: "The body is not JSON",
    "\xff\xfe": "The body is not JSON",
    "[]": "The body must be an object with input_data alone",
    "null": "The body must be an object with input_data alone",
    '{"inputs": []}': "The body must be an object with input_data alone",
    '{"input_data": [], "more": 1}': "The body must be an object with input_data alone",
    '{"input_data": {}}': "input_data.data must be a list",
    '{"input_data": {"data": []}}': "input_data.data must be a list",
    '{"input_data": {"data": "x"}}': "input_data.data must be a list",
    '{"input_data": {"data": ["x"], "columns": ["text"]}}': "input_data.columns=['text'] must be",
    '{"input_data": {"data": ["x"], "columns": null}}': "input_data.columns=None must be",
    '{"input_data": {"data": ["x"], "index": [0, 1]}}': "input_data.index must be a list as long",
    '{"input_data": {"data": ["x"], "index": [[]]}}': "input_data.index must be a list of integers or texts",
    '{"input_data": {"data": ["x"], "params": {}}}': "input_data has no 'params'",
    '{"input_data": {"data": [5]}}': "data[0] must be a text",
    '{"input_data": {"data": [["x", "y"]]}}': "data[0] must be a text",
    '{"input_data": {"data": ["{nothing"]}}': "data[0] is not JSON",
    '{"input_data": {"data": ["{}"]}}': "data[0].image_base64 must be a text",
    '{"input_data": {"data": [{"image_base64": 5}]}}': "data[0].image_base64 must be a text",
    '{"input_data": {"data": [{"image_base64": "x", "label": 5}]}}': "data[0] has no 'label'",
}


@pytest.mark.parametrize(("body", "reason"), MALFORMED.items(), ids=range(len(MALFORMED)))
def test_what_is_no_request_is_refused_with_what_is_wrong(classifier, body, reason):
    response = classifier.post("/score", content=body.encode("latin-1"), headers=JSON)
    assert error_of(response, 400).startswith(reason)


@pytest.mark.parametrize(
    "sent",
    [
        "https://example.org/a.jpg",
        "file:///etc/passwd",
        "data:image/png;base64,AAAA",
        json.dumps({"image_url": "http://169.254.169.254/"}),
        {"image_url": "/etc/passwd", "image_base64": ""},
        {"image_base64": "s3://bucket/key"},
    ],
)
def test_the_server_fetches_nothing(classifier, sent):
    assert "this server fetches nothing" in error_of(classifier.post("/score", json=document(sent)), 400)


@pytest.mark.parametrize("task", [CLASSIFICATION, DETECTION])
def test_explanations_are_refused_in_so_many_words(task):
    with served(predictor(task)) as client:
        answer = error_of(client.post("/score", json=document(item(model_explainability=True))), 400)
    finds = "explanations are for classification" if task == DETECTION else "this version gives no explanations"
    assert answer == f"data[0]: {finds}. Set model_explainability to false."


@pytest.mark.parametrize(
    ("parameters", "reason"),
    [
        ([], "xai_parameters=[] must be an object"),
        ({"steps": 5}, "xai_parameters has no 'steps'. There are xai_algorithm, "),
        ({"n_steps": 501}, "xai_parameters.n_steps=501 must be an integer in [2, 500]"),
        ({"n_steps": 1}, "must be an integer in [2, 500]"),
        ({"n_steps": 10**4000}, "xai_parameters.n_steps=1000000000000000000000000000000000000000... must be an"),
        ({"n_steps": True}, "must be an integer in [2, 500]"),
        ({"n_steps": 50.0}, "must be an integer in [2, 500]"),
        ({"xai_algorithm": "lime"}, "must be one of xrai, integrated_gradients, guided_gradcam, guided_backprop"),
        ({"xai_algorithm": ["xrai"]}, "must be one of xrai"),
        ({"approximation_method": "simpson"}, "must be one of riemann_middle, gausslegendre"),
        ({"visualizations": 1}, "must be true or false"),
        ({"confidence_score_threshold_multilabel": 1.5}, "must be a number in [0, 1]"),
    ],
)
@pytest.mark.parametrize("wanted", [False, True])
def test_explanation_parameters_are_checked_whether_or_not_they_are_used(classifier, parameters, reason, wanted):
    sent = item(model_explainability=wanted, xai_parameters=parameters)
    answer = error_of(classifier.post("/score", json=document(picture(), sent)), 400)
    assert answer.startswith("data[1]: ")
    assert reason in answer


def test_the_question_whether_to_explain_has_two_answers(classifier):
    response = classifier.post("/score", json=document(item(model_explainability="yes")))
    assert error_of(response, 400) == "data[0]: model_explainability='yes' must be true or false."


@pytest.mark.parametrize(
    ("kind", "body", "reason"),
    [
        ("multipart/form-data", b"x", "The form has no boundary"),
        ("multipart/form-data; boundary=b", b"x", "The form is damaged"),
        ("multipart/form-data; boundary=b", b"--b\r\n", "The form is damaged: its end is missing"),
        ("multipart/form-data; boundary=b", b"--b--\r\n", "The form"),
        (
            "multipart/form-data; boundary=b",
            b'--b\r\nContent-Disposition: form-data; name="a"\r\n\r\nx\r\n--b--\r\n',
            "The form's field 'a' is no file",
        ),
        ("multipart/form-data; boundary=" + "b" * 300, b"x", "The form is damaged"),
    ],
)
def test_a_form_without_files_is_refused(classifier, kind, body, reason):
    assert error_of(classifier.post("/score", content=body, headers={"Content-Type": kind}), 400).startswith(reason)


def test_other_types_and_compressed_bodies_are_not_read(classifier):
    response = classifier.post("/score", content=b"<a/>", headers={"Content-Type": "application/xml"})
    assert error_of(response, 415).startswith("Content-Type 'application/xml' is not read")
    response = classifier.post("/score", content=picture(), headers={"Content-Encoding": "gzip"})
    assert error_of(response, 415).startswith("Content-Encoding is not read")


@pytest.mark.parametrize("way", ["json", "form"])
def test_a_request_has_so_many_pictures_at_most(way):
    with served(maximum_images=2) as client:
        files = [("image", ("a.png", picture(), "image/png"))] * 3
        sent = {"json": document(*[picture()] * 3)} if way == "json" else {"files": files}
        assert "2" in error_of(client.post("/score", **sent), 413)


@pytest.mark.parametrize("announced", [True, False])
def test_a_body_is_read_no_further_than_is_allowed(announced):
    with served(body_megabytes=0.1) as client:
        limit = 100_000
        sent = picture() + bytes(limit)
        content = sent if announced else iter([sent[:50_000], sent[50_000:]])
        assert error_of(client.post("/score", content=content), 413) == (
            f"The body is too long: {limit} bytes are the most."
        )
        assert client.post("/score", content=picture()).status_code == 200


def test_an_answer_has_no_number_that_json_has_not():
    def undecided(pictures):
        from lightning_automl_vision.samples import ScoredLabels

        return [ScoredLabels(scores=np.array([np.nan, np.inf], np.float32)) for _ in pictures]

    with served(predictor(network=undecided)) as client:
        assert client.post("/score", content=picture()).json() == [
            {"probs": [None, None], "labels": ["dark", "bright"]}
        ]
