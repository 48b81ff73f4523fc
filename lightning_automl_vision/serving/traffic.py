"""Which deployment answers a request: each its percentage, dealt in turn."""

from __future__ import annotations

from collections.abc import Mapping

from lightning_automl_vision.serving.refusals import Refused


class Traffic:
    """Deals requests so that after any number of them each deployment is within one of its share.

    Percentages are compared with each other: where they add up to 80, 40 is half of all requests. A deployment with 0
    answers only those who name it.
    """

    def __init__(self, percentages: Mapping[str, float]) -> None:
        self._percentages = dict(percentages)
        self._credit = dict.fromkeys(percentages, 0.0)

    @property
    def percentages(self) -> Mapping[str, float]:
        return dict(self._percentages)

    def change(self, percentages: Mapping[str, float]) -> None:
        """From now on; who is not named takes 0."""
        self._percentages = {name: percentages.get(name, 0.0) for name in self._percentages}
        self._credit = dict.fromkeys(self._percentages, 0.0)

    def next(self) -> str:
        total = sum(self._percentages.values())
        if not total:
            names = ", ".join(self._percentages)
            raise Refused(
                503, f"No deployment takes requests. Name one in the header azureml-model-deployment: {names}."
            )
        for name, percentage in self._percentages.items():
            self._credit[name] += percentage
        chosen = max(self._credit, key=lambda name: self._credit[name])
        self._credit[chosen] -= total
        return chosen
