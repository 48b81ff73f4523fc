"""Published weights: from the disk, else downloaded once, and refused in seconds where they cannot be had."""

from __future__ import annotations

import re
import socket
from pathlib import Path, PurePosixPath
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

from lightning_automl_vision.errors import WeightsError

SECONDS_TO_CONNECT = 3.0
_DIGEST = re.compile(r"-([0-9a-f]{8,})\.")


def hub_file(url: str, *, of: str) -> Path:
    """A file in the cache of torch's hub; what is there is taken as it is, as torch does.

    What is downloaded must have the digest that its name ends in, if any.
    """
    import torch.hub

    folder = Path(torch.hub.get_dir()) / "checkpoints"
    name = PurePosixPath(urlsplit(url).path).name
    file = folder / name
    if not file.is_file():
        check_connection(url, of=of, folder=folder)
        digest = _DIGEST.search(name)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            torch.hub.download_url_to_file(url, str(file), digest and digest.group(1))
        except (OSError, RuntimeError) as error:
            raise unreachable(of, url, folder, str(error)) from error
    return file


def check_connection(url: str, *, of: str, folder: str | Path) -> None:
    """Fail in seconds where a download would retry for half a minute."""
    try:
        socket.create_connection(_first_hop(url), timeout=SECONDS_TO_CONNECT).close()
    except OSError as error:
        raise unreachable(of, url, folder, str(error)) from error


def _first_hop(url: str) -> tuple[str, int]:
    """The host and port a request goes to: the proxy's where one is set."""
    target = urlsplit(url)
    proxies = getproxies()
    proxy = proxies.get(target.scheme) or proxies.get("all")
    if proxy and not proxy_bypass(target.hostname or ""):
        target = urlsplit(proxy if "//" in proxy else f"//{proxy}")
    return target.hostname or "", target.port or (80 if target.scheme == "http" else 443)


def unreachable(of: str, place: str, folder: str | Path, reason: str) -> WeightsError:
    return WeightsError(
        f"The pretrained weights of {of} are not in {Path(folder)}, and {place} cannot be had"
        f" ({' '.join(reason.split())}). Connect once to download them, give a local file with model.weights=FILE,"
        " or train from scratch with model.pretrained=false."
    )
