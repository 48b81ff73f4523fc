"""Malformed requests, from the server's own OpenAPI description and by mutation, the same for the same seed."""

import base64
import json
import random
import string
import zlib
from typing import NamedTuple

from served import item, picture

JUNK = (
    None,
    True,
    False,
    0,
    -1,
    10**30,
    1e308,
    float("nan"),
    "",
    " ",
    "\0",
    "\ud800",
    "é" * 50,
    [],
    {},
    [[]],
    {"": {}},
)
TYPES = ("application/json", "text/json", "image/jpeg", "application/xml", "*/*", ";;;", "multipart/form-data", "")


class Malformed(NamedTuple):
    """``is_picture`` where the damage may leave a picture that can be read."""

    method: str
    place: str
    body: bytes
    headers: dict
    is_picture: bool = False


def malformed_requests(document, count, seed=0):
    """So many requests that should each be refused."""
    source = random.Random(seed)
    makers = (from_schema, mutated_document, damaged_json, damaged_form, damaged_picture, strange_parameters, elsewhere)
    for number in range(count):
        yield makers[number % len(makers)](source, document)


def schema_of(document, place, method, kind="application/json"):
    return document["paths"][place][method]["requestBody"]["content"][kind]["schema"]


def made(source, schema, depth=0):
    """A value that the schema allows, of texts that are no pictures; now and then one that it does not."""
    if source.random() < 0.08:
        return source.choice(JUNK)
    if "oneOf" in schema:
        return made(source, source.choice(schema["oneOf"]), depth + 1)
    if "enum" in schema:
        return source.choice(schema["enum"])
    if "contentSchema" in schema:
        return json.dumps(made(source, schema["contentSchema"], depth + 1))
    match schema.get("type"):
        case "object":
            known = schema.get("properties", {})
            kept = [name for name in known if name in schema.get("required", ()) or source.random() < 0.5]
            values = {name: made(source, known[name], depth + 1) for name in kept}
            if source.random() < 0.1 or not values:
                values[text(source)] = source.choice(JUNK)
            return values
        case "array":
            return [made(source, schema["items"], depth + 1) for _ in range(source.choice((0, 1, 1, 2, 3, 70)))]
        case "boolean":
            return source.random() < 0.5
        case "integer" | "number":
            return source.choice((0, 1, 2, 50, 501, -3, 0.5, 1e99, 10**20))
    return source.choice(
        (text(source), base64.b64encode(source.randbytes(source.randrange(60))).decode(), "http://a/b")
    )


def text(source):
    return "".join(source.choices(string.printable + "äß漢\0", k=source.randrange(30)))


def from_schema(source, document):
    place, method = source.choice((("/score", "post"), ("/score", "post"), ("/traffic", "put")))
    value = made(source, schema_of(document, place, method))
    body = encoded(value if value != {} else [])  # no traffic at all is a wish that is granted
    return Malformed(method.upper(), place, body, {"Content-Type": "application/json"})


def encoded(value):
    return json.dumps(value).encode("utf-8", "surrogatepass")


def mutated_document(source, _):
    """A good request in which one thing is not."""
    good = {"input_data": {"columns": ["image"], "index": [0], "data": [item(picture())]}}
    where = source.randrange(6)
    junk = source.choice([value for value in JUNK if value not in ([],)])
    if where == 0:
        good[text(source) + "x"] = junk
    elif where == 1:
        good["input_data"][text(source) + "x"] = junk
    elif where == 2:
        good["input_data"]["columns"] = junk
    elif where == 3:
        good["input_data"]["index"] = junk
    elif where == 4:
        good["input_data"]["data"] = [junk] if not isinstance(junk, list) else junk
    else:
        good = source.choice([good["input_data"], [good], json.dumps(good), {"inputs": good}, junk])
    return Malformed("POST", "/score", encoded(good), {"Content-Type": "application/json"})


def damaged_json(source, _):
    body = bytearray(encoded({"input_data": {"columns": ["image"], "data": [item(b"no picture")]}}))
    for _ in range(source.randrange(1, 6)):
        start = source.randrange(len(body))
        match source.randrange(4):
            case 0:
                del body[start : start + source.randrange(1, 20)]
            case 1:
                body[start:start] = source.randbytes(source.randrange(1, 8))
            case 2:
                body[start] = source.randrange(256)
            case 3:
                body[start:start] = source.choice((b"[" * 5000, b'{"a":' * 5000, b"9" * 5000, b"\\ud800", b"\xff\xfe"))
        body = body or bytearray(b"{")
    return Malformed("POST", "/score", bytes(body), {"Content-Type": source.choice(TYPES[:1] * 5 + TYPES)})


def damaged_form(source, _):
    content = (
        b"--b\r\nContent-Disposition: form-data; name=a; filename=b\r\nContent-Type: image/png\r\n\r\nno\r\n--b--\r\n"
    )
    body = bytearray(content * source.randrange(1, 3))
    for _ in range(source.randrange(1, 5)):
        start = source.randrange(len(body))
        if source.random() < 0.5:
            del body[start : start + source.randrange(1, 30)]
        else:
            body[start:start] = source.choice((b"\r\n", b"--b", b"\0", b'"', b"filename*=utf-8''%ff", b"x" * 5000))
        body = body or bytearray(b"-")
    boundary = source.choice(("b", "b", "b", "", '"b', "b" * 71, "\x01", "b; boundary=c"))
    kind = f"multipart/form-data; boundary={boundary}".encode("latin-1")
    return Malformed("POST", "/score", bytes(body), {"Content-Type": kind})


def damaged_picture(source, _):
    suffix = source.choice((".png", ".jpg", ".bmp", ".tiff", ".webp", ".ppm", ".jp2"))
    content = bytearray(picture((3, 3, 9, 9), (64, 96), suffix))
    for _ in range(source.randrange(1, 8)):
        start = source.randrange(min(len(content), 200) if source.random() < 0.7 else len(content))
        match source.randrange(3):
            case 0:
                content[start] = source.randrange(256)
            case 1:
                content[start : start + 4] = source.choice((b"\xff" * 4, b"\0" * 4, b"\x7f\xff\xff\xff"))
            case 2:
                del content[source.randrange(max(len(content) // 2, 1)) :]
        content = content or bytearray(b"\0")
    body = bytes(content)
    if source.random() < 0.3:
        document = {
            "input_data": {"data": [base64.b64encode(zlib.compress(body) if source.random() < 0.3 else body).decode()]}
        }
        return Malformed("POST", "/score", encoded(document), {"Content-Type": "application/json"}, True)
    return Malformed("POST", "/score", body, {"Content-Type": "application/octet-stream"}, True)


def strange_parameters(source, document):
    schema = schema_of(document, "/score", "post")
    explained = schema["properties"]["input_data"]["properties"]["data"]["items"]["oneOf"][2]["properties"]
    parameters = made(source, explained["xai_parameters"])
    wanted = source.choice((True, True, "true", 1, None, "", []))
    body = encoded({"input_data": {"data": [item(picture(), model_explainability=wanted, xai_parameters=parameters)]}})
    return Malformed("POST", "/score", body, {"Content-Type": "application/json"})


def elsewhere(source, document):
    """A wrong method, place, type or header."""
    match source.randrange(4):
        case 0:
            place = source.choice([*document["paths"], "/"])
            known = set(document["paths"].get(place, {"get": 1}))
            method = source.choice(
                [way for way in ("GET", "POST", "PUT", "DELETE", "PATCH") if way.lower() not in known]
            )
            return Malformed(method, place, b"", {})
        case 1:
            letters = "".join(source.choices(string.ascii_letters + "/.%_-~", k=source.randrange(1, 40)))
            return Malformed(source.choice(("GET", "POST")), f"/{letters}x", b"", {})
        case 2:
            return Malformed("POST", "/score", b"<a/>", {"Content-Type": source.choice(TYPES[3:])})
    name = "".join(source.choices(string.ascii_letters + "/.-", k=source.randrange(1, 20)))
    return Malformed("POST", "/score", picture(), {"azureml-model-deployment": f"x{name}"})
